"""The simulator against LiteRT with XNNPACK on this machine: equal to the bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from mcc.ir.graph import Graph, GraphBuilder, outputs, run
from mcc.ir.table import TABLE
from mcc.lower.tflite.writer import integer_nodes as written_as_integers
from mcc.lower.tflite.writer import to_tflite
from mcc.quant.params import quant_params
from mcc.quant.regions import integer_nodes
from mcc.quant.simulator import Simulator
from tests.quant.graphs import CASES, case_graph, mobile_net, quantise, residual_net


def litert(raw: bytes, x: Tensor) -> NDArray[np.float32]:
    """Outputs of a .tflite file for a batch of NCHW inputs, one by one, as NCHW."""
    from ai_edge_litert.interpreter import Interpreter

    runtime = Interpreter(model_content=raw, num_threads=1)
    runtime.allocate_tensors()
    source, target = runtime.get_input_details()[0]["index"], runtime.get_output_details()[0]["index"]
    found: list[NDArray[np.float32]] = []
    for image in x.numpy():
        value = image[None].transpose(0, 2, 3, 1) if image.ndim == 3 else image[None]
        runtime.set_tensor(source, np.ascontiguousarray(value))
        runtime.invoke()
        result = runtime.get_tensor(target)
        found.append(result.transpose(0, 3, 1, 2) if result.ndim == 4 else result)
    return np.concatenate(found)


def output_scale(graph: Graph) -> float:
    """The step of the first output."""
    return float(quant_params(graph, outputs(graph)[0]).scale)


def test_cases_cover_the_op_table() -> None:
    assert {row for row, _, _ in CASES.values()} == set(TABLE) - {"fake_quantize"}


@pytest.mark.parametrize("name", CASES)
def test_each_operator_equals_litert(name: str) -> None:
    graph = case_graph(name)
    x = torch.randn(3, *CASES[name][1][1:]) * 2
    quantised = quantise(graph, x)
    expected = litert(to_tflite(quantised), x)
    steps = np.abs(Simulator(quantised).run(x)[0].numpy() - expected) / output_scale(quantised)
    assert not steps.any()


@pytest.mark.parametrize("name", CASES)
def test_the_writer_agrees_on_what_runs_in_integers(name: str) -> None:
    graph = quantise(case_graph(name), torch.randn(2, *CASES[name][1][1:]) * 2)
    assert set(integer_nodes(graph)) == set(written_as_integers(graph))


@pytest.mark.parametrize("kernel", [(2, 3), (3, 3), (5, 4)])
@pytest.mark.parametrize("padding", [(1, 1, 1, 1), (0, 1, 1, 1), (1, 0, 1, 0)])
def test_averages_without_padding_equal_litert(
    kernel: tuple[int, int], padding: tuple[int, int, int, int]
) -> None:
    b = GraphBuilder()
    x = b.input("x", (1, 19, 9, 9))
    options = {"kernel": kernel, "stride": (2, 1), "padding": padding, "count_include_pad": False}
    values = torch.randn(4, 19, 9, 9)
    quantised = quantise(b.finish(b.avg_pool2d(x, **options)), values)
    assert np.array_equal(Simulator(quantised).run(values)[0].numpy(), litert(to_tflite(quantised), values))


@pytest.mark.parametrize("make", [mobile_net, residual_net])
@pytest.mark.parametrize("weight_limit", [127, 63])
def test_whole_networks_equal_litert(make: object, weight_limit: int) -> None:
    graph = make()  # type: ignore[operator]
    x = torch.rand(8, 3, 32, 32) * 2 - 1
    quantised = quantise(graph, x, weight_limit=weight_limit)
    simulated = Simulator(quantised).run(x)[0]
    assert np.array_equal(simulated.numpy(), litert(to_tflite(quantised), x))
    assert not np.array_equal(simulated.numpy(), run(quantised, x)[0].numpy()), (
        "fake quantisation is not exact"
    )


def test_a_mixed_network_equals_litert() -> None:
    graph = mobile_net()
    x = torch.rand(6, 3, 32, 32) * 2 - 1
    names = tuple(node.name for node in graph.graph.nodes if node.op == "call_function")
    quantised = quantise(graph, x, float_nodes=names[6:9])
    assert len(integer_nodes(quantised)) == len(names) - 3
    difference = Simulator(quantised).run(x)[0].numpy() - litert(to_tflite(quantised), x)
    # The float part is summed in another order: a value next to a rounding boundary may fall to either side.
    steps = np.abs(difference) / output_scale(quantised)
    assert (steps > 0.01).mean() <= 0.05
    assert steps.max() < 1.01


def test_a_drift_of_one_scale_is_seen() -> None:
    graph = mobile_net()
    x = torch.rand(8, 3, 32, 32) * 2 - 1
    quantised = quantise(graph, x)
    expected = litert(to_tflite(quantised), x)
    name = next(n for n, _ in quantised.named_buffers() if n.startswith("conv2d_5_scale"))
    getattr(quantised, name).mul_(1.01)
    assert not np.array_equal(Simulator(quantised).run(x)[0].numpy(), expected)
