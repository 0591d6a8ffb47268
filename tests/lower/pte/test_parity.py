"""`.pte` programs in ExecuTorch against torch (float) and the simulator (int8), operator by operator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mcc.ir import table
from mcc.ir.graph import calls, run
from mcc.lower.pte.writer import to_pte
from mcc.quant.simulator import Simulator
from tests.lower.pte.running import delegates, infer, nodes, sample, steps_between
from tests.lower.tflite.cases import CASES as TFLITE_CASES
from tests.lower.tflite.cases import COMPOSITES
from tests.quant.graphs import CASES, case_graph, mobile_net, quantise, residual_net


def test_every_operator_has_a_case() -> None:
    covered = {op for op, _, _ in CASES.values()} | {"fake_quantize"}
    assert covered == set(table.TABLE)


@pytest.mark.parametrize("name", CASES)
def test_float_operators_equal_torch(name: str) -> None:
    graph, x = case_graph(name), sample(CASES[name][1])
    raw = to_pte(graph, via="direct")
    assert delegates(raw) == 1
    expected = run(graph, x)[0].numpy()
    (got,) = infer(raw, x)
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= 1e-5 * np.ptp(expected)


@pytest.mark.parametrize("name", CASES)
def test_quantised_operators_equal_the_simulator(name: str) -> None:
    x = sample(CASES[name][1])
    graph = quantise(case_graph(name), x)
    raw = to_pte(graph, via="direct")
    assert delegates(raw) == 1
    (got,) = infer(raw, x)
    steps = steps_between(graph, got, Simulator(graph, "executorch").run(x)[0].numpy())
    assert steps.max() == 0
    against_litert = steps_between(graph, got, Simulator(graph).run(x)[0].numpy())
    assert against_litert.max() <= 1


@pytest.mark.parametrize("case", TFLITE_CASES, ids=lambda case: case.id)
def test_every_kind_of_parameter(case: Any) -> None:
    graph, x = case.graph(), case.input()
    expected = run(graph, x)[0].numpy()
    (got,) = infer(to_pte(graph, via="direct"), x)
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= 1e-5 * max(np.ptp(expected), 1e-3)


@pytest.mark.parametrize("case", COMPOSITES, ids=lambda case: case.id)
def test_operators_together(case: Any) -> None:
    graph = case.graph()
    values = [torch.randn(2, *shape) for shape in case.inputs] if "batch" not in case.id else []
    values = [torch.randn(2, *shape) for shape in case.inputs]
    for got, expected in zip(infer(to_pte(graph, via="direct"), *values), run(graph, *values), strict=True):
        assert np.abs(got - expected.numpy()).max() <= 1e-5 * np.ptp(expected.numpy())


@pytest.mark.parametrize("weight_limit", [127, 63])
@pytest.mark.parametrize("make", [mobile_net, residual_net])
def test_quantised_networks_equal_the_simulator(make: Any, weight_limit: int) -> None:
    x = torch.rand(100, 3, 32, 32) * 2 - 1
    graph = quantise(make(), x[:16], weight_limit=weight_limit)
    raw = to_pte(graph)
    assert delegates(raw) == 1
    (got,) = infer(raw, x)
    simulated = Simulator(graph, "executorch").run(x)[0].numpy()
    assert np.array_equal(got, simulated)
    kinds = nodes(raw)
    assert kinds.count("XNNConvert") == 2  # the input to integers, the output from them
    assert kinds.count("XNNConv2d") + kinds.count("XNNDepthwiseConv2d") >= len(calls(graph, "conv2d"))


def test_a_mixed_network_keeps_its_float_part() -> None:
    x = torch.rand(30, 3, 32, 32) * 2 - 1
    float_graph = mobile_net()
    names = tuple(node.name for node in calls(float_graph))
    graph = quantise(float_graph, x, float_nodes=names[6:9])
    raw = to_pte(graph)
    assert delegates(raw) == 1
    (got,) = infer(raw, x)
    simulated = Simulator(graph, "executorch").run(x)[0].numpy()
    assert (got.argmax(1) == simulated.argmax(1)).mean() >= 0.98
    assert (steps_between(graph, got, simulated) > 0).mean() <= 0.05


def test_drift_is_seen() -> None:
    x = torch.rand(20, 3, 32, 32) * 2 - 1
    graph = quantise(mobile_net(), x)
    raw = to_pte(graph)
    graph.w5.data.mul_(1.01)
    graph.conv2d_4_scale.mul_(1.01)
    steps = steps_between(graph, infer(raw, x)[0], Simulator(graph, "executorch").run(x)[0].numpy())
    assert (steps > 0).mean() > 0.005
