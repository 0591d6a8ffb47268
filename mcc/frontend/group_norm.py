"""Group normalisation that exporters spell as instance normalisation of grouped channels, put back together.

    g = reshape(x, (G, rest))               x [N, C, ...]
    n = group_norm(g, groups=G)             one group for each of its G channels
    y = reshape(n, (C, ...)) * w + b        w, b one number for each of the C channels; either may be missing

becomes `group_norm(x, w, b, groups=G)`, of which channels can be pruned; a reshape of channels keeps all.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from mcc.frontend.response_norm import is_call, is_per_channel
from mcc.ir import ops
from mcc.ir.graph import (
    Graph,
    add_constant,
    calls,
    constant,
    is_constant,
    operand,
    operands,
    optional_operand,
)
from mcc.ir.notes import shape_of


def restore_group_norms(graph: Graph) -> None:
    """Put the operator in the place of every such group of operators; its parts stay, read by nothing."""
    for norm in calls(graph, "group_norm"):
        grouped, back = operand(norm, 0), _only_reader(norm)
        if back is None or not (is_call(grouped, "reshape") and is_call(back, "reshape")):
            continue
        x, groups = operand(grouped, 0), int(norm.kwargs["groups"])  # pyright: ignore[reportArgumentType]
        shape = shape_of(x)
        one_each = shape_of(grouped)[1] == groups
        if not one_each or len(shape) < 3 or shape_of(back) != shape or shape[1] % groups:
            continue
        _restore(graph, norm, back, x)


def _restore(graph: Graph, norm: fx.Node, back: fx.Node, x: fx.Node) -> None:
    channels, groups = shape_of(x)[1], shape_of(norm)[1]
    weight, bias = (
        _per_channel(graph, optional_operand(norm, index), channels // groups, fill, groups)
        for index, fill in ((1, 1.0), (2, 0.0))
    )
    last, factor = _scaled_by(graph, back, "mul", shape_of(x))
    if factor is not None:
        weight, bias = weight * factor, bias * factor
    last, shift = _scaled_by(graph, last, "add", shape_of(x))
    if shift is not None:
        bias = bias + shift
    held = [add_constant(graph, last, f"{last.name}_{n}", v) for n, v in (("weight", weight), ("bias", bias))]
    last.target = ops.group_norm
    last.args = (x, *held)
    last.kwargs = {"groups": groups, "eps": norm.kwargs["eps"]}


def _per_channel(graph: Graph, held: fx.Node | None, repeat: int, fill: float, groups: int) -> Tensor:
    """The affine numbers of the inner norm for each channel."""
    value = torch.full((groups,), fill) if held is None else constant(graph, held).detach().float()
    return value.repeat_interleave(repeat)


def _scaled_by(
    graph: Graph, value: fx.Node, op: str, shape: tuple[int, ...]
) -> tuple[fx.Node, Tensor | None]:
    """The reader that combines a value with one number per channel, and these; else the value itself."""
    reader = _only_reader(value)
    if reader is None or not is_call(reader, op):
        return value, None
    other = next((arg for arg in operands(reader) if arg is not value), value)
    if not is_constant(other):
        return value, None
    held = constant(graph, other).detach().reshape(-1)
    known = held.numel() == 1 or is_per_channel(other, shape, 1)
    return (reader, held.expand(shape[1])) if known else (value, None)


def _only_reader(node: fx.Node) -> fx.Node | None:
    readers = list(node.users)
    return readers[0] if len(readers) == 1 else None
