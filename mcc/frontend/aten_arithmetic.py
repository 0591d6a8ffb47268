"""ATen rules: arithmetic and activations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

from mcc.frontend.aten import aten
from mcc.frontend.emitter import Emitter
from mcc.frontend.values import AnyValue, Const

Number = int | float
Operand = AnyValue | Number

INFINITY = float("inf")
SELU_ALPHA = 1.6732632423543772  # Klambauer 2017, as torch spells it
SELU_SCALE = 1.0507009873554805


def _scaled(e: Emitter, other: Operand, alpha: Number) -> Operand:
    if alpha == 1:
        return other
    return other * alpha if isinstance(other, int | float) else e.broadcast("mul", other, float(alpha))


@aten("add.Tensor", "add.Scalar", broadcasting=True)
def add(e: Emitter, x: AnyValue, other: Operand, alpha: Number = 1) -> AnyValue:
    """x + alpha * other; the value itself for + 0."""
    return x if other == 0 else e.broadcast("add", x, _scaled(e, other, alpha))


@aten("sub.Tensor", "sub.Scalar", broadcasting=True)
def sub(e: Emitter, x: AnyValue, other: Operand, alpha: Number = 1) -> AnyValue:
    """x - alpha * other."""
    return x if other == 0 else e.broadcast("sub", x, _scaled(e, other, alpha))


@aten("rsub.Tensor", "rsub.Scalar", broadcasting=True)
def rsub(e: Emitter, x: AnyValue, other: Operand, alpha: Number = 1) -> AnyValue:
    """other - alpha * x."""
    return e.broadcast("sub", other, _scaled(e, x, alpha))


@aten("mul.Tensor", "mul.Scalar", broadcasting=True)
def mul(e: Emitter, x: AnyValue, other: Operand) -> AnyValue:
    """x * other; the value itself for * 1."""
    return x if other == 1 else e.broadcast("mul", x, other)


@aten("div.Tensor", "div.Scalar", broadcasting=True)
def div(e: Emitter, x: AnyValue, other: Operand) -> AnyValue:
    """x / other; a multiplication where the reciprocal is exact."""
    if isinstance(other, int | float):
        if other == 1:
            return x
        if other != 0 and math.frexp(other)[0] in (0.5, -0.5):
            return e.broadcast("mul", x, 1.0 / other)
    return e.broadcast("div", x, other)


@aten("addcmul.default", broadcasting=True)
def addcmul(e: Emitter, x: AnyValue, tensor1: AnyValue, tensor2: AnyValue, value: Number = 1) -> AnyValue:
    """x + value * tensor1 * tensor2."""
    return add(e, x, e.broadcast("mul", tensor1, tensor2), value)


@aten("pow.Tensor_Scalar")
def power(e: Emitter, x: AnyValue, exponent: Number) -> AnyValue:
    """Small powers and square roots."""
    if exponent == 1:
        return x
    if exponent in (2, 3, 4):
        square = e.call("mul", x, x)
        return square if exponent == 2 else e.call("mul", square, x if exponent == 3 else square)
    if exponent in (0.5, -0.5):
        root = e.call("sqrt", x)
        return root if exponent > 0 else e.broadcast("div", 1.0, root)
    if exponent == -1:
        return e.broadcast("div", 1.0, x)
    if exponent == 0:
        e.refuse("raises to the power 0, which is always 1", "use a constant")
    # Undefined for negative numbers, as the power itself is unless the exponent is whole.
    if exponent == int(exponent):
        e.refuse(f"raises to the power {exponent}", "powers from -1 to 4 and broken ones are supported")
    if exponent in (0.25, 0.75, 1.5):
        root = e.call("sqrt", x)
        return (
            e.call("sqrt", root)
            if exponent == 0.25
            else e.broadcast("mul", root, e.call("sqrt", root) if exponent == 0.75 else x)
        )
    return e.call("exp", e.broadcast("mul", e.call("log", x), float(exponent)))


@aten("square.default")
def square(e: Emitter, x: AnyValue) -> AnyValue:
    """x * x."""
    return e.call("mul", x, x)


@aten("reciprocal.default")
def reciprocal(e: Emitter, x: AnyValue) -> AnyValue:
    """1 / x."""
    return e.broadcast("div", 1.0, x)


@aten("rsqrt.default")
def rsqrt(e: Emitter, x: AnyValue) -> AnyValue:
    """1 / sqrt(x)."""
    return e.broadcast("div", 1.0, e.call("sqrt", x))


def _unary(op: str, e: Emitter, x: AnyValue) -> AnyValue:
    return e.call(op, x)


for _op in ("relu", "relu6", "hardswish", "hardsigmoid", "sigmoid", "tanh", "silu", "mish"):
    aten(f"{_op}.default")(partial(_unary, _op))
for _op in ("exp", "log", "sqrt", "abs", "neg"):
    aten(f"{_op}.default")(partial(_unary, _op))


@aten("softplus.default")
def softplus(e: Emitter, x: AnyValue, beta: Number = 1) -> AnyValue:
    """log(1 + exp(beta x)) / beta."""
    inner = e.call("softplus", mul(e, x, beta))
    return div(e, inner, beta)


@aten("log_sigmoid.default")
def log_sigmoid(e: Emitter, x: AnyValue) -> AnyValue:
    """-softplus(-x)."""
    return e.call("neg", e.call("softplus", e.call("neg", x)))


@aten("gelu.default")
def gelu(e: Emitter, x: AnyValue, approximate: str = "none") -> AnyValue:
    """Gaussian error linear unit."""
    return e.call("gelu", x, approximate=approximate)


@aten("leaky_relu.default")
def leaky_relu(e: Emitter, x: AnyValue, negative_slope: Number = 0.01) -> AnyValue:
    """x where positive, negative_slope * x elsewhere."""
    return e.call("leaky_relu", x, slope=float(negative_slope))


@aten("elu.default")
def elu(e: Emitter, x: AnyValue, alpha: Number = 1) -> AnyValue:
    """x where positive, alpha * (exp(x) - 1) elsewhere."""
    return e.call("elu", x, alpha=float(alpha))


@aten("selu.default")
def selu(e: Emitter, x: AnyValue) -> AnyValue:
    """Scaled exponential linear unit."""
    return e.broadcast("mul", e.call("elu", x, alpha=SELU_ALPHA), SELU_SCALE)


@aten("celu.default")
def celu(e: Emitter, x: AnyValue, alpha: Number = 1.0) -> AnyValue:
    """x where positive, alpha * (exp(x / alpha) - 1) elsewhere."""
    inner = e.call("elu", div(e, x, alpha), alpha=1.0)
    return mul(e, inner, alpha)


@aten("prelu.default")
def prelu(e: Emitter, x: AnyValue, weight: AnyValue) -> AnyValue:
    """x where positive, weight * x elsewhere."""
    return e.call("prelu", x, weight)


@aten("glu.default")
def glu(e: Emitter, x: AnyValue, dim: int = -1) -> AnyValue:
    """First half along an axis times the sigmoid of the second."""
    axis = e.axis(x, dim)
    half = e.shape(x)[axis] // 2
    gate = e.call("sigmoid", e.window(x, axis, half, 2 * half))
    return e.call("mul", e.window(x, axis, 0, half), gate)


def limit(e: Emitter, x: AnyValue, low: float, high: float) -> AnyValue:
    """Clamp to [low, high]; ReLU and ReLU6 under their own names."""
    if (low, high) == (0.0, INFINITY):
        return e.call("relu", x)
    if (low, high) == (0.0, 6.0):
        return e.call("relu6", x)
    return x if (low, high) == (-INFINITY, INFINITY) else e.call("clamp", x, min=low, max=high)


@aten("hardtanh.default")
def hardtanh(e: Emitter, x: AnyValue, min_val: Number = -1, max_val: Number = 1) -> AnyValue:
    """Clamp to [min_val, max_val]."""
    return limit(e, x, float(min_val), float(max_val))


@aten("clamp.default", "clip.default", "clamp_min.default", "clamp_max.default", "clamp.Tensor")
def clamp(
    e: Emitter, x: AnyValue, min: Number | Const | None = None, max: Number | Const | None = None
) -> AnyValue:
    """Clamp to [min, max], either of which may be open."""
    low = -INFINITY if min is None else _number(e, min)
    return limit(e, x, low, INFINITY if max is None else _number(e, max))


def _number(e: Emitter, value: Number | AnyValue) -> float:
    if isinstance(value, int | float):
        return float(value)
    if isinstance(value, Const) and value.tensor.numel() == 1:
        return float(value.tensor)
    e.refuse("clamps to values that are computed", "clamp to plain numbers")


@aten("minimum.default", "min.other")
def minimum(e: Emitter, x: AnyValue, other: AnyValue) -> AnyValue:
    """The smaller of two values: -max(-a, -b)."""
    if isinstance(other, Const) and other.tensor.numel() == 1:
        return limit(e, x, -INFINITY, _number(e, other))
    return e.call("neg", maximum(e, e.call("neg", x), e.call("neg", other)))


@aten("maximum.default", "max.other")
def maximum(e: Emitter, x: AnyValue, other: AnyValue) -> AnyValue:
    """The larger of two values of one shape: they are stacked and reduced, which is exact."""
    if isinstance(other, Const) and other.tensor.numel() == 1:
        return limit(e, x, _number(e, other), INFINITY)
    shapes = [e.shape(value) for value in (x, other)]
    if shapes[0] != shapes[1] or isinstance(x, Const) or isinstance(other, Const):
        e.refuse("takes the maximum of values of different shapes", "bring them to one shape first")
    stacked = [e.reshape(value, (1, *shapes[0][1:])) for value in (x, other)]
    return e.call("amax", e.call("concat", *stacked, axis=1), axes=(1,), keepdim=False)


@aten("lerp.Scalar", broadcasting=True)
def lerp(e: Emitter, x: AnyValue, end: AnyValue, weight: Number) -> AnyValue:
    """x + weight * (end - x)."""
    return add(e, x, e.broadcast("sub", end, x), weight)


def axes_of(e: Emitter, x: AnyValue, dims: Sequence[int] | int | None) -> tuple[int, ...]:
    """Axes from torch's `dim`: ascending, counted from the front, never the batch."""
    if dims is None or (not isinstance(dims, int) and not dims):
        e.refuse("reduces over the batch axis", "name the axes to reduce over")
    found = [dims] if isinstance(dims, int) else dims
    return tuple(sorted({e.axis(x, dim) for dim in found}))
