"""Choice of the delivered strategy, as pure functions of the figures.

The choice is the best validation metric (the highest accuracy, the lowest error) among the strategies that
keep every budget; of those that a paired comparison on the same images cannot distinguish from it at 95 %,
the fastest, then the smallest. With a limit on the loss of the metric alone: the fastest that keeps it. The
test split is not used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from mcc.budget import Budget, Figures, better
from mcc.data.interval import Interval
from mcc.errors import ConstraintError
from mcc.metric import POINTS
from mcc.report.formatting import budget_words, feasible_words
from mcc.report.schema import Result, StrategyResult

Difference = Callable[[str, str], Interval]


def metric_reference(strategies: Sequence[StrategyResult], originals: Sequence[str]) -> float | None:
    """Validation metric from which loss is counted: the best of the strategies named `originals`."""
    found = [s.validation for s in strategies if s.name in originals and s.validation is not None]
    return found[0].metric.best(figure.value for figure in found) if found else None


def figures_of(strategy: StrategyResult, *, baseline: Result, reference: float | None) -> Figures:
    """The figures to compare with a budget: the conservative ends of 95 % intervals, the validation metric.

    Args:
        baseline: The original float model, lowered and measured the same way.
        reference: Validation metric from which loss is counted, see `metric_reference`.
    """
    found = strategy.validation
    lost = None if found is None or reference is None else found.metric.lost(reference, found.value)
    return Figures(
        latency_us=strategy.latency_us.upper if strategy.latency_us else None,
        model_cycles=strategy.model_cycles,
        speedup=_surest_speedup(strategy, baseline),
        size_bytes=strategy.size_bytes,
        memory_bytes=strategy.peak_memory_bytes,
        max_drop=lost,
    )


def check_budget(
    strategy: StrategyResult, budget: Budget, *, baseline: Result, reference: float | None
) -> dict[str, bool]:
    """Whether the strategy keeps each requested constraint, see `figures_of`."""
    figures = figures_of(strategy, baseline=baseline, reference=reference)
    return budget.kept(figures, whole=_whole(strategy, reference))


def _whole(strategy: StrategyResult, reference: float | None) -> float:
    """Denominator of a relative loss of the metric."""
    found = strategy.validation
    return POINTS if found is None or reference is None else found.metric.whole(reference)


def _surest_speedup(strategy: StrategyResult, baseline: Result) -> float | None:
    if strategy.speedup_ci95 is not None:
        return strategy.speedup_ci95[0]
    if strategy.upper_cost is None or baseline.cost is None:
        return strategy.speedup
    return baseline.cost / strategy.upper_cost


def pareto_front(strategies: Sequence[StrategyResult]) -> set[str]:
    """Names of the strategies that no other dominates in speed and validation metric.

    One dominates another if it is no slower and its metric no worse, and better in one of the two. Strategies
    without both figures are not compared.
    """
    points = [
        (strategy.name, strategy.cost, strategy.validation.merit)
        for strategy in strategies
        if strategy.cost is not None and strategy.validation is not None
    ]

    def beaten(cost: float, merit: float) -> bool:
        return any(
            other_cost <= cost and other >= merit and (other_cost < cost or other > merit)
            for _, other_cost, other in points
        )

    return {name for name, cost, merit in points if not beaten(cost, merit)}


def mark(
    strategies: Sequence[StrategyResult], budget: Budget, *, baseline: Result, reference: float | None
) -> tuple[StrategyResult, ...]:
    """The strategies with `on_pareto_front` and `keeps_budgets` set, in the given order."""
    front = pareto_front(strategies)
    return tuple(
        strategy.model_copy(
            update={
                "on_pareto_front": strategy.name in front,
                "keeps_budgets": check_budget(strategy, budget, baseline=baseline, reference=reference),
            }
        )
        for strategy in strategies
    )


def choose(
    strategies: Sequence[StrategyResult],
    budget: Budget,
    *,
    baseline: Result,
    reference: float | None,
    difference: Difference,
) -> StrategyResult:
    """The strategy to deliver.

    Args:
        strategies: All results, including the original.
        budget: The given budget.
        baseline: The original float model, lowered and measured the same way.
        reference: Validation metric from which loss is counted, see `metric_reference`.
        difference: Difference of two strategies, given by name, in the validation metric (positive if the
            first is better), with its 95 % interval on the same images; see `mcc.report.pairs`.

    Raises:
        ConstraintError: No strategy keeps every budget; the hint names the nearest feasible budgets.
    """
    marked = mark(strategies, budget, baseline=baseline, reference=reference)
    keeping = [s for s in marked if s.keeps_all and s.cost is not None and s.validation is not None]
    if not keeping:
        raise ConstraintError(
            f"no strategy keeps {budget_words(budget)}",
            where="budget",
            hint=_nearest(marked, budget, baseline=baseline, reference=reference),
        )
    if budget.asked == ("max_drop",):
        return min(keeping, key=_fast_then_small)
    best = min(keeping, key=lambda s: (-_merit(s), *_fast_then_small(s)))
    as_good = [s for s in keeping if s is best or difference(best.name, s.name).low <= 0]
    return min(as_good, key=_fast_then_small)


def nearest(
    strategies: Sequence[StrategyResult], budget: Budget, *, baseline: Result, reference: float | None
) -> StrategyResult:
    """The nearest strategy, if none keeps every budget.

    It has the smallest factor by which its worst budget is missed; of several, the best on the validation
    images, then the fastest. Strategies without a budget's figure come last.

    Args:
        strategies: Result of `mark`, at least one.
    """

    def order(strategy: StrategyResult) -> tuple[float, float, float]:
        found = strategy.validation
        return (
            _missed(strategy, budget, baseline, reference),
            math.inf if found is None else -found.merit,
            math.inf if strategy.cost is None else strategy.cost,
        )

    return min(strategies, key=order)


def _merit(strategy: StrategyResult) -> float:
    assert strategy.validation is not None
    return strategy.validation.merit


def _fast_then_small(strategy: StrategyResult) -> tuple[float, int, float, str]:
    assert strategy.cost is not None
    # Metric and name only break exact ties: the choice does not depend on the order of strategies.
    return strategy.cost, strategy.size_bytes, -_merit(strategy), strategy.name


def _nearest(
    marked: Sequence[StrategyResult], budget: Budget, *, baseline: Result, reference: float | None
) -> str:
    """The nearest feasible budgets, as text.

    For each constraint that some strategy misses alone, the tightest value that it keeps with the others as
    given; if every strategy misses several, the figures of the nearest one.
    """

    def figure(strategy: StrategyResult, name: str) -> float | None:
        return getattr(figures_of(strategy, baseline=baseline, reference=reference), name)

    single: dict[str, tuple[float, str]] = {}
    for strategy in marked:
        missed = [name for name, held in strategy.keeps_budgets.items() if not held]
        value = figure(strategy, missed[0]) if len(missed) == 1 else None
        if value is None:
            continue
        before = single.get(missed[0])
        if before is None or better(missed[0], value, before[0]):
            single[missed[0]] = value, strategy.name
    if single:
        options = [f"{feasible_words(name, value)} ({who})" for name, (value, who) in single.items()]
        return f"the nearest feasible: {', or '.join(options)}"
    least = min(marked, key=lambda s: _missed(s, budget, baseline, reference), default=None)
    if least is None or math.isinf(_missed(least, budget, baseline, reference)):
        return "no strategy could be measured; mcc doctor says what this target lacks"
    missed = [name for name, held in least.keeps_budgets.items() if not held]
    words = [feasible_words(name, figure(least, name) or 0.0) for name in missed]
    return f"the nearest feasible: {' with '.join(words)} ({least.name})"


def _missed(strategy: StrategyResult, budget: Budget, baseline: Result, reference: float | None) -> float:
    """The factor by which a strategy misses its worst constraint; 1 if it keeps all."""
    figures = figures_of(strategy, baseline=baseline, reference=reference)
    return max(1.0, budget.excess(figures, whole=_whole(strategy, reference)))
