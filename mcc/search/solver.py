"""The joint decision, solved exactly: CP-SAT over widths and ranks under budgets of latency and size.

Each group has one Boolean per width; each layer one per combination of the widths it depends on and of its
options. The sums of a layer's Booleans over one side equal the group's Booleans (the usual tight linking of a
piecewise table), so that the relaxation is close and the gap is proved in seconds.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil, floor, inf
from typing import Any

from mcc.search.family import Width
from mcc.search.problem import Layer, Option, Problem

LATENCY_UNIT_US = 1e-3  # nanoseconds: integers for the solver
ROUNDING = 1e-6  # of a unit: what float arithmetic may add to a whole number of them
LOSS_STEPS = 10_000_000  # the largest possible loss, in steps of the objective
DEFAULT_SECONDS = 20.0


@dataclass(frozen=True)
class Limits:
    """Budgets of one solve; None where there is none."""

    latency_us: float | None = None
    size_bytes: float | None = None
    more_us: tuple[float | None, ...] = ()  # latency on further targets


@dataclass(frozen=True)
class Solution:
    """What the solver decided.

    Attributes:
        widths: channels kept in each group.
        more_us: predicted latency on further targets.
        forms: `INTEGER` or `FLOAT` of each region whose precision was open.
        options: the chosen option of each layer.
        latency_us, size_bytes, loss: predicted sums.
        gap: (objective - proved bound) / objective, 0 when optimal.
    """

    widths: Mapping[str, int]
    options: Mapping[str, Option]
    latency_us: float
    size_bytes: float
    loss: float
    gap: float
    forms: Mapping[str, int] = field(default_factory=lambda: {})
    more_us: tuple[float, ...] = ()

    @property
    def ranks(self) -> dict[str, int]:
        """Layers that become low-rank pairs, with their rank."""
        return {name: option.rank for name, option in self.options.items() if option.rank is not None}

    @property
    def sparsities(self) -> dict[str, float]:
        """Layers with zeros, and their share."""
        found = {name: option.sparsity for name, option in self.options.items()}
        return {name: share for name, share in found.items() if share is not None}


class _Model:
    def __init__(self, problem: Problem) -> None:
        from ortools.sat.python import cp_model

        self.cp: Any = cp_model
        self.problem = problem
        self.model: Any = cp_model.CpModel()
        self.widths = {
            name: [self.model.new_bool_var(f"{name}={level}") for level in levels]
            for name, levels in problem.levels.items()
        }
        for choices in self.widths.values():
            self.model.add_exactly_one(choices)
        self.sums: dict[Width, dict[int, Any]] = {}
        self.chosen: dict[str, list[tuple[Any, Option]]] = {}
        for layer in problem.layers:
            self.chosen[layer.node] = self._layer(layer)

    def values(self, width: Width) -> dict[int, Any]:
        """A literal for each number of channels that a value may have, exactly one of them true."""
        if width in self.sums:
            return self.sums[width]
        levels = self.problem.levels
        if len(width.groups) == 1:
            group = width.groups[0]
            found = {
                width.value({group: level}): literal
                for level, literal in zip(levels[group], self.widths[group], strict=True)
            }
        else:
            found = self._sum(width)
        self.sums[width] = found
        return found

    def _sum(self, width: Width) -> dict[int, Any]:
        """Literals for a sum of several groups, linked to every combination that gives it."""
        levels = self.problem.levels
        found: dict[int, Any] = {}
        for combination in itertools.product(*(range(len(levels[g])) for g in width.groups)):
            chosen = {g: levels[g][i] for g, i in zip(width.groups, combination, strict=True)}
            total = width.value(chosen)
            literal = found.get(total)
            if literal is None:
                literal = found[total] = self.model.new_bool_var(f"sum={total}")
            given = [self.widths[g][i] for g, i in zip(width.groups, combination, strict=True)]
            self.model.add_bool_or([literal, *(one.negated() for one in given)])
        self.model.add_exactly_one(found.values())
        return found

    def _layer(self, layer: Layer) -> list[tuple[Any, Option]]:
        literals: list[tuple[Any, Option]] = []
        members: list[dict[int, list[Any]]] = [{} for _ in layer.sides]
        for key, options in layer.options.items():
            for option in options:
                literal = self.model.new_bool_var(f"{layer.node}:{key},{option.rank},{option.sparsity}")
                literals.append((literal, option))
                for value, side in zip(key, members, strict=True):
                    side.setdefault(value, []).append(literal)
        self.model.add_exactly_one(literal for literal, _ in literals)
        for width, side in zip(layer.sides, members, strict=True):
            literal_of = self.values(width)
            for value, chosen in side.items():
                self.model.add(sum(chosen) == literal_of[value])
        return literals

    def total(self, what: str, unit: float) -> Any:
        """A linear expression: the sum of a figure over all chosen options, in whole units, rounded up."""
        return sum(
            ceil(getattr(option, what) / unit - ROUNDING) * literal
            for literals in self.chosen.values()
            for literal, option in literals
        )

    def total_on(self, index: int, unit: float) -> Any:
        """As `total`, of the latency on a further target."""
        return sum(
            ceil(option.more_us[index] / unit - ROUNDING) * literal
            for literals in self.chosen.values()
            for literal, option in literals
            if option.more_us
        )

    def loss(self, unit: float) -> Any:
        """The sum of all losses, in whole units."""
        widths = sum(
            round(loss / unit) * literal
            for name, literals in self.widths.items()
            for literal, loss in zip(literals, self.problem.losses[name], strict=True)
        )
        return widths + self.total("loss", unit)


def solve(
    problem: Problem,
    limits: Limits,
    *,
    minimise: str = "loss",
    seconds: float = DEFAULT_SECONDS,
    seed: int = 0,
) -> Solution | None:
    """The best decision within the limits, or None when no decision keeps them.

    Args:
        problem: tables of one regime.
        limits: budgets on the predicted sums.
        minimise: `loss`; or `latency_us` or `size_bytes`, to find out what is possible at all.
        seconds: after which the best found so far is returned with its gap; counted in the solver's
            deterministic time, about a second of one core, so that the answer does not depend on the load.
        seed: of the solver; one worker thread, so that equal input gives equal output.
    """
    built = _Model(problem)
    unit = _loss_unit(problem)
    if limits.latency_us is not None:
        bound = limits.latency_us - problem.overhead_us
        if bound < 0:
            return None
        most = floor(bound / LATENCY_UNIT_US + ROUNDING)
        built.model.add(built.total("latency_us", LATENCY_UNIT_US) <= most)
    for index, limit in enumerate(limits.more_us):
        if limit is not None:
            bound = limit - problem.more_overhead_us[index]
            if bound < 0:
                return None
            most = floor(bound / LATENCY_UNIT_US + ROUNDING)
            built.model.add(built.total_on(index, LATENCY_UNIT_US) <= most)
    if limits.size_bytes is not None:
        built.model.add(built.total("size_bytes", 1.0) <= floor(limits.size_bytes + ROUNDING))
    objective = built.loss(unit)
    if minimise != "loss":
        # Among decisions equal in the figure, the one that loses least: the loss breaks ties.
        weight = LATENCY_UNIT_US if minimise == "latency_us" else 1.0
        objective = built.total(minimise, weight) * 1000 + built.loss(unit * LOSS_STEPS / 500)
    built.model.minimize(objective)
    solver: Any = built.cp.CpSolver()
    solver.parameters.max_deterministic_time = seconds
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = seed
    solver.parameters.catch_sigint_signal = False  # Ctrl-C ends the run, not this search with what it has
    status = solver.solve(built.model)
    if status == built.cp.UNKNOWN:
        # No answer is not "impossible": go on until there is one decision, or the proof that there is none.
        solver.parameters.max_deterministic_time = inf
        solver.parameters.stop_after_first_solution = True
        status = solver.solve(built.model)
    if status not in (built.cp.OPTIMAL, built.cp.FEASIBLE):
        return None
    return _read(problem, built, solver)


def _loss_unit(problem: Problem) -> float:
    worst = sum(max(losses, default=0.0) for losses in problem.losses.values())
    for layer in problem.layers:
        worst += max((o.loss for options in layer.options.values() for o in options), default=0.0)
    return max(worst, 1e-12) / LOSS_STEPS


def _read(problem: Problem, built: _Model, solver: Any) -> Solution:
    widths = {
        name: next(level for level, lit in zip(levels, built.widths[name], strict=True) if solver.value(lit))
        for name, levels in problem.levels.items()
    }
    options = {
        node: next(option for literal, option in literals if solver.value(literal))
        for node, literals in built.chosen.items()
    }
    loss = problem.base_loss + sum(o.loss for o in options.values())
    loss += sum(problem.losses[n][problem.levels[n].index(w)] for n, w in widths.items())
    value, bound = solver.objective_value, solver.best_objective_bound
    return Solution(
        {name: width for name, width in widths.items() if name not in problem.regions},
        options,
        problem.overhead_us + sum(o.latency_us for o in options.values()),
        sum(o.size_bytes for o in options.values()),
        loss,
        max(0.0, (value - bound) / value) if value > 0 else 0.0,
        {name: form for name, form in widths.items() if name in problem.regions},
        tuple(
            overhead + sum(o.more_us[index] for o in options.values() if o.more_us)
            for index, overhead in enumerate(problem.more_overhead_us)
        ),
    )
