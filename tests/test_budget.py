"""Budgets: what keeps them, by how much they are missed, and other ones made of them."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest

from mcc.budget import CONSTRAINTS, Budget, Figures, better, check_drop
from mcc.errors import UsageError
from mcc.metric import ACCURACY, Metric
from mcc.runtime.units import CYCLES, MICROSECONDS

EVERYTHING = Budget(
    latency_us=100.0, model_cycles=5e6, speedup=2.0, size_bytes=1000, memory_bytes=5000, max_drop=1.0
)


def test_a_constraint_is_a_field_of_budgets_and_figures() -> None:
    """A new one cannot be forgotten in any of the three."""
    assert list(CONSTRAINTS) == list(Budget.model_fields) == [field.name for field in fields(Figures)]


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_each_constraint_is_held_alone(name: str) -> None:
    limit = getattr(EVERYTHING, name)
    budget = Budget(**{name: limit})
    tight, loose = (0.9, 1.1) if CONSTRAINTS[name].at_least else (1.1, 0.9)
    assert budget.kept(Figures(**{name: limit})) == {name: True}
    assert budget.kept(Figures(**{name: limit * loose})) == {name: True}
    assert budget.kept(Figures(**{name: limit * tight})) == {name: False}
    assert budget.excess(Figures(**{name: limit * tight})) > 1.0 >= budget.excess(Figures(**{name: limit}))
    assert budget.kept(Figures()) == {name: False}
    assert math.isinf(budget.excess(Figures()))
    assert better(name, limit * loose, limit * tight)


def test_what_is_missed_most_counts() -> None:
    budget = Budget(latency_us=100.0, size_bytes=1000)
    assert budget.excess(Figures(latency_us=150.0, size_bytes=1200)) == 1.5
    assert budget.excess(Figures(latency_us=50.0, size_bytes=1200)) == 1.2
    assert Budget().excess(Figures()) == 0.0
    assert Budget(max_drop=1.0).excess(Figures(max_drop=3.0)) == pytest.approx(1.02)


def test_a_loss_of_the_limit_is_kept_whatever_the_rounding() -> None:
    assert Budget(max_drop=3.0).kept(Figures(max_drop=100 * (0.93 - 0.90))) == {"max_drop": True}


def test_parts_of_a_budget() -> None:
    assert EVERYTHING.of_time.asked == ("latency_us", "model_cycles", "speedup")
    assert set(EVERYTHING.asked) - set(EVERYTHING.of_cost.asked) == {"max_drop"}
    assert Budget().of_time == Budget().of_cost == Budget()


def test_a_share_of_a_budget() -> None:
    tight = EVERYTHING.scaled(time=0.5)
    assert (tight.latency_us, tight.model_cycles, tight.speedup) == (50.0, 2.5e6, 4.0)
    assert (tight.size_bytes, tight.memory_bytes, tight.max_drop) == (1000, 5000, 1.0)
    assert EVERYTHING.scaled(size=4.0).size_bytes == 4000
    assert Budget(size_bytes=1).scaled(size=0.01).size_bytes == 1


def test_the_tighter_limit_on_time_is_the_limit() -> None:
    assert Budget(latency_us=90.0, speedup=2.0).time_limit(200.0) == 90.0
    assert Budget(latency_us=110.0, speedup=2.0).time_limit(200.0) == 100.0
    assert Budget(speedup=2.0).time_limit(None) is None
    assert Budget(size_bytes=1).time_limit(200.0) is None


def test_cycles_are_planned_for_in_the_unit_of_costs() -> None:
    assert Budget(model_cycles=8e6, size_bytes=9).in_unit(CYCLES) == Budget(latency_us=8e3, size_bytes=9)
    assert EVERYTHING.of_cost.in_unit(MICROSECONDS).model_cycles is None
    assert Budget(latency_us=5.0).in_unit(MICROSECONDS) == Budget(latency_us=5.0)


@pytest.mark.parametrize(("bound", "unsure"), [(98.0, True), (102.0, True), (90.0, False), (111.0, False)])
def test_noise_decides_near_the_limit_on_both_sides(bound: float, unsure: bool) -> None:
    low = bound / 1.05
    assert Budget(latency_us=100.0).unsure(Figures(bound), Figures(low)) is unsure
    ends = Figures(speedup=2.0 * 100 / bound), Figures(speedup=2.0 * 105 / bound)
    assert Budget(speedup=2.0).unsure(*ends) is unsure


def test_what_may_be_lost_is_points_of_a_fraction_and_any_number_of_another_unit() -> None:
    pixels = Metric("error", "px", higher_is_better=False)
    check_drop(Budget(max_drop=100.0), ACCURACY)
    check_drop(Budget(max_drop=250.0), pixels)
    with pytest.raises(
        UsageError, match=r"--max-drop: 101 is not between 0 and 100; write points of the accu"
    ):
        check_drop(Budget(max_drop=101.0), ACCURACY)
    assert Budget(max_drop=1.0).excess(Figures(max_drop=2.0), whole=pixels.whole(4.0)) == pytest.approx(1.25)
    assert pixels.whole(0.0) == 1.0, "of a faultless original"
    assert pixels.lost(4.0, 6.5) == 2.5
    assert ACCURACY.lost(0.9, 0.85) == pytest.approx(5.0)
    assert (pixels.worst, ACCURACY.worst, pixels.best([3.0, 2.0, 4.0])) == (float("inf"), 0.0, 2.0)
    for given in ({"name": ""}, {"name": "x", "unit": None}, {"name": "x", "higher_is_better": "no"}):
        with pytest.raises(ValueError, match="is no metric"):
            Metric(**given)
