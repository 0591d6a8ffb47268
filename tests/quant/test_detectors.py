"""Boxes and scores of detectors: what decodes them stays float, and how far they are off is judged."""

from __future__ import annotations

import pytest
import torch

from mcc.ir.graph import Graph, GraphBuilder, calls, constant, copy_graph, op_name, operand, set_buffer
from mcc.pass_api import PassContext, apply_pass
from mcc.quant.decoding import DECODES, decoding
from mcc.quant.detectors import last_layers, reads
from mcc.quant.noise import check_noise, without_quantisers
from mcc.quant.regions import integer_nodes
from passes.insert_qdq import InsertQdq
from tests.quant.detectors import HEADS, images, one_map, pixels_and_scores, ssd, yolo_v8
from tests.quant.graphs import mobile_net, residual_net


def quantised(graph: Graph) -> tuple[Graph, PassContext]:
    ctx = PassContext((images(64, 1),))
    return apply_pass(InsertQdq(), graph, ctx), ctx


@pytest.mark.parametrize("make", [ssd, yolo_v8])
def test_what_decodes_boxes_stays_float_by_node(make: object) -> None:
    graph = make()  # type: ignore[operator]
    result, ctx = quantised(graph)
    refused = dict(ctx.refusals)
    arithmetic = [node.name for node in calls(graph, "add", "sub", "mul")]
    assert arithmetic
    assert all(refused[name] == DECODES for name in arithmetic)
    running = {op_name(node) for node in integer_nodes(result)}
    assert "conv2d" in running
    assert not running & {"add", "sub", "mul"}


def test_sums_that_weights_follow_are_no_decoding() -> None:
    torch.manual_seed(0)
    for graph in (mobile_net(), residual_net()):
        assert not decoding(graph)
        assert not reads(graph)


def test_a_sum_that_is_an_output_and_read_by_weights_stays_integer() -> None:
    b = GraphBuilder()
    x = b.input("x", (1, 3, 32, 32))
    w = torch.randn(3, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    y = b.add(b.conv2d(x, b.constant("w", w), None), x, name="sum")
    graph = b.finish(y, b.conv2d(y, b.constant("v", w), None))
    assert not decoding(graph)


def test_a_mean_of_a_softmax_by_fixed_weights_is_decoding() -> None:
    """As YOLOv8 exports the distances: a convolution with weights 0..15."""
    b = GraphBuilder()
    x = b.conv2d(b.input("x", (1, 3, 8, 8)), b.constant("w", torch.randn(16, 3, 1, 1)), None, name="bins")
    shares = b.softmax(x, axis=1, name="shares")
    ramp = b.constant("ramp", torch.arange(16.0).reshape(1, 16, 1, 1))
    graph = b.finish(b.conv2d(shares, ramp, None, name="far"))
    assert {node.name for node in decoding(graph)} == {"shares", "far"}
    assert last_layers(graph)[0].name == "bins"


def test_only_detectors_are_judged_by_their_boxes() -> None:
    for name, (make, _) in HEADS.items():
        kinds = {read.scores for read in reads(make())}
        assert kinds == (set() if name in ("tanh", "one map, cut") else {True, False}), name
    assert not reads(one_map(cut=False))


def test_the_check_names_the_boxes_that_are_off() -> None:
    """A scale twice too narrow cuts the largest offsets; no signal is lost, and the boxes are wrong."""
    graph, _ = quantised(pixels_and_scores(40.0))
    assert not check_noise(graph, (images(32, 2),)).lost
    broken = copy_graph(graph)
    node = next(n for n in calls(broken, "fake_quantize") if operand(n, 0).name == "box_map")
    scale = str(operand(node, 1).target)
    set_buffer(broken, scale, constant(broken, operand(node, 1)).detach() / 2)
    report = check_noise(broken, (images(32, 2),))
    assert [found.node for found in report.lost] == ["pixels"]
    assert "of their range, 1% is allowed" in report.lost[0].words
    assert "99 of 100 boxes within" in report.words
    assert report.failure() is not None
    assert {node.name for node in calls(without_quantisers(broken))} >= {"pixels", "scores"}
