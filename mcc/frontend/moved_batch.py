"""Operators on values whose batch axis the model sees elsewhere than in front, or does not see.

Attention moves the batch axis on its way, heads for sequences return [T, N, C], and files for one sample
squeeze it or fold it into another axis. The canonical form has the batch in front, so only what the model
sees is moved: an operator is called on the inner value, its axes counted there.

    seen [T, N, C], place 1      inner [N, T, C]      axis 0 is axis 1 of the inner value, axis 2 its axis 2
    seen [H, W], place None      inner [N, H, W]      axis 0 is axis 1 of the inner value, axis 1 its axis 2
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import fx

from mcc.frontend.values import AnyValue, Const, Turned
from mcc.ir import channels
from mcc.ir.table import row

if TYPE_CHECKING:
    from mcc.frontend.emitter import Emitter


def place_of(value: AnyValue) -> int | None:
    """Where the model sees the batch axis of a value; None where it does not see it."""
    return value.place if isinstance(value, Turned) else 0


def place_after(have: Sequence[int], place: int | None, out: Sequence[int], batch: int) -> int | None:
    """Where the batch axis lies after a reshape; None where it is seen no longer.

    Args:
        have, out: shapes before and after, at the captured batch.
        place: where it lay before.
    """
    candidates = [axis for axis, length in enumerate(out) if length == batch]
    if place is not None:
        before = math.prod(have[:place])
        for axis in candidates:
            if math.prod(out[:axis]) == before:
                return axis
    if batch != 1:
        return None
    # One axis of length 1 is as good as another, but linear layers need the last one.
    return next((axis for axis in candidates if axis == 0 or (place is None and axis < len(out) - 1)), None)


def call_moved(
    e: Emitter, op: str, args: Sequence[AnyValue | None], attributes: Mapping[str, Any]
) -> AnyValue | None:
    """An operator on such values; None where its operands need their batch axis in front."""
    known = row(op)
    values = [arg for arg in args if arg is not None]
    if op == "linear":
        return _linear(e, values[0], args[1:], attributes)
    if op == "pad":
        return _padded(e, values[0], attributes)
    if known.unary:
        nodes, place, _ = _aligned(e, values)
        return e.seen_at(e.call_node(op, *nodes, **attributes), place)
    if known.channels is channels.broadcasts or op == "matmul":
        nodes, place, _ = _aligned(e, values, free=2 if op == "matmul" else 0)
        return e.seen_at(e.call_node(op, *nodes, **attributes), place)
    if "axis" in known.attributes:
        nodes, place, rank = _aligned(e, values)
        axis = _inner(attributes["axis"] % rank, place)
        return e.seen_at(e.call_node(op, *nodes, **{**attributes, "axis": axis}), place)
    if "axes" in known.attributes:
        return _over_axes(e, op, values[0], args[1:], attributes)
    return None


def _inner(axis: int, place: int | None) -> int:
    """The axis of the inner value that the model sees as `axis`, which is not the batch."""
    return axis + 1 if place is None or axis < place else axis


def _linear(
    e: Emitter, x: AnyValue, constants: Sequence[AnyValue | None], attributes: Mapping[str, Any]
) -> AnyValue:
    nodes, place, _ = _aligned(e, [x], free=1)
    return e.seen_at(e.call_node("linear", *nodes, *constants, **attributes), place)


def _padded(e: Emitter, x: AnyValue, attributes: Mapping[str, Any]) -> AnyValue:
    (node,), place, _ = _aligned(e, [x])
    amounts = [pair for axis, pair in enumerate(attributes["padding"]) if axis != place]
    if place is not None and attributes["padding"][place] != (0, 0):
        e.refuse("pads the batch axis", "keep axis 0 for the batch")
    return e.seen_at(e.call_node("pad", node, **{**attributes, "padding": ((0, 0), *amounts)}), place)


def _over_axes(
    e: Emitter, op: str, x: AnyValue, constants: Sequence[AnyValue | None], attributes: Mapping[str, Any]
) -> AnyValue:
    """Reductions and layer norm; what stands before the batch axis and goes away moves it."""
    (node,), place, rank = _aligned(e, [x])
    axes = sorted(axis % rank for axis in attributes["axes"])
    given = {**attributes, "axes": tuple(_inner(axis, place) for axis in axes)}
    gone = [axis for axis in axes if not attributes.get("keepdim", True)]
    left = None if place is None else place - sum(axis < place for axis in gone)
    return e.seen_at(e.call_node(op, node, *constants, **given), left)


def _aligned(
    e: Emitter, values: Sequence[AnyValue], free: int = 0
) -> tuple[list[fx.Node | Const], int | None, int]:
    """Operands with their batch axis in front, where the model sees that axis, and the rank that it sees.

    Args:
        free: how many of the last axes the operator itself works on: the batch axis is none of these.

    Broadcasting aligns axes at their ends, so the batch axes of all must have one distance from there.
    """
    rank = max(len(e.shape(value)) for value in values)
    variable = [value for value in values if not isinstance(value, Const)]
    known = [(len(e.shape(v)), place) for v in variable if (place := place_of(v)) is not None]
    places = {rank - length + place for length, place in known}
    place = places.pop() if len(places) == 1 else None
    hidden = [_widened(e, value, rank) for value in variable if place_of(value) is None]
    if place is None or place >= rank - free or any(shape[place] != 1 for shape in hidden):
        if e.batch != 1:
            e.refuse("combines values whose batch axes lie at different places", "keep axis 0 for the batch")
        place = None
    return [_laid_out(e, value, rank, place) for value in values], place, rank


def _widened(e: Emitter, value: AnyValue, rank: int) -> tuple[int, ...]:
    """The shape that the model sees, with axes of length 1 in front up to a rank."""
    shape = e.shape(value)
    return (1,) * (rank - len(shape)) + shape


def _laid_out(e: Emitter, value: AnyValue, rank: int, place: int | None) -> fx.Node | Const:
    """A value of the seen rank with its batch axis in front; a constant without that axis."""
    if isinstance(value, Const):
        return _without(e, value, rank, place)
    shape = _widened(e, value, rank)
    inner = value.inner if isinstance(value, Turned) else e.node(value)
    return e.reshape(inner, [length for axis, length in enumerate(shape) if axis != place])


def _without(e: Emitter, const: Const, rank: int, place: int | None) -> Const:
    own = -1 if place is None else place - (rank - const.tensor.dim())
    if own < 0:
        return const
    rows = const.tensor.movedim(own, 0)
    if rows.shape[0] not in (1, e.batch) or not bool((rows == rows[:1]).all()):
        e.refuse("combines samples of a batch with constants that differ from sample to sample", "")
    return e.like(const, rows[0])
