"""Plans that keep their budgets when measured: solve, build, measure, correct, solve again.

The table predicts a network as the sum of its kernels; a factor, measured on the baseline and then on each
candidate, brings the sum to the whole. A plan is accepted when the file built from it, still untrained (its
latency does not depend on the values of its weights, only on the places of zeros), keeps every budget.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mcc.analysis.sparse_cluster import SparseCluster, find_sparse_cluster
from mcc.budget import Budget, Figures
from mcc.compress.bench import Bench
from mcc.compress.candidate import Structure, deployment_form, quantise, restructure, write_file
from mcc.compress.speed import Speed
from mcc.cost_api import Kernel, Precision, graph_kernels
from mcc.cost_sum import predict
from mcc.data import DataModule
from mcc.ir.graph import Graph, inputs
from mcc.ir.notes import shape_of
from mcc.quant.regions import integer_nodes
from mcc.runtime.facts import TargetFacts
from mcc.search.problem import Problem
from mcc.search.sensitivity import Sensitivities
from mcc.search.solver import Limits, Solution, solve
from mcc.search.space import Regime, Space, regimes
from mcc.search.tables import Setting, build_problem

log = logging.getLogger(__name__)

MARGIN = 0.96  # of the latency budget that a plan aims at: medians of two measurements differ by 1 to 3 %
SLACK = 0.93  # a candidate faster than this share of the budget is planned once more, wider
ROUNDS = 6
ASKS = 3  # how often a round measures kernels that its solution lacks and solves again
NUDGE = 1.02
WIDENINGS = 2  # of these, how many may go to using up a budget that is kept with room to spare

Ask = Callable[[list[Kernel]], bool]


@dataclass(frozen=True)
class Trial:
    """A structure, as built and measured before any training.

    Attributes:
        structure: what was decided.
        predicted_us: latency written down before the file was first timed.
        loss: predicted distillation loss, in nats.
        gap: optimality gap of the solver.
        file: the untrained model, lowered.
        speed, size_bytes: measured.
        memory_bytes: measured where there is a budget of memory, else 0.
        kept: each constraint on cost, and whether it is kept.
        excess: the factor by which it misses what it misses most; at most 1 where it keeps all.
        factor: measured over predicted sum of the kernels.
        solution: the solver's answer, None for a structure that was given.
    """

    structure: Structure
    predicted_us: float
    loss: float
    gap: float
    file: Path
    speed: Speed
    size_bytes: int
    memory_bytes: int
    kept: dict[str, bool]
    excess: float
    factor: float
    solution: Solution | None = None

    @property
    def keeps_all(self) -> bool:
        """Whether every constraint on cost is kept."""
        return all(self.kept.values())


@dataclass(frozen=True)
class Planner:
    """Everything that planning needs.

    Attributes:
        graph: the network as captured.
        setting: tables and sensitivities.
        bench: measures.
        budget: as asked; a speed-up counts as a latency.
        calibration: input batches.
        folder: for the files of trials.
        judged: place of the output that the metric is read from.
        ask: measures kernels that a plan rests on and were not measured yet; whether there were any.
        times: whether files may be timed; else predictions count as they are, and nothing can be tried.
    """

    graph: Graph
    setting: Setting
    bench: Bench
    budget: Budget
    data: DataModule
    calibration: tuple[Tensor, ...]
    folder: Path
    baseline_us: float
    ask: Ask
    judged: int = 0
    times: bool = True

    @property
    def sensitivities(self) -> Sensitivities:
        """Costs of single decisions."""
        return self.setting.sensitivities

    @property
    def latency_us(self) -> float | None:
        """The tighter of the budgets on latency and speed-up, in microseconds."""
        return self.budget.time_limit(self.baseline_us)

    def measure(self, structure: Structure, predicted_us: float, raw_us: float, label: str) -> Trial:
        """Build a structure without training and measure it."""
        built = restructure(self.graph, structure, self.sensitivities, self.calibration[:1], verify=False)
        lowered = quantise(deployment_form(built), structure.regime, self.calibration)
        path = write_file(lowered, self.bench.target, self.folder / label, self.data, self.judged)
        speed = self.bench.speed(path)
        memory = self.bench.trial_memory(path) if self.budget.memory_bytes is not None else 0
        figures, budget = self.figures(speed, path.stat().st_size, memory), self.budget.of_cost
        # The ratio to the baseline of the same rounds is steadier than the time itself on a shared machine.
        measured = self.baseline_us / speed.speedup
        factor = measured / raw_us if raw_us > 0 else 1.0
        return Trial(
            structure,
            predicted_us,
            0.0,
            0.0,
            path,
            speed,
            path.stat().st_size,
            memory,
            budget.kept(figures),
            budget.excess(figures),
            factor,
        )

    def figures(self, speed: Speed, size_bytes: int, memory_bytes: int) -> Figures:
        """What a measured file takes, at the pace that the machine had when the baseline was timed."""
        latency = speed.high_us * self.baseline_us / speed.baseline_us
        return Figures(
            latency, speedup=speed.speedup_ci95[0], size_bytes=size_bytes, memory_bytes=memory_bytes
        )

    def promises(self, predicted_us: float, size_bytes: float) -> bool:
        """Whether a network is expected to keep the budgets on time, with a margin, and on size."""
        predicted = Figures(predicted_us, speedup=self.baseline_us / predicted_us, size_bytes=size_bytes)
        known = self.budget.of_cost.model_copy(update={"memory_bytes": None})
        return all(known.scaled(time=MARGIN).kept(predicted).values())

    def predict(self, structure: Structure) -> float:
        """Sum of the kernels of a structure and the overhead, without correction, in microseconds."""
        built = restructure(self.graph, structure, self.sensitivities, self.calibration[:1], verify=False)
        kernels = structure_kernels(deployment_form(built), structure.regime, self.bench.target.facts())
        self.ask(list(kernels.values()))
        return predict(self.setting.model, kernels, structure.regime.precision).latency_us

    def factor(self, regime: Regime, label: str) -> float:
        """Measured over predicted latency of the network under a regime; 1 where nothing may be timed."""
        return self.plan_whole(regime, label).factor if self.times else 1.0

    def plan_whole(self, regime: Regime, label: str) -> Trial:
        """The network under a regime with nothing else decided, measured."""
        raw = self.predict(Structure(regime))
        return self.measure(Structure(regime), raw, raw, label)

    def plan(self, space: Space, regime: Regime, label: str, *, regions: bool = False) -> Trial:
        """The best structure of a regime that keeps the budgets when measured, or the nearest one.

        Args:
            regions: whether regions of a regime of integers may stay float.
        """
        return _Search(self, self.tables(space, regime, label, regions=regions), regime, label).run(regions)

    def tables(self, space: Space, regime: Regime, label: str, *, regions: bool) -> Callable[[], Problem]:
        """What builds the problem of a regime from all that has been measured when it is called."""
        low_rank = space.low_rank and regime.sparse is None
        mixed = regions or (space.mixed and regime.sparse is not None)
        setting = self.setting
        if regions:
            pure = {r.precision: self.factor(r, f"{label}-{r.precision}") for r in (Regime(), regime)}
            setting = replace(setting, factors=pure)

        def build() -> Problem:
            return build_problem(setting, regime, widths=space.widths, low_rank=low_rank, mixed=mixed)

        return build


class _Search:
    """One regime's loop of solving, building, measuring and correcting."""

    def __init__(self, planner: Planner, tables: Callable[[], Problem], regime: Regime, label: str) -> None:
        self.planner = planner
        self.tables = tables
        self.problem = tables()
        self.regime = regime
        self.label = label
        self.whole = planner.plan_whole(regime, f"{label}-whole")
        self.factor = self.whole.factor  # measured over predicted latency of the unpruned network
        self.size_limit = self._first_size()
        self.best: Trial | None = None
        self.nearest: Trial | None = None
        self.tried: dict[str, Trial] = {}

    def _first_size(self) -> float | None:
        """Bytes that constants may take: the budget less what the format itself takes."""
        limit = self.planner.budget.size_bytes
        if limit is None:
            return None
        constants = sum(layer_bytes(layer.options) for layer in self.problem.layers)
        return limit - max(0.0, self.whole.size_bytes - constants)

    def run(self, regions: bool = False) -> Trial:
        if regions:
            self.factor = 1.0  # each precision's own is in the tables
        self._consider(self.whole)
        if not self.whole.keeps_all:
            for round_ in range(ROUNDS):
                trial = self._step(round_)
                if trial is None or (trial.keeps_all and not (round_ < WIDENINGS and self._slack(trial))):
                    break
        found = self.best or self.nearest
        assert found is not None
        return found

    def _step(self, round_: int) -> Trial | None:
        """Solve under the present corrections and measure; None when nothing new comes out."""
        planner = self.planner
        latency = planner.latency_us
        limits = Limits(None if latency is None else latency * MARGIN / self.factor, self.size_limit)
        solution = self._settled(limits)
        structure = Structure.of(self.problem, solution)
        before = self.tried.get(structure.key())
        if before is not None:
            if before.keeps_all:
                return None
            self.factor *= NUDGE  # what was measured too slow is asked for once more, a little faster
            return before
        raw = solution.latency_us  # with all that has been measured by now
        trial = planner.measure(structure, raw * self.factor, raw, f"{self.label}-{round_}")
        trial = replace(trial, loss=solution.loss, gap=solution.gap, solution=solution)
        log.info(
            "%s round %d: predicted %.0f us, measured %.0f us, %s", self.label, round_, trial.predicted_us,
            trial.speed.latency_us, trial.kept,
        )  # fmt: skip
        self.tried[structure.key()] = trial
        # One measurement is off by a few percent: after the first, the factor moves half of the way.
        self.factor = trial.factor if round_ == 0 else (self.factor * trial.factor) ** 0.5
        self._tighten(trial, solution)
        self._consider(trial)
        return trial

    def _settled(self, limits: Limits) -> Solution:
        """A solution on measured kernels: those that it lacks are measured, and it is sought anew."""
        solution = self._solve(limits)
        for _ in range(ASKS):
            if not self.planner.ask([k for option in solution.options.values() for k in option.kernels]):
                break
            self.problem = self.tables()
            solution = self._solve(limits)
        return solution

    def _solve(self, limits: Limits) -> Solution:
        found = solve(self.problem, limits)
        if found is not None:
            return found
        # Nothing keeps the budgets by prediction: the fastest of what fits, else the smallest, is measured.
        for minimise, left in (("latency_us", Limits(None, limits.size_bytes)), ("size_bytes", Limits())):
            found = solve(self.problem, left, minimise=minimise)
            if found is not None:
                return found
        raise AssertionError("a problem without limits has a solution")

    def _tighten(self, trial: Trial, solution: Solution) -> None:
        """Bring predicted sizes nearer to the measured ones; memory shrinks with the constants."""
        budget = self.planner.budget
        memory = budget.over("memory_bytes", trial.memory_bytes)
        over = max(budget.over("size_bytes", trial.size_bytes), memory / 2)
        if over > 0:
            self.size_limit = max(0.0, solution.size_bytes - 1.02 * over)

    def _slack(self, trial: Trial) -> bool:
        """Whether a trial leaves time unused that a wider network could take, and time alone is asked for."""
        asked, time = self.planner.budget.of_cost, self.planner.budget.of_time
        limit = Budget(latency_us=self.planner.latency_us)
        return bool(time.asked) and asked == time and limit.excess(Figures(trial.speed.latency_us)) < SLACK

    def _consider(self, trial: Trial) -> None:
        if trial.keeps_all and (self.best is None or trial.loss < self.best.loss):
            self.best = trial
        if self.nearest is None or trial.excess < self.nearest.excess:
            self.nearest = trial


def target_cluster(graph: Graph, facts: TargetFacts) -> SparseCluster:
    """The sparse cluster of a graph on a target; an empty one where the target has no sparse kernels."""
    if not facts.sparse_1x1:
        return SparseCluster((), (), facts.sparse_why)
    return find_sparse_cluster(graph)


def structure_kernels(deployed: Graph, regime: Regime, facts: TargetFacts) -> dict[str, Kernel]:
    """Kernels of a float graph in deployment form, as they will be under a regime on a target."""
    integer = planned_integers(deployed) if regime.precision != "float" else frozenset[str]()
    cluster = target_cluster(deployed, facts).nodes if regime.sparse else ()
    kernels = graph_kernels(deployed, integer, cluster)
    if regime.precision == "int7":
        return {n: replace(k, precision="int7") if n in integer else k for n, k in kernels.items()}
    return kernels


def available_regimes(
    cluster: SparseCluster, integer: Collection[str], facts: TargetFacts, passes: str = ""
) -> tuple[Regime, ...]:
    """What a target and a network allow together; `passes` as in `Regime`."""
    precisions: tuple[Precision, ...] = ("float", "int8") if integer else ("float",)
    block = facts.sparse_block if facts.sparse_1x1 else None
    return regimes(cluster, sparse_block=block, precisions=precisions, passes=passes)


def planned_integers(deployed: Graph, calibration: tuple[Tensor, ...] = ()) -> frozenset[str]:
    """Nodes that will run as integer kernels once quantised: found by quantising a copy.

    Args:
        calibration: the data that will decide it; random data where there is none.
    """
    if not calibration:
        shape = shape_of(inputs(deployed)[0])
        calibration = (torch.randn((2, *shape[1:]), generator=torch.Generator().manual_seed(0)),)
    return frozenset(node.name for node in integer_nodes(quantise(deployed, Regime("int8"), calibration)))


def layer_bytes(options: Any) -> float:
    """Bytes of the constants of a layer at its full width."""
    widest = max(options)
    return float(options[widest][0].size_bytes)
