"""The planner and its trials: builds and measures structures before any training, and predicts their cost.

The predicted cost of a network is the sum of its kernels, corrected by a factor that is measured on the
baseline and then on each candidate. The search for a plan is in `mcc.compress.plan_loop`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from mcc.budget import Budget, Figures
from mcc.compress.bench import Bench
from mcc.compress.build import Structure, quantise, restructure, write_file
from mcc.compress.configurations import structure_kernels
from mcc.compress.speed import Speed
from mcc.cost_api import Kernel
from mcc.cost_sum import predict
from mcc.data import DataModule
from mcc.ir.feed import Feed
from mcc.ir.graph import Graph
from mcc.pipeline import deployment_form
from mcc.search.problem import Problem
from mcc.search.sensitivity import Sensitivities
from mcc.search.solver import Solution
from mcc.search.space import Configuration, Space
from mcc.search.tables import Setting, build_problem

MARGIN = 0.96  # of the latency budget, the aim of a plan: medians of two measurements differ by 1 to 3 %

Ask = Callable[[list[Kernel]], bool]


@dataclass(frozen=True)
class Trial:
    """A structure, built and measured before any training.

    Attributes:
        structure: The decisions.
        predicted_cost: Cost predicted before the file was first timed, in the target's unit.
        loss: Predicted divergence (for classification, in nats).
        gap: Optimality gap of the solver.
        file: Path of the untrained, lowered model.
        speed, size_bytes: Measured speed and file size.
        memory_bytes: Measured peak memory if it has a budget, else 0.
        kept: Whether each constraint on cost is kept, by constraint.
        excess: Factor of the worst miss; at most 1 if all budgets are kept.
        factor: Measured latency over the predicted sum of the kernels.
        solution: The solver's answer; None for a given structure.
    """

    structure: Structure
    predicted_cost: float
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

    @property
    def is_worth_training(self) -> bool:
        """Whether it keeps the budgets, and differs from the original."""
        return self.keeps_all and not self.structure.is_original


@dataclass(frozen=True)
class Planner:
    """Plans and measures structures for one network on one target.

    Attributes:
        graph: The network as captured.
        setting: Tables and sensitivities.
        bench: Measures files.
        budget: The budget as given; a speed-up counts as a latency.
        calibration: Input batches.
        folder: Folder for the files of trials.
        judged: Index of the output that the metric is computed from.
        ask: Measures the kernels of a plan that are not measured yet; returns whether there were any.
        times: Whether files may be timed; if False, predictions are not corrected, and there are no trials.
    """

    graph: Graph
    setting: Setting
    bench: Bench
    budget: Budget
    data: DataModule
    calibration: tuple[Feed, ...]
    folder: Path
    baseline_cost: float
    ask: Ask
    judged: int = 0
    times: bool = True

    @property
    def sensitivities(self) -> Sensitivities:
        """Losses of single decisions."""
        return self.setting.sensitivities

    @property
    def cost_limit(self) -> float | None:
        """The tighter of the budgets on latency and speed-up, in the target's unit."""
        return self.budget.time_limit(self.baseline_cost)

    def measure(self, structure: Structure, predicted_cost: float, raw_cost: float, label: str) -> Trial:
        """Build a structure without training and measure it."""
        built = restructure(self.graph, structure, self.sensitivities, self.calibration[:1], verify=False)
        lowered = quantise(deployment_form(built), structure.configuration, self.calibration)
        path = write_file(lowered, self.bench.target, self.folder / label, self.data, self.judged)
        speed = self.bench.speed(path)
        memory = self.bench.trial_memory(path) if self.budget.memory_bytes is not None else 0
        figures, budget = self.figures(speed, path.stat().st_size, memory), self.budget.of_cost
        # The ratio to the baseline of the same rounds varies less than the time itself on a shared machine.
        measured = self.baseline_cost / speed.speedup
        factor = measured / raw_cost if raw_cost > 0 else 1.0
        return Trial(
            structure,
            predicted_cost,
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
        """Figures of a measured file, at the machine's speed when the baseline was timed."""
        latency = speed.high_us * self.baseline_cost / speed.baseline_us
        return Figures(
            latency, speedup=speed.speedup_ci95[0], size_bytes=size_bytes, memory_bytes=memory_bytes
        )

    def promises(self, predicted_us: float, size_bytes: float) -> bool:
        """Whether a network is predicted to keep the budgets on time, with a margin, and on size."""
        predicted = Figures(predicted_us, speedup=self.baseline_cost / predicted_us, size_bytes=size_bytes)
        known = self.budget.of_cost.model_copy(update={"memory_bytes": None})
        return all(known.scaled(time=MARGIN).kept(predicted).values())

    def predict(self, structure: Structure) -> float:
        """Sum of the kernels of a structure and the overhead, without correction, in the target's unit."""
        built = restructure(self.graph, structure, self.sensitivities, self.calibration[:1], verify=False)
        facts, deployed = self.bench.target.facts(), deployment_form(built)
        kernels = structure_kernels(deployed, structure.configuration, facts, self.calibration[:1])
        self.ask(list(kernels.values()))
        return predict(self.setting.model, kernels, structure.configuration.precision).cost

    def factor(self, configuration: Configuration, label: str) -> float:
        """Measured over predicted latency of the network in a configuration; 1 if nothing may be timed."""
        return self.plan_whole(configuration, label).factor if self.times else 1.0

    def plan_whole(self, configuration: Configuration, label: str) -> Trial:
        """The network under a configuration without other decisions, measured."""
        raw = self.predict(Structure(configuration))
        return self.measure(Structure(configuration), raw, raw, label)

    def tables(
        self, space: Space, configuration: Configuration, label: str, *, regions: bool
    ) -> Callable[[], Problem]:
        """A function that builds the problem of a configuration from all measurements so far."""
        low_rank = space.low_rank and configuration.sparse is None
        mixed = regions or (space.mixed and configuration.sparse is not None)
        setting = self.setting
        if regions:
            pure = {
                r.precision: self.factor(r, f"{label}-{r.precision}")
                for r in (Configuration(), configuration)
            }
            setting = replace(setting, factors=pure)

        def build() -> Problem:
            return build_problem(setting, configuration, widths=space.widths, low_rank=low_rank, mixed=mixed)

        return build
