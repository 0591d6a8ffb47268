"""The metric of a task: name, unit and direction."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

FRACTION = "fraction"
"""Unit of metrics from 0 to 1, which are stated in percent, and their differences in points."""

POINTS = 100  # in a fraction of 1


@dataclass(frozen=True)
class Metric:
    """A figure by which a task evaluates networks.

    Attributes:
        name: Name in words, e.g. `accuracy` or `mean absolute error`.
        unit: Unit of its values, e.g. `px`; `FRACTION` for a share from 0 to 1; empty if dimensionless.
        higher_is_better: Direction.

    Raises:
        ValueError: The name is empty, or a value has another type.
    """

    name: str
    unit: str = ""
    higher_is_better: bool = True

    def __post_init__(self) -> None:
        kinds: list[tuple[object, type]] = [
            (self.name, str), (self.unit, str), (self.higher_is_better, bool),
        ]  # fmt: skip
        if not self.name or not all(isinstance(value, kind) for value, kind in kinds):
            raise ValueError(f"{self} is no metric")

    @property
    def is_fraction(self) -> bool:
        """Whether values are shares from 0 to 1."""
        return self.unit == FRACTION

    @property
    def scale(self) -> int:
        """Factor of differences: 100 for fractions, which gives points; 1 otherwise."""
        return POINTS if self.is_fraction else 1

    @property
    def direction(self) -> str:
        """`higher is better` or `lower is better`."""
        return f"{'higher' if self.higher_is_better else 'lower'} is better"

    @property
    def worst(self) -> float:
        """Value of a network whose outputs are NaN."""
        if self.is_fraction:
            return 0.0 if self.higher_is_better else 1.0
        return float("-inf") if self.higher_is_better else float("inf")

    def merit(self, value: float) -> float:
        """The value with its sign chosen such that larger is better."""
        return value if self.higher_is_better else -value

    def lost(self, reference: float, value: float) -> float:
        """How much worse a value is than the reference, in points of a fraction or in the metric's unit."""
        return self.scale * (self.merit(reference) - self.merit(value))

    def whole(self, reference: float) -> float:
        """Divisor that turns losses into shares comparable with others: 100 points, or the reference."""
        return float(POINTS) if self.is_fraction else abs(reference) or 1.0

    def best(self, values: Iterable[float]) -> float | None:
        """The best of some values; None without values."""
        return max(values, key=self.merit, default=None)


ACCURACY = Metric("accuracy", FRACTION)
