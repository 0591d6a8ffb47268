"""Results on stdout: JSON for machines, a drawn table on a terminal, aligned text in a pipe."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import click

GAP = "  "


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
    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
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
    Console().print(table)
