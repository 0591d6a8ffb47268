"""The rule of choice, at its edges."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcc.budget import Budget
from mcc.errors import ConstraintError
from mcc.report.choose import check_budget, choose, mark, metric_reference, pareto_front
from mcc.report.schema import StrategyResult
from tests.report.examples import pairs, strategy

ORIGINAL = strategy("original", accuracy=0.90, us=1000.0)
MANY = 100_000  # images: a difference of 0.005 is then beyond doubt


def pick(
    tried: list[StrategyResult], budget: Budget, images: int = MANY, reference: float = 0.90,
    *, alike: bool = False,
) -> str:  # fmt: skip
    """Name of the strategy chosen, the original taking part."""
    every = [ORIGINAL, *tried]
    return choose(
        every, budget, baseline=ORIGINAL.result, reference=reference,
        difference=pairs(every, images, alike=alike).difference,
    ).name  # fmt: skip


# -- who is picked -----------------------------------------------------------------------------------------


def test_highest_accuracy_among_those_that_keep_the_budget() -> None:
    tried = [
        strategy("accurate-slow", accuracy=0.95, us=900.0),
        strategy("fast", accuracy=0.80, us=300.0),
        strategy("good", accuracy=0.85, us=480.0),
    ]
    assert pick(tried, Budget(latency_us=500.0)) == "good"


def test_within_the_interval_the_faster() -> None:
    tried = [
        strategy("best", accuracy=0.8500, us=480.0),
        strategy("as-good", accuracy=0.8497, us=300.0),
        strategy("worse", accuracy=0.8300, us=100.0),
    ]
    assert pick(tried, Budget(latency_us=500.0)) == "as-good"
    # With fewer images 0.83 cannot be told from 0.85 either.
    assert pick(tried, Budget(latency_us=500.0), images=500) == "worse"
    # Failing on the same images and on ten more, it can.
    assert pick(tried, Budget(latency_us=500.0), images=500, alike=True) == "as-good"


def test_the_interval_is_that_of_the_best_that_keeps_the_budget() -> None:
    tried = [
        strategy("too-slow", accuracy=0.95, us=900.0),
        strategy("best", accuracy=0.86, us=480.0),
        strategy("faster", accuracy=0.80, us=300.0),
    ]
    assert pick(tried, Budget(latency_us=500.0)) == "best"


def test_equally_fast_the_smaller() -> None:
    tried = [
        strategy("large", accuracy=0.85, us=300.0, size_bytes=900),
        strategy("small", accuracy=0.85, us=300.0, size_bytes=800),
    ]
    assert pick(tried, Budget(latency_us=500.0)) == "small"
    assert pick(tried[::-1], Budget(latency_us=500.0)) == "small"


def test_with_max_drop_alone_the_fastest_that_keeps_it() -> None:
    tried = [
        strategy("safe", accuracy=0.90, us=700.0),
        strategy("edge", accuracy=0.89, us=400.0),
        strategy("beyond", accuracy=0.88, us=200.0),
    ]
    assert pick(tried, Budget(max_drop=1.0)) == "edge"
    assert pick(tried, Budget(max_drop=0.0)) == "safe"
    # With another constraint beside it, accuracy rules again.
    assert pick(tried, Budget(max_drop=1.0, size_bytes=10_000_000)) == "safe"


def test_without_a_budget_the_original_may_win() -> None:
    assert pick([strategy("worse", accuracy=0.80, us=100.0)], Budget()) == "original"


def test_accuracy_on_the_test_split_plays_no_part() -> None:
    tried = [
        strategy("a", accuracy=0.85, us=400.0).model_copy(update={"accuracy": 0.10}),
        strategy("b", accuracy=0.80, us=400.0).model_copy(update={"accuracy": 0.99}),
    ]
    assert pick(tried, Budget(latency_us=500.0)) == "a"


@given(st.permutations(range(5)))
def test_the_order_of_trial_does_not_matter(order: list[int]) -> None:
    tried = [strategy(f"s{i}", accuracy=0.85 - i * 1e-5, us=400.0 - (i % 2)) for i in range(5)]
    assert pick([tried[i] for i in order], Budget(latency_us=500.0)) == "s1"


# -- what keeps a budget -----------------------------------------------------------------------------------


def test_latency_is_held_against_the_upper_bound_of_the_median() -> None:
    candidate = strategy("c", accuracy=0.85, us=495.0)  # interval 485.1 to 504.9
    assert not check_budget(candidate, Budget(latency_us=500.0), baseline=ORIGINAL, reference=0.9)[
        "latency_us"
    ]
    assert check_budget(candidate, Budget(latency_us=505.0), baseline=ORIGINAL, reference=0.9)["latency_us"]


def test_speedup_is_held_against_the_lower_bound() -> None:
    candidate = strategy("c", accuracy=0.85, us=495.0)
    budget = Budget(speedup=2.0)
    assert not check_budget(candidate, budget, baseline=ORIGINAL, reference=0.9)["speedup"]
    sure = candidate.model_copy(update={"speedup": 2.02, "speedup_ci95": (2.0, 2.04)})
    assert check_budget(sure, budget, baseline=ORIGINAL, reference=0.9)["speedup"]


def test_size_and_memory_at_the_limit_are_kept() -> None:
    candidate = strategy("c", accuracy=0.85, us=400.0, size_bytes=1000, peak_memory_bytes=2000)
    at = check_budget(candidate, Budget(size_bytes=1000, memory_bytes=2000), baseline=ORIGINAL, reference=0.9)
    assert at == {"size_bytes": True, "memory_bytes": True}
    over = check_budget(
        candidate, Budget(size_bytes=999, memory_bytes=1999), baseline=ORIGINAL, reference=0.9
    )
    assert over == {"size_bytes": False, "memory_bytes": False}


def test_loss_is_counted_from_the_better_original() -> None:
    trained = strategy("original-trained", accuracy=0.93, us=1000.0)
    assert metric_reference([ORIGINAL, trained], ["original", "original-trained"]) == 0.93
    assert metric_reference([], ["original"]) is None
    candidate = strategy("c", accuracy=0.915, us=400.0)
    assert not check_budget(candidate, Budget(max_drop=1.0), baseline=ORIGINAL, reference=0.93)["max_drop"]
    assert check_budget(candidate, Budget(max_drop=1.5), baseline=ORIGINAL, reference=0.93)["max_drop"]


def test_cycles_are_held_against_cycles_and_time_never_against_them() -> None:
    simulated = strategy("c", accuracy=0.85, us=None, model_cycles=19e6)
    held = check_budget(
        simulated, Budget(model_cycles=20e6, latency_us=1e9), baseline=ORIGINAL, reference=0.9
    )
    assert held == {"latency_us": False, "model_cycles": True}


def test_a_figure_that_was_not_taken_keeps_nothing() -> None:
    unmeasured = strategy("c", accuracy=None, us=None, peak_memory_bytes=None)
    budget = Budget(latency_us=1e9, speedup=1e-9, memory_bytes=10**12, max_drop=100.0)
    assert not any(check_budget(unmeasured, budget, baseline=ORIGINAL, reference=0.9).values())
    assert pick([unmeasured], Budget(size_bytes=10**9)) == "original"


# -- nobody keeps it ---------------------------------------------------------------------------------------


def refusal(tried: list[StrategyResult], budget: Budget) -> str:
    """The sentence with which the choice fails."""
    with pytest.raises(ConstraintError) as caught:
        pick(tried, budget)
    assert caught.value.exit_status == 1
    return str(caught.value)


def test_refusal_names_the_nearest_feasible_of_each_constraint() -> None:
    tried = [
        strategy("fast", accuracy=0.88, us=400.0, size_bytes=1_900_000),
        strategy("small", accuracy=0.88, us=600.0, size_bytes=1_400_000),
    ]
    said = refusal(tried, Budget(latency_us=500.0, size_bytes=1_500_000))
    assert "no strategy keeps --latency 500us --size 1.5MB" in said
    assert "--latency 612us (small)" in said
    assert "--size 1.9MB (fast)" in said


def test_refusal_where_everything_misses_two() -> None:
    said = refusal(
        [strategy("near", accuracy=0.88, us=600.0, size_bytes=1_600_000)],
        Budget(latency_us=500.0, size_bytes=1_500_000),
    )
    assert "--latency 612us with --size 1.6MB (near)" in said


def test_what_the_refusal_names_is_feasible() -> None:
    tried = [strategy("fast", accuracy=0.88, us=401.237), strategy("slow", accuracy=0.9, us=700.0)]
    assert "--latency 410us (fast)" in refusal(tried, Budget(latency_us=100.0))
    assert pick(tried, Budget(latency_us=410.0)) == "fast"
    assert "--speedup 2.44x (fast)" in refusal(tried, Budget(speedup=9.0))
    assert pick(tried, Budget(speedup=2.44)) == "fast"
    assert "--max-drop 2 (fast)" in refusal(tried, Budget(max_drop=0.5, latency_us=500.0))
    assert pick(tried, Budget(max_drop=2.0, latency_us=500.0)) == "fast"


def test_refusal_when_nothing_was_measured() -> None:
    with pytest.raises(ConstraintError, match="mcc doctor"):
        choose(
            [strategy("c", accuracy=0.9, us=None)],
            Budget(latency_us=5.0),
            baseline=ORIGINAL.result,
            reference=0.9,
            difference=pairs([ORIGINAL]).difference,
        )


# -- the front ---------------------------------------------------------------------------------------------


def test_pareto_front() -> None:
    tried = [
        strategy("a", accuracy=0.90, us=100.0),
        strategy("b", accuracy=0.95, us=200.0),
        strategy("beaten", accuracy=0.89, us=150.0),
        strategy("beaten-at-same-speed", accuracy=0.94, us=200.0),
        strategy("twin-of-a", accuracy=0.90, us=100.0),
        strategy("unmeasured", accuracy=0.99, us=None),
    ]
    assert pareto_front(tried) == {"a", "b", "twin-of-a"}
    assert pareto_front([]) == set()


@given(st.lists(st.tuples(st.integers(1, 20), st.integers(0, 20)), min_size=1, max_size=12))
def test_every_strategy_is_on_the_front_or_beaten_by_one_on_it(points: list[tuple[int, int]]) -> None:
    tried = [strategy(f"s{i}", accuracy=a / 20, us=float(c)) for i, (c, a) in enumerate(points)]
    front = pareto_front(tried)
    assert front
    on_front = [points[int(name[1:])] for name in front]
    for i, (cost, accuracy) in enumerate(points):
        beaten = any(c <= cost and a >= accuracy and (c, a) != (cost, accuracy) for c, a in on_front)
        assert (f"s{i}" in front) != beaten


def test_mark_fills_in_both_marks() -> None:
    marked = mark(
        [ORIGINAL, strategy("c", accuracy=0.85, us=400.0)],
        Budget(latency_us=500.0),
        baseline=ORIGINAL.result,
        reference=0.9,
    )
    assert [s.keeps_budgets for s in marked] == [{"latency_us": False}, {"latency_us": True}]
    assert all(s.on_pareto_front for s in marked)
