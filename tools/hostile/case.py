"""A hostile input, and the folders for it."""

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
        name: Short name, with its kind before a slash.
        make: Writes the input into the working folder of the command.
        command: Arguments of `mcc`; `../out` is a folder for results.
        says: Pattern (regular expression) in the output.
        status: Accepted exit statuses.
        hold: Starts something in this process for the duration of the command, and returns a function to end
            it.
        limit_s: Limit of processor time; larger only for whole jobs, which train and measure.
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
        """The part of the name before the slash."""
        return self.name.partition("/")[0]
