"""One plan for several targets: it keeps the budgets on the worst of them, measured on each."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mcc.compress.candidate import Structure
from mcc.compress.driver import Run, compress
from mcc.compress.job import Job, Progress, Request, open_job, save_json, silent
from mcc.compress.planning import ASKS, MARGIN, ROUNDS, Planner, Trial, excess
from mcc.compress.strategies import known_strategies
from mcc.data import Preprocessing
from mcc.data.stated import Asked, asked_for
from mcc.errors import ConstraintError
from mcc.report.schema import Budget, Report
from mcc.report.words import time_words
from mcc.search.problem import Problem
from mcc.search.several import joined
from mcc.search.solver import Limits, Solution, solve
from mcc.search.space import Regime
from mcc.search.tables import build_problem

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SharedPlan:
    """A structure and how it did on each target.

    Attributes:
        structure: what was decided for all of them.
        loss: predicted distillation loss, in nats.
        trials: built without training and measured, by target.
    """

    structure: Structure
    loss: float
    trials: Mapping[str, Trial]

    @property
    def keeps_all(self) -> bool:
        """Whether every budget is kept on every target."""
        return all(trial.keeps_all for trial in self.trials.values())

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `structure` feeds back as `--plan`."""
        return {
            "targets": list(self.trials),
            "structure": self.structure.as_json(),
            "loss": self.loss,
            "measured": {
                name: {
                    "latency_us": trial.speed.latency_us,
                    "speedup": trial.speed.speedup,
                    "size_bytes": trial.size_bytes,
                    "kept": trial.kept,
                }
                for name, trial in self.trials.items()
            },
        }


class _Shared:
    """Plans of one regime for several targets."""

    def __init__(self, planners: Mapping[str, Planner], offered: Mapping[str, Sequence[Regime]]) -> None:
        self.planners = planners
        self.offered = offered
        self.multiple = max(planner.setting.multiple for planner in planners.values())

    def regimes(self) -> tuple[Regime, ...]:
        """Regimes that can run everywhere: zeros can, integers where all targets have them."""
        wanted = dict.fromkeys(regime for offered in self.offered.values() for regime in offered)
        everywhere = [all(r in offered for offered in self.offered.values()) for r in wanted]
        return tuple(r for r, all_ in zip(wanted, everywhere, strict=True) if all_ or r.sparse is not None)

    def plan(self, regime: Regime, label: str) -> SharedPlan:
        """The best structure of a regime that keeps the budgets on all targets, or the nearest one."""
        own = {name: regime if regime in self.offered[name] else Regime() for name in self.planners}
        factors = {n: p.plan_whole(own[n], f"{label}-whole").factor for n, p in self.planners.items()}
        best: SharedPlan | None = None
        for round_ in range(ROUNDS):
            solution, problem = self._solved(own, factors)
            structure = Structure.of(problem, solution)
            trials: dict[str, Trial] = {}
            for name, planner in self.planners.items():
                raw = planner.predict(structure)  # measures the kernels that its table lacks
                trials[name] = planner.measure(structure, raw * factors[name], raw, f"{label}-{round_}")
            found = SharedPlan(structure, solution.loss, trials)
            log.info("%s round %d: %s", label, round_, {n: t.kept for n, t in trials.items()})
            if best is None or (found.keeps_all, -self.worst(found)) > (best.keeps_all, -self.worst(best)):
                best = found
            if found.keeps_all:
                break
            factors = {n: (factors[n] * t.factor) ** 0.5 if round_ else t.factor for n, t in trials.items()}
        assert best is not None
        return best

    def worst(self, plan: SharedPlan) -> float:
        """By how much the plan misses the budget that it misses most, on the target where it does."""
        return max(excess(trial, self.planners[name]) for name, trial in plan.trials.items())

    def _solved(self, own: Mapping[str, Regime], factors: Mapping[str, float]) -> tuple[Solution, Problem]:
        """A solution on what has been measured, kernels of the first target included, and its problem."""
        (first, *_) = self.planners.values()
        solution, problem = self._solve(own, factors)
        for _ in range(ASKS):
            if not first.ask([kernel for option in solution.options.values() for kernel in option.kernels]):
                break
            solution, problem = self._solve(own, factors)
        return solution, problem

    def _solve(self, own: Mapping[str, Regime], factors: Mapping[str, float]) -> tuple[Solution, Problem]:
        tables: list[Problem] = []
        for name, planner in self.planners.items():
            sparse = own[name].sparse is not None
            setting = replace(planner.setting, multiple=self.multiple)
            tables.append(build_problem(setting, own[name], widths=True, low_rank=not sparse, mixed=sparse))
        problem = joined(tables)
        limits = [self._limit(name, factors[name]) for name in self.planners]
        size = min((p.budget.size_bytes for p in self.planners.values() if p.budget.size_bytes), default=None)
        wanted = Limits(limits[0], size, tuple(limits[1:]))
        for limit, minimise in (
            (wanted, "loss"),
            (Limits(None, size), "latency_us"),
            (Limits(), "latency_us"),
        ):
            solution = solve(problem, limit, minimise=minimise)
            if solution is not None:
                return solution, problem
        raise AssertionError("a problem without limits has a solution")

    def _limit(self, name: str, factor: float) -> float | None:
        wanted = self.planners[name].latency_us
        return None if wanted is None else wanted * MARGIN / factor


def plan_several(
    model: str,
    data: str,
    targets: Sequence[str],
    folder: Path,
    *,
    budget: Budget,
    seed: int = 0,
    threads: int = 1,
    weights: Path | str | None = None,
    input_shape: tuple[int, ...] | None = None,
    cut: Sequence[str] = (),
    progress: Progress = silent,
    preprocessing: Preprocessing | Asked | None = None,
    judge: str | int | None = None,
    ignore_labels: bool = False,
) -> SharedPlan:
    """Decide once for several targets, without training. Budgets hold on each of them.

    Args:
        folder: for the state of each target, under its name.
        budget: what every target must keep.

    Raises:
        MccError: as `mcc.compress.compress`.
    """
    planners: dict[str, Planner] = {}
    offered: dict[str, Sequence[Regime]] = {}
    jobs: list[Job] = []
    try:
        for target in targets:
            request = Request(
                model, data, target, budget, 0.0, threads, seed, Path(weights) if weights else None,
                input_shape, "", tuple(cut), pictures=asked_for(preprocessing),
                judge=None if judge is None else str(judge), ignore_labels=ignore_labels,
            )  # fmt: skip
            job = open_job(request, folder / place(target), resume=False, progress=progress)
            jobs.append(job)
            run = Run(job, "")
            planners[target], offered[target] = run.planner(), run.regimes()
        shared = _Shared(planners, offered)
        found = [shared.plan(regime, f"shared-{i}") for i, regime in enumerate(shared.regimes())]
    finally:
        for job in jobs:
            job.release()
    keeping = [plan for plan in found if plan.keeps_all]
    return min(keeping, key=lambda plan: plan.loss) if keeping else min(found, key=shared.worst)


def place(target: str) -> str:
    """Name of a target's folder."""
    return target.replace(":", "-")


def compress_several(
    model: str, data: str, targets: Sequence[str], out: Path, *, budget: Budget, **options: Any
) -> dict[str, Report]:
    """Plan once for several targets, then compress for each after that plan, into `out`/TARGET.

    Args:
        options: those of `mcc.compress.compress` that are not budgets.

    Raises:
        ConstraintError: no plan keeps the budgets on every target.
    """
    known_strategies(options.get("strategies", ()))  # before the plan is made
    if not (options.get("resume") and (out / "plan.json").exists()):
        planning = {k: v for k, v in options.items() if k in _PLANNING}
        found = plan_several(model, data, targets, out / "shared", budget=budget, **planning)
        _check(found)
        save_json(out / "plan.json", found.to_dict())
    return {
        target: compress(model, data, target, out=out / place(target), plan=out / "plan.json",
                         **budget.model_dump(exclude={"model_cycles"}), **options)
        for target in targets
    }  # fmt: skip


def _check(found: SharedPlan) -> None:
    if not found.keeps_all:
        raise ConstraintError(
            "no plan keeps the budgets on every target",
            where=", ".join(found.trials),
            hint=f"the nearest took {missed_words(found)}",
        )


_PLANNING = (
    "seed",
    "threads",
    "weights",
    "input_shape",
    "cut",
    "progress",
    "preprocessing",
    "judge",
    "ignore_labels",
)


def missed_words(plan: SharedPlan) -> str:
    """How long a plan took on each target."""
    return ", ".join(f"{time_words(t.speed.latency_us)} on {n}" for n, t in plan.trials.items())
