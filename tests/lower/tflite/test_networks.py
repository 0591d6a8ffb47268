"""Whole networks: no stray operators, numbers as torch has them, one XNNPACK region."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter

from mcc.ir.graph import Graph, calls, run
from mcc.lower.tflite.reader import read_tflite
from mcc.lower.tflite.writer import to_tflite
from mcc.quant.regions import integer_nodes
from tests.lower.tflite import networks
from tests.lower.tflite.quantising import quantised, quantised_head
from tests.lower.tflite.running import RESOLVERS, execute

NETWORKS = {"mobilenet_v2": (networks.mobilenet_v2, 64), "resnet20": (networks.resnet20, 32)}


@pytest.fixture(scope="module", params=NETWORKS)
def network(request: pytest.FixtureRequest) -> tuple[str, Graph, torch.Tensor]:
    torch.manual_seed(0)
    build, size = NETWORKS[request.param]
    return request.param, build(), torch.randn(4, 3, size, size)


def decibels(signal: np.ndarray, noisy: np.ndarray) -> float:
    """Signal-to-noise ratio; the floor of the noise is float32's."""
    noise = max(float(((signal - noisy) ** 2).sum()), 1e-14 * float((signal**2).sum()))
    return float(10 * np.log10((signal**2).sum() / noise))


@pytest.mark.parametrize("kernels", RESOLVERS)
def test_float_equals_torch(network: tuple[str, Graph, torch.Tensor], kernels: str) -> None:
    _, graph, x = network
    expected = run(graph, x)[0].numpy()
    got = execute(to_tflite(graph), [x.numpy()], kernels)[0]
    assert np.abs(got - expected).max() < 1e-4 * np.ptp(expected)


def test_holds_no_stray_operator(network: tuple[str, Graph, torch.Tensor]) -> None:
    name, graph, x = network
    operators = {
        "mobilenet_v2": {"CONV_2D": 35, "DEPTHWISE_CONV_2D": 17, "ADD": 10, "PAD": 4},
        "resnet20": {"CONV_2D": 19, "ADD": 9, "PAD": 4, "DEPTHWISE_CONV_2D": 2},
    }[name] | {"MEAN": 1, "RESHAPE": 1, "FULLY_CONNECTED": 1}
    assert read_tflite(to_tflite(graph)).op_counts() == operators
    border = {"QUANTIZE": 1, "DEQUANTIZE": 1}
    assert read_tflite(to_tflite(quantised(graph, x))).op_counts() == operators | border


@pytest.mark.parametrize("integer", [False, True])
def test_is_one_region_of_xnnpack(network: tuple[str, Graph, torch.Tensor], integer: bool) -> None:
    _, graph, x = network
    interpreter = Interpreter(
        model_content=to_tflite(quantised(graph, x) if integer else graph), num_threads=1
    )
    interpreter.allocate_tensors()
    details = interpreter._get_ops_details()
    assert [detail["op_name"] for detail in details].count("DELEGATE") == 1


def test_int8_is_as_near_to_float_as_the_fake_quantised_graph(
    network: tuple[str, Graph, torch.Tensor],
) -> None:
    # Ties that round the other way travel through the network, so the files are compared by their distance
    # to float; that they follow the integer arithmetic to the bit is tested with the integer simulator.
    _, graph, x = network
    fake = quantised(graph, x)
    float_output, fake_output = run(graph, x)[0].numpy(), run(fake, x)[0].numpy()
    raw = to_tflite(fake)
    assert len(integer_nodes(fake)) == len(calls(fake)) - len(calls(fake, "fake_quantize"))
    for kernels in RESOLVERS:
        got = execute(raw, [x.numpy()], kernels)[0]
        assert decibels(float_output, got) > decibels(float_output, fake_output) - 3
        assert decibels(fake_output, got) > 12


def test_half_precision_weights_halve_the_file(network: tuple[str, Graph, torch.Tensor]) -> None:
    _, graph, x = network
    full, half = to_tflite(graph), to_tflite(graph, weights="float16")
    assert len(half) < 0.6 * len(full)
    expected = run(graph, x)[0].numpy()
    assert decibels(expected, execute(half, [x.numpy()])[0]) > 40


@pytest.mark.parametrize(("block", "sparsity"), [(1, 0.8), (2, 0.8), (4, 0.5)])
def test_sparse_network_is_small_and_exact(block: int, sparsity: float) -> None:
    torch.manual_seed(0)
    graph = networks.mobilenet_v2(sparsity=sparsity, block=block)
    x = torch.randn(2, 3, 64, 64)
    raw = to_tflite(graph)
    counts = read_tflite(raw).op_counts()
    assert counts["DENSIFY"] == 34
    dense = networks.mobilenet_v2()
    assert len(raw) < (1 - 0.7 * sparsity) * len(to_tflite(dense))
    expected = run(graph, x)[0].numpy()
    for kernels in RESOLVERS:
        assert np.abs(execute(raw, [x.numpy()], kernels)[0] - expected).max() < 1e-4 * np.ptp(expected)


@pytest.mark.parametrize("kernels", RESOLVERS)
def test_sparse_float_trunk_takes_an_int8_head(kernels: str) -> None:
    torch.manual_seed(0)
    graph = networks.mobilenet_v2(sparsity=0.8)
    x = torch.randn(2, 3, 64, 64)
    mixed = quantised_head(graph, x)
    raw = to_tflite(mixed)
    model = read_tflite(raw)
    assert model.op_counts()["DENSIFY"] == 34
    head = next(op for op in model.operators if op.code == "FULLY_CONNECTED")
    assert {model.tensors[i].dtype for i in (*head.inputs[:2], *head.outputs)} == {"int8"}
    expected = run(mixed, x)[0].numpy()
    assert decibels(expected, execute(raw, [x.numpy()], kernels)[0]) > 40
