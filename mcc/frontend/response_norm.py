"""Global response normalisation (Woo 2023, ConvNeXt V2), which models spell out, put back together.

    g = sqrt(sum(x * x, A, keepdim=True))    over A, all axes but the batch and one
    n = g / (mean(g, that one, keepdim=True) + eps)
    y = x * n * weight + bias + x            in any order of the factors and of the terms

PyTorch and ONNX come to the same canonical operators, so it is looked for there, whatever was read. As one
operator its channels can be pruned; a mean over channels cannot lose any.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, fx

from mcc.ir import ops
from mcc.ir.graph import (
    Graph,
    add_constant,
    calls,
    constant,
    is_constant,
    op_name,
    operand,
    operands,
    set_constant,
    tensor_type,
)
from mcc.ir.notes import annotate, shape_of


class _Found(NamedTuple):
    """A normalisation: what it reads, the node of its result, its constants and attributes."""

    x: fx.Node
    last: fx.Node
    weight: fx.Node
    bias: fx.Node
    axis: int
    eps: float


def restore_response_norms(graph: Graph) -> None:
    """Put the operator in the place of every spelled-out normalisation; its parts stay, read by nothing."""
    for division in calls(graph, "div"):
        found = _find(graph, division)
        if found is not None:
            last = found.last
            last.target = ops.global_response_norm
            last.args = (found.x, *(_vector(graph, last, held) for held in (found.weight, found.bias)))
            last.kwargs = {"axis": found.axis, "eps": found.eps}


def _vector(graph: Graph, reader: fx.Node, held: fx.Node) -> fx.Node:
    """A constant of one entry per channel, [C]."""
    value = constant(graph, held).detach().reshape(-1)
    if set(held.users) - {reader}:
        return add_constant(graph, reader, str(held.target), value)
    set_constant(graph, str(held.target), value)
    annotate(held, type=tensor_type(value, held.name))
    return held


def _find(graph: Graph, division: fx.Node) -> _Found | None:
    """The normalisation whose n is this division."""
    norms, guarded = operand(division, 0), operand(division, 1)
    if not (is_call(norms, "sqrt") and is_call(guarded, "add")):
        return None
    energy, mean, eps = operand(norms, 0), *_value_and_constant(guarded)
    if not (
        is_call(energy, "sum") and is_call(mean, "mean") and operand(mean, 0) is norms and eps is not None
    ):
        return None
    squares = operand(energy, 0)
    x = operand(squares, 0) if is_call(squares, "mul") else None
    if x is None or operand(squares, 1) is not x or constant(graph, eps).numel() != 1:
        return None
    over: Any = (energy.kwargs["axes"], mean.kwargs["axes"])
    others, own = (sorted(axis % len(shape_of(x)) for axis in axes) for axes in over)
    kept = energy.kwargs["keepdim"] and mean.kwargs["keepdim"]
    if not kept or len(own) != 1 or sorted((*others, *own)) != list(range(1, len(shape_of(x)))):
        return None
    product = _with_both(division, "mul", x, own[0])
    total = _with_both(product[0], "add", x, own[0]) if product is not None else None
    if product is None or total is None:
        return None
    return _Found(x, total[0], product[1], total[1], own[0], _as_written(constant(graph, eps)))


def _as_written(number: Tensor) -> float:
    """The shortest decimal number that is this float32: 1e-6 in place of 9.999999974752427e-07."""
    return float(str(np.float32(number.item())))


def _with_both(value: fx.Node, op: str, x: fx.Node, axis: int) -> tuple[fx.Node, fx.Node] | None:
    """The value combined with x and with one constant per channel, in either order, and that constant."""
    held: fx.Node | None = None
    seen_x = False
    while held is None or not seen_x:
        reader = next(iter(value.users), None)
        if reader is None or len(value.users) != 1 or not is_call(reader, op):
            return None
        other = next((arg for arg in operands(reader) if arg is not value), value)
        if other is x and not seen_x:
            seen_x = True
        elif held is None and is_per_channel(other, shape_of(x), axis):
            held = other
        else:
            return None
        value = reader
    return value, held


def is_per_channel(held: fx.Node, shape: tuple[int, ...], axis: int) -> bool:
    """Whether a constant holds one entry for each index of an axis of a value that it is broadcast to."""
    own = (1,) * (len(shape) - len(shape_of(held))) + shape_of(held)
    return is_constant(held) and own == tuple(n if i == axis else 1 for i, n in enumerate(shape))


def _value_and_constant(node: fx.Node) -> tuple[fx.Node, fx.Node | None]:
    """The operands of a sum, a constant second."""
    a, b = operand(node, 0), operand(node, 1)
    a, b = (b, a) if is_constant(a) else (a, b)
    return a, b if is_constant(b) else None


def is_call(node: fx.Node, op: str) -> bool:
    """Whether a node is that operator, with no activation fused behind it."""
    called = node.op == "call_function" and op_name(node) == op
    return called and node.kwargs.get("activation", "none") == "none"
