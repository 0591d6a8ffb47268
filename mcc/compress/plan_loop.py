"""Plans that keep their budgets when measured: solve, build, measure, correct, solve again.

A plan is accepted when the file built from it, still untrained (its latency does not depend on the values of
its weights, only on the places of zeros), keeps every budget on every target. One target is the usual case;
for several, the same decision has to keep the budgets on each of them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mcc.budget import Budget, Figures
from mcc.compress.build import Structure
from mcc.compress.planning import MARGIN, Planner, Trial
from mcc.search.multi_target import joined
from mcc.search.problem import Layer, Problem
from mcc.search.solver import Limits, Solution, solve
from mcc.search.space import Configuration, Space

log = logging.getLogger(__name__)

SLACK = 0.93  # a candidate faster than this share of the budget is planned again, with larger widths
ROUNDS = 6
ASKS = 3  # times that a round measures the missing kernels of its solution and solves again
NUDGE = 1.02
CONSTANTS_CARE = 1.02  # for each byte that a file is too large, this many fewer are allowed the next time
WIDENINGS = 2  # rounds at most for using up a budget that is kept with room to spare


@dataclass(frozen=True)
class SharedTrial:
    """A structure, built and measured on each target before any training.

    Attributes:
        structure: The decisions.
        loss: Predicted divergence (for classification, in nats).
        trials: Trials by target.
    """

    structure: Structure
    loss: float
    trials: Mapping[str, Trial]

    @property
    def keeps_all(self) -> bool:
        """Whether every budget is kept on every target."""
        return all(trial.keeps_all for trial in self.trials.values())

    @property
    def excess(self) -> float:
        """The largest factor by which a budget is missed, over all budgets and targets."""
        return max(trial.excess for trial in self.trials.values())


def plan_for(
    planner: Planner, space: Space, configuration: Configuration, label: str, *, regions: bool = False
) -> Trial:
    """The best structure of a configuration that keeps the budgets when measured, or the nearest one.

    Args:
        label: Name of the files of its trials.
        regions: Whether regions of an integer configuration may stay float.
    """
    target = planner.bench.target.spec
    found = _Search({target: planner}, {target: configuration}, space, label, regions=regions).run()
    return found.trials[target]


def plan_for_all(
    planners: Mapping[str, Planner],
    offered: Mapping[str, Sequence[Configuration]],
    configuration: Configuration,
    label: str,
) -> SharedTrial:
    """The same for several targets, in all decisions.

    Args:
        planners: Planners by target.
        offered: Configurations of each target. If a target lacks one, it stores its zeros densely.
    """
    multiple = max(planner.setting.multiple for planner in planners.values())
    own = {name: configuration if configuration in offered[name] else Configuration() for name in planners}
    # The decisions are the options of the first target's table: targets with the configuration come first.
    order = sorted(planners, key=lambda name: own[name] != configuration)
    alike = {
        name: replace(planners[name], setting=replace(planners[name].setting, multiple=multiple))
        for name in order
    }
    return _Search(alike, own, Space.whole((configuration,)), label).run()


class _Search:
    """One configuration's loop of solving, building, measuring and correcting, on one target or several."""

    def __init__(
        self,
        planners: Mapping[str, Planner],
        own: Mapping[str, Configuration],
        space: Space,
        label: str,
        *,
        regions: bool = False,
    ) -> None:
        self.planners = planners
        self.label = label
        self.tables = {n: p.tables(space, own[n], label, regions=regions) for n, p in planners.items()}
        self.problem = self._problem()
        wholes = {n: p.plan_whole(own[n], f"{label}-whole") for n, p in planners.items()}
        self.whole = SharedTrial(next(iter(wholes.values())).structure, 0.0, wholes)
        # Measured over predicted latency of the unpruned network; with regions, the tables hold the factor
        # of each precision.
        self.factors = {n: 1.0 if regions else trial.factor for n, trial in wholes.items()}
        self.size_limit = self._first_size()
        self.best: SharedTrial | None = None
        self.nearest: SharedTrial | None = None
        self.tried: dict[str, SharedTrial] = {}

    def _problem(self) -> Problem:
        """The problem, from all measurements so far."""
        problems = [table() for table in self.tables.values()]
        return problems[0] if len(problems) == 1 else joined(problems)

    def _first_size(self) -> float | None:
        """Bytes that constants may take: the budget without the overhead of the file format."""
        constants = sum(_widest_bytes(layer) for layer in self.problem.layers)
        found = [
            planner.budget.size_bytes - max(0.0, self.whole.trials[name].size_bytes - constants)
            for name, planner in self.planners.items()
            if planner.budget.size_bytes is not None
        ]
        return min(found, default=None)

    def run(self) -> SharedTrial:
        self._consider(self.whole)
        if not self.whole.keeps_all:
            for round_ in range(ROUNDS):
                trial = self._step(round_)
                if trial is None or (trial.keeps_all and not (round_ < WIDENINGS and self._slack(trial))):
                    break
        found = self.best or self.nearest
        assert found is not None
        return found

    def _step(self, round_: int) -> SharedTrial | None:
        """Solve under the present corrections and measure; None if the solution is not new."""
        solution = self._settled(self._limits())
        structure = Structure.of(self.problem, solution)
        before = self.tried.get(structure.key())
        if before is not None:
            if before.keeps_all:
                return None
            # A solution that was measured too slow comes again: ask for a little more speed.
            self.factors = {n: f * NUDGE for n, f in self.factors.items()}
            return before
        found = SharedTrial(structure, solution.loss, self._measured(structure, solution, round_))
        self.tried[structure.key()] = found
        # One measurement is off by a few percent: after the first, the factor moves only half the way.
        self.factors = {
            n: trial.factor if round_ == 0 else (self.factors[n] * trial.factor) ** 0.5
            for n, trial in found.trials.items()
        }
        self._tighten(found, solution)
        self._consider(found)
        return found

    def _limits(self) -> Limits:
        """The budgets as limits of the solver: predictions corrected, with a margin."""
        first, *more = (
            None if planner.cost_limit is None else planner.cost_limit * MARGIN / self.factors[name]
            for name, planner in self.planners.items()
        )
        return Limits(first, self.size_limit, tuple(more))

    def _measured(self, structure: Structure, solution: Solution, round_: int) -> dict[str, Trial]:
        """Measure the structure on each target."""
        found: dict[str, Trial] = {}
        for index, (name, planner) in enumerate(self.planners.items()):
            raw = solution.cost if index == 0 else planner.predict(structure)
            label = f"{self.label}-{round_}"
            trial = planner.measure(structure, raw * self.factors[name], raw, label)
            trial = replace(trial, loss=solution.loss, gap=solution.gap, solution=solution)
            log.info(
                "%s round %d on %s: predicted %.0f us, measured %.0f us, %s", self.label, round_, name,
                trial.predicted_cost, trial.speed.latency_us, trial.kept,
            )  # fmt: skip
            found[name] = trial
        return found

    def _settled(self, limits: Limits) -> Solution:
        """A solution on measured kernels: missing ones are measured, and the problem is solved again."""
        first, *others = self.planners.values()
        if others:  # kernels measured for the other targets' trials
            self.problem = self._problem()
        solution = self._solve(limits)
        for _ in range(ASKS):
            if not first.ask([k for option in solution.options.values() for k in option.kernels]):
                break
            self.problem = self._problem()
            solution = self._solve(limits)
        return solution

    def _solve(self, limits: Limits) -> Solution:
        found = solve(self.problem, limits)
        if found is not None:
            return found
        # No solution is predicted to keep the budgets: measure the fastest that fits, else the smallest.
        for minimise, left in (("cost", Limits(None, limits.size_bytes)), ("size_bytes", Limits())):
            found = solve(self.problem, left, minimise=minimise)
            if found is not None:
                return found
        raise AssertionError("a problem without limits has a solution")

    def _tighten(self, found: SharedTrial, solution: Solution) -> None:
        """Correct the predicted sizes by the measured ones; memory shrinks with the constants."""
        over = 0.0
        for name, planner in self.planners.items():
            trial, budget = found.trials[name], planner.budget
            memory = budget.over("memory_bytes", trial.memory_bytes)
            over = max(over, budget.over("size_bytes", trial.size_bytes), memory / 2)
        if over > 0:
            self.size_limit = max(0.0, solution.size_bytes - CONSTANTS_CARE * over)

    def _slack(self, found: SharedTrial) -> bool:
        """Whether every target has time left for larger widths, and only time is limited."""
        for name, planner in self.planners.items():
            asked, time = planner.budget.of_cost, planner.budget.of_time
            limit = Budget(latency_us=planner.cost_limit)
            taken = limit.excess(Figures(found.trials[name].speed.latency_us))
            if not time.asked or asked != time or taken >= SLACK:
                return False
        return True

    def _consider(self, found: SharedTrial) -> None:
        if found.keeps_all and (self.best is None or found.loss < self.best.loss):
            self.best = found
        if self.nearest is None or found.excess < self.nearest.excess:
            self.nearest = found


def _widest_bytes(layer: Layer) -> float:
    """Bytes of the constants of a layer at its full width."""
    return float(layer.options[max(layer.options)][0].size_bytes)
