"""insert-qdq and strip-qdq: where quantisers stand, what they share, and what they refuse."""

from __future__ import annotations

import pytest
import torch
from torch import fx

from mcc.errors import DataError, Refusal, UsageError, VerificationError
from mcc.ir.graph import Graph, GraphBuilder, calls, constant, copy_graph, op_name, operand, run, set_buffer
from mcc.ir.notes import annotate
from mcc.ir.text import print_graph
from mcc.pass_api import PassContext, apply_pass
from mcc.pipeline import Pipeline
from mcc.quant.params import quant_params
from mcc.quant.ranges import Histogram, Range, observe_values, weight_scales
from mcc.quant.regions import integer_nodes
from passes.insert_qdq import InsertQdq, check_once
from passes.strip_qdq import StripQdq


def weight(b: GraphBuilder, name: str, *shape: int, gain: float = 1.0) -> fx.Node:
    generator = torch.Generator().manual_seed(sum(name.encode()))
    return b.constant(name, torch.randn(shape, generator=generator) * gain)


def network() -> Graph:
    """Stem, inverted residual, concat, pool, head."""
    b = GraphBuilder()
    x = b.input("x", (1, 3, 12, 12))
    stem = b.conv2d(
        x, weight(b, "stem", 8, 3, 3, 3, gain=0.2), weight(b, "stem_bias", 8),
        padding=(1, 1, 1, 1), stride=(2, 2), activation="relu6",
    )  # fmt: skip
    wide = b.conv2d(stem, weight(b, "wide", 16, 8, 1, 1, gain=0.3), None, activation="relu6")
    deep = b.conv2d(
        wide, weight(b, "deep", 16, 1, 3, 3, gain=0.3), weight(b, "deep_bias", 16),
        padding=(1, 1, 1, 1), groups=16, activation="relu6",
    )  # fmt: skip
    thin = b.conv2d(deep, weight(b, "thin", 8, 16, 1, 1, gain=0.3), None)
    total = b.add(stem, thin, name="total")
    both = b.concat(total, stem, axis=1)
    pooled = b.max_pool2d(both, kernel=(2, 2), stride=(2, 2))
    flat = b.mean(pooled, axes=(2, 3))
    head = b.linear(flat, weight(b, "head", 5, 16), weight(b, "head_bias", 5))
    return b.finish(head)


def data(graph: Graph, count: int = 32) -> torch.Tensor:
    shape = graph.graph.find_nodes(op="placeholder")[0].meta["mcc"].type.shape
    return torch.randn((count, *shape[1:]), generator=torch.Generator().manual_seed(1))


def quantised(graph: Graph, step: InsertQdq | None = None, ctx: PassContext | None = None) -> Graph:
    return apply_pass(step or InsertQdq(), graph, ctx or PassContext((data(graph),)))


def named(graph: Graph, name: str) -> fx.Node:
    return next(node for node in graph.graph.nodes if node.name == name)


def test_every_operator_of_a_cnn_runs_on_integers() -> None:
    graph = network()
    ctx = PassContext((data(graph),))
    result = quantised(graph, ctx=ctx)
    running = integer_nodes(result)
    assert set(running) == {node for node in calls(result) if op_name(node) != "fake_quantize"}
    assert not ctx.refusals
    assert all(entry.requantise == "none" for entry in running.values())


def test_the_quantised_graph_computes_nearly_the_same() -> None:
    graph = network()
    x = data(graph)
    before, after = run(graph, x)[0], run(quantised(graph), x)[0]
    assert float((before - after).square().mean()) < 1e-3 * float(before.square().mean())
    assert not torch.equal(before, after)


def test_parameters_are_buffers_that_no_optimiser_sees() -> None:
    graph = network()
    result = quantised(graph)
    assert {n for n, _ in result.named_parameters()} == {n for n, _ in graph.named_parameters()}
    made = [name for name, _ in result.named_buffers() if name.endswith(("_scale", "_zero_point"))]
    assert len(made) == len(list(result.named_buffers()))


def test_concat_and_pool_share_one_scale_and_the_mean_has_its_own() -> None:
    result = quantised(network())
    scales = {name: operand(named(result, name), 1) for name in ("total_q", "concat_q", "max_pool2d_q")}
    assert len(set(scales.values())) == 1
    assert operand(named(result, "mean_q"), 1) not in scales.values()


def concat_of(gain: float) -> Graph:
    b = GraphBuilder()
    x = b.input("x", (1, 3, 6, 6))
    wide = b.conv2d(x, weight(b, "a", 4, 3, 1, 1), None, name="wide")
    narrow = b.conv2d(x, weight(b, "a_", 4, 3, 1, 1, gain=gain), None, name="narrow")
    joined = b.concat(wide, narrow, axis=1, name="joined")
    return b.finish(b.conv2d(joined, weight(b, "reads", 1, 8, 1, 1), None))


@pytest.mark.parametrize(("gain", "shared"), [(0.7, True), (0.2, False)])
def test_what_would_widen_more_than_twofold_is_requantised(gain: float, shared: bool) -> None:
    graph = concat_of(gain)
    ctx = PassContext((data(graph),))
    result = quantised(graph, InsertQdq(observer="minmax"), ctx)
    joined, narrow = (operand(named(result, f"{name}_q"), 1) for name in ("joined", "narrow"))
    assert (joined is narrow) == shared
    assert ctx.counts["requantised"] == (not shared)
    kind = integer_nodes(result)[named(result, "joined")].requantise
    assert kind == ("none" if shared else "inputs")


@pytest.mark.parametrize(("size", "tied"), [(2, True), (12, False)])
def test_average_pool_is_tied_unless_its_mean_would_be_lost(size: int, tied: bool) -> None:
    """The mean of a wide map without bias is small beside the map, whose scale the kernel cannot change."""
    b = GraphBuilder()
    x = b.input("x", (1, 3, 24, 24))
    y = b.conv2d(x, weight(b, "a", 4, 3, 1, 1), None)
    pooled = b.avg_pool2d(y, kernel=(size, size), stride=(size, size))
    graph = b.finish(b.conv2d(pooled, weight(b, "reads", 1, 4, 1, 1), None))
    ctx = PassContext((data(graph),))
    result = quantised(graph, InsertQdq(observer="minmax"), ctx)
    scales = [operand(named(result, f"{name}_q"), 1) for name in ("conv2d", "avg_pool2d")]
    assert (scales[0] is scales[1]) == tied
    assert len(integer_nodes(result)) == 2 + tied
    assert [node for node, _ in ctx.refusals] == ([] if tied else ["avg_pool2d"])


def test_a_lone_relu_gives_its_range_to_what_it_clamps() -> None:
    b = GraphBuilder()
    x = b.input("x", (1, 3, 6, 6))
    y = b.conv2d(x, weight(b, "a", 4, 3, 1, 1), None)
    graph = b.finish(b.relu(y))
    result = quantised(graph)
    params = quant_params(result, named(result, "conv2d_q"))
    assert params.zero_point == -128
    assert params.same_mapping(quant_params(result, named(result, "relu_q")))


@pytest.mark.parametrize(
    ("op", "scale", "zero"), [("sigmoid", 1 / 256, -128), ("softmax", 1 / 256, -128), ("tanh", 1 / 128, 0)]
)
def test_dictated_scales(op: str, scale: float, zero: int) -> None:
    b = GraphBuilder()
    x = b.input("x", (1, 3, 6, 6))
    y = b.conv2d(x, weight(b, "a", 4, 3, 1, 1), None)
    z = b.call(op, y, **({"axis": 1} if op == "softmax" else {}))
    graph = b.finish(b.reshape(z, shape=(144,)))
    result = quantised(graph)
    for name in (f"{op}_q", "reshape_q"):
        params = quant_params(result, named(result, name))
        assert (params.scales, params.zero_points) == ((scale,), (zero,))
    assert len(integer_nodes(result)) == 3


def test_precision_notes_decide() -> None:
    graph = network()
    annotate(named(graph, "conv2d_1"), precision="int7")
    annotate(named(graph, "linear"), precision="float")
    result = quantised(graph)
    limits = {
        str(operand(n, 0).target): n.kwargs["qmax"]
        for n in calls(result, "fake_quantize")
        if n.kwargs["axis"] == 0
    }
    assert limits == {"stem": 127, "wide": 63, "deep": 127, "thin": 127}
    head = named(result, "linear")
    assert op_name(operand(head, 0)) == "fake_quantize"
    assert operand(head, 1).target == "head"
    assert list(head.users) == [named(result, "output")]
    whole = quantised(graph, InsertQdq(precision="int7"))
    assert all(n.kwargs["qmax"] == 63 for n in calls(whole, "fake_quantize") if n.kwargs["axis"] == 0)


def test_float_layers_keep_plain_operators_between_them_in_float() -> None:
    graph = network()
    for node in calls(graph, "conv2d", "linear"):
        annotate(node, precision="float")
    result = quantised(graph, ctx=PassContext())  # needs no data either: nothing is to be quantised
    assert not calls(result, "fake_quantize")


def test_an_operator_without_integer_kernel_that_was_asked_for_is_refused_by_name() -> None:
    b = GraphBuilder()
    x = b.input("x", (1, 3, 6, 6))
    y = b.gelu(b.conv2d(x, weight(b, "a", 4, 3, 1, 1), None))
    graph = b.finish(y)
    annotate(named(graph, "gelu"), precision="int8")
    ctx = PassContext((data(graph),))
    result = quantised(graph, ctx=ctx)
    assert ctx.refusals == [("gelu", "there is no integer kernel for gelu")]
    assert named(result, "output").args[0] == (named(result, "gelu"),)


def test_the_inner_tensor_of_a_low_rank_pair_has_its_own_scale() -> None:
    b = GraphBuilder()
    x = b.input("x", (1, 8, 6, 6))
    inner = b.conv2d(x, weight(b, "v", 2, 8, 1, 1), None, name="inner")
    graph = b.finish(b.conv2d(inner, weight(b, "u", 8, 2, 1, 1), None, name="outer"))
    result = quantised(graph)
    assert len({operand(named(result, f"{name}_q"), 1) for name in ("x", "inner", "outer")}) == 3


def test_a_near_dead_channel_keeps_its_bias_within_int32() -> None:
    b = GraphBuilder()
    x = b.input("x", (1, 3, 6, 6))
    w = torch.randn(4, 3, 1, 1)
    w[2] = 1e-12
    w[3] = 0.0
    bias = torch.tensor([0.1, 1e3, 5e4, 0.0])
    y = b.conv2d(x, b.constant("w", w), b.constant("bias", bias))
    graph = b.finish(b.conv2d(y, weight(b, "reads", 1, 4, 1, 1), None))
    result = quantised(graph)
    entry = next(iter(integer_nodes(result).values()))
    assert entry.weight is not None
    scales = torch.tensor(entry.weight.scales).double() * float(entry.inputs[0].scale)
    assert bool((bias.double().abs() / scales <= 2.0**30 * (1 + 1e-6)).all())
    assert float(scales.min()) > 0


def test_a_shared_weight_has_one_quantiser() -> None:
    b = GraphBuilder()
    x = b.input("x", (1, 4, 6, 6))
    w = weight(b, "w", 4, 4, 1, 1)
    graph = b.finish(b.conv2d(b.conv2d(x, w, None), w, None))
    result = quantised(graph)
    assert len([n for n in calls(result, "fake_quantize") if n.kwargs["axis"] == 0]) == 1
    assert len(integer_nodes(result)) == 2


def test_constant_operands_of_integer_sums_are_quantised() -> None:
    b = GraphBuilder()
    x = b.input("x", (1, 4, 6, 6))
    y = b.conv2d(x, weight(b, "w", 4, 4, 1, 1), None)
    scaled = b.mul(y, weight(b, "gain", 1, 4, 1, 1))
    graph = b.finish(b.conv2d(scaled, weight(b, "reads", 1, 4, 1, 1), None))
    assert len(integer_nodes(quantised(graph))) == 3


def test_an_input_that_float_operators_read_too_stays_float_for_them() -> None:
    b = GraphBuilder()
    x = b.input("x", (1, 4, 6, 6))
    y = b.conv2d(x, weight(b, "w", 4, 4, 1, 1), None)
    graph = b.finish(y, b.gelu(x))
    result = quantised(graph)
    assert operand(named(result, "gelu"), 0) is named(result, "x")
    assert operand(named(result, "conv2d"), 0) is named(result, "x_q")


def test_a_dead_branch_does_not_spoil_a_sum() -> None:
    b = GraphBuilder()
    x = b.input("x", (1, 4, 6, 6))
    alive = b.conv2d(x, weight(b, "w", 4, 4, 1, 1, gain=100.0), None)
    dead = b.conv2d(x, b.constant("dead", torch.full((4, 4, 1, 1), 1e-9)), None)
    graph = b.finish(b.conv2d(b.add(alive, dead), weight(b, "reads", 1, 4, 1, 1), None))
    assert len(integer_nodes(quantised(graph))) == 4


def test_refusals() -> None:
    graph = network()
    with pytest.raises(Refusal, match="needs calibration data"):
        quantised(graph, ctx=PassContext())
    with pytest.raises(DataError, match="not finite"):
        quantised(graph, ctx=PassContext((data(graph) * float("nan"),)))
    for options in ("precision=int4", "observer=mean", "weights=percentile"):
        with pytest.raises(UsageError, match=options.split("=", maxsplit=1)[0]):
            Pipeline.parse(f"insert-qdq{{{options}}}")


def test_a_batch_norm_behind_an_activation_stays_and_decomposed_runs_on_integers() -> None:
    """As ConvMixer has it: it cannot be folded, which is no reason to refuse the network."""
    b = GraphBuilder()
    x = b.conv2d(b.input("x", (1, 3, 8, 8)), weight(b, "stem", 8, 3, 3, 3), None, activation="relu")
    statistics = [b.constant(name, torch.linspace(0.5, 1.5, 8)) for name in ("gain", "shift", "mean", "var")]
    x = b.batch_norm(x, *statistics)
    graph = b.finish(b.conv2d(x, weight(b, "mixes", 8, 8, 1, 1), None))
    kept = quantised(graph)
    assert [op_name(node) for node in integer_nodes(kept)] == ["conv2d", "conv2d"]
    whole = quantised(Pipeline.parse("decompose{of=batch_norm}").run(graph).graph)
    assert [op_name(node) for node in integer_nodes(whole)] == ["conv2d", "mul", "add", "conv2d"]
    for result in (kept, whole):
        x, (wanted,), (made,) = data(graph), run(graph, data(graph)), run(result, data(graph))
        assert float((made - wanted).square().mean()) < 0.03**2 * float(wanted.square().mean())


def test_a_second_run_and_stripping() -> None:
    graph = network()
    once = quantised(graph)
    assert print_graph(quantised(once)) == print_graph(once)
    bare = apply_pass(StripQdq(), once, PassContext())
    assert not calls(bare, "fake_quantize")
    x = data(graph)
    assert torch.equal(run(bare, x)[0], run(graph, x)[0])


def test_ensures_bites() -> None:
    broken = copy_graph(quantised(network()))
    quantiser = calls(broken, "fake_quantize")[0]
    reader = next(iter(quantiser.users))
    with broken.graph.inserting_after(quantiser):
        again = broken.graph.node_copy(quantiser, lambda n: n)
    again.update_arg(0, quantiser)
    reader.replace_input_with(quantiser, again)
    with pytest.raises(VerificationError, match="quantised twice"):
        check_once(broken)
    assert print_graph(quantised(broken)) == print_graph(broken)  # somebody's file may be so
    with pytest.raises(VerificationError, match="was not rewritten by strip-qdq"):
        StripQdq().ensures(broken)


# -- ranges -----------------------------------------------------------------------------------------------


def test_observers_on_a_long_tail() -> None:
    """A thousand values in 0..1 and one at 100: each observer gives what it says."""
    b = GraphBuilder()
    x = b.input("x", (1, 1001))
    graph = b.finish(b.identity(x))
    batch = torch.cat([torch.linspace(0, 1, 1000), torch.tensor([100.0])])[None]
    node = named(graph, "x")
    ranges = {o: observe_values(graph, [node], [batch, batch / 2], o)[node].range for o in ("minmax", "mse")}
    assert ranges["minmax"] == Range(0.0, 100.0)
    assert ranges["mse"].high == pytest.approx(
        100.0, rel=0.05
    )  # one such error would outweigh all the others
    many = torch.cat([torch.randn(100_000), torch.tensor([30.0])])
    histogram = Histogram(float(many.min()), float(many.max()))
    histogram.add(many)
    assert histogram.range("percentile").high < 5
    assert histogram.range("minmax").high == 30


def test_mse_is_no_worse_than_minmax() -> None:
    value = torch.randn(4000) ** 3
    histogram = Histogram(float(value.min()), float(value.max()))
    histogram.add(value)

    def error(covered: Range) -> float:
        scale, zero = covered.grid()
        codes = torch.clamp(torch.round(value / scale) + zero, -128, 127)
        return float(((codes - zero) * scale - value).square().sum())

    assert error(histogram.range("mse")) < error(histogram.range("minmax"))


@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (0.0, 6.0), (2.0, 5.0), (-4.0, -1.0), (0.0, 0.0)])
def test_zero_is_an_integer(low: float, high: float) -> None:
    scale, zero = Range(low, high).grid()
    assert -128 <= zero <= 127
    assert scale > 0
    assert (-128 - zero) * scale <= low + scale / 2 + 1e-9 or low >= 0
    assert (127 - zero) * scale >= high - scale / 2 - 1e-9


def test_weight_scales_cover_each_channel() -> None:
    w = torch.randn(6, 5, 3, 3) * torch.logspace(-2, 1, 6)[:, None, None, None]
    assert torch.allclose(weight_scales(w, 0, 127, "minmax"), w.abs().amax((1, 2, 3)) / 127)
    clipped = weight_scales(w, 0, 63, "mse")
    assert bool((clipped <= weight_scales(w, 0, 63, "minmax") * (1 + 1e-6)).all())
    transposed = weight_scales(w, 1, 127, "minmax")
    assert transposed.shape == (5,)


def test_scale_gradient_is_that_of_learned_step_size() -> None:
    """Esser 2020, equation 3: round(v) - v inside the range, the bound outside; v passes straight through."""
    b = GraphBuilder()
    x = b.input("x", (1, 4))
    scale = b.constant("s", torch.tensor(0.5), trains=True)
    zero = b.constant("z", torch.tensor(0, dtype=torch.int32))
    graph = b.finish(b.fake_quantize(x, scale, zero, qmin=-128, qmax=127))
    value = torch.tensor([[0.6, -0.2, 100.0, -100.0]], requires_grad=True)
    graph(value)[0].sum().backward()
    assert value.grad is not None
    assert value.grad.tolist() == [[1.0, 1.0, 0.0, 0.0]]
    expected = (round(1.2) - 1.2) + (round(-0.4) + 0.4) + 127 - 128
    grad = constant(graph, "s").grad
    assert grad is not None
    assert float(grad) == pytest.approx(expected, abs=1e-6)
    set_buffer(graph, "s", torch.tensor(0.5))
    assert not list(graph.parameters())
