"""Per-operator times: what an interruption does to them."""

from __future__ import annotations

import numpy as np
import pytest

from mcc.runtime.samples import undisturbed_mean


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
