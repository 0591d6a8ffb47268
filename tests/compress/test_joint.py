"""Which of the joint plans is repaired whole: the one that a short repair shows to be the most accurate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from mcc.compress.candidate import Structure
from mcc.compress.strategies import Strategies
from mcc.report.schema import Budget
from mcc.search.space import Regime, Space

FLOAT = Structure(Regime(), {"group": 8})
PAIRS = Structure(Regime("int8"), {"group": 8}, {"conv": 4})
NARROW = Structure(Regime("int8"), {"group": 4})


@dataclass(frozen=True)
class Plans:
    """A planner that has one plan without low-rank pairs."""

    budget: Budget
    plain: Any
    asked: list[tuple[Space, Regime]] = field(default_factory=list)

    def plan(self, space: Space, regime: Regime, label: str, *, regions: bool) -> Any:
        self.asked.append((space, regime))
        return self.plain


class Tried(Strategies):
    """Strategies whose plans and validation accuracies are given; what is repaired whole is handed back."""

    def __init__(self, trials: Sequence[Any], plain: Any, accuracies: Mapping[str, float]) -> None:
        self.given = trials
        self.planner: Any = Plans(Budget(speedup=2.0), plain)
        self.regimes = (Regime(), Regime("int8"))
        self.job: Any = SimpleNamespace(request=SimpleNamespace(steps=1))
        self.start = None
        self.accuracies = accuracies
        self.tried: list[str] = []

    def _joint_trials(self, name: str, goal: Budget) -> Any:
        return self.given

    def _try_out(self, trial: Any) -> float:
        self.tried.append(trial.structure.key())
        return self.accuracies[trial.structure.key()]

    def _repaired(self, name: str, trial: Any, notes: Sequence[str] = ()) -> Any:
        return trial.structure, notes


def trial(structure: Structure, keeps_all: bool = True) -> Any:
    return SimpleNamespace(
        structure=structure, keeps_all=keeps_all, speed=SimpleNamespace(latency_us=1.0)
    )  # fmt: skip


def joint(*trials: Any, plain: Any, **accuracies: float) -> tuple[Tried, Any, Sequence[str]]:
    keys = {"whole": FLOAT, "pairs": PAIRS, "narrow": NARROW}
    found = Tried(trials, plain, {keys[name].key(): value for name, value in accuracies.items()})
    chosen, notes = found.joint("joint", Budget(speedup=2.0))  # pyright: ignore[reportGeneralTypeIssues]
    return found, chosen, notes


def test_a_plan_with_pairs_is_held_against_one_without() -> None:
    tried, chosen, notes = joint(
        trial(FLOAT), trial(PAIRS), plain=trial(NARROW), whole=0.8, pairs=0.85, narrow=0.86
    )
    assert chosen == NARROW
    assert tried.tried == [FLOAT.key(), PAIRS.key(), NARROW.key()]
    space, regime = tried.planner.asked[0]
    assert space.widths
    assert not space.low_rank
    assert regime == PAIRS.regime
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
    assert tried.planner.asked == []
