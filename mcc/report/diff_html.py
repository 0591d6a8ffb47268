"""`mcc diff --html`: two graphs side by side on one page that stands alone and needs no script."""

from __future__ import annotations

from pathlib import Path

from mcc.files import write_text
from mcc.ir.diff import GraphDiff
from mcc.report.page import render

SHOW_ALL_UP_TO = 200
"""Nodes up to which unchanged ones are shown at once; beyond, a reader first wants the differences."""


def render_diff_html(diff: GraphDiff, a: str, b: str) -> str:
    """The page as text; `a` and `b` are what the graphs are called."""
    values = {
        "a": a,
        "b": b,
        "summary": diff.summary(),
        "entries": diff.entries,
        "show_same": len(diff.entries) <= SHOW_ALL_UP_TO,
    }
    return render("diff.html.j2", values)


def write_diff_html(diff: GraphDiff, path: Path | str, a: str, b: str) -> None:
    """Write the page so that it is whole or absent. Raises DataError when it cannot be written."""
    write_text(Path(path), render_diff_html(diff, a, b))
