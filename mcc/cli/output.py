"""Results on stdout: JSON for machines, a drawn table on a terminal, aligned text in a pipe.

Names of operators, nodes, classes and files come from other people. `harmless_streams` stands between all
that a command writes and the terminal, so that no name can move the cursor, recolour or reorder text, or
write lines that mcc did not.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO, cast

import click

GAP = "  "

# Control characters but for line feed and tab, and the marks that change the direction of text or hide it.
_HARMFUL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")


def harmless(text: str) -> str:
    """The text with control characters written out as `\\u001b`, which JSON reads as the same character."""
    return _HARMFUL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def one_line(text: str) -> str:
    """A name as it may stand in a line: harmless, its line breaks written out."""
    return harmless(text).replace("\n", "\\n").replace("\t", "\\t")


class _Harmless:
    """A text stream that writes what is harmless; all else is that of the stream below."""

    def __init__(self, below: TextIO) -> None:
        self.below = below

    def write(self, text: str) -> int:
        """Write text; a carriage return before a line feed is part of the line's end."""
        self.below.write(harmless(text.replace("\r\n", "\n")))
        return len(text)

    def writelines(self, lines: Sequence[str]) -> None:
        """Write several."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.below, name)


def drawing_stream(stream: TextIO) -> TextIO:
    """The stream below, for what is drawn with the terminal's own codes out of harmless text."""
    return cast(TextIO, stream.below) if isinstance(stream, _Harmless) else stream  # pyright: ignore


@contextmanager
def harmless_streams() -> Generator[None]:
    """Let stdout and stderr write out what could act on a terminal."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, _Harmless(drawing_stream(stream))) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def print_json(value: Any) -> None:
    """One JSON document; numbers that JSON cannot hold are refused, not printed as NaN."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def print_table(
    headers: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    right: Sequence[str] = (),
    title: str | None = None,
) -> None:
    """A table.

    Args:
        headers: one for each column.
        rows: cells, printed with `str`; None as an empty cell.
        right: headers of the columns set flush right (numbers).
        title: printed above.
    """
    cells = [["" if cell is None else one_line(str(cell)) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _draw(headers, cells, right, title)
    else:
        click.echo(plain_table(headers, cells, right=right, title=title), nl=False)


def plain_table(
    headers: Sequence[str],
    cells: Sequence[Sequence[str]],
    *,
    right: Sequence[str] = (),
    title: str | None = None,
) -> str:
    """The table as aligned text: columns at least two spaces apart, no colours, no rules."""
    lines = [list(headers), *[list(row) for row in cells]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(headers))]
    text = "" if title is None else f"{title}\n"
    for line in lines:
        padded = [
            cell.rjust(width) if header in right else cell.ljust(width)
            for cell, width, header in zip(line, widths, headers, strict=True)
        ]
        text += GAP.join(padded).rstrip() + "\n"
    return text


def _draw(
    headers: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[str], title: str | None
) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for header in headers:
        table.add_column(header, justify="right" if header in right else "left")
    for row in cells:
        table.add_row(*[Text(cell) for cell in row])  # Text: brackets in a cell are no markup
    Console(file=drawing_stream(sys.stdout)).print(table)
