"""How sure a measured metric is: intervals for proportions, for any figure, and for paired differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Two-sided 95 %: the 97.5 % point of the normal distribution.
Z_95 = 1.959963984540054
RESAMPLES = 4000
FIGURE_RESAMPLES = (
    1000  # of figures that are no means, each of which is computed from the examples themselves
)

Figure = Callable[[NDArray[np.float64]], float]
"""A metric from what each example contributes, [N, ...]."""


@dataclass(frozen=True)
class Interval:
    """A figure and the 95 % interval that it lies in."""

    value: float
    low: float
    high: float

    def holds(self, value: float) -> bool:
        """Whether `value` lies in the interval, ends included."""
        return self.low <= value <= self.high


def wilson(right: int, count: int) -> Interval:
    """Wilson's 95 % score interval of a proportion (Wilson 1927), sound near 0 and 1 too.

        centre = (p + z²/2n) / (1 + z²/n),  half = z sqrt(p(1-p)/n + z²/4n²) / (1 + z²/n)

    Args:
        right: how many of `count` were right.

    Raises:
        ValueError: `count` is zero or `right` lies outside it.
    """
    if count < 1 or not 0 <= right <= count:
        raise ValueError(f"{right} right of {count}")
    share, z2 = right / count, Z_95 * Z_95
    scale = 1 + z2 / count
    centre = (share + z2 / (2 * count)) / scale
    half = Z_95 * math.sqrt(share * (1 - share) / count + z2 / (4 * count * count)) / scale
    # Rounding may put a bound of 0 or 1 on the wrong side of it.
    return Interval(share, max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half)))


def paired_difference(
    first: NDArray[np.float64], second: NDArray[np.float64], *, seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """Mean of `first - second` over the same examples, with its 95 % percentile bootstrap interval.

    Two networks mostly fail on the same images; pairing them narrows the interval of their difference to
    what they disagree on (Efron, Tibshirani 1993, chapter 13).

    Args:
        first, second: [N] one score per example, as 1.0 right and 0.0 wrong, in the same order.

    Raises:
        ValueError: they differ in length or are empty.
    """
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise ValueError(f"scores of {first.shape} and {second.shape} are not pairs")
    difference = first.astype(np.float64) - second
    # Drawing N examples is drawing how often each distinct difference occurs: three numbers, not N.
    values, counts = np.unique(difference, return_counts=True)
    generator = np.random.Generator(np.random.PCG64(seed))
    drawn = generator.multinomial(len(difference), counts / counts.sum(), size=resamples)
    means = drawn @ values / len(difference)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(difference.mean()), float(low), float(high))


def paired_proportions(first: NDArray[np.float64], second: NDArray[np.float64]) -> Interval:
    """Difference of two shares on the same examples, with its 95 % score interval (Newcombe 1998, method 10).

    Wilson's intervals of both shares, put together with the correlation phi of their pairs. Sound for few
    disagreements, where a bootstrap gives intervals that are too short.

        low = D - sqrt(a² - 2 phi a b + b²),  a = p1 - low1,  b = high2 - p2;  high likewise

    Args:
        first, second: [N] 1.0 right or 0.0 wrong of each example, in the same order.

    Raises:
        ValueError: they differ in length, are empty, or hold other numbers.
    """
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise ValueError(f"scores of {first.shape} and {second.shape} are not pairs")
    if not (np.isin(first, (0, 1)).all() and np.isin(second, (0, 1)).all()):
        raise ValueError("scores are not 1.0 for right and 0.0 for wrong")
    count = len(first)
    both, neither = int((first * second).sum()), int(((1 - first) * (1 - second)).sum())
    one, other = int(first.sum()), int(second.sum())
    surplus = both * neither - (one - both) * (other - both)
    if surplus > 0:  # a correction of continuity, of positive correlation only
        surplus = max(surplus - count / 2, 0)
    spread = math.sqrt(one * (count - one) * other * (count - other))
    phi = surplus / spread if spread else 0.0
    p, q = wilson(one, count), wilson(other, count)
    difference = p.value - q.value

    def reach(a: float, b: float) -> float:
        return math.sqrt(max(0.0, a * a - 2 * phi * a * b + b * b))

    low = difference - reach(p.value - p.low, q.high - q.value)
    return Interval(difference, low, difference + reach(p.high - p.value, q.value - q.low))


def bootstrap(statistics: NDArray[np.float64], figure: Figure, *, seed: int = 0) -> Interval:
    """A figure of examples with its 95 % percentile bootstrap interval (Efron, Tibshirani 1993, chapter 13).

    Args:
        statistics: [N, ...] of each example.

    Raises:
        ValueError: There are none.
    """
    if not len(statistics):
        raise ValueError("there are no examples")
    found = [figure(statistics[places]) for places in _draws(len(statistics), seed)]
    low, high = np.quantile(found, [0.025, 0.975])
    value = float(figure(statistics))
    return Interval(value, min(value, float(low)), max(value, float(high)))


def paired_bootstrap(
    first: NDArray[np.float64], second: NDArray[np.float64], figure: Figure, *, seed: int = 0
) -> Interval:
    """A figure of `first` less that of `second` on the same examples, with its 95 % bootstrap interval.

    Args:
        first, second: [N, ...] of each example, in the same order.

    Raises:
        ValueError: They differ in length or are empty.
    """
    if len(first) != len(second) or not len(first):
        raise ValueError(f"statistics of {len(first)} and {len(second)} examples are not pairs")
    found = [figure(first[places]) - figure(second[places]) for places in _draws(len(first), seed)]
    low, high = np.quantile(found, [0.025, 0.975])
    return Interval(float(figure(first)) - float(figure(second)), float(low), float(high))


def _draws(count: int, seed: int) -> Iterator[NDArray[np.int64]]:
    generator = np.random.Generator(np.random.PCG64(seed))
    for _ in range(FIGURE_RESAMPLES):
        yield generator.integers(0, count, count)


def deviations_apart(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """How many standard deviations the mean of `first` is above that of `second`, on other examples.

    For shares it is the pooled test of two proportions (Fleiss 1981, section 2.1): z = (p1 - p2) /
    sqrt(p (1 - p) (1/n + 1/m)). Zero where all scores are the same.

    Args:
        first, second: [N] and [M] one score per example.
    """
    pooled = float(np.var(np.concatenate([first, second])))
    if not pooled:
        return 0.0
    return float(first.mean() - second.mean()) / math.sqrt(pooled * (1 / len(first) + 1 / len(second)))
