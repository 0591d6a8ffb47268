"""What a hostile input is, and the folders that it lies in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Make = Callable[[Path], None]

REFUSED = frozenset({2})  # wrong use, or an input that cannot be used
FAILED = frozenset({1, 2})  # refused before, or found by a check
WORKS = frozenset({0})

LIMIT_S = 10.0
JOB_S = 180.0


@dataclass(frozen=True)
class Case:
    """One hostile input.

    Attributes:
        name: short, with its kind before a slash.
        make: writes the input into the folder that the command then works in.
        command: the words behind `mcc`; `../out` is a folder for results.
        says: a pattern (regular expression) in what is said.
        status: exit statuses that are right.
        hold: begins something in this process that lasts as long as the command, and says how to end it.
        limit_s: of processor time; more only where a whole job has to work, which trains and measures.
    """

    name: str
    make: Make
    command: str
    says: str
    status: frozenset[int] = REFUSED
    hold: Callable[[Path], Callable[[], None]] | None = None
    limit_s: float = LIMIT_S

    @property
    def kind(self) -> str:
        """What stands before the slash."""
        return self.name.partition("/")[0]
