"""Layers say what they compute and hold, and what can be done to them."""

import dataclasses

from mcc.ir.graph import calls
from mcc.ir.notes import annotate
from mcc.pass_api import PassContext, apply_pass
from mcc.quant.regions import integer_nodes
from mcc.report.layers import Move, inspect_layers
from mcc.runtime.litert_host import TARGET as LITERT
from passes.insert_qdq import InsertQdq
from tests.quant.detectors import images, pixels_and_scores
from tests.report.networks import classifier


def test_figures_by_hand() -> None:
    layers = {layer.node: layer for layer in inspect_layers(classifier())}
    assert list(layers) == ["stem", "deep", "wide", "pool", "head"]
    assert layers["stem"].kind == "conv2d 3x3"
    assert layers["deep"].kind == "depthwise 3x3"
    assert layers["wide"].kind == "conv2d 1x1"
    assert layers["stem"].macs == 8 * 16 * 16 * 3 * 9
    assert layers["stem"].params == 8 * 3 * 9 + 8
    assert layers["deep"].macs == 8 * 16 * 16 * 9
    assert layers["wide"].macs == 16 * 8 * 16 * 16
    assert layers["head"].macs == 160
    assert layers["wide"].activation_bytes == 16 * 16 * 16 * 4
    assert layers["head"].shape == (1, 10)


def test_what_can_be_done_and_why_not() -> None:
    layers = {layer.node: layer for layer in inspect_layers(classifier())}
    stem, wide, head, pool = layers["stem"], layers["wide"], layers["head"], layers["pool"]
    assert stem.prune is not None
    assert stem.prune.possible
    assert stem.sparse is not None
    assert stem.sparse.why_not == "is 3x3, not 1x1"
    assert wide.sparse is not None
    assert wide.sparse.possible
    assert wide.low_rank is not None
    assert wide.low_rank.possible
    assert head.prune is not None
    assert not head.prune.possible
    assert "output of the network" in (head.prune.why_not or "")
    assert head.sparse is not None
    assert head.sparse.why_not == "is no convolution but linear"
    assert pool.prune is pool.sparse is pool.low_rank is None
    assert all(layer.int8.possible for layer in layers.values())
    assert layers["deep"].group == layers["stem"].group


def test_the_target_has_a_say() -> None:
    layers = {layer.node: layer for layer in inspect_layers(classifier(), LITERT.facts())}
    sparse = layers["wide"].sparse
    assert sparse is not None
    assert not sparse.possible
    assert "never on x86" in (sparse.why_not or "")


def test_sparse_is_decided_for_a_whole_cluster() -> None:
    rewarding = dataclasses.replace(LITERT.facts(), sparse_1x1=True)

    def why_not(**kind: bool) -> str | None:
        layers = {layer.node: layer for layer in inspect_layers(classifier(**kind), rewarding)}
        sparse = layers["wide"].sparse
        assert sparse is not None
        return sparse.why_not

    assert why_not() is None
    assert "norm" in (why_not(batch_norm=True) or "")


def test_frozen_layers_and_layers_without_integer_kernel() -> None:
    graph = classifier(batch_norm=True)
    annotate(calls(graph, "conv2d")[2], frozen="the user said so")
    layers = {layer.node: layer for layer in inspect_layers(graph)}
    for move in (layers["wide"].prune, layers["wide"].sparse, layers["wide"].low_rank, layers["wide"].int8):
        assert move is not None
        assert move.why_not == "the user said so"
    assert layers["norm"].int8.why_not == "has no integer kernel: it runs in float"


def test_quantisers_are_no_layers() -> None:
    float_layers = inspect_layers(classifier())
    layers = inspect_layers(classifier(quantised=True))
    figures = [(x.node, x.kind, x.shape, x.macs, x.params, x.activation_bytes) for x in layers]
    assert figures == [(x.node, x.kind, x.shape, x.macs, x.params, x.activation_bytes) for x in float_layers]
    sparse = layers[2].sparse
    assert sparse is not None
    assert sparse.why_not == "has a weight that is quantised already"


def test_where_only_numbers_decide_nothing_is_claimed_of_int8_without_data() -> None:
    graph = pixels_and_scores(300.0, ends_in_conv=True)
    layers = {layer.node: layer for layer in inspect_layers(graph)}
    assert layers["joined"].int8 == Move(possible=True, depends_on="calibration data")
    assert layers["scores"].int8.depends_on
    assert layers["last_map"].int8.depends_on
    assert layers["second_map"].int8 == Move(possible=True)


def test_with_data_each_layer_says_what_insert_qdq_decides() -> None:
    graph, data = pixels_and_scores(300.0, ends_in_conv=True), (images(64, 1),)
    layers = {layer.node: layer for layer in inspect_layers(graph, calibration=data)}
    ctx = PassContext(data)
    result = apply_pass(InsertQdq(), graph, ctx)
    refused = dict(ctx.refusals)
    assert {"joined", "last_map"} <= set(refused)
    assert {name: layer.int8.why_not for name, layer in layers.items() if not layer.int8.possible} == refused
    assert {node.name for node in integer_nodes(result)} <= {n for n, v in layers.items() if v.int8.possible}
    assert not any(layer.int8.depends_on for layer in layers.values())
