"""The table of strategies as rows of text, for the terminal and the page."""

from __future__ import annotations

from collections.abc import Sequence

from mcc.metric import ACCURACY
from mcc.report.formatting import bytes_words, constraint_label, figure_words, latency_words
from mcc.report.schema import Result, StrategyResult

STRATEGY_HEADERS = (
    "strategy", "validation", "test", "latency", "speed-up", "size", "memory", "Pareto", "budgets", "chosen",
)  # fmt: skip
STRATEGY_NUMBERS = ("validation", "test", "latency", "speed-up", "size", "memory")


def speedup_of(baseline: Result, strategy: StrategyResult) -> float | None:
    """Speed-up over the baseline: from interleaved runs if available, else the ratio of the figures."""
    if strategy.speedup is not None:
        return strategy.speedup
    if strategy.cost is None or baseline.cost is None:
        return None
    return baseline.cost / strategy.cost


def budget_marks(strategy: StrategyResult) -> str:
    """`kept`, or the constraints that are missed."""
    metric = strategy.validation.metric if strategy.validation else ACCURACY
    missed = [constraint_label(name, metric) for name, held in strategy.keeps_budgets.items() if not held]
    if not strategy.keeps_budgets:
        return "–"
    return "kept" if not missed else f"not {', '.join(missed)}"


def strategy_rows(strategies: Sequence[StrategyResult], baseline: Result) -> list[list[str]]:
    """One row of text for each strategy, under `STRATEGY_HEADERS`."""
    rows: list[list[str]] = []
    for strategy in strategies:
        speedup = speedup_of(baseline, strategy)
        memory = strategy.peak_memory_bytes
        rows.append(
            [
                strategy.name,
                figure_words(strategy.validation),
                figure_words(strategy.test),
                latency_words(strategy.latency_us, strategy.model_cycles),
                "–" if speedup is None else f"{speedup:.2f}x",
                bytes_words(strategy.size_bytes),
                "–" if memory is None else bytes_words(memory),
                "front" if strategy.on_pareto_front else "",
                budget_marks(strategy),
                ("chosen" if strategy.keeps_all else "nearest") if strategy.chosen else "",
            ]
        )
    return rows
