"""Comparisons, and what chooses by them: a mask is a value of zeros and ones.

    x > c                1 where sign(x - c) is positive: relu(sign(x - c))
    x == c               1 - |sign(x - c)|
    where(m, a, b)       a m + b (1 - m), and where a or b is infinite, that value alone at its places

What rectifiers and clamps say by a comparison (`where(x > 0, x, 0.1 x)`) becomes these operators, which
runtimes have kernels for.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, fx

from mcc.frontend import aten_arithmetic as arithmetic
from mcc.frontend.emitter import Emitter
from mcc.frontend.values import AnyValue, Const
from mcc.ir.graph import is_constant, op_name, operand, operands

Operand = AnyValue | float

_MIRRORED = {"gt": "lt", "lt": "gt", "ge": "le", "le": "ge"}


def compare(e: Emitter, op: str, a: Operand, b: Operand) -> AnyValue:
    """1 where a is greater than (`gt`, `ge`), less than (`lt`, `le`), or equal to b (`eq`, `ne`), else 0."""
    made = _compared(e, op, a, b)
    if isinstance(made, fx.Node):
        limit = _number(b)
        if limit is not None:
            e.compared[made] = (op, a, limit)
        elif (limit := _number(a)) is not None:
            e.compared[made] = (_MIRRORED.get(op, op), b, limit)
    return made


def _compared(e: Emitter, op: str, a: Operand, b: Operand) -> AnyValue:
    if op in ("lt", "le"):
        return _compared(e, _MIRRORED[op], b, a)
    if op == "ge":
        return negated(e, _compared(e, "gt", b, a))
    sign = e.call("sign", _difference(e, a, b))
    if op == "gt":
        return e.call("relu", sign)
    apart = e.call("abs", sign)
    return apart if op == "ne" else negated(e, apart)


def _difference(e: Emitter, a: Operand, b: Operand) -> AnyValue:
    if not isinstance(a, int | float) and _number(b) == 0:
        return a
    if not isinstance(b, int | float) and _number(a) == 0:
        return e.call("neg", b)
    return e.broadcast("sub", a, b)


def negated(e: Emitter, mask: AnyValue) -> AnyValue:
    """1 where a mask is 0."""
    return e.broadcast("sub", 1.0, mask)


def both(e: Emitter, a: AnyValue, b: AnyValue) -> AnyValue:
    """1 where both masks are."""
    return e.broadcast("mul", a, b)


def either(e: Emitter, a: AnyValue, b: AnyValue) -> AnyValue:
    """1 where one of two masks is, or both."""
    return negated(e, both(e, negated(e, a), negated(e, b)))


def truth(e: Emitter, x: AnyValue) -> AnyValue:
    """1 where a value is not zero."""
    return e.call("abs", e.call("sign", x))


def where(e: Emitter, condition: AnyValue, a: Operand, b: Operand) -> AnyValue:
    """a where a condition holds, b elsewhere."""
    if isinstance(condition, Const):
        return _where_constant(e, condition, a, b)
    if isinstance(condition, fx.Node):
        found = _rectifier(e, condition, a, b)
        if found is not None:
            return found
    for value in (a, b):
        if not _is_finite(value):
            e.refuse("chooses an infinity by values of the input", "choose a large number in its place")
    chosen = e.broadcast("mul", condition, a)
    return e.broadcast("add", chosen, e.broadcast("mul", negated(e, condition), b))


def _where_constant(e: Emitter, condition: Const, a: Operand, b: Operand) -> AnyValue:
    holds = condition.tensor.bool()
    mask = e.like(condition, holds.float())
    parts: list[AnyValue] = []
    for value, places in ((a, mask), (b, e.like(condition, (~holds).float()))):
        number = _number(value)
        if isinstance(value, Const) or number is not None:
            held = value.tensor.float() if isinstance(value, Const) else torch.tensor(number)
            # nan_to_num would change what is kept: infinities stand where they are chosen, and nowhere else.
            parts.append(e.like(condition, torch.where(places.tensor.bool(), held, 0.0)))
        elif bool(places.tensor.any()):
            assert not isinstance(value, int | float)
            parts.append(value if bool(places.tensor.all()) else e.broadcast("mul", value, places))
    if len(parts) == 1:
        return parts[0]
    return e.broadcast("add", parts[0], parts[1])


def _rectifier(e: Emitter, condition: fx.Node, a: Operand, b: Operand) -> AnyValue | None:
    """ReLU, leaky ReLU and clamps, which say `where(x > c, x, f(x))`; None for anything else."""
    op, x, limit = e.compared.get(condition, ("", 0.0, 0.0))
    high, low = (a, b) if op in ("gt", "ge") else (b, a)
    if op not in _MIRRORED or isinstance(x, int | float):
        return None
    if high is x and _number(low) == limit:
        return arithmetic.limit(e, x, limit, math.inf)
    if low is x and _number(high) == limit:
        return arithmetic.limit(e, x, -math.inf, limit)
    slope = _slope(e, low, x) if high is x and limit == 0 else None
    return None if slope is None else e.call("leaky_relu", x, slope=slope)


def _slope(e: Emitter, value: Operand, x: AnyValue) -> float | None:
    """The number by which a value is a multiple of x."""
    if not isinstance(value, fx.Node) or op_name(value) != "mul" or x not in operands(value):
        return None
    other = operand(value, 1) if operand(value, 0) is x else operand(value, 0)
    held = getattr(e.builder.module, str(other.target)) if is_constant(other) else None
    return float(held.detach()) if isinstance(held, Tensor) and held.numel() == 1 else None


def _number(value: Operand) -> float | None:
    if isinstance(value, int | float):
        return float(value)
    if isinstance(value, Const) and value.tensor.numel() == 1:
        return float(value.tensor)
    return None


def _is_finite(value: Operand) -> bool:
    if isinstance(value, Const):
        return bool(torch.isfinite(value.tensor.float()).all())
    return not isinstance(value, int | float) or math.isfinite(value)
