"""Activations that TensorFlow's converter takes apart, put together again: hard-sigmoid and hard-swish.

    relu6(x + 3) / 6         hardsigmoid(x)
    x * relu6(x + 3) / 6     hardswish(x)

The factor 1/6 stands at any place of the product, as a multiplication or a division.
"""

from __future__ import annotations

import math

from torch import fx

from mcc.ir.graph import Graph, add_call, calls, constant, is_constant, op_name
from mcc.ir.notes import absorb

SIXTH = 1 / 6
NEAR = 1e-6  # of a factor, relative: converters round 1/6 to float32


def restore_hard_activations(graph: Graph) -> None:
    """Replace the patterns, in place. What they leave behind without readers is removed by `clean`."""
    for node in calls(graph, "mul", "div"):
        gated = _hard_sigmoid(graph, node)
        if gated is not None:
            _replace(graph, node, "hardsigmoid", gated)
    for node in calls(graph, "mul", "div"):
        gated = _hard_swish(graph, node)
        if gated is not None:
            _replace(graph, node, "hardswish", gated)


def _replace(graph: Graph, node: fx.Node, op: str, x: fx.Node) -> None:
    made = add_call(graph, node, op, x, name=node.name)
    absorb(made, node)
    node.replace_all_uses_with(made)


def _pair(node: object, op: str) -> tuple[fx.Node, fx.Node] | None:
    """The operands of an operator without a fused activation."""
    if not isinstance(node, fx.Node) or node.op != "call_function" or op_name(node) != op:
        return None
    a, b = node.args[:2]
    return (a, b) if isinstance(a, fx.Node) and isinstance(b, fx.Node) else None


def _number(graph: Graph, node: fx.Node) -> float:
    """The number that a constant of one element holds; NaN for anything else."""
    if not is_constant(node) or constant(graph, node).numel() != 1:
        return math.nan
    return float(constant(graph, node).reshape(()))


def _times(graph: Graph, node: object, factor: float) -> fx.Node | None:
    """The value that a node multiplies by this number, or divides by its reciprocal."""
    if not isinstance(node, fx.Node) or node.kwargs.get("activation") != "none":
        return None
    for op, wanted in (("mul", factor), ("div", 1 / factor)):
        for value, number in _orders(_pair(node, op), both=op == "mul"):
            if math.isclose(_number(graph, number), wanted, rel_tol=NEAR):
                return value
    return None


def _orders(pair: tuple[fx.Node, fx.Node] | None, *, both: bool = True) -> list[tuple[fx.Node, fx.Node]]:
    return [] if pair is None else [pair, (pair[1], pair[0])][: 1 + both]


def _gate(graph: Graph, node: fx.Node) -> fx.Node | None:
    """x of relu6(x + 3)."""
    total: object = node
    if node.op == "call_function" and op_name(node) == "relu6":
        total = node.args[0]
    elif node.kwargs.get("activation") != "relu6":
        return None
    if total is not node and isinstance(total, fx.Node) and total.kwargs.get("activation") != "none":
        return None
    for value, number in _orders(_pair(total, "add")):
        if math.isclose(_number(graph, number), 3.0, rel_tol=NEAR):
            return value
    return None


def _hard_sigmoid(graph: Graph, node: fx.Node) -> fx.Node | None:
    gate = _times(graph, node, SIXTH)
    return None if gate is None else _gate(graph, gate)


def _hard_swish(graph: Graph, node: fx.Node) -> fx.Node | None:
    if node.kwargs.get("activation") != "none":
        return None
    product = _times(graph, node, SIXTH)
    if product is not None and product.kwargs.get("activation") == "none":
        for x, gate in _orders(_pair(product, "mul")):
            if _gate(graph, gate) is x:
                return x
    for x, other in _orders(_pair(node, "mul")):
        if op_name(other) == "hardsigmoid" and other.args[0] is x:
            return x
        scaled = _times(graph, x, SIXTH)
        if scaled is not None and _gate(graph, other) is scaled:
            return scaled
    return None
