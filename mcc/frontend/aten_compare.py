"""ATen rules: comparisons and choices, see `mcc.frontend.masks`."""

from __future__ import annotations

from functools import partial

from mcc.frontend import masks
from mcc.frontend.aten import aten
from mcc.frontend.emitter import Emitter
from mcc.frontend.values import AnyValue

Operand = masks.Operand


def _compare(op: str, e: Emitter, x: AnyValue, other: Operand) -> AnyValue:
    return masks.compare(e, op, x, other)


for _op in ("gt", "ge", "lt", "le", "eq", "ne"):
    aten(f"{_op}.Tensor", f"{_op}.Scalar")(partial(_compare, _op))


@aten("logical_and.default", "bitwise_and.Tensor", "__and__.Tensor")
def logical_and(e: Emitter, x: AnyValue, other: AnyValue) -> AnyValue:
    """Of two masks."""
    return masks.both(e, x, other)


@aten("logical_or.default", "bitwise_or.Tensor", "__or__.Tensor")
def logical_or(e: Emitter, x: AnyValue, other: AnyValue) -> AnyValue:
    """Of two masks."""
    return masks.either(e, x, other)


@aten("logical_not.default", "bitwise_not.default")
def logical_not(e: Emitter, x: AnyValue) -> AnyValue:
    """Of a mask."""
    return masks.negated(e, x)


@aten("sign.default", "sgn.default")
def sign(e: Emitter, x: AnyValue) -> AnyValue:
    """-1, 0 or 1."""
    return e.call("sign", x)


@aten("where.self", "where.ScalarOther", "where.ScalarSelf", "where.Scalar")
def where(e: Emitter, condition: AnyValue, x: Operand, other: Operand) -> AnyValue:
    """x where the condition holds, other elsewhere."""
    return masks.where(e, condition, x, other)


@aten("masked_fill.Scalar", "masked_fill.Tensor")
def masked_fill(e: Emitter, x: AnyValue, mask: AnyValue, value: Operand) -> AnyValue:
    """A value where the mask holds, x elsewhere."""
    return masks.where(e, mask, value, x)


@aten("softshrink.default")
def softshrink(e: Emitter, x: AnyValue, lambd: float = 0.5) -> AnyValue:
    """x without its part in [-lambd, lambd]: x - clamp(x, -lambd, lambd)."""
    return e.broadcast("sub", x, e.call("clamp", x, min=-float(lambd), max=float(lambd)))


@aten("hardshrink.default")
def hardshrink(e: Emitter, x: AnyValue, lambd: float = 0.5) -> AnyValue:
    """x outside of [-lambd, lambd], else 0."""
    return e.broadcast("mul", x, masks.compare(e, "gt", e.call("abs", x), float(lambd)))


@aten("threshold.default")
def threshold(e: Emitter, x: AnyValue, threshold: float, value: float) -> AnyValue:
    """x above a threshold, else a value."""
    return masks.where(e, masks.compare(e, "gt", x, threshold), x, value)


@aten("bitwise_xor.Tensor", "logical_xor.default")
def logical_xor(e: Emitter, x: AnyValue, other: AnyValue) -> AnyValue:
    """Of two masks."""
    return e.call("abs", e.broadcast("sub", x, other))
