"""The scale table, integer weights and biases, and which nodes run on integers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from mcc.errors import GraphError
from mcc.ir.graph import Graph, GraphBuilder, calls
from mcc.quant.params import QuantParams, quant_params
from mcc.quant.regions import integer_nodes
from mcc.quant.scales import clamp_weight_scales, int32_bias, integer_weights, quantized_constant, scale_table
from mcc.quant.simulator import Simulator
from tests.quant.graphs import case_graph, quantise


def _conv(bias: Tensor, **changes: object) -> Graph:
    """x -> fake_quantize -> conv2d 1x1 of 2 channels -> fake_quantize, weights on the grid of their scale."""
    options = {"qmin": -127, "qmax": 127, "axis": 0} | changes
    b = GraphBuilder()
    zero = b.constant("zero", torch.tensor(0, dtype=torch.int32), trains=False)
    scale = b.constant("scale", torch.tensor(0.5), trains=False)
    x = b.fake_quantize(b.input("x", (1, 2, 1, 1)), scale, zero, name="x_q")
    weight = b.constant("weight", torch.tensor([[1.0, -2.0], [0.25, 0.5]]).reshape(2, 2, 1, 1))
    weight_scale = b.constant("weight_scale", torch.tensor([0.125, 0.0625]), trains=False)
    weight_zero = b.constant("weight_zero", torch.zeros(2, dtype=torch.int32), trains=False)
    w = b.fake_quantize(weight, weight_scale, weight_zero, name="w_q", **options)
    y = b.conv2d(x, w, b.constant("bias", bias), name="y")
    out = b.constant("out_scale", torch.tensor(0.25), trains=False)
    return b.finish(b.fake_quantize(y, out, zero, name="y_q"))


def test_scale_table_reads_every_fake_quantize() -> None:
    table = scale_table(_conv(torch.zeros(2)))
    assert list(table) == ["x_q", "w_q", "y_q"]
    assert table["w_q"] == QuantParams((0.125, 0.0625), (0, 0), -127, 127, 0)
    assert table["y_q"].scale == np.float32(0.25)


def test_integer_weights_bias_and_requantisation() -> None:
    graph = _conv(torch.tensor([0.09375, -0.046875]))  # 1.5 and -1.5 steps: ties go to the even neighbour
    (entry,) = integer_nodes(graph).values()
    weights = integer_weights(graph, entry)
    assert weights.weight.reshape(2, 2).tolist() == [[8, -16], [4, 8]]
    assert weights.bias_scale.tolist() == [0.0625, 0.03125]
    assert weights.bias.tolist() == [2, -2]
    assert weights.requantise.tolist() == [0.25, 0.125]


def test_weights_use_the_division_of_fake_quantize() -> None:
    graph = quantise(case_graph("conv3x3"), torch.randn(2, 8, 9, 9))
    node = next(n for n in calls(graph, "fake_quantize") if n.name.startswith("weight"))
    params = quant_params(graph, node)
    integers = quantized_constant(graph, node).astype(np.float32)
    real = integers * params.scale_vector.reshape(-1, 1, 1, 1)
    expected = node.target(  # type: ignore[operator]
        graph.weight, *(getattr(graph, str(a.target)) for a in node.args[1:]), **node.kwargs
    )
    assert np.array_equal(real, expected.detach().numpy())


def test_unsigned_ranges_are_shifted_to_int8() -> None:
    b = GraphBuilder()
    scale = b.constant("scale", torch.tensor(0.5), trains=False)
    zero = b.constant("zero", torch.tensor(3, dtype=torch.int32), trains=False)
    graph = b.finish(b.fake_quantize(b.input("x", (1, 4)), scale, zero, qmin=0, qmax=255, name="q"))
    assert scale_table(graph)["q"] == QuantParams((0.5,), (-125,), -128, 127)


@pytest.mark.parametrize(
    "changes",
    [{"qmin": -200, "qmax": 200}, {"axis": 1}],
    ids=["wider than int8", "wrong axis"],
)
def test_unfit_weights_stay_float(changes: dict[str, object]) -> None:
    assert not integer_nodes(_conv(torch.zeros(2), **changes))


def test_a_second_reader_keeps_a_node_float() -> None:
    graph = _conv(torch.zeros(2))
    assert [node.name for node in integer_nodes(graph)] == ["y"]
    y, quantiser = calls(graph, "conv2d")[0], calls(graph, "fake_quantize")[-1]
    with graph.graph.inserting_after(y):
        graph.graph.call_function(
            calls(graph, "fake_quantize")[0].target, y.args and (y, *quantiser.args[1:])
        )
    assert not integer_nodes(graph)


def test_an_untied_operator_that_moves_codes_is_requantised() -> None:
    graph = quantise(case_graph("max_pool"), torch.randn(2, 8, 9, 9))
    (entry,) = integer_nodes(graph).values()
    assert entry.requantise == "none"
    graph.register_buffer("other", torch.tensor(0.01))
    quantiser = entry.quantiser
    with graph.graph.inserting_before(quantiser):
        quantiser.update_arg(1, graph.graph.get_attr("other"))
    (entry,) = integer_nodes(graph).values()
    assert entry.requantise == "output"


def test_unusable_scales_are_named() -> None:
    graph = _conv(torch.zeros(2))
    graph.weight_scale.zero_()
    with pytest.raises(GraphError, match="w_q: unusable quantisation parameters: scales must be positive"):
        scale_table(graph)
    with pytest.raises(GraphError, match="takes 1 inputs, not 2"):
        Simulator(_conv(torch.zeros(2))).run(torch.zeros(1, 2, 1, 1), torch.zeros(1))


def test_near_dead_channels_keep_their_bias_in_range() -> None:
    bias = torch.tensor([1.0, -3.0])
    tiny = torch.tensor([1e-12, 0.1])
    raised = clamp_weight_scales(tiny, bias, 0.02)
    assert raised[1] == tiny[1]
    steps = int32_bias(bias, np.float32(0.02) * raised.numpy())
    assert 2**29 < steps[0] <= 2**30 + 2**8
    assert int32_bias(bias, np.float32(0.02) * tiny.numpy())[0] == np.iinfo(np.int32).max
    assert clamp_weight_scales(tiny, None, 0.02) is tiny
