"""Formatting of times, sizes and shares for the terminal, the page and messages."""

from __future__ import annotations

import math

from mcc.budget import CONSTRAINTS, Budget
from mcc.metric import Metric
from mcc.report.figures import MetricFigure
from mcc.report.schema import Latency

DIGITS = 4  # significant digits of a metric that is not a fraction
PLAIN = (1e-4, 1e9)  # magnitudes written without an exponent
TWO_DIGITS = 0.005
"""Points below which two digits show 0.00."""


def _scaled(value: float, steps: tuple[tuple[float, str], ...], digits: int) -> str:
    for factor, unit in steps:
        if abs(value) >= factor:
            return f"{_significant(value / factor, digits)} {unit}"
    factor, unit = steps[-1]
    return f"{_significant(value / factor, digits)} {unit}"


def _significant(value: float, digits: int) -> str:
    """`digits` significant digits, without an exponent; longer whole numbers are kept."""
    if value == 0:
        return "0"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{places}f}"


def time_words(microseconds: float, digits: int = 3) -> str:
    """`850 us`, `8.02 ms`, `1.20 s`."""
    return _scaled(microseconds, ((1e6, "s"), (1e3, "ms"), (1.0, "us")), digits)


def name_words(name: str, most: int = 60) -> str:
    """A name in a table, without the middle if it is long: TensorFlow joins the names of fused operators."""
    if len(name) <= most:
        return name
    end = (most - 1) // 2
    return f"{name[: most - 1 - end]}…{name[-end:]}"


def bytes_words(count: float, digits: int = 3) -> str:
    """`812 B`, `96.4 kB`, `1.50 MB` (powers of ten)."""
    return (
        f"{count:.0f} B" if count < 1000 else _scaled(count, ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")), digits)
    )


def count_words(count: float, digits: int = 3) -> str:
    """`812`, `96.4 k`, `1.50 M`, `2.1 G`."""
    return f"{count:.0f}" if count < 1000 else _scaled(count, ((1e9, "G"), (1e6, "M"), (1e3, "k")), digits)


def cycles_words(cycles: float, digits: int = 3) -> str:
    """`20.0 Mcycles`."""
    return _scaled(cycles, ((1e6, "Mcycles"), (1e3, "kcycles"), (1.0, "cycles")), digits)


def percent_words(share: float | None, places: int = 2) -> str:
    """`91.25 %`; a dash for None."""
    return "–" if share is None else f"{100 * share:.{places}f} %"


def points_words(points: float) -> str:
    """`0.40 points`."""
    return f"{points:.2f} point{'' if abs(points) == 1 else 's'}"


def number_words(value: float) -> str:
    """`3.142`, `0.3930`, `1,234,567`, `2.718e-07`: four significant digits; whole numbers are kept."""
    if value and not PLAIN[0] <= abs(value) < PLAIN[1]:
        return f"{value:.{DIGITS - 1}e}"
    return _significant(value, DIGITS)


def value_words(metric: Metric, value: float | None) -> str:
    """A metric's value: `91.25 %`, `3.142 px`; a dash for None."""
    if value is None or metric.is_fraction:
        return percent_words(value)
    return f"{number_words(value)} {metric.unit}".strip()


def figure_words(figure: MetricFigure | None) -> str:
    """The value of a metric; a dash for None."""
    return "–" if figure is None else value_words(figure.metric, figure.value)


def loss_words(metric: Metric, amount: float) -> str:
    """A difference of two values: `0.40 points`, `0.12 px`."""
    if metric.is_fraction:
        return points_words(amount)
    return f"{number_words(amount)} {metric.unit}".strip()


def is_nothing(metric: Metric, lost: float, reference: float) -> bool:
    """Whether a loss is too small to show: it would be printed as 0.00 points."""
    return abs(lost) < TWO_DIGITS * metric.whole(reference) / 100


def constraint_label(name: str, metric: Metric) -> str:
    """The quantity of a limit, for use in a sentence."""
    if name != "max_drop":
        return CONSTRAINTS[name].label
    return f"{metric.name} lost" if metric.higher_is_better else f"{metric.name} added"


def latency_words(latency: Latency | None, model_cycles: float | None = None) -> str:
    """Median time, or modelled cycles; a dash if there is neither."""
    if latency is not None:
        return time_words(latency.median)
    return "–" if model_cycles is None else cycles_words(model_cycles)


def constraint_words(name: str, value: float) -> str:
    """A constraint as typed on the command line, e.g. `--latency 8ms`."""
    return f"{CONSTRAINTS[name].option} {_typed(name, value)}"


def budget_words(budget: Budget) -> str:
    """All constraints of a budget as typed."""
    return " ".join(constraint_words(name, getattr(budget, name)) for name in budget.asked)


def feasible_words(name: str, value: float) -> str:
    """A constraint that a figure just keeps, rounded to three digits on the feasible side."""
    if value <= 0:
        return constraint_words(name, 0.0)
    magnitude = 10.0 ** (math.floor(math.log10(value)) - 2)
    # Tolerance, so that a figure that has three digits already is not rounded by a whole step.
    steps = (
        math.floor(value / magnitude + 1e-9)
        if CONSTRAINTS[name].at_least
        else math.ceil(value / magnitude - 1e-9)
    )
    return constraint_words(name, steps * magnitude)


def _typed(name: str, value: float) -> str:
    if name == "latency_us":
        return _compact(value, ((1e6, "s"), (1e3, "ms"), (1.0, "us")))
    if name == "model_cycles":
        return _compact(value, ((1e6, "Mcycles"), (1e3, "kcycles"), (1.0, "cycles")))
    if name in ("size_bytes", "memory_bytes"):
        return _compact(value, ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")))
    return f"{value:.6g}x" if name == "speedup" else f"{value:.6g}"


def _compact(value: float, steps: tuple[tuple[float, str], ...]) -> str:
    factor, unit = next((step for step in steps if value >= step[0]), steps[-1])
    return f"{value / factor:.6g}{unit}"
