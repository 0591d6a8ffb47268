"""One-dimensional networks: a row [N, C, L] is a map of height 1, and stays one between its operators.

Norms fold into convolutions, activations fuse and integers are exact as in any other network, since between
two operators nothing but the map stands. What is no operator of rows reads the value as [N, C, L].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import fx

from mcc.frontend.values import AnyValue, Const, Expanded, Row
from mcc.ir import channels
from mcc.ir.table import row

if TYPE_CHECKING:
    from mcc.frontend.emitter import Emitter

RANK = 3
"""Axes of a row: batch, channels, length."""

_LENGTH = 3
"""The axis of a map that is the length of a row."""

_PER_CHANNEL = frozenset({channels.per_channel, channels.group_norm})


def as_map(e: Emitter, x: AnyValue) -> fx.Node:
    """The map of height 1 of a row; a map as it is."""
    if isinstance(x, Row):
        return x.inner
    shape = e.shape(x)
    return e.reshape(x, (shape[1], 1, shape[2])) if len(shape) == RANK else e.node(x)


def as_row(e: Emitter, x: AnyValue) -> Row:
    """The row of a map of height 1."""
    return Row(e.node(x))


def is_row_of(shape: Sequence[int], out: Sequence[int], batch: int) -> bool:
    """Whether a reshape takes the height of 1 from a map."""
    return len(shape) == RANK + 1 and shape[2] == 1 and tuple(out) == (batch, shape[1], shape[3])


def call_rows(
    e: Emitter, op: str, args: Sequence[AnyValue | None], attributes: Mapping[str, Any]
) -> AnyValue | None:
    """An operator on rows; None where it is none of theirs."""
    known = row(op)
    values = [arg for arg in args if arg is not None]
    if known.unary or (known.channels in _PER_CHANNEL and isinstance(values[0], Row)):
        return as_row(e, e.call_node(op, as_map(e, values[0]), *args[1:], **attributes))
    variable = [value for value in values if not isinstance(value, Const)]
    if any(len(e.shape(value)) != RANK or isinstance(value, Expanded) for value in variable):
        return None
    if known.channels is channels.broadcasts:
        return as_row(e, e.call_node(op, *(_laid_out(e, value) for value in values), **attributes))
    if op == "pad":
        batch, own, length = attributes["padding"]
        given = {**attributes, "padding": (batch, own, (0, 0), length)}
        return as_row(e, e.call_node(op, as_map(e, values[0]), **given))
    if op in ("concat", "slice", "softmax"):
        axis = _inner(attributes["axis"])
        maps = [as_map(e, value) for value in values]
        return as_row(e, e.call_node(op, *maps, **{**attributes, "axis": axis}))
    return _reduced(e, op, values[0], attributes) if known.channels is channels.reduces else None


def _inner(axis: int) -> int:
    """The axis of the map for one of the row."""
    return _LENGTH if axis % RANK == RANK - 1 else axis % RANK


def _laid_out(e: Emitter, value: AnyValue) -> AnyValue:
    """An operand of broadcasting: the height of 1 comes in front of the length."""
    if not isinstance(value, Const):
        return as_map(e, value)
    tensor = e.one_row(value, RANK).tensor
    return e.like(value, tensor.unsqueeze(-2)) if tensor.dim() > 1 else value


def _reduced(e: Emitter, op: str, x: AnyValue, attributes: Mapping[str, Any]) -> AnyValue:
    """A mean, sum or maximum: over the length it is one over the map, which has kernels of its own."""
    axes = {axis % RANK for axis in attributes["axes"]}
    if axes == {1} and not attributes["keepdim"]:
        node = e.call_node(op, as_map(e, x), axes=(1,), keepdim=False)
        return e.reshape(node, e.shape(node)[2:])
    inner = tuple(sorted(({2} if 2 in axes else set[int]()) | {_inner(axis) for axis in axes}))
    node = e.call_node(op, as_map(e, x), axes=inner, keepdim=attributes["keepdim"])
    return as_row(e, node) if attributes["keepdim"] else node
