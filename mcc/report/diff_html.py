"""`mcc diff --html`: two graphs side by side in a self-contained page without scripts."""

from __future__ import annotations

from pathlib import Path

from mcc.files import write_text
from mcc.ir.diff import GraphDiff
from mcc.report.page import render

SHOW_ALL_UP_TO = 200
"""Number of nodes up to which unchanged ones are shown initially; above it, differences only."""


def render_diff_html(diff: GraphDiff, a: str, b: str) -> str:
    """The page as text; `a` and `b` are the names of the graphs."""
    values = {
        "a": a,
        "b": b,
        "summary": diff.summary(),
        "entries": diff.entries,
        "show_same": len(diff.entries) <= SHOW_ALL_UP_TO,
    }
    return render("diff.html.j2", values)


def write_diff_html(diff: GraphDiff, path: Path | str, a: str, b: str) -> None:
    """Write the page atomically. Raises DataError if it cannot be written."""
    write_text(Path(path), render_diff_html(diff, a, b))
