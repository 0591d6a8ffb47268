"""ONNX models in onnxruntime against torch (float) and the integer simulator (QDQ), operator by operator."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from mcc.ir import table
from mcc.ir.graph import Graph, calls, outputs, run
from mcc.lower.onnx.writer import to_onnx
from mcc.quant.params import quant_params
from mcc.quant.simulator import Simulator
from tests.quant.graphs import CASES, case_graph, mobile_net, quantise, residual_net

# Where XNNPACK's own arithmetic differs from onnxruntime's in more than 0.5 % of the codes, by one step:
# multipliers of 8 bits (leaky_relu, requantise before concat) and ties (average pooling, bilinear resize).
ROUNDS_OTHERWISE = {
    "leaky_relu", "concat", "avg_pool", "avg_pool_uncounted", "resize_bilinear", "resize_corners",
}  # fmt: skip


def session(raw: bytes, *, precise: bool = True, optimised: Path | None = None) -> Any:
    """An inference session on one thread, with sums that cannot saturate unless asked otherwise."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if precise:
        options.add_session_config_entry("session.x64quantprecision", "1")
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    return ort.InferenceSession(raw, options, providers=["CPUExecutionProvider"])


def infer(raw: bytes, x: Tensor, **options: Any) -> NDArray[np.float32]:
    """The first output for a batch of inputs, one by one."""
    runtime = session(raw, **options)
    name = runtime.get_inputs()[0].name
    return np.concatenate([runtime.run(None, {name: image[None].numpy()})[0] for image in x])


def fused_operators(raw: bytes, folder: Path) -> Counter[str]:
    """Operators of the model as onnxruntime runs it."""
    session(raw, optimised=folder / "optimised.onnx")
    return Counter(node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node)


def steps_between(graph: Graph, a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Distance of two results in steps of the first output."""
    return np.rint(np.abs(a - b) / quant_params(graph, outputs(graph)[0]).scale)


def sample(name: str) -> Tensor:
    return torch.randn(3, *CASES[name][1][1:]) * 2


def test_every_operator_has_a_case() -> None:
    assert {op for op, _, _ in CASES.values()} | {"fake_quantize"} == set(table.TABLE)


@pytest.mark.parametrize(("opset", "simplify"), [(13, False), (17, True), (23, True)])
@pytest.mark.parametrize("name", CASES)
def test_float_operators_equal_torch(name: str, opset: int, simplify: bool) -> None:
    graph, x = case_graph(name), sample(name)
    raw = to_onnx(graph, opset=opset, simplify=simplify)
    onnx.checker.check_model(raw, full_check=True)
    expected = run(graph, x)[0].numpy()
    got = infer(raw, x)
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= 1e-5 * np.ptp(expected)


@pytest.mark.parametrize("name", CASES)
def test_quantised_operators_equal_the_simulator(name: str) -> None:
    x = sample(name)
    graph = quantise(case_graph(name), x)
    raw = to_onnx(graph)
    onnx.checker.check_model(raw, full_check=True)
    got = infer(raw, x)
    steps = steps_between(graph, got, Simulator(graph, "onnxruntime").run(x)[0].numpy())
    assert (steps > 0).mean() <= 0.005
    assert steps.max() <= 1
    against_xnnpack = steps_between(graph, got, Simulator(graph).run(x)[0].numpy())
    assert against_xnnpack.max() <= 1
    assert name in ROUNDS_OTHERWISE or (against_xnnpack > 0).mean() <= 0.005


@pytest.mark.parametrize("weight_limit", [127, 63])
@pytest.mark.parametrize(("make", "convolutions"), [(mobile_net, 17), (residual_net, 13)])
def test_networks_are_fused_wholly_and_agree(
    make: Any, convolutions: int, weight_limit: int, tmp_path: Path
) -> None:
    x = torch.rand(200, 3, 32, 32) * 2 - 1
    graph = quantise(make(), x[:16], weight_limit=weight_limit)
    assert len(calls(graph, "conv2d")) == convolutions
    raw = to_onnx(graph)
    found = fused_operators(raw, tmp_path)
    assert found["QLinearConv"] == convolutions
    assert found["QGemm"] == 1
    assert found["QuantizeLinear"] <= 1 + 3 * found["Pad"]
    assert not {"Conv", "Gemm", "Add", "GlobalAveragePool", "Relu", "Clip"} & set(found)
    simulated = Simulator(graph).run(x)[0].numpy()
    got = infer(raw, x)
    agree = steps_between(graph, got, simulated)[got.argmax(1) != simulated.argmax(1)]
    assert (got.argmax(1) == simulated.argmax(1)).mean() >= 0.995, agree
    if weight_limit == 63:
        assert np.array_equal(infer(raw, x[:20], precise=False), got[:20])


def test_a_mixed_network_keeps_its_float_part(tmp_path: Path) -> None:
    x = torch.rand(50, 3, 32, 32) * 2 - 1
    float_graph = mobile_net()
    names = tuple(node.name for node in calls(float_graph))
    graph = quantise(float_graph, x, float_nodes=names[6:9])
    raw = to_onnx(graph)
    found = fused_operators(raw, tmp_path)
    assert found["QLinearConv"] + found["Conv"] + found["FusedConv"] == 17
    assert found["Conv"] + found["FusedConv"] == sum(n.startswith("conv") for n in names[6:9])
    simulated = Simulator(graph).run(x)[0].numpy()
    assert (infer(raw, x).argmax(1) == simulated.argmax(1)).mean() >= 0.98


@pytest.mark.parametrize("activation", ["relu", "relu6"])
def test_a_clamp_that_saturation_does_not_make_is_kept_and_fused(activation: str, tmp_path: Path) -> None:
    x = torch.randn(4, 8, 9, 9) * 2
    graph = case_graph("conv3x3")
    calls(graph, "conv2d")[0].update_kwarg("activation", activation)
    quantised = quantise(graph, x)
    quantiser = calls(quantised, "fake_quantize")[-1]
    getattr(quantised, str(quantiser.args[2].target)).fill_(-20)  # type: ignore[union-attr]
    getattr(quantised, str(quantiser.args[1].target)).fill_(0.1)  # type: ignore[union-attr]
    raw = to_onnx(quantised)
    found = fused_operators(raw, tmp_path)
    assert found["QLinearConv"] == 1
    assert found["Clip"] == 1
    got = infer(raw, x)
    assert got.min() == 0.0
    assert np.array_equal(got, Simulator(quantised).run(x)[0].numpy())


def test_drift_is_seen() -> None:
    x = torch.rand(20, 3, 32, 32) * 2 - 1
    graph = quantise(mobile_net(), x)
    raw = to_onnx(graph)
    graph.w5.data.mul_(1.01)
    graph.conv2d_4_scale.mul_(1.01)
    steps = steps_between(graph, infer(raw, x), Simulator(graph).run(x)[0].numpy())
    assert (steps > 0).mean() > 0.005
