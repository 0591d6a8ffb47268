"""The joint decision, solved exactly: an integer program over widths and forms, under budgets.

Each group has one binary variable per width; each layer one per combination of the widths it depends on and
of its options. The sums of a layer's variables over one side equal the group's (the usual tight linking of a
piecewise table), so that the linear relaxation is close and HiGHS proves the answer within a few nodes.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any, cast

import numpy as np

from mcc.search.kernel_family import Width
from mcc.search.problem import Layer, Option, Problem

Array = np.ndarray[Any, np.dtype[np.float64]]

TOLERANCE = 1e-6  # in microseconds or bytes: rounding error of a sum of many floats
DEFAULT_NODES = 2_000
GREATEST = 2**31 - 1  # nodes: no limit
LIMIT_REACHED = 1  # scipy's status


@dataclass(frozen=True)
class Limits:
    """Budgets of one solve; None: no budget."""

    cost: float | None = None
    size_bytes: float | None = None
    more_costs: tuple[float | None, ...] = ()  # cost on further targets


@dataclass(frozen=True)
class Solution:
    """The solver's decision.

    Attributes:
        widths: Kept channels of each group.
        more_costs: Predicted cost on further targets.
        forms: `INTEGER` or `FLOAT` of each region whose precision was open.
        options: The chosen option of each layer.
        cost, size_bytes, loss: Predicted sums, the first in the target's unit.
        gap: (objective - proved bound) / objective; 0 when optimal.
    """

    widths: Mapping[str, int]
    options: Mapping[str, Option]
    cost: float
    size_bytes: float
    loss: float
    gap: float
    forms: Mapping[str, int] = field(default_factory=lambda: {})
    more_costs: tuple[float, ...] = ()

    @property
    def ranks(self) -> dict[str, int]:
        """Layers that become low-rank pairs, with their rank."""
        return {name: option.rank for name, option in self.options.items() if option.rank is not None}

    @property
    def sparsities(self) -> dict[str, float]:
        """Layers with zeros, and their sparsity."""
        found = {name: option.sparsity for name, option in self.options.items()}
        return {name: share for name, share in found.items() if share is not None}


class _Model:
    """Variables are columns 0, 1, ...; rows are linear constraints with a lower and an upper bound."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.columns = 0
        self.entries: list[tuple[int, int, float]] = []  # row, column, coefficient
        self.low: list[float] = []
        self.high: list[float] = []
        self.widths = {name: self._new(len(levels)) for name, levels in problem.levels.items()}
        for choices in self.widths.values():
            self._row([(column, 1.0) for column in choices], 1, 1)
        self.sums: dict[Width, dict[int, int]] = {}
        self.chosen: dict[str, list[tuple[int, Option]]] = {}
        for layer in problem.layers:
            self.chosen[layer.node] = self._layer(layer)

    def _new(self, count: int) -> list[int]:
        self.columns += count
        return list(range(self.columns - count, self.columns))

    def _row(self, terms: Sequence[tuple[int, float]], low: float, high: float) -> None:
        self.entries += [(len(self.low), column, factor) for column, factor in terms]
        self.low.append(low)
        self.high.append(high)

    def values(self, width: Width) -> dict[int, int]:
        """Binary variables for the possible channel counts of a value, exactly one of them 1."""
        if width in self.sums:
            return self.sums[width]
        levels = self.problem.levels
        if len(width.groups) == 1:
            group = width.groups[0]
            found = {
                width.value({group: level}): column
                for level, column in zip(levels[group], self.widths[group], strict=True)
            }
        else:
            found = self._sum(width)
        self.sums[width] = found
        return found

    def _sum(self, width: Width) -> dict[int, int]:
        """Variables for a sum of several groups, implied by every combination with that sum."""
        levels = self.problem.levels
        found: dict[int, int] = {}
        for combination in itertools.product(*(range(len(levels[g])) for g in width.groups)):
            chosen = {g: levels[g][i] for g, i in zip(width.groups, combination, strict=True)}
            total = width.value(chosen)
            if total not in found:
                (found[total],) = self._new(1)
            given = [(self.widths[g][i], -1.0) for g, i in zip(width.groups, combination, strict=True)]
            self._row([(found[total], 1.0), *given], 1 - len(given), inf)
        self._row([(column, 1.0) for column in found.values()], 1, 1)
        return found

    def _layer(self, layer: Layer) -> list[tuple[int, Option]]:
        found: list[tuple[int, Option]] = []
        members: list[dict[int, list[int]]] = [{} for _ in layer.sides]
        for key, options in layer.options.items():
            for column, option in zip(self._new(len(options)), options, strict=True):
                found.append((column, option))
                for value, side in zip(key, members, strict=True):
                    side.setdefault(value, []).append(column)
        self._row([(column, 1.0) for column, _ in found], 1, 1)
        for width, side in zip(layer.sides, members, strict=True):
            column_of = self.values(width)
            for value, chosen in side.items():
                self._row([*((column, 1.0) for column in chosen), (column_of[value], -1.0)], 0, 0)
        return found

    def total(self, what: str) -> Array:
        """Coefficient of each variable in a figure of the chosen options."""
        found = np.zeros(self.columns)
        for literals in self.chosen.values():
            for column, option in literals:
                found[column] = getattr(option, what)
        return found

    def total_on(self, index: int) -> Array:
        """The same as `total`, for the latency on a further target."""
        found = np.zeros(self.columns)
        for literals in self.chosen.values():
            for column, option in literals:
                found[column] = option.more_costs[index] if option.more_costs else 0.0
        return found

    def loss(self) -> Array:
        """Coefficient of each variable in the loss."""
        found = self.total("loss")
        for name, columns in self.widths.items():
            found[columns] = self.problem.losses[name]
        return found

    def bounds(self, limits: Limits) -> list[tuple[Array, float]]:
        """Coefficients of each figure under a budget, with the upper bound of its sum."""
        problem = self.problem
        found: list[tuple[Array, float]] = []
        if limits.cost is not None:
            found.append((self.total("cost"), limits.cost - problem.overhead_cost))
        for index, limit in enumerate(limits.more_costs):
            if limit is not None:
                found.append((self.total_on(index), limit - problem.more_overhead_costs[index]))
        if limits.size_bytes is not None:
            found.append((self.total("size_bytes"), limits.size_bytes))
        return found

    def minimum(self, objective: Array, bounds: Sequence[tuple[Array, float]], nodes: int) -> _Found | None:
        """The least sum of an objective under upper bounds, or None if it is infeasible.

        Args:
            nodes: Limit of the search tree's nodes, after which the best solution so far is taken.
        """
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import csr_matrix

        rows, columns, factors = zip(*self.entries, strict=True)
        shape = (len(self.low), self.columns)
        low, high = cast("Any", self.low), cast("Any", self.high)
        structure = LinearConstraint(csr_matrix((factors, (rows, columns)), shape=shape), low, high)
        budgets = [LinearConstraint(csr_matrix(terms), -inf, most) for terms, most in bounds]
        found: Any = milp(
            objective, constraints=[structure, *budgets], integrality=np.ones(self.columns),
            bounds=Bounds(0, 1), options={"node_limit": nodes, "mip_rel_gap": 0.0},
        )  # fmt: skip
        if found.x is not None:
            return _Found(np.round(found.x), float(objective @ np.round(found.x)), found.mip_dual_bound)
        # Out of nodes does not mean infeasible: search on for a solution, or the proof that there is none.
        return self.minimum(objective, bounds, GREATEST) if found.status == LIMIT_REACHED else None


@dataclass(frozen=True)
class _Found:
    """A minimum: 0 or 1 for each variable, the objective there, and its proved lower bound."""

    taken: Array
    value: float
    bound: float

    @property
    def gap(self) -> float:
        """Relative distance of the objective from its lower bound."""
        over = self.value - self.bound
        return over / abs(self.value) if over > TOLERANCE * max(1.0, abs(self.value)) else 0.0


def solve(
    problem: Problem, limits: Limits, *, minimise: str = "loss", nodes: int = DEFAULT_NODES
) -> Solution | None:
    """The best decision within the limits, or None if no decision keeps them.

    Args:
        problem: Tables of one configuration.
        limits: Budgets on the predicted sums.
        minimise: `loss`; or `cost` or `size_bytes`, to determine what is feasible.
        nodes: Limit of the search tree's nodes, after which the best solution so far is returned with its
            gap. A count instead of a time limit, and one thread, make the result reproducible on a busy
            machine.
    """
    model = _Model(problem)
    bounds = model.bounds(limits)
    gap = 0.0
    if minimise != "loss":
        first = model.minimum(figure := model.total(minimise), bounds, nodes)
        if first is None:
            return None
        gap = first.gap
        # Of the solutions with this figure, the one with the smallest loss.
        bounds = [*bounds, (figure, first.value + TOLERANCE)]
    found = model.minimum(model.loss(), bounds, nodes)
    return None if found is None else _read(model, found.taken, gap if minimise != "loss" else found.gap)


def _read(model: _Model, taken: Array, gap: float) -> Solution:
    problem = model.problem
    widths = {
        name: next(level for level, x in zip(levels, model.widths[name], strict=True) if taken[x])
        for name, levels in problem.levels.items()
    }
    options = {
        node: next(option for column, option in columns if taken[column])
        for node, columns in model.chosen.items()
    }
    loss = problem.base_loss + sum(o.loss for o in options.values())
    loss += sum(problem.losses[n][problem.levels[n].index(w)] for n, w in widths.items())
    return Solution(
        {name: width for name, width in widths.items() if name not in problem.regions},
        options,
        problem.overhead_cost + sum(o.cost for o in options.values()),
        sum(o.size_bytes for o in options.values()),
        loss,
        gap,
        {name: form for name, form in widths.items() if name in problem.regions},
        tuple(
            overhead + sum(o.more_costs[index] for o in options.values() if o.more_costs)
            for index, overhead in enumerate(problem.more_overhead_costs)
        ),
    )
