"""Results on stdout: JSON for machines, a drawn table on a terminal, aligned text in a pipe.

Names of operators, nodes, classes and files come from input files. `harmless_streams` filters everything that
a command writes to the terminal, so that no name can move the cursor, recolour or reorder text, or add lines
of its own.
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

# Control characters except line feed and tab, and characters that change the text direction or hide text.
_HARMFUL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")


def harmless(text: str) -> str:
    """The text with control characters escaped as `\\u001b`, which JSON parses as the same character."""
    return _HARMFUL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def one_line(text: str) -> str:
    """A name for use within a line: harmless, with line breaks escaped."""
    return harmless(text).replace("\n", "\\n").replace("\t", "\\t")


class _Harmless:
    """A text stream that escapes harmful characters; other methods are those of the stream below."""

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
    """The stream below, for output drawn with the terminal's own codes from harmless text."""
    return cast(TextIO, stream.below) if isinstance(stream, _Harmless) else stream  # pyright: ignore


@contextmanager
def harmless_streams() -> Generator[None]:
    """Escape harmful characters on stdout and stderr."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, _Harmless(drawing_stream(stream))) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def print_json(value: Any) -> None:
    """Print one JSON document; numbers that JSON cannot represent are refused, not printed as NaN."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def print_table(
    headers: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    right: Sequence[str] = (),
    title: str | None = None,
) -> None:
    """Print a table.

    Args:
        headers: Headers of the columns.
        rows: Cells, printed with `str`; None for an empty cell.
        right: Headers of the right-aligned columns (numbers).
        title: Title above the table.
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
