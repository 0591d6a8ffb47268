"""Units of the cost of an inference, and their names in reports.

Inside mcc a cost is one number: microseconds on measured targets, *thousands of model cycles* on simulated
ones. A thousand cycles are about a microsecond of a phone, so that thresholds such as the shortest measurable
time hold for both. Reports have cycles, under a key of their own.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Unit:
    """A unit of cost.

    Attributes:
        name: `us` or `cycles`.
        key: Key of the figure in reports, possibly with the prefix `predicted_`.
        raw_per_cost: Number of reported units in one unit of cost.
        exact: Whether the cost of a file is deterministic, so that no repetition is needed.
        example: Example of a budget on the command line.
    """

    name: str
    key: str
    raw_per_cost: float
    exact: bool
    example: str

    def raw(self, cost: float) -> float:
        """The figure in reports for a cost."""
        return cost * self.raw_per_cost

    def from_raw(self, figure: float) -> float:
        """The cost for a figure in reports."""
        return figure / self.raw_per_cost

    def words(self, cost: float) -> str:
        """A cost in words: `3.20 ms`, `27.9 Mcycles`."""
        return _words(self.raw(cost), _CYCLES if self.name == "cycles" else _TIMES)


_TIMES = (("s", 1e6), ("ms", 1e3), ("us", 1.0))
_CYCLES = (("Gcycles", 1e9), ("Mcycles", 1e6), ("kcycles", 1e3), ("cycles", 1.0))


def _words(figure: float, scale: tuple[tuple[str, float], ...]) -> str:
    name, size = next((step for step in scale if abs(figure) >= step[1]), scale[-1])
    value = figure / size
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:.{digits}f} {name}"


MICROSECONDS = Unit("us", "latency_us", 1.0, exact=False, example="8ms")
CYCLES = Unit("cycles", "model_cycles", 1000.0, exact=True, example="20Mcycles")
