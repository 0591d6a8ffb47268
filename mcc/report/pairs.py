"""Strategies compared in pairs, on the same images: two networks mostly fail on the same ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mcc.data.interval import Interval, deviations_apart, paired_difference, paired_proportions
from mcc.data.task import Statistics, Task
from mcc.report.schema import StrategyResult
from mcc.report.words import percent_words

RESAMPLES = 1000  # of images, for metrics that are no mean of their images' scores
SURPRISE = 3.0
"""Standard deviations by which the original scores better on the images for choices than on those of the
test before that is called suspicious: by chance alone, one job in 700 sees it."""


@dataclass(frozen=True)
class Pairs:
    """What each image of the validation split scored under each strategy.

    Attributes:
        statistics: by the strategy's name, [images, ...] as the task measures them.
        task: summarises them.
    """

    statistics: Mapping[str, Statistics]
    task: Task

    def difference(self, first: str, second: str) -> Interval:
        """Metric of the strategy `first` less that of `second`, with its 95 % interval."""
        one, other = self.statistics[first], self.statistics[second]
        if self._is_mean(one) and self._is_mean(other):
            shares = bool(np.isin(one, (0, 1)).all() and np.isin(other, (0, 1)).all())
            return paired_proportions(one, other) if shares else paired_difference(one, other)
        generator = np.random.Generator(np.random.PCG64(0))
        drawn = [generator.integers(0, len(one), len(one)) for _ in range(RESAMPLES)]
        found = [self._value(one[places]) - self._value(other[places]) for places in drawn]
        low, high = np.quantile(found, [0.025, 0.975])
        return Interval(self._value(one) - self._value(other), float(low), float(high))

    def _value(self, statistics: Statistics) -> float:
        return self.task.summarise(statistics).value

    def _is_mean(self, statistics: Statistics) -> bool:
        return statistics.ndim == 1 and abs(self._value(statistics) - float(statistics.mean())) < 1e-9

    def filled_in(
        self, strategies: Sequence[StrategyResult], originals: Sequence[str], chosen: str
    ) -> tuple[StrategyResult, ...]:
        """The strategies with `lost_points` from the better original and `behind_points` the chosen one."""
        best = max(
            (s for s in strategies if s.name in originals and s.name in self.statistics),
            key=lambda s: s.validation_accuracy or 0.0,
            default=None,
        )
        return tuple(
            strategy.model_copy(
                update={
                    **({} if best is None else _points("lost", self.difference(best.name, strategy.name))),
                    **_points("behind", self.difference(chosen, strategy.name)),
                }
            )
            if strategy.name in self.statistics
            else strategy
            for strategy in strategies
        )


def _points(name: str, found: Interval) -> dict[str, object]:
    return {f"{name}_points": 100 * found.value, f"{name}_ci95": (100 * found.low, 100 * found.high)}


def memorised_words(validation: Statistics, test: Statistics, task: Task) -> str:
    """Why an original that scores far better on the validation images than on the test images is suspicious.

    Args:
        validation, test: of the original's file, [images, ...] each.

    Returns:
        A warning; empty where the two are not further apart than chance puts them.
    """
    if validation.ndim != 1 or test.ndim != 1 or deviations_apart(validation, test) < SURPRISE:
        return ""
    before, after = (percent_words(task.summarise(found).value) for found in (validation, test))
    return (
        f"The original scores {before} on the {len(validation):,} validation images and {after} on the "
        f"{len(test):,} test images: it was probably trained on the validation images, so that choices and "
        "losses here rest on what it has memorised. Give images it has not seen (val/) for them."
    )
