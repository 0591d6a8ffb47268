"""Plain 1x1 convolutions: matrix products over the channels of every pixel."""

from __future__ import annotations

from torch import fx

from mcc.ir.graph import Graph, calls, is_constant, operand
from mcc.ir.notes import shape_of


def is_pointwise(node: fx.Node) -> bool:
    """Whether a conv2d node is 1x1 without stride, padding or groups, with a constant weight of its own."""
    weight = operand(node, 1)
    return bool(
        shape_of(weight)[2:] == (1, 1)
        and node.kwargs["stride"] == (1, 1)
        and node.kwargs["padding"] == (0, 0, 0, 0)
        and node.kwargs["groups"] == 1
        and is_constant(weight)
    )


def pointwise(graph: Graph) -> list[fx.Node]:
    """The plain 1x1 convolutions of a graph, in order; those with a shared weight are excluded."""
    found = [node for node in calls(graph, "conv2d") if is_pointwise(node)]
    uses: dict[str, int] = {}
    for node in graph.graph.nodes:
        if is_constant(node):
            uses[str(node.target)] = uses.get(str(node.target), 0) + len(node.users)
    return [node for node in found if uses[str(operand(node, 1).target)] == 1]
