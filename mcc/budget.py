"""Budgets: constraints, and by how much figures keep or miss them. Nothing else compares the two."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mcc.errors import UsageError
from mcc.metric import POINTS, Metric
from mcc.runtime.target import Target
from mcc.runtime.units import Unit

ROUNDING = 1e-11  # relative: a loss of exactly the limit is kept, whatever the floating-point rounding

Limit = Annotated[float, Field(gt=0.0)]


@dataclass(frozen=True)
class Constraint:
    """A kind of constraint.

    Attributes:
        option: Option of the command line.
        label: Name in a sentence.
        at_least: Whether the limit is a lower bound; otherwise an upper bound.
        of_time: Whether it limits a latency.
        of_cost: Whether a plan can be checked against it before training.
    """

    option: str
    label: str
    at_least: bool = False
    of_time: bool = False
    of_cost: bool = True


CONSTRAINTS: Mapping[str, Constraint] = {
    "latency_us": Constraint("--latency", "latency", of_time=True),
    "model_cycles": Constraint("--latency", "model cycles", of_time=True),
    "speedup": Constraint("--speedup", "speed-up", at_least=True, of_time=True),
    "size_bytes": Constraint("--size", "file size"),
    "memory_bytes": Constraint("--memory", "peak memory"),
    "max_drop": Constraint("--max-drop", "accuracy lost", of_cost=False),
}


@dataclass(frozen=True)
class Figures:
    """Figures of a lowered file, each in the unit of its constraint; None where it was not measured.

    Attributes:
        latency_us, model_cycles: Cost of one inference; the upper bound of its interval, where it has one.
        speedup: Speed-up over the original; the lower bound of its interval, where it has one.
        size_bytes, memory_bytes: Size of the file, and peak memory.
        max_drop: Loss of the metric, in points of a fraction or in the metric's unit.
    """

    latency_us: float | None = None
    model_cycles: float | None = None
    speedup: float | None = None
    size_bytes: float | None = None
    memory_bytes: float | None = None
    max_drop: float | None = None


class Budget(BaseModel):
    """The constraints of a compression; one that was not given is None.

    Attributes:
        latency_us: Latency of one inference, in microseconds.
        model_cycles: Cycles of one inference, on simulators.
        speedup: Speed-up over the original float model, lowered the same way.
        size_bytes: Size of the file.
        memory_bytes: Peak memory, see `mcc.report.schema.Result.peak_memory_bytes`.
        max_drop: Largest loss of the validation metric: in points (hundredths) of a fraction such as
            accuracy, in the metric's unit otherwise.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    latency_us: Limit | None = None
    model_cycles: Limit | None = None
    speedup: Limit | None = None
    size_bytes: Annotated[int, Field(gt=0)] | None = None
    memory_bytes: Annotated[int, Field(gt=0)] | None = None
    max_drop: Annotated[float, Field(ge=0.0)] | None = None

    @staticmethod
    def asked_for(**limits: Any) -> Budget:
        """A budget of the given limits. Raises UsageError, naming the option, for an invalid value."""
        try:
            return Budget(**limits)
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0]) if first["loc"] else "budget"
            said = str(first["msg"])
            where = CONSTRAINTS[name].option if name in CONSTRAINTS else name
            raise UsageError(
                f"{first['input']!r} is no limit: {said[0].lower()}{said[1:]}", where=where
            ) from error

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; constraints that were not given are left out."""
        return self.model_dump(mode="json", exclude_none=True)

    @property
    def asked(self) -> tuple[str, ...]:
        """Names of the given constraints, in a fixed order."""
        return tuple(name for name in CONSTRAINTS if getattr(self, name) is not None)

    # -- parts and scaled copies ---------------------------------------------------------------------------

    def _only(self, names: Sequence[str]) -> Budget:
        return Budget(**{name: getattr(self, name) for name in names})

    @property
    def of_time(self) -> Budget:
        """The constraints on time alone."""
        return self._only([name for name in self.asked if CONSTRAINTS[name].of_time])

    @property
    def of_cost(self) -> Budget:
        """The constraints that a plan can be checked against before training."""
        return self._only([name for name in self.asked if CONSTRAINTS[name].of_cost])

    def in_unit(self, unit: Unit) -> Budget:
        """The budget with its latency in the unit of a target's costs, as planning counts them."""
        if self.model_cycles is None:
            return self
        cost = unit.from_raw(self.model_cycles)
        return self.model_copy(update={"latency_us": cost, "model_cycles": None})

    def scaled(self, *, time: float = 1.0, size: float = 1.0) -> Budget:
        """A budget scaled by factors: tighter below 1, easier above.

        Args:
            time: Factor of the limits of time; a speed-up is divided by it.
            size: Factor of the limit of the file's size.
        """
        changes: dict[str, Any] = {}
        for name in self.of_time.asked:
            limit = getattr(self, name)
            changes[name] = limit / time if CONSTRAINTS[name].at_least else limit * time
        if self.size_bytes is not None:
            changes["size_bytes"] = max(1, int(self.size_bytes * size))
        return self.model_copy(update=changes)

    def time_limit(self, baseline: float | None) -> float | None:
        """The tighter of the limits on latency and speed-up, as a latency; None where there is neither.

        Args:
            baseline: Latency of the original in the unit of the budget's latency, if known.
        """
        limits = [self.latency_us, self.model_cycles]
        if self.speedup is not None and baseline is not None:
            limits.append(baseline / self.speedup)
        return min((limit for limit in limits if limit is not None), default=None)

    # -- comparing figures ---------------------------------------------------------------------------------

    def kept(self, figures: Figures, *, whole: float = POINTS) -> dict[str, bool]:
        """Whether the figures keep each given constraint. A figure that was not measured keeps none.

        Args:
            whole: Value that a loss of the metric is divided by, see `mcc.metric.Metric.whole`.
        """
        return {name: self._kept(name, getattr(figures, name), whole) for name in self.asked}

    def _kept(self, name: str, value: float | None, whole: float) -> bool:
        limit = getattr(self, name)
        if value is None:
            return False
        if CONSTRAINTS[name].at_least:
            return value >= limit
        return value <= limit + (ROUNDING * whole if name == "max_drop" else 0)

    def excess(self, figures: Figures, *, whole: float = POINTS) -> float:
        """The largest factor by which figures miss a constraint; at most 1 where they keep all.

        Infinite where a figure is missing; 0 without constraints. A loss of the metric counts as a share of
        `whole`: two points more than allowed are 1.02.

        Args:
            whole: As in `kept`.
        """
        return max((self._excess(name, getattr(figures, name), whole) for name in self.asked), default=0.0)

    def _excess(self, name: str, value: float | None, whole: float) -> float:
        limit = getattr(self, name)
        if value is None:
            return math.inf
        if name == "max_drop":
            return 1 + (value - limit) / whole
        return limit / value if CONSTRAINTS[name].at_least else value / limit

    def over(self, name: str, value: float) -> float:
        """The amount by which a figure exceeds its limit, in its unit; 0 within the limit or without one."""
        limit = getattr(self, name)
        return 0.0 if limit is None else max(0.0, value - limit)

    def unsure(self, bounds: Figures, others: Figures) -> bool:
        """Whether noise may decide: the distance of a bound to its limit is within one width of its interval.

        The rule is the same on both sides of the limit: a rule for misses alone would let one in several
        files pass that misses.

        Args:
            bounds: Ends of the intervals that are compared with the limits.
            others: The other ends of the intervals.
        """
        for name in self.asked:
            bound, other, limit = getattr(bounds, name), getattr(others, name), getattr(self, name)
            if bound is None or other is None:
                continue
            width = max(bound / other, other / bound)
            if limit / width < bound < limit * width:
                return True
        return False


def better(name: str, one: float, other: float) -> bool:
    """Whether one figure of a constraint is better than another."""
    return one > other if CONSTRAINTS[name].at_least else one < other


def check_units(budget: Budget, targets: Sequence[Target]) -> None:
    """Raise UsageError for a latency in another unit than that of every target's costs."""
    for asked in ("latency_us", "model_cycles"):
        wrong = [target for target in targets if asked != target.unit.key]
        if getattr(budget, asked) is None or not wrong:
            continue
        if len(wrong) < len(targets):
            fits = next(target for target in targets if target not in wrong)
            raise UsageError(
                f"{fits.spec} and {wrong[0].spec} have no common unit: one has a time, one model cycles",
                where="--latency", hint="ask for a --speedup, or run mcc compress once for each target",
            )  # fmt: skip
        counts, lacks = ("model cycles", "time") if wrong[0].unit.exact else ("time", "model cycles")
        raise UsageError(
            f"{wrong[0].spec} has {counts} and no {lacks}",
            where="--latency",
            hint=f"write for example {wrong[0].unit.example}, or --speedup 2x",
        )


def check_drop(budget: Budget, metric: Metric) -> None:
    """Raise UsageError for a loss that no metric of this kind can have."""
    if metric.is_fraction and budget.max_drop is not None and budget.max_drop > POINTS:
        raise UsageError(
            f"{budget.max_drop:g} is not between 0 and 100", where=CONSTRAINTS["max_drop"].option,
            hint=f"write points of the {metric.name} as for example 1.0",
        )  # fmt: skip


def refuse_unplanned(budget: Budget, names: Sequence[str]) -> None:
    """Raise UsageError for constraints that a plan without training cannot be checked against."""
    for name in names:
        if getattr(budget, name) is not None:
            raise UsageError(
                "is only known once a network is trained or run, and nothing is planned for it",
                where=CONSTRAINTS[name].option, hint="leave it out here; mcc compress keeps it",
            )  # fmt: skip
