"""`mcc plan`: the decision without training, and the predicted Pareto front around it."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mcc.compress.alternatives import Choice, explained
from mcc.compress.candidate import Structure
from mcc.compress.driver import Run
from mcc.compress.job import Progress, Request, open_job, save_json, silent
from mcc.report.schema import Budget
from mcc.report.words import bytes_words, time_words
from mcc.search.solver import Limits, solve
from mcc.search.space import strategy_space

FRONT_SHARES = (0.9, 0.8, 0.65, 0.5, 0.4, 0.3)  # of the original's latency at which the front is sampled


@dataclass(frozen=True)
class FrontPoint:
    """One point of the predicted Pareto front.

    Attributes:
        latency_us: predicted.
        loss: predicted distillation loss before repair, in nats.
        size_bytes: predicted size of the constants.
        structure: what it stands for.
        chosen: whether it is the one that the budgets ask for.
    """

    latency_us: float
    loss: float
    size_bytes: float
    structure: Structure
    chosen: bool = False

    @property
    def latency_words(self) -> str:
        """The latency in words."""
        return time_words(self.latency_us)

    @property
    def size_words(self) -> str:
        """The size in words."""
        return bytes_words(round(self.size_bytes))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "latency_us": self.latency_us,
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
        choices: what else could be decided about each layer, around `structure`.
    """

    target: str
    front: tuple[FrontPoint, ...]
    structure: Structure | None
    choices: Mapping[str, Choice] = field(default_factory=lambda: {})

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `structure` feeds back as `--plan`."""
        return {
            "target": self.target,
            "structure": None if self.structure is None else self.structure.as_json(),
            "front": [point.to_dict() for point in self.front],
            "alternatives": {name: choice.to_dict() for name, choice in self.choices.items()},
        }


def plan(
    model: str,
    data: str,
    target: str,
    *,
    latency_us: float | None = None,
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
) -> PlanResult:
    """Decide without training; arguments as in `mcc.compress.compress`, `out` a file for the plan."""
    budget = Budget(
        latency_us=latency_us,
        speedup=speedup,
        size_bytes=size_bytes,
        memory_bytes=memory_bytes,
        max_drop=max_drop,
    )
    request = Request(
        model, data, target, budget, 0.0, threads, seed, Path(weights) if weights else None, input_shape,
        cut=tuple(cut),
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="mcc-plan-") as folder:
        run = Run(open_job(request, Path(folder), resume=False, progress=progress), "")
        found = _decide(run)
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
        factor = 1.0 if regions else planner.plan_whole(regime, label).factor
        problem = planner.tables(space, regime, label, regions=regions)()
        goal = planner.latency_us
        limits = [Limits(planner.baseline_us * share / factor) for share in FRONT_SHARES]
        asked = Limits(None if goal is None else goal / factor, run.job.request.budget.size_bytes)
        for limit in (*limits, asked):
            solution = solve(problem, limit, seed=run.job.request.seed)
            if solution is None:
                continue
            latency_us = solution.latency_us * factor
            structure = Structure.of(problem, solution)
            point = FrontPoint(latency_us, solution.loss, solution.size_bytes, structure)
            (wanted if limit is asked else points).append(point)
    best = min(wanted, key=lambda p: (p.loss, p.latency_us), default=None)
    front = [p for p in (*points, *wanted) if not any(_beats(q, p) for q in (*points, *wanted))]
    unique = {p.structure.key(): p for p in sorted(front, key=lambda p: p.latency_us)}
    marked = tuple(dataclasses.replace(p, chosen=p is best) for p in unique.values())
    choices = {} if best is None else explained(planner, best.structure, space.regimes)
    return PlanResult(run.job.target.spec, marked, best.structure if best else None, choices)


def _beats(a: FrontPoint, b: FrontPoint) -> bool:
    return (
        a.latency_us <= b.latency_us and a.loss <= b.loss and (a.latency_us, a.loss) != (b.latency_us, b.loss)
    )
