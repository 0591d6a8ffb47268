"""One plan for several targets: it keeps the budgets on the worst of them, measured on each."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from mcc.budget import Budget, check_units
from mcc.compress.candidate import Structure
from mcc.compress.driver import Run, compress
from mcc.compress.folder import FORCE
from mcc.compress.job import Job, Progress, open_job, save_json, silent
from mcc.compress.planning import ASKS, MARGIN, ROUNDS, Planner, Trial
from mcc.compress.request import Request, known_strategies
from mcc.data import Preprocessing
from mcc.data.stated import Asked, asked_for
from mcc.errors import ConstraintError, DataError, UsageError
from mcc.ir.outputs import files_in, refuse_inputs
from mcc.report.schema import Report
from mcc.runtime import get_target
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
                    "measured_at": trial.speed.date,
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
        return max(trial.excess for trial in plan.trials.values())

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
    workers: int | None = None,
    ray: str | None = None,
    progress: Progress = silent,
    preprocessing: Preprocessing | Asked | None = None,
    task: str | None = None,
    judge: str | int | None = None,
    ignore_labels: bool = False,
    force: bool = False,
) -> SharedPlan:
    """Decide once for several targets, without training. Budgets hold on each of them.

    Args:
        folder: for the state of each target, under its name.
        budget: what every target must keep; of a metric lost, nothing is known without training.

    Raises:
        MccError: as `mcc.compress.compress`.
    """
    requests = [
        Request(
            model=model, data=data, target=target, budget=budget, epochs=0.0, threads=threads, seed=seed,
            weights=Path(weights) if weights else None, input_shape=input_shape, cut=tuple(cut),
            workers=workers, ray=ray, pictures=asked_for(preprocessing),
            task=task, judge=None if judge is None else str(judge), ignore_labels=ignore_labels,
        )
        for target in checked_targets(targets, budget)
    ]  # fmt: skip
    planners: dict[str, Planner] = {}
    offered: dict[str, Sequence[Regime]] = {}
    jobs: list[Job] = []
    try:
        for request in requests:
            target = request.target
            job = open_job(request, folder / place(target), resume=False, progress=progress, force=force)
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


def checked_targets(targets: Sequence[str], budget: Budget) -> tuple[str, ...]:
    """The targets without repetition. Raises UsageError where there is none, or a budget fits not all."""
    names = tuple(dict.fromkeys(targets))
    if not names:
        raise UsageError("names no target", where="--target", hint="see mcc targets")
    check_units(budget, [get_target(name) for name in names])
    return names


def place(target: str) -> str:
    """Name of a target's folder."""
    return target.replace(":", "-")


def compress_several(
    model: str, data: str, targets: Sequence[str], out: Path, *, budget: Budget, **options: Any
) -> dict[str, Report]:
    """Plan once for several targets, then compress for each after that plan, into `out`/TARGET.

    Where no plan keeps the budgets on every target, the one that comes nearest is followed without comparing
    other strategies, so that each target's folder says how near that is.

    Args:
        options: those of `mcc.compress.compress` that are not budgets, but for `target`, `out` and `plan`.

    Raises:
        ConstraintError: a target's budgets are kept by nothing; the reports of all are the error's `report`.
    """
    targets = checked_targets(targets, budget)
    _check_options(model, data, targets[0], budget, options)
    path = out / "plan.json"
    _check_plan_file(path, [model, data, options.get("weights")], force=bool(options.get("force")))
    keeps = _kept_plan(path) if options.get("resume") else None
    failures: list[ConstraintError] = []
    if keeps is None:
        planning = {k: v for k, v in options.items() if k in _PLANNING}
        found = plan_several(model, data, targets, out / "shared", budget=budget, **planning)
        save_json(path, found.to_dict())
        keeps = found.keeps_all
        if not keeps:
            failures.append(_missed_by_all(found))
    if not keeps:
        options = {**options, "strategies": ("joint",)}
    reports: dict[str, Report] = {}
    for target in targets:
        try:
            reports[target] = compress(
                model, data, target, out=out / place(target), plan=path, **budget.model_dump(), **options
            )
        except ConstraintError as error:
            if error.report is None:
                raise
            reports[target] = error.report
            failures.append(error)
    if failures:
        failures[0].report = reports
        raise failures[0]
    return reports


_PLANNING = (
    "seed", "threads", "weights", "input_shape", "cut", "workers", "ray", "progress", "force",
    "preprocessing", "task", "judge", "ignore_labels",
)  # fmt: skip


def _check_options(model: str, data: str, target: str, budget: Budget, options: Mapping[str, Any]) -> None:
    """Refuse what cannot be used, before a plan is made. Raises UsageError."""
    names = {field.name for field in fields(Request)} - {"budget", "plan"}
    asked: dict[str, Any] = {name: value for name, value in options.items() if name in names}
    asked["strategies"] = known_strategies(asked.get("strategies", ()))
    asked |= {"model": model, "data": data, "target": target, "budget": budget, "plan": "shared"}
    Request(**asked)


def _check_plan_file(path: Path, reads: Sequence[str | Path | None], *, force: bool) -> None:
    """Refuse a folder whose plan.json is no plan for several targets. Raises UsageError."""
    refuse_inputs([path], files_in(*reads))
    if path.exists() and not force and _kept_plan(path) is None:
        raise UsageError("was not left by a job of mcc for several targets", where=str(path), hint=FORCE)


def _kept_plan(path: Path) -> bool | None:
    """Whether a plan for several targets keeps all budgets; None where the file is none."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        Structure.from_json(raw["structure"], str(path))
        return all(all(dict(one["kept"]).values()) for one in dict(raw["measured"]).values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, DataError):
        return None


def _missed_by_all(found: SharedPlan) -> ConstraintError:
    return ConstraintError(
        "no plan keeps the budgets on every target",
        where=", ".join(found.trials),
        hint=f"the nearest took {missed_words(found)}",
    )


def missed_words(plan: SharedPlan) -> str:
    """How long a plan took on each target."""
    return ", ".join(
        f"{get_target(name).unit.words(trial.speed.latency_us)} on {name}"
        for name, trial in plan.trials.items()
    )
