"""Which of the joint plans is fine-tuned whole: the most accurate after a short fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mcc.budget import Budget
from mcc.compress.build import Structure
from mcc.compress.strategies import joint as strategy
from mcc.compress.workspace import Work
from mcc.ir.notes import SparseNote
from mcc.metric import ACCURACY
from mcc.search.space import Configuration, Space

FLOAT = Structure(Configuration(), {"group": 8})
PAIRS = Structure(Configuration("int8"), {"group": 8}, {"conv": 4})
NARROW = Structure(Configuration("int8"), {"group": 4})


JUDGED: Any = SimpleNamespace(metric=ACCURACY)


@dataclass(frozen=True)
class Plans:
    """A planner that has one plan without low-rank pairs."""

    budget: Budget
    plain: Any
    asked: list[tuple[Space, Configuration]] = field(default_factory=list)

    def plan(self, space: Space, configuration: Configuration, label: str, *, regions: bool) -> Any:
        self.asked.append((space, configuration))
        return self.plain


class Tried(Work):
    """Work whose plans and validation accuracies are given; what is fine-tuned whole is handed back."""

    def __init__(self, trials: Sequence[Any], plain: Any, accuracies: Mapping[str, float]) -> None:
        job: Any = SimpleNamespace(
            request=SimpleNamespace(steps=1), cost_budget=Budget(speedup=2.0), task=JUDGED
        )
        planner: Any = Plans(Budget(speedup=2.0), plain)
        unused: Any = None
        super().__init__(job, unused, planner, (Configuration(), Configuration("int8")), unused)
        object.__setattr__(self, "found", trials)
        object.__setattr__(self, "accuracies", accuracies)
        object.__setattr__(self, "tried", [])

    found: Sequence[Any]
    accuracies: Mapping[str, float]
    tried: list[str]

    def plans(self, planner: Any, space: Space, label: str, *, first_that_keeps: bool) -> Any:
        return self.found

    def trained(self, structure: Structure, label: str, share: float = 1.0) -> Any:
        self.tried.append(structure.key())
        return structure

    def score(self, graph: Any, path: Path) -> float:
        return self.accuracies[graph.key()]

    def fine_tuned(self, name: str, trial: Any, notes: Sequence[str] = ()) -> Any:
        return trial.structure, notes


@pytest.fixture(autouse=True)
def planned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each planner plans for itself, without a search."""
    monkeypatch.setattr(
        strategy, "plan_for", lambda planner, *asked, regions: planner.plan(*asked, regions=regions)
    )


def trial(structure: Structure, keeps_all: bool = True) -> Any:
    return SimpleNamespace(
        structure=structure, keeps_all=keeps_all, speed=SimpleNamespace(latency_us=1.0), file=Path("plan")
    )  # fmt: skip


def joint(*trials: Any, plain: Any, **accuracies: float) -> tuple[Tried, Any, Sequence[str]]:
    keys = {"whole": FLOAT, "pairs": PAIRS, "narrow": NARROW}
    found = Tried(trials, plain, {keys[name].key(): value for name, value in accuracies.items()})
    outcome: Any = strategy.STRATEGY.run(found)
    chosen, notes = outcome
    return found, chosen, notes


def plans_of(work: Work) -> Plans:
    found: Any = work.planner
    return found


def test_a_plan_with_pairs_is_held_against_one_without() -> None:
    tried, chosen, notes = joint(
        trial(FLOAT), trial(PAIRS), plain=trial(NARROW), whole=0.8, pairs=0.85, narrow=0.86
    )
    assert chosen == NARROW
    assert tried.tried == [FLOAT.key(), PAIRS.key(), NARROW.key()]
    space, configuration = plans_of(tried).asked[0]
    assert space.widths
    assert not space.low_rank
    assert configuration == PAIRS.configuration
    assert "int8, 1 low-rank pair: 0.8500, int8: 0.8600" in notes[0]


def test_pairs_stay_where_they_are_better() -> None:
    assert joint(trial(PAIRS), plain=trial(NARROW), pairs=0.87, narrow=0.86)[1] == PAIRS


def test_a_plan_without_pairs_that_misses_the_budget_is_no_rival() -> None:
    tried, chosen, notes = joint(trial(PAIRS), plain=trial(NARROW, keeps_all=False))
    assert chosen == PAIRS
    assert tried.tried == []
    assert notes == ()


def test_nothing_is_planned_anew_where_the_best_has_no_pairs() -> None:
    tried, chosen, _ = joint(trial(FLOAT), trial(PAIRS), plain=None, whole=0.9, pairs=0.85)
    assert chosen == FLOAT
    assert plans_of(tried).asked == []


class FineTuning(Work):
    """Work whose graphs are words and whose validation accuracies are given."""

    def __init__(self, accuracies: Mapping[str, float], images: int = 100) -> None:
        job: Any = SimpleNamespace(state=Path("state"), task=JUDGED, cost_budget=Budget(speedup=2.0))
        trainer: Any = SimpleNamespace(images=images)
        unused: Any = None
        super().__init__(job, unused, unused, (), trainer)
        object.__setattr__(self, "accuracies", accuracies)

    accuracies: Mapping[str, float]

    def untrained(self, structure: Structure) -> Any:
        return "before"

    def trained(self, structure: Structure, label: str, share: float = 1.0) -> Any:
        return "fine-tuned"

    def score(self, graph: Any, path: Path) -> float:
        return self.accuracies[graph]

    def finished(self, name: str, structure: Structure, graph: Any, plan: Any = None, notes: Any = ()) -> Any:
        return graph, " ".join(notes)


def fine_tuned(structure: Structure, before: float, after: float, images: int = 100) -> tuple[str, str]:
    strategies = FineTuning({"before": before, "fine-tuned": after}, images)
    plan: Any = SimpleNamespace(structure=structure, keeps_all=True, kept={"speedup": True})
    found: Any = strategies.fine_tuned("joint", plan)
    return found


@pytest.mark.parametrize("floats", [(), ("head",)])
def test_a_repair_that_costs_accuracy_is_left_out(floats: tuple[str, ...]) -> None:
    only_integers = Structure(Configuration("int8"), floats=floats)
    graph, said = fine_tuned(only_integers, 0.91, 0.90)
    assert graph == "before"
    assert "from 0.9100 to 0.9000, so it was left out" in said
    assert fine_tuned(only_integers, 0.90, 0.91) == ("fine-tuned", "")
    assert fine_tuned(only_integers, 0.90, 0.90) == ("fine-tuned", "")


@pytest.mark.parametrize(
    "structure", [FLOAT, PAIRS, NARROW, Structure(Configuration("float", SparseNote(1, 0.8)))]
)  # fmt: skip
def test_what_removes_something_is_repaired_in_any_case(structure: Structure) -> None:
    assert fine_tuned(structure, 0.91, 0.90) == ("fine-tuned", "")


def test_nothing_is_compared_where_nothing_was_trained() -> None:
    assert fine_tuned(Structure(Configuration("int8")), 0.91, 0.90, images=0) == ("fine-tuned", "")
