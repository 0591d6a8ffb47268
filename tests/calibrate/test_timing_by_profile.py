"""Measuring by the profile: what it leaves out comes from the whole file, if that was not disturbed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from mcc.calibrate.micro import micro_network
from mcc.calibrate.timing_by_profile import (
    MOST_MISSING_US,
    MOST_REPEATS,
    by_name,
    measure_profiled,
    undisturbed_profiles,
)
from mcc.calibrate.undisturbed import SESSIONS
from mcc.cost_api import Kernel, OperandShape
from mcc.runtime.registry import get_target
from mcc.runtime.session import OpTime
from mcc.runtime.units import MICROSECONDS, Unit
from tests.calibrate.kernels import conv

OWN_US, BARE_US, MISSING_US = 7.0, 1.0, 0.5


class Device:
    """A made-up LiteRT: three operators for each kernel, whole microseconds in its profile."""

    format: ClassVar[str] = "tflite"
    unit: ClassVar[Unit] = MICROSECONDS

    def __init__(self, kernels: int, disturbed_us: Sequence[float]) -> None:
        self.kernels = kernels
        self.disturbed_us = list(disturbed_us)
        self.timed = 0
        self.typical, self.slow = 1.0, 1.0  # median and 90th percentile over the 10th

    def facts(self) -> Any:
        return get_target("litert-host").facts()

    def profile(self, file: Path, **_: object) -> list[OpTime]:
        branch = [OpTime("", "Add", 2.0), OpTime("", "Convolution", OWN_US), OpTime("", "Mean", 1.0)]
        return branch * self.kernels

    def time(self, files: Sequence[Path], **_: object) -> list[Any]:
        self.timed += 1
        true = BARE_US + self.kernels * (2.0 + OWN_US + 1.0 + 3 * MISSING_US)
        whole = true + self.disturbed_us.pop(0)
        load = SimpleNamespace(others_cores=0.0)
        percentiles = {"median_us": self.typical * whole, "p10_us": whole, "p90_us": self.slow * whole}
        return [SimpleNamespace(**percentiles, load=load)]


@pytest.mark.parametrize(
    ("disturbed_us", "timed"), [([0.0], 1), ([900.0, 0.0], 2), ([900.0, 500.0, 300.0, 0.0], SESSIONS)]
)
def test_a_whole_that_was_disturbed_is_timed_again(
    tmp_path: Path, disturbed_us: list[float], timed: int
) -> None:
    kernels = [conv(8, made) for made in (8, 16, 24)]
    device: Any = Device(len(kernels), disturbed_us)
    rows = measure_profiled(kernels, device, tmp_path, threads=1, bare_us=BARE_US).rows
    assert [row.latency_us for row in rows] == pytest.approx([OWN_US + MISSING_US] * 3)
    assert device.timed == timed


def test_the_least_disturbed_of_all_counts(tmp_path: Path) -> None:
    device: Any = Device(1, [900.0, 60.0, 300.0, 80.0])
    (row,) = measure_profiled([conv(8, 8)], device, tmp_path, threads=1, bare_us=BARE_US).rows
    missing_us = MISSING_US + 60.0 / 3
    slower = 3 * (missing_us - MOST_MISSING_US) / (2.0 + OWN_US + 1.0)
    assert row.latency_us == pytest.approx((OWN_US + MOST_MISSING_US) * (1.0 + slower))
    assert row.low_us == pytest.approx(OWN_US + MOST_MISSING_US)  # the spread tells of it
    assert row.high_us == row.latency_us


def test_a_row_is_the_median_of_an_unsteady_machine(tmp_path: Path) -> None:
    device: Any = Device(1, [0.0] * (1 + SESSIONS))
    undisturbed = measure_profiled([conv(8, 8)], device, tmp_path, threads=1, bare_us=BARE_US)
    device.typical, device.slow = 1.1, 1.3
    unsteady = measure_profiled([conv(8, 8)], device, tmp_path, threads=1, bare_us=BARE_US)
    assert device.timed == 1 + SESSIONS, "a session whose median lies far above its fastest tenth is repeated"
    assert undisturbed.spread == 0.0
    assert unsteady.spread == pytest.approx(math.log(1.3) / (2 * 1.2816))
    assert unsteady.rows[0].latency_us == pytest.approx(1.1 * undisturbed.rows[0].latency_us)


def test_a_function_that_was_fused_costs_what_its_twin_does_not_take() -> None:
    """onnxruntime names the fused operator after either of both."""
    x = OperandShape((1, 32, 8, 8))
    kernels = [Kernel(op, (x,), x.shape, ()) for op in ("hardswish", "hardsigmoid", "sigmoid")]
    network = micro_network(kernels, blocked=True)
    assert network.twinned == (True, True, True)
    assert micro_network(kernels).twinned == (False, False, False)
    own = [("kernel0_0_producer_nchwc", 9.0), ("kernel0_1_producer_nchwc", 4.0), ("kernel1_nchwc", 5.5),
           ("kernel1_1_producer_nchwc", 4.0), ("kernel2_0_producer_nchwc", 4.0),
           ("kernel2_1_producer_nchwc", 4.5), ("kernel2", 3.0)]  # fmt: skip
    found = by_name(network, [OpTime(name, "Conv", us) for name, us in own])
    assert found.fused_us == (5.0, 1.5, 0.0)
    assert [[op.us for op in each] for each in found.operators] == [[], [], [3.0]]


@pytest.mark.parametrize(
    ("totals", "kept"),
    [
        ([10.0, 10.1, 10.2], [10.0, 10.1, 10.2]),
        ([18.0, 10.0, 17.0, 10.2, 10.1], [10.0, 10.1, 10.2]),
        ([18.0, 10.0, 17.0, 12.0, 14.0, 16.0, 1.0], [10.0, 12.0, 14.0]),
    ],
)
def test_profiles_are_taken_until_the_fastest_agree(totals: list[float], kept: list[float]) -> None:
    left = list(totals)
    found = undisturbed_profiles(lambda: [OpTime("", "Convolution", left.pop(0))], 3)
    assert [ops[0].us for ops in found] == kept
    assert len(left) == len(totals) - min(len(totals), MOST_REPEATS)
