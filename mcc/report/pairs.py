"""Strategies compared in pairs, on the same images: two networks mostly fail on the same ones."""

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
"""Standard deviations by which the original scores better on the images for choices than on those of the
test before that is called suspicious: by chance alone, one job in 700 sees it."""


@dataclass(frozen=True)
class Pairs:
    """What each image of the validation split scored under each strategy.

    Attributes:
        statistics: by the strategy's name, [images, ...] as the task measures them.
        task: compares them.
    """

    statistics: Mapping[str, Statistics]
    task: BoundTask

    def difference(self, first: str, second: str) -> Interval:
        """By how much the strategy `first` is better than `second`, in the metric, with its 95 % interval."""
        found = self.task.difference(self.statistics[first], self.statistics[second])
        return found if self.task.metric.higher_is_better else Interval(-found.value, -found.high, -found.low)

    def filled_in(
        self, strategies: Sequence[StrategyResult], originals: Sequence[str], chosen: str
    ) -> tuple[StrategyResult, ...]:
        """The strategies with what they lost from the better original, and behind the chosen one."""
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
    """Why an original that scores far better on the validation images than on the test images is suspicious.

    Args:
        validation, test: of the original's file, [images, ...] each.

    Returns:
        A warning; empty where the two are not further apart than chance puts them.
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
        "losses here rest on what it has memorised. Give images it has not seen (val/) for them."
    )


def _apart(validation: Statistics, test: Statistics, before: Score, after: Score, task: BoundTask) -> float:
    """By how many standard deviations the metric is better on the validation images."""
    sign = task.metric.merit(1.0)
    if validation.ndim == test.ndim == 1 and math.isclose(float(validation.mean()), before.value):
        return sign * deviations_apart(validation, test)
    halves = [(score.high - score.low) / 2 / Z_95 for score in (before, after)]  # of any other metric
    spread = math.hypot(*halves)
    return sign * (before.value - after.value) / spread if spread else 0.0
