"""Paired comparison of strategies on the same images: two networks mostly fail on the same ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mcc.data.bound import BoundTask
from mcc.data.interval import Z_95, Interval, deviations_apart
from mcc.data.task import Score, Statistics
from mcc.report.formatting import value_words
from mcc.report.schema import StrategyResult

SURPRISE = 3.0
"""Standard deviations by which the original has to score better on the validation images than on the test
images to be reported as suspicious: by chance alone, this happens in one job of 700."""


@dataclass(frozen=True)
class Pairs:
    """Statistics of each validation image under each strategy.

    Attributes:
        statistics: Statistics [images, ...] of the task, by name of the strategy.
        task: Compares statistics.
    """

    statistics: Mapping[str, Statistics]
    task: BoundTask

    def difference(self, first: str, second: str) -> Interval:
        """How much better the strategy `first` is than `second` in the metric, with its 95 % interval."""
        found = self.task.difference(self.statistics[first], self.statistics[second])
        return found if self.task.metric.higher_is_better else Interval(-found.value, -found.high, -found.low)

    def filled_in(
        self, strategies: Sequence[StrategyResult], originals: Sequence[str], chosen: str
    ) -> tuple[StrategyResult, ...]:
        """The strategies with their losses against the better original, and against the chosen one."""
        best = max(
            (s for s in strategies if s.name in originals and s.name in self.statistics and s.validation),
            key=lambda s: s.validation.merit if s.validation else -math.inf,
            default=None,
        )
        return tuple(
            strategy.model_copy(
                update={
                    **({} if best is None else self._lost("lost", best.name, strategy.name)),
                    **self._lost("behind", chosen, strategy.name),
                }
            )
            if strategy.name in self.statistics
            else strategy
            for strategy in strategies
        )

    def _lost(self, name: str, first: str, second: str) -> dict[str, object]:
        found, metric = self.difference(first, second), self.task.metric
        key = f"{name}_points" if metric.is_fraction else name
        scale = metric.scale
        return {key: scale * found.value, f"{name}_ci95": (scale * found.low, scale * found.high)}


def memorised_words(validation: Statistics, test: Statistics, task: BoundTask) -> str:
    """Warning about an original that scores far better on the validation images than on the test images.

    Args:
        validation, test: Statistics of the original's file, [images, ...] each.

    Returns:
        A warning; empty if the difference is within chance.
    """
    on_validation, on_test = task.summarise(validation), task.summarise(test)
    if _apart(validation, test, on_validation, on_test, task) < SURPRISE:
        return ""
    metric = task.metric
    before, after = (value_words(metric, score.value) for score in (on_validation, on_test))
    scores = "scores" if metric.is_fraction else f"has a {metric.name} of"
    return (
        f"The original {scores} {before} on the {len(validation):,} validation images and {after} on the "
        f"{len(test):,} test images: it was probably trained on the validation images, so that choices and "
        "losses here are biased by memorised images. Give images that it has not seen (val/) for them."
    )


def _apart(validation: Statistics, test: Statistics, before: Score, after: Score, task: BoundTask) -> float:
    """Difference of the metric on validation and test images, in standard deviations."""
    sign = task.metric.merit(1.0)
    if validation.ndim == test.ndim == 1 and math.isclose(float(validation.mean()), before.value):
        return sign * deviations_apart(validation, test)
    halves = [(score.high - score.low) / 2 / Z_95 for score in (before, after)]  # of any other metric
    spread = math.hypot(*halves)
    return sign * (before.value - after.value) / spread if spread else 0.0
