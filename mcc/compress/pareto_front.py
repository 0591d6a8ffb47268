"""The predicted Pareto front of a network on a target, and the plan on it that fits the budgets."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mcc.compress.build import Structure
from mcc.compress.explanation import Choice, explained
from mcc.compress.planning import Planner
from mcc.compress.session import Session
from mcc.cost_api import Kernel
from mcc.cost_sum import GraphCost, Roofline, predict
from mcc.data.stated import Stated
from mcc.report.formatting import bytes_words
from mcc.runtime.units import MICROSECONDS, Unit
from mcc.search.solver import Limits, Solution, solve
from mcc.search.space import Configuration, Space

FRONT_SHARES = (0.9, 0.8, 0.65, 0.5, 0.4, 0.3)  # of the original's latency at which the front is sampled


@dataclass(frozen=True)
class FrontPoint:
    """One point of the predicted Pareto front.

    Attributes:
        cost: Predicted cost, in the unit of the target.
        loss: Predicted divergence before fine-tuning (for classification, in nats).
        size_bytes: Predicted size of the constants.
        structure: The decisions of this point.
        chosen: Whether the budgets select this point.
        bounds: 95 % interval of the cost.
        rooflines: Parts of the cost that are estimated by a roofline.
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
        """The latency, or the model cycles, as text."""
        return self.unit.words(self.cost)

    @property
    def size_words(self) -> str:
        """The size as text."""
        return bytes_words(round(self.size_bytes))

    def _bounds(self) -> dict[str, float]:
        if self.bounds is None:
            return {}
        names = (f"{self.unit.key}_{end}" for end in ("low", "high"))
        return dict(zip(names, map(self.unit.raw, self.bounds), strict=True))

    @property
    def bounds_words(self) -> str:
        """The bounds of the cost as text."""
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
    """Result of `mcc plan`.

    Attributes:
        target: Name of the target.
        front: Predicted points, none dominated by another in latency and loss.
        structure: The decisions for the given budgets; None if no point is predicted to keep them.
        warnings: Reasons why the losses are doubtful.
        stated: Preprocessing of the images, and its source.
        output: Name of the judged output.
        choices: The alternatives of each layer, around `structure`.
    """

    target: str
    front: tuple[FrontPoint, ...]
    structure: Structure | None
    choices: Mapping[str, Choice] = field(default_factory=lambda: {})
    warnings: tuple[str, ...] = ()
    stated: Stated | None = None
    output: str = ""

    def roofline_sentences(self) -> list[str]:
        """Kinds of kernels estimated by a roofline, with their largest share of a point's latency."""
        shares: dict[str, float] = {}
        for roofline in (each for point in self.front for each in point.rooflines):
            shares[roofline.kind] = max(roofline.share, shares.get(roofline.kind, 0.0))
        return [
            f"{kind}: estimated by a roofline, up to {share:.0%} of the latency"
            for kind, share in shares.items()
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


def decide(session: Session) -> PlanResult:
    """Compute the predicted Pareto front around the budgets, and the plan for the budgets."""
    planner, job = session.planner(), session.job
    space = Space.whole(session.configurations)
    points: list[FrontPoint] = []
    wanted: list[FrontPoint] = []
    in_part = [
        (configuration, True) for configuration in space.configurations if configuration.precision != "float"
    ]
    for configuration, regions in [
        *((configuration, False) for configuration in space.configurations),
        *in_part,
    ]:
        label = f"whole-{len(points)}"
        factor = 1.0 if regions else planner.factor(configuration, label)
        tables = planner.tables(space, configuration, label, regions=regions)
        problem = tables()
        goal = planner.cost_limit
        limits = [Limits(planner.baseline_cost * share / factor) for share in FRONT_SHARES]
        asked = Limits(None if goal is None else goal / factor, job.request.budget.size_bytes)
        for limit in (*limits, asked):
            solution = solve(problem, limit)
            if solution is not None and planner.ask(_unseen(planner, solution)):
                problem = tables()
                solution = solve(problem, limit)
            if solution is None:
                continue
            cost = solution.cost * factor
            structure = Structure.of(problem, solution)
            sum_ = _sum(planner, solution, configuration)
            low, high = (cost * bound / sum_.cost for bound in sum_.interval)
            point = FrontPoint(
                cost, solution.loss, solution.size_bytes, structure, job.target.unit,
                bounds=(low, high), rooflines=sum_.rooflines(),
            )  # fmt: skip
            (wanted if limit is asked else points).append(point)
    best = min(wanted, key=lambda p: (p.loss, p.cost), default=None)
    front = [p for p in (*points, *wanted) if not any(_beats(q, p) for q in (*points, *wanted))]
    unique = {p.structure.key(): p for p in sorted(front, key=lambda p: p.cost)}
    marked = tuple(dataclasses.replace(p, chosen=p is best) for p in unique.values())
    unit = job.task.divergence_unit
    choices = (
        {}
        if best is None
        else explained(planner, best.structure, space.configurations, unit, session.costs.dates())
    )
    return PlanResult(
        job.target.spec, marked, best.structure if best else None, choices, tuple(job.warnings),
        job.stated, job.judged.name,
    )  # fmt: skip


def _unseen(planner: Planner, solution: Solution) -> list[Kernel]:
    """Kernels of a solution that are estimated by a roofline."""
    model = planner.setting.model
    kernels = [kernel for option in solution.options.values() for kernel in option.kernels]
    return [kernel for kernel in kernels if model.kernel(kernel).source == "roofline"]


def _sum(planner: Planner, solution: Solution, configuration: Configuration) -> GraphCost:
    """Sum of the kernels of a solution, with its uncertainty."""
    kernels = {
        f"{layer} {index}": kernel
        for layer, option in solution.options.items()
        for index, kernel in enumerate(option.kernels)
    }
    return predict(planner.setting.model, kernels, configuration.precision)


def _beats(a: FrontPoint, b: FrontPoint) -> bool:
    return a.cost <= b.cost and a.loss <= b.loss and (a.cost, a.loss) != (b.cost, b.loss)
