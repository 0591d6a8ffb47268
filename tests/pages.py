"""Fenced blocks of the documentation, which tests save and run as they are written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TITLE = "title="


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, what stands behind it, and its text."""

    language: str
    rest: str
    text: str


def blocks(page: Path) -> Iterator[Block]:
    """All blocks of a page, in order."""
    for match in re.finditer(r"^```(\w+) ?([^\n]*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL):
        yield Block(*match.groups())


def files(page: Path) -> dict[str, str]:
    """What a page says to save, by name."""
    return {b.rest.removeprefix(TITLE): b.text for b in blocks(page) if b.rest.startswith(TITLE)}
