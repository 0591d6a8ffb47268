"""Plots of the page on real phones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

SIZE = (5.0, 4.0)
MARKS = {"note10": "o", "pixel1": "s"}


def stated(points: Sequence[tuple[str, float, float]], path: Path) -> None:
    """Sum of the table over the stated latency.

    Args:
        points: Phone, stated and summed milliseconds.
    """
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    top = 1.1 * max(max(x, y) for _, x, y in points)
    axes.plot([0, top], [0, top], color="0.5", linewidth=0.8, label="equal")
    axes.fill_between([0, top], [0, 0.9 * top], [0, 1.1 * top], color="0.9", label="within 10 %")
    for phone, mark in MARKS.items():
        own = [(x, y) for name, x, y in points if name == phone]
        axes.plot(*zip(*own, strict=True), mark, markersize=5, label=phone)
    axes.set(xlabel="stated latency, ms", ylabel="sum of the table, ms", xlim=(0, top), ylim=(0, top))
    axes.legend(frameon=False)
    save(figure, path)


def simulated(series: Mapping[str, Sequence[tuple[float, float]]], path: Path) -> None:
    """Milliseconds over simulated model cycles, both logarithmic.

    Args:
        series: Milliseconds and cycles of each block, by name of the series.
    """
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    for name, points in series.items():
        axes.loglog([cycles / 1e6 for _, cycles in points], [ms for ms, _ in points], ".", label=name)
    axes.set(xlabel="simulated, million model cycles", ylabel="phone, ms")
    axes.legend(frameon=False)
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Write an SVG without a date, so that the same figures give the same file."""
    import matplotlib as mpl

    with mpl.rc_context({"svg.hashsalt": "mcc"}):
        figure.savefig(path, metadata={"Date": None})
