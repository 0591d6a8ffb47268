"""The roofline: which roof holds, and what raises it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cost_models.roofline import RooflineCostModel
from mcc.cost_api import CostModel
from mcc.cost_sum import predict
from mcc.ir.notes import SparseNote
from tests.calibrate.kernels import add, conv

MODEL = RooflineCostModel(gmacs=10.0, gbytes=4.0, call_us=1.0, overhead_us=2.0)


def test_compute_and_memory_roofs() -> None:
    heavy = conv(256, 256, size=16, window=3)
    assert MODEL.kernel(heavy).cost == pytest.approx(1.0 + heavy.macs / 10e3)
    light = add(64, size=32)
    assert MODEL.kernel(light).cost == pytest.approx(1.0 + light.bytes_moved / 4e3)


def test_precision_sparsity_and_groups_move_the_roof() -> None:
    heavy = conv(256, 256, size=16)
    assert MODEL.kernel(replace(heavy, precision="int8")).cost < MODEL.kernel(heavy).cost
    thin = replace(heavy, layout="nchw", sparse=SparseNote(1, 0.9))
    assert MODEL.kernel(thin).cost < MODEL.kernel(heavy).cost
    with_groups = conv(64, 64, size=32, window=3, groups=64)
    assert MODEL.kernel(with_groups).cost > 1.0 + with_groups.macs / 10e3


def test_it_is_a_cost_model_and_says_how_unsure_it_is() -> None:
    model: CostModel = MODEL
    cost = predict(model, {"a": add(8), "b": add(8)})
    assert cost.cost == pytest.approx(2.0 + 2 * MODEL.kernel(add(8)).cost)
    assert cost.error > 0.3 * (cost.cost - cost.overhead_cost)


@pytest.mark.parametrize("bad", [{"gmacs": 0.0}, {"gbytes": float("inf")}, {"call_us": -1.0}])
def test_impossible_devices_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="roofline"):
        RooflineCostModel(**{"gmacs": 10.0, "gbytes": 4.0, **bad})
