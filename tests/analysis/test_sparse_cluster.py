"""Which networks XNNPACK's sparse path takes as a whole, and the reason where it does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx

from mcc.analysis.sparse_cluster import SparseCluster, find_sparse_cluster
from mcc.frontend.torch_module import capture
from mcc.ir.graph import Graph, GraphBuilder, calls, op_name
from mcc.ir.notes import shape_of
from mcc.pass_api import PassContext
from mcc.pipeline import Pipeline, RunOptions
from tools.baselines.networks import NETWORKS

Middle = Callable[["Plain", fx.Node], fx.Node]


class Plain:
    """A network in deployment form: stem, 1x1, depthwise, something in the middle, 1x1, pool, linear."""

    def __init__(self) -> None:
        self.b = GraphBuilder()
        self.x = self.b.input("x", (1, 3, 16, 16))

    def conv(self, x: fx.Node, out: int, kernel: int = 1, **options: Any) -> fx.Node:
        """Convolution with a bias, padded to keep the size unless told otherwise."""
        index = sum(op_name(node) == "conv2d" for node in self.b.graph.nodes)
        read = shape_of(x)[1] // options.get("groups", 1)
        options = {"padding": (kernel // 2,) * 4, "activation": "relu6", "name": f"conv{index}"} | options
        weight = self.b.constant(f"w{index}", torch.randn(out, read, kernel, kernel))
        return self.b.conv2d(x, weight, self.b.constant(f"b{index}", torch.randn(out)), **options)

    def depthwise(self, x: fx.Node, kernel: int = 3, **options: Any) -> fx.Node:
        """Depthwise convolution."""
        return self.conv(x, shape_of(x)[1], kernel, groups=shape_of(x)[1], **options)

    def linear(self, x: fx.Node) -> fx.Node:
        """Ten classes."""
        return self.b.linear(x, self.b.constant("head", torch.randn(10, shape_of(x)[1])), None, name="linear")


def _same(net: Plain, x: fx.Node) -> fx.Node:
    return x


def _network(middle: Middle = _same, **stem: Any) -> Graph:
    net = Plain()
    x = net.conv(net.x, 8, 3, name="stem", **({"stride": (2, 2)} | stem))
    x = net.depthwise(net.conv(x, 16))
    x = net.conv(middle(net, x), 24)
    return net.b.finish(net.linear(net.b.mean(x, axes=(2, 3), name="pool")))


def _gate(function: str) -> Middle:
    def middle(net: Plain, x: fx.Node) -> fx.Node:
        squeezed = net.conv(net.b.mean(x, axes=(2, 3), keepdim=True), 4, activation="relu")
        gate = net.b.call(function, net.conv(squeezed, shape_of(x)[1], activation="none"))
        return net.b.mul(x, gate)

    return middle


def _call(op: str, *constants: torch.Tensor, **attributes: Any) -> Middle:
    def middle(net: Plain, x: fx.Node) -> fx.Node:
        held = [net.b.constant(f"held{i}", value) for i, value in enumerate(constants)]
        return net.b.call(op, x, *held, name="middle", **attributes)

    return middle


ELIGIBLE: dict[str, Middle] = {
    "plain": _same,
    "residual": lambda net, x: net.b.add(x, net.depthwise(net.conv(x, 16))),
    "depthwise of stride 2": lambda net, x: net.depthwise(x, stride=(2, 2)),
    "depthwise 5x5": lambda net, x: net.depthwise(x, 5),
    "squeeze and excitation": _gate("sigmoid"),
    "hardswish": _call("hardswish"),
    "leaky_relu": _call("leaky_relu"),
    "silu": _call("silu"),
    "clamp": _call("clamp", min=-2.0, max=2.0),
    "bilinear": _call("resize", size=(16, 16), mode="bilinear"),
    "sum with a clamp": lambda net, x: net.b.add(x, net.conv(x, 16), activation="relu"),
}


@pytest.mark.parametrize("name", ELIGIBLE)
def test_eligible(name: str) -> None:
    graph = _network(ELIGIBLE[name])
    cluster = find_sparse_cluster(graph)
    assert cluster.reason is None
    assert not cluster.misread
    assert cluster.nodes[0] == "stem"
    assert cluster.nodes[-1] == "pool"
    inside = [node.name for node in calls(graph) if node.name != "linear"]
    assert list(cluster.nodes) == inside
    thin = [n.name for n in calls(graph, "conv2d") if shape_of(n.args[1])[2:] == (1, 1)]  # type: ignore[arg-type]
    assert list(cluster.pointwise) == thin


OFF = ", which switches off the cluster that starts at stem"
STEMS: dict[str, tuple[dict[str, Any], str]] = {
    "stride 1": ({"stride": (1, 1)}, "stem has stride (1, 1) in place of 2, so no cluster starts"),
    "TensorFlow's SAME": (
        {"padding": (0, 1, 0, 1)},
        "stem is not padded by 1 on every side, so no cluster starts",
    ),
}
INELIGIBLE: dict[str, tuple[Middle, str]] = {
    "max-pool": (
        _call("max_pool2d", kernel=(2, 2), stride=(2, 2)),
        f"middle is a max_pool2d{OFF}",
    ),
    "average pool": (
        _call("avg_pool2d", kernel=(2, 2), stride=(2, 2)),
        f"middle is an avg_pool2d{OFF}",
    ),
    "concatenation": (
        lambda net, x: net.b.concat(x, net.conv(x, 8), axis=1, name="joined"),
        f"joined is a concat{OFF}",
    ),
    "strided 1x1": (
        lambda net, x: net.conv(x, 16, stride=(2, 2), name="shortcut"),
        f"shortcut is a convolution that is neither 1x1 nor depthwise{OFF}",
    ),
    "3x3": (
        lambda net, x: net.conv(x, 16, 3, name="full"),
        f"full is a convolution that is neither 1x1 nor depthwise{OFF}",
    ),
    "grouped 1x1": (
        lambda net, x: net.conv(x, 16, groups=2, name="grouped"),
        f"grouped is a convolution that is neither 1x1 nor depthwise{OFF}",
    ),
    "depthwise 7x7": (
        lambda net, x: net.depthwise(x, 7, name="wide"),
        f"wide is a depthwise convolution that is not 3x3 with padding 1 or 5x5 with padding 2{OFF}",
    ),
    "depthwise of stride 3": (
        lambda net, x: net.depthwise(x, stride=(3, 3), name="far"),
        f"far is a depthwise convolution with a dilation, or a stride beyond 2{OFF}",
    ),
    "nearest": (_call("resize", size=(16, 16), mode="nearest"), f"middle is a resize{OFF}"),
    "hardsigmoid": (_call("hardsigmoid"), f"middle is a hardsigmoid{OFF}"),
    "gate of hardsigmoid": (_gate("hardsigmoid"), f"hardsigmoid is a hardsigmoid{OFF}"),
    "difference": (
        lambda net, x: net.b.sub(x, net.conv(x, 16), name="less"),
        f"less is a sub{OFF}",
    ),
    "input of another branch": (
        lambda net, x: net.b.add(x, net.b.input("y", (1, 16, 8, 8)), name="joined"),
        f"joined also reads y, which lies outside{OFF}",
    ),
    "offset of channels": (
        _call("add", torch.randn(1, 16, 1, 1)),
        f"middle is an add with a constant{OFF}",
    ),
    "prelu": (_call("prelu", torch.rand(16)), f"middle is a prelu{OFF}"),
    "doubling": (lambda net, x: net.b.add(x, x, name="twice"), f"twice reads one value twice{OFF}"),
    "gate without convolution": (
        lambda net, x: net.b.mul(x, net.b.mean(x, axes=(2, 3), keepdim=True, name="mood"), name="gated"),
        f"gated also reads mood, which lies outside{OFF}",
    ),
}


@pytest.mark.parametrize("name", STEMS)
def test_no_cluster_starts(name: str) -> None:
    stem, reason = STEMS[name]
    assert find_sparse_cluster(_network(**stem)) == SparseCluster((), (), reason, misread=False)


@pytest.mark.parametrize("name", INELIGIBLE)
def test_switched_off(name: str) -> None:
    middle, reason = INELIGIBLE[name]
    assert find_sparse_cluster(_network(middle)) == SparseCluster((), (), reason, misread=True)


def test_a_stem_of_other_channels_starts_nothing() -> None:
    b = GraphBuilder()
    x = b.input("x", (1, 1, 16, 16))
    weight = b.constant("w", torch.randn(8, 1, 3, 3))
    graph = b.finish(b.conv2d(x, weight, None, name="stem", stride=(2, 2), padding=(1, 1, 1, 1)))
    assert (
        find_sparse_cluster(graph).reason == "stem is no 3x3 convolution of 3 channels, so no cluster starts"
    )


def test_a_network_without_convolution() -> None:
    b = GraphBuilder()
    assert (
        find_sparse_cluster(b.finish(b.relu(b.input("x", (1, 8))))).reason == "the network has no convolution"
    )


def _finish(end: Callable[[Plain, fx.Node], tuple[fx.Node, ...]]) -> Graph:
    net = Plain()
    x = net.conv(net.conv(net.x, 8, 3, name="stem", stride=(2, 2)), 16, name="last")
    return net.b.finish(*end(net, x))


def test_an_output_inside_switches_it_off() -> None:
    graph = _finish(lambda net, x: (net.linear(net.b.mean(x, axes=(2, 3))), x))
    assert find_sparse_cluster(graph).reason == "last is an output of the network and inside the cluster"


def test_a_head_of_1x1_convolutions_behind_the_pool_switches_it_off() -> None:
    def head(net: Plain, x: fx.Node) -> tuple[fx.Node, ...]:
        pooled = net.b.mean(x, axes=(2, 3), keepdim=True)
        return (net.b.reshape(net.conv(pooled, 10, activation="none"), shape=(10,), name="scores"),)

    cluster = find_sparse_cluster(_finish(head))
    assert cluster.reason == f"scores is a reshape{OFF}"
    assert cluster.misread


def test_without_a_pool_there_is_no_end() -> None:
    graph = _finish(lambda net, x: (net.linear(net.b.reshape(x, shape=(16 * 64,), name="flat")),))
    assert find_sparse_cluster(graph).reason == f"flat is a reshape{OFF}"


def test_int8_has_no_cluster() -> None:
    quantise = Pipeline.parse("insert-qdq")
    context = PassContext((torch.randn(2, 3, 16, 16),))
    graph = quantise.run(_network(), context, RunOptions(verify=False)).graph
    cluster = find_sparse_cluster(graph)
    assert not cluster.nodes
    assert cluster.reason is not None
    assert "fake_quantize" in cluster.reason


def _captured(name: str) -> Graph:
    module, example, _ = NETWORKS[name]()
    return (
        Pipeline.parse("-O2").run(capture(module, (example,)), PassContext(), RunOptions(verify=False)).graph
    )


@pytest.mark.slow
def test_mobilenet_v2_is_eligible() -> None:
    graph = _captured("mobilenet_v2")
    cluster = find_sparse_cluster(graph)
    assert cluster.reason is None
    # Seventeen blocks with a projection, sixteen of them with an expansion, and the last 1x1.
    assert len(cluster.pointwise) == 17 + 16 + 1
    assert set(cluster.nodes) == {node.name for node in calls(graph) if op_name(node) != "linear"}


@pytest.mark.slow
def test_resnet20_is_not() -> None:
    cluster = find_sparse_cluster(_captured("resnet20"))
    assert not cluster.nodes
    assert cluster.reason is not None
    assert cluster.reason.endswith("has stride (1, 1) in place of 2, so no cluster starts")
