"""`mcc plan`: the decision without training, and the predicted Pareto front around it."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mcc.budget import Budget, refuse_unplanned
from mcc.compress.alternatives import Choice, explained
from mcc.compress.candidate import Structure
from mcc.compress.driver import Run
from mcc.compress.job import Progress, open_job, save_json, silent
from mcc.compress.planning import Planner
from mcc.compress.request import Request
from mcc.cost_api import Kernel
from mcc.cost_sum import GraphCost, Roofline, predict
from mcc.data import Preprocessing
from mcc.data.stated import Asked, Stated, asked_for
from mcc.ir.outputs import files_in, refuse_inputs
from mcc.report.words import bytes_words
from mcc.runtime.units import MICROSECONDS, Unit
from mcc.search.solver import Limits, Solution, solve
from mcc.search.space import Regime, strategy_space

FRONT_SHARES = (0.9, 0.8, 0.65, 0.5, 0.4, 0.3)  # of the original's latency at which the front is sampled


@dataclass(frozen=True)
class FrontPoint:
    """One point of the predicted Pareto front.

    Attributes:
        cost: predicted, in the unit of the target.
        loss: predicted distillation loss before repair, in nats.
        size_bytes: predicted size of the constants.
        structure: what it stands for.
        chosen: whether it is the one that the budgets ask for.
        bounds: of the cost, between which it lies with a probability of 95 %.
        rooflines: what of the cost rests on a roofline.
    """

    cost: float
    loss: float
    size_bytes: float
    structure: Structure
    unit: Unit = MICROSECONDS
    chosen: bool = False
    bounds: tuple[float, float] | None = None
    rooflines: tuple[Roofline, ...] = ()

    @property
    def latency_words(self) -> str:
        """The latency, or the model cycles, in words."""
        return self.unit.words(self.cost)

    @property
    def size_words(self) -> str:
        """The size in words."""
        return bytes_words(round(self.size_bytes))

    def _bounds(self) -> dict[str, float]:
        if self.bounds is None:
            return {}
        names = (f"{self.unit.key}_{end}" for end in ("low", "high"))
        return dict(zip(names, map(self.unit.raw, self.bounds), strict=True))

    @property
    def bounds_words(self) -> str:
        """Between which costs it lies, in words."""
        return "" if self.bounds is None else " to ".join(map(self.unit.words, self.bounds))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            self.unit.key: self.unit.raw(self.cost),
            **self._bounds(),
            "roofline_share": sum(roofline.share for roofline in self.rooflines),
            "rooflines": [dataclasses.asdict(roofline) for roofline in self.rooflines],
            "loss": self.loss,
            "size_bytes": self.size_bytes,
            "structure": self.structure.as_json(),
            "chosen": self.chosen,
        }


@dataclass(frozen=True)
class PlanResult:
    """What `mcc plan` found.

    Attributes:
        target: as given.
        front: predicted points, none beaten by another in latency and loss.
        structure: the decision that the budgets ask for; None where none keeps them by prediction.
        warnings: what makes the losses doubtful.
        stated: how pictures were prepared, and who says so.
        output: name of the one that was judged.
        choices: what else could be decided about each layer, around `structure`.
    """

    target: str
    front: tuple[FrontPoint, ...]
    structure: Structure | None
    choices: Mapping[str, Choice] = field(default_factory=lambda: {})
    warnings: tuple[str, ...] = ()
    stated: Stated | None = None
    output: str = ""

    def roofline_sentences(self) -> list[str]:
        """Which kinds of kernels rest on a roofline, with their largest share of a point's latency."""
        shares: dict[str, float] = {}
        for roofline in (each for point in self.front for each in point.rooflines):
            shares[roofline.kind] = max(roofline.share, shares.get(roofline.kind, 0.0))
        return [
            f"{kind}: rests on a roofline, up to {share:.0%} of the latency" for kind, share in shares.items()
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `structure` feeds back as `--plan`."""
        return {
            "target": self.target,
            "structure": None if self.structure is None else self.structure.as_json(),
            "front": [point.to_dict() for point in self.front],
            "alternatives": {name: choice.to_dict() for name, choice in self.choices.items()},
            "warnings": list(self.warnings),
            "preprocessing": None if self.stated is None else self.stated.to_json(),
            "output": self.output,
        }


def plan(
    model: str,
    data: str,
    target: str,
    *,
    latency_us: float | None = None,
    model_cycles: float | None = None,
    speedup: float | None = None,
    size_bytes: int | None = None,
    memory_bytes: int | None = None,
    max_drop: float | None = None,
    threads: int = 1,
    weights: Path | str | None = None,
    input_shape: tuple[int, ...] | None = None,
    cut: Sequence[str] = (),
    out: Path | None = None,
    seed: int = 0,
    progress: Progress = silent,
    preprocessing: Preprocessing | Asked | None = None,
    task: str | None = None,
    judge: str | int | None = None,
    ignore_labels: bool = False,
    measure: bool = True,
) -> PlanResult:
    """Decide without training; arguments as in `mcc.compress.compress`.

    Args:
        out: a file for the plan.
        measure: whether kernels that were never measured, and the original, are timed; else the plan rests on
            the table as it is.

    Raises:
        UsageError: nothing was measured for the target, and nothing may be.
        MccError: as `mcc.compress.compress`, and for a budget that nobody can tell without training or
            measuring: of memory, or of accuracy lost.
    """
    budget = Budget.asked_for(
        latency_us=latency_us, model_cycles=model_cycles, speedup=speedup, size_bytes=size_bytes,
        memory_bytes=memory_bytes, max_drop=max_drop,
    )  # fmt: skip
    refuse_unplanned(budget, ("memory_bytes", "max_drop"))
    request = Request(
        model=model, data=data, target=target, budget=budget, epochs=0.0, threads=threads, seed=seed,
        weights=Path(weights) if weights else None, input_shape=input_shape, cut=tuple(cut),
        pictures=asked_for(preprocessing), task=task, judge=None if judge is None else str(judge),
        ignore_labels=ignore_labels,
    )  # fmt: skip
    if out is not None:
        refuse_inputs([out], files_in(model, data, weights))
    with tempfile.TemporaryDirectory(prefix="mcc-plan-") as folder:
        job = open_job(request, Path(folder), resume=False, progress=progress)
        try:
            found = _decide(Run(job, "", measures=measure))
        finally:
            job.release()
    if out is not None:
        save_json(out, found.to_dict())
    return found


def _decide(run: Run) -> PlanResult:
    planner = run.planner()
    space = strategy_space("joint", run.regimes())
    points: list[FrontPoint] = []
    wanted: list[FrontPoint] = []
    in_part = [(regime, True) for regime in space.regimes if regime.precision != "float"]
    for regime, regions in [*((regime, False) for regime in space.regimes), *in_part]:
        label = f"whole-{len(points)}"
        factor = 1.0 if regions else planner.factor(regime, label)
        tables = planner.tables(space, regime, label, regions=regions)
        problem = tables()
        goal = planner.latency_us
        limits = [Limits(planner.baseline_us * share / factor) for share in FRONT_SHARES]
        asked = Limits(None if goal is None else goal / factor, run.job.request.budget.size_bytes)
        for limit in (*limits, asked):
            solution = solve(problem, limit)
            if solution is not None and planner.ask(_unseen(planner, solution)):
                problem = tables()
                solution = solve(problem, limit)
            if solution is None:
                continue
            cost = solution.latency_us * factor
            structure = Structure.of(problem, solution)
            sum_ = _sum(planner, solution, regime)
            low, high = (cost * bound / sum_.latency_us for bound in sum_.interval_us)
            point = FrontPoint(
                cost, solution.loss, solution.size_bytes, structure, run.job.target.unit,
                bounds=(low, high), rooflines=sum_.rooflines(),
            )  # fmt: skip
            (wanted if limit is asked else points).append(point)
    best = min(wanted, key=lambda p: (p.loss, p.cost), default=None)
    front = [p for p in (*points, *wanted) if not any(_beats(q, p) for q in (*points, *wanted))]
    unique = {p.structure.key(): p for p in sorted(front, key=lambda p: p.cost)}
    marked = tuple(dataclasses.replace(p, chosen=p is best) for p in unique.values())
    choices = {} if best is None else explained(planner, best.structure, space.regimes)
    job = run.job
    return PlanResult(
        job.target.spec, marked, best.structure if best else None, choices, tuple(job.warnings),
        job.stated, job.judged.name,
    )  # fmt: skip


def _unseen(planner: Planner, solution: Solution) -> list[Kernel]:
    """Kernels of a solution that rest on a roofline."""
    model = planner.setting.model
    kernels = [kernel for option in solution.options.values() for kernel in option.kernels]
    return [kernel for kernel in kernels if model.kernel(kernel).source == "roofline"]


def _sum(planner: Planner, solution: Solution, regime: Regime) -> GraphCost:
    """The kernels of a solution together, with how sure that is."""
    kernels = {
        f"{layer} {index}": kernel
        for layer, option in solution.options.items()
        for index, kernel in enumerate(option.kernels)
    }
    return predict(planner.setting.model, kernels, regime.precision)


def _beats(a: FrontPoint, b: FrontPoint) -> bool:
    return a.cost <= b.cost and a.loss <= b.loss and (a.cost, a.loss) != (b.cost, b.loss)
