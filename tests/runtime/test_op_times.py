"""Per-operator times: what an interruption does to them."""

from __future__ import annotations

import numpy as np
import pytest

from mcc.runtime.litert_profile import BEGIN_OF_RUN, DELEGATE_OPERATOR, typical
from mcc.runtime.ort_host import kernel_times
from mcc.runtime.samples import undisturbed_mean, undisturbed_runs


def test_interrupted_runs_do_not_count() -> None:
    assert undisturbed_mean([10.0, 11.0, 10.0, 4000.0, 9.0]) == 10.0
    assert undisturbed_mean([40.0, 50.0, 60.0]) == 50.0


def test_whole_microseconds_average_to_what_is_shorter() -> None:
    true_us, rng = 1.37, np.random.default_rng(0)
    begin = rng.uniform(0, 1000, 20_000)
    counted = np.floor(begin + true_us) - np.floor(begin)
    assert undisturbed_mean(list(counted)) == pytest.approx(true_us, rel=0.02)


def test_an_operator_too_short_for_the_clock_is_not_lost() -> None:
    assert undisturbed_mean([0.0] * 95 + [1.0] * 5) == pytest.approx(0.05)


def test_the_fastest_quarter_of_the_runs_is_calm() -> None:
    totals = [9.0, 1.0, 9.0, 9.0, 2.0, 3.0, 9.0, 9.0] * 5
    assert [totals[index] for index in undisturbed_runs(totals)] == [1.0, 2.0] * 5
    assert undisturbed_runs([3.0, 1.0, 2.0]) == [0, 1, 2]


def test_runs_with_cold_caches_do_not_count_as_a_whole() -> None:
    """Each operator of a slow run takes 1.4 times as long: no single one is long enough to be told."""
    cold = [(BEGIN_OF_RUN, 0, 0), (b"a", DELEGATE_OPERATOR, 14), (b"b", DELEGATE_OPERATOR, 28)]
    warm = [(BEGIN_OF_RUN, 0, 0), (b"a", DELEGATE_OPERATOR, 10), (b"b", DELEGATE_OPERATOR, 20)]
    ops = typical((cold + cold + warm + cold) * 10, runs=40)
    assert [(op.kind, op.us) for op in ops] == [("a", 10.0), ("b", 20.0)]


def test_runs_of_onnxruntime_with_cold_caches_do_not_count_as_a_whole() -> None:
    events = [
        {"cat": "Node", "name": f"{name}_kernel_time", "dur": us * slow, "args": {"op_name": "Conv"}}
        for slow in (3.0, *(1.4, 1.4, 1.0, 1.4) * 10)
        for name, us in (("a", 10.0), ("b", 20.0))
    ]
    assert [(op.name, op.us) for op in kernel_times(events)] == [("a", 10.0), ("b", 20.0)]
