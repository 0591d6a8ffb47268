"""Nodes of a network that run in XNNPACK's sparse path, or the reason why there are none.

The path is taken for a cluster of nodes, never for one layer. A cluster starts at a 3x3 convolution of stride
2 with 3 input channels and padding 1 on every side and ends in a global average pool; all operators computed
from the start must be supported in the cluster, and none of their values may be read outside or be an output.
(Rules of XNNPACK's `subgraph.c`, rewrite for NCHW, as measured with LiteRT 2.3.0 and LiteRT.js 2.5.3; they
may change between versions.)

Where a cluster starts but contains an unsupported operator, those runtimes still rewrite a part of it when
its weights are stored sparse, and compute *wrong numbers* without a warning (a max-pool in between: an error
of 26 % of the output's range; a 1x1 head after the pool: zeros). `SparseCluster.misread` is true where that
may happen.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from mcc.analysis.pointwise import is_pointwise
from mcc.ir import table
from mcc.ir.graph import Graph, calls, is_constant, op_name, operand, operands, outputs
from mcc.ir.notes import shape_of

ZERO_SHARE = 2 / 3  # minimum share of zeros of all 1x1 weights of a cluster; below it, it runs dense
# Lowered to several TFLite operators, with constants of one element, which are not four-dimensional.
SPELLED_OUT = frozenset({"softplus", "mish", "hardsigmoid"})
DEPTHWISE_PADDING = {3: (1, 1, 1, 1), 5: (2, 2, 2, 2)}


@dataclass(frozen=True)
class SparseCluster:
    """The part of a network that can run sparse.

    Attributes:
        nodes: Names in order; empty where the path is not taken.
        pointwise: The 1x1 convolutions among them, which run as sparse x dense products.
        reason: First reason why there is no cluster, in the graph's names; None for a cluster.
        misread: Whether sparse weights may give wrong results: a cluster starts, and is switched off.
    """

    nodes: tuple[str, ...]
    pointwise: tuple[str, ...]
    reason: str | None
    misread: bool = False


def _none(reason: str, *, started: bool = True) -> SparseCluster:
    return SparseCluster((), (), reason, misread=started)


def find_sparse_cluster(graph: Graph) -> SparseCluster:
    """The sparse cluster of a graph in deployment form, or the first reason why there is none."""
    start = next((node for node in calls(graph, "conv2d") if _stem_reason(node) is None), None)
    if start is None:
        first = next(iter(calls(graph, "conv2d")), None)
        if first is None:
            return _none("the network has no convolution", started=False)
        return _none(f"{first.name} {_stem_reason(first)}, so no cluster starts", started=False)
    returned = set(outputs(graph))
    inside: list[fx.Node] = []
    ends: set[fx.Node] = set()
    reached = {start}
    for node in calls(graph):
        if node not in reached:
            continue
        reason = None if node is start else _member_reason(node, reached - ends)
        if reason is not None:
            return _none(f"{node.name} {reason}, which switches off the cluster that starts at {start.name}")
        if node in returned and not _is_pool(node):
            return _none(f"{node.name} is an output of the network and inside the cluster")
        inside.append(node)
        if _is_pool(node) and not _gates(node):
            ends.add(node)
            continue
        reached.update(node.users)
    if not ends:
        return _none(f"the cluster that starts at {start.name} reaches no global average pool")
    thin = tuple(node.name for node in inside if op_name(node) == "conv2d" and is_pointwise(node))
    if not thin:
        return _none(f"the cluster that starts at {start.name} has no 1x1 convolution")
    return SparseCluster(tuple(node.name for node in inside), thin, None)


def _stem_reason(node: fx.Node) -> str | None:
    weight, given = shape_of(operand(node, 1)), node.kwargs
    if weight[2:] != (3, 3) or weight[1] != 3 or given["groups"] != 1:
        return "is no 3x3 convolution of 3 channels"
    if given["stride"] != (2, 2):
        return f"has stride {given['stride']} in place of 2"
    if given["padding"] != (1, 1, 1, 1):
        return "is not padded by 1 on every side"
    return None


def _is_pool(node: fx.Node) -> bool:
    return op_name(node) == "mean" and node.kwargs["axes"] == (2, 3)


def _gates(node: fx.Node) -> bool:
    """Whether a pool belongs to a squeeze-and-excitation gate: its result is a map, read by a 1x1."""
    return bool(node.kwargs["keepdim"]) and any(op_name(user) == "conv2d" for user in node.users)


def _member_reason(node: fx.Node, reached: set[fx.Node]) -> str | None:
    """The reason why a node is not supported in the cluster, or None if it is."""
    name = op_name(node)
    foreign = [arg for arg in operands(node) if arg not in reached and not is_constant(arg)]
    if foreign:
        return f"also reads {foreign[0].name}, which lies outside"
    if name == "conv2d":
        return None if is_pointwise(node) else _depthwise_reason(node)
    if name in ("add", "mul"):
        return _sum_reason(node)
    if (name == "resize" and node.kwargs["mode"] == "bilinear") or _is_pool(node):
        return None
    if table.row_of(node).unary and name not in SPELLED_OUT:
        return None
    return f"is {_a(name)}"


def _sum_reason(node: fx.Node) -> str | None:
    """The reason why a sum is not supported, or None. Constants keep NHWC order and give wrong results."""
    values = [arg for arg in operands(node) if not is_constant(arg)]
    if len(values) < 2:
        return f"is {_a(op_name(node))} with a constant"
    if values[0] is values[1]:
        return "reads one value twice"
    if any(len(shape_of(value)) != 4 for value in values):
        return "is not four-dimensional"
    return None


def _a(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def _depthwise_reason(node: fx.Node) -> str | None:
    weight, given = shape_of(operand(node, 1)), node.kwargs
    channels = shape_of(operand(node, 0))[1]
    if given["groups"] != channels or weight[0] != channels:
        return "is a convolution that is neither 1x1 nor depthwise"
    if weight[2] != weight[3] or DEPTHWISE_PADDING.get(weight[2]) != given["padding"]:
        return "is a depthwise convolution that is not 3x3 with padding 1 or 5x5 with padding 2"
    if given["dilation"] != (1, 1) or given["stride"] not in ((1, 1), (2, 2)):
        return "is a depthwise convolution with a dilation, or a stride beyond 2"
    return None
