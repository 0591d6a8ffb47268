"""In what a target counts the cost of an inference, and how reports name it.

Inside mcc a cost is one number. Where time is measured it is microseconds. Where a processor is simulated it
is *thousands of model cycles*: about as many as the microseconds of a phone, so that thresholds such as "too
short to be told from nothing" hold for both. Reports hold whole cycles, under a key that says so.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Unit:
    """A unit of cost.

    Attributes:
        name: `us` or `cycles`.
        key: of the figure in reports; `predicted_` may stand in front.
        raw_per_cost: reported units in one unit of the costs inside mcc.
        exact: whether the same file always costs the same, so that nothing is repeated.
        example: a budget as people type it.
    """

    name: str
    key: str
    raw_per_cost: float
    exact: bool
    example: str

    def raw(self, cost: float) -> float:
        """The figure of reports for a cost."""
        return cost * self.raw_per_cost

    def from_raw(self, figure: float) -> float:
        """The cost of a figure of reports."""
        return figure / self.raw_per_cost

    def words(self, cost: float) -> str:
        """For people: `3.20 ms`, `27.9 Mcycles`."""
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
