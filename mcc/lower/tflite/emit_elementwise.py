"""Emit functions: element-wise activations and arithmetic."""

from __future__ import annotations

import math

import numpy as np
from torch import fx

from mcc.ir.graph import operand, operands
from mcc.ir.notes import shape_of
from mcc.lower.layout import Layout, Shape, plain, stored
from mcc.lower.tflite.builder import Options
from mcc.lower.tflite.emit_conv import ACTIVATION_CODES, activation_code, attributes
from mcc.lower.tflite.lowering import Lowering, Value, emits

ADD, MUL, SUB, DIV = (Options(f"{name}Options") for name in ("Add", "Mul", "Sub", "Div"))


def step(
    low: Lowering,
    node: fx.Node,
    code: str,
    inputs: list[Value | int],
    options: Options | None = None,
    suffix: str = "",
) -> Value:
    """Add a float operator whose output has the shape and layout of its first input."""
    like = next(item for item in inputs if isinstance(item, Value))
    return low.call(node, code, inputs, like.shape, like.layout, options, suffix=suffix)


def _emit_unary(name: str, code: str, table: str | None = None) -> None:
    """Register an operator that TFLite has under another name."""

    @emits(name)
    def emit(low: Lowering, node: fx.Node) -> None:
        x = low.operand(node, 0)
        options = Options(table) if table else None
        quantisation = low.output_quantisation(node)
        low.bind(node, low.call(node, code, [x], x.shape, x.layout, options, quantisation=quantisation))


_emit_unary("sigmoid", "LOGISTIC")
_emit_unary("tanh", "TANH")
_emit_unary("hardswish", "HARD_SWISH", "HardSwishOptions")
_emit_unary("exp", "EXP", "ExpOptions")
_emit_unary("log", "LOG")
_emit_unary("sqrt", "SQRT")
_emit_unary("abs", "ABS", "AbsOptions")
_emit_unary("neg", "NEG", "NegOptions")
_emit_unary("sign", "SIGN")


@emits("identity")
def identity(low: Lowering, node: fx.Node) -> None:
    """No operator: an alias of the same tensor."""
    low.bind(node, low.operand(node, 0))


def _rectify(low: Lowering, node: fx.Node, code: str, limit: float) -> None:
    """RELU or RELU6.

    In int8, the saturation of the output grid suffices where it ends below the limit by a step of the input.
    Otherwise an int8 image uses a max-pool with windows of one element and a fused clamp, which XNNPACK runs,
    unlike an int8 RELU.
    """
    x = low.operand(node, 0)
    wanted = low.output_quantisation(node)
    if x.quantisation is None or wanted is None:
        low.bind(node, low.call(node, code, [x], x.shape, x.layout))
    elif wanted.zero_point == -128 and float(wanted.scale) * 255 <= limit - float(x.quantisation.scale):
        low.bind(node, low.requantise(node, x, wanted))
    elif len(x.shape) == 4:
        fused = ACTIVATION_CODES["relu" if code == "RELU" else "relu6"]
        sizes = dict.fromkeys(("strideH", "strideW", "filterHeight", "filterWidth"), 1)
        options = Options("Pool2DOptions", {**sizes, "fusedActivationFunction": fused})
        low.bind(
            node, low.call(node, "MAX_POOL_2D", [x], x.shape, x.layout, options, quantisation=x.quantisation)
        )
    else:
        low.bind(node, low.call(node, code, [x], x.shape, x.layout, quantisation=x.quantisation))


@emits("relu")
def relu(low: Lowering, node: fx.Node) -> None:
    """RELU."""
    _rectify(low, node, "RELU", math.inf)


@emits("relu6")
def relu6(low: Lowering, node: fx.Node) -> None:
    """RELU6."""
    _rectify(low, node, "RELU6", 6.0)


@emits("clamp")
def clamp(low: Lowering, node: fx.Node) -> None:
    """RELU, RELU6 or RELU_N1_TO_1 where the limits are theirs, else MAXIMUM and MINIMUM."""
    x = low.operand(node, 0)
    limits = (float(attributes(node)["min"]), float(attributes(node)["max"]))
    named = {(0.0, math.inf): "RELU", (0.0, 6.0): "RELU6", (-1.0, 1.0): "RELU_N1_TO_1"}
    if limits in named and x.quantisation is None:
        low.bind(node, low.call(node, named[limits], [x], x.shape, x.layout))
        return
    for code, limit in (("MAXIMUM", limits[0]), ("MINIMUM", limits[1])):
        if math.isinf(limit):
            continue
        options = Options("MaximumMinimumOptions")
        inputs = [x, _limit(low, x, limit)]
        x = low.call(
            node, code, inputs, x.shape, x.layout, options, quantisation=x.quantisation, suffix=code.lower()
        )
    low.bind(node, x)


def _limit(low: Lowering, x: Value, limit: float) -> int:
    """A limit as a constant on the grid of the input; an int8 one can only bind inside that grid."""
    if x.quantisation is None:
        return low.number(limit, "limit")
    q = np.rint(np.float32(limit) / x.quantisation.scale) + x.quantisation.zero_point
    return low.model.constant("limit", np.asarray([np.clip(q, -128, 127)], np.int8), x.quantisation)


@emits("leaky_relu")
def leaky_relu(low: Lowering, node: fx.Node) -> None:
    """LEAKY_RELU."""
    x = low.operand(node, 0)
    options = Options("LeakyReluOptions", {"alpha": float(attributes(node)["slope"])})
    quantisation = low.output_quantisation(node)
    low.bind(node, low.call(node, "LEAKY_RELU", [x], x.shape, x.layout, options, quantisation=quantisation))


@emits("gelu")
def gelu(low: Lowering, node: fx.Node) -> None:
    """GELU."""
    options = Options("GeluOptions", {"approximate": attributes(node)["approximate"] == "tanh"})
    low.bind(node, step(low, node, "GELU", [low.operand(node, 0)], options))


@emits("elu")
def elu(low: Lowering, node: fx.Node) -> None:
    """ELU, which TFLite defines with alpha 1; for another alpha, relu(x) + alpha * elu(min(x, 0))."""
    x = low.operand(node, 0)
    alpha = float(attributes(node)["alpha"])
    if alpha == 1.0:
        low.bind(node, step(low, node, "ELU", [x]))
        return
    low_part = step(low, node, "MINIMUM", [x, low.number(0.0)], Options("MaximumMinimumOptions"), "negative")
    curve = step(low, node, "ELU", [low_part], suffix="elu")
    scaled = step(low, node, "MUL", [curve, low.number(alpha)], MUL, "scaled")
    high_part = step(low, node, "RELU", [x], suffix="positive")
    low.bind(node, step(low, node, "ADD", [high_part, scaled], ADD))


@emits("silu")
def silu(low: Lowering, node: fx.Node) -> None:
    """x * LOGISTIC(x)."""
    x = low.operand(node, 0)
    gate = step(low, node, "LOGISTIC", [x], suffix="sigmoid")
    low.bind(node, step(low, node, "MUL", [x, gate], MUL))


@emits("hardsigmoid")
def hardsigmoid(low: Lowering, node: fx.Node) -> None:
    """relu6(x + 3) / 6."""
    x = low.operand(node, 0)
    fused = Options("AddOptions", {"fusedActivationFunction": 3})
    shifted = step(low, node, "ADD", [x, low.number(3.0)], fused, "shifted")
    low.bind(node, step(low, node, "MUL", [shifted, low.number(1 / 6)], MUL))


def _softplus(low: Lowering, node: fx.Node, x: Value, suffix: str = "") -> Value:
    """max(x, 0) + log(1 + exp(-|x|)), which does not overflow."""
    size = step(low, node, "ABS", [x], Options("AbsOptions"), "abs")
    decay = step(low, node, "EXP", [step(low, node, "NEG", [size], Options("NegOptions"), "neg")],
                 Options("ExpOptions"), "exp")  # fmt: skip
    tail = step(
        low, node, "LOG", [step(low, node, "ADD", [decay, low.number(1.0)], ADD, "plus_one")], None, "log"
    )
    ramp = step(low, node, "RELU", [x], suffix="ramp")
    return step(low, node, "ADD", [ramp, tail], ADD, suffix)


@emits("softplus")
def softplus(low: Lowering, node: fx.Node) -> None:
    """log(1 + exp(x)), composed."""
    low.bind(node, _softplus(low, node, low.operand(node, 0)))


@emits("mish")
def mish(low: Lowering, node: fx.Node) -> None:
    """x * tanh(softplus(x)), composed."""
    x = low.operand(node, 0)
    gate = step(low, node, "TANH", [_softplus(low, node, x, "softplus")], suffix="tanh")
    low.bind(node, step(low, node, "MUL", [x, gate], MUL))


@emits("prelu")
def prelu(low: Lowering, node: fx.Node) -> None:
    """PRELU with its slope along the stored channel axis."""
    x = low.operand(node, 0)
    if x.layout.flat is not None:
        x = low.operand(node, 0, plain(len(x.shape)))
    slope = low.weight(node, 1).value
    shape = [1] * len(x.shape)
    if len(x.shape) > 1:
        shape[1] = slope.size
    alpha = stored(slope.reshape(shape), x.layout)[0]  # TFLite's alpha has no batch axis
    if slope.size == 1:
        alpha = np.broadcast_to(alpha, [1] * (len(x.shape) - 2) + [x.stored_shape[-1]])
    low.bind(
        node, step(low, node, "PRELU", [x, low.model.constant(f"{node.name}/slope", alpha, owner=node.name)])
    )


@emits("batch_norm")
def batch_norm(low: Lowering, node: fx.Node) -> None:
    """x * scale + shift per channel: a batch norm that could not be folded."""
    x = low.operand(node, 0)
    if x.layout.flat is not None:
        x = low.operand(node, 0, plain(len(x.shape)))
    weight, bias, mean, var = (low.weight(node, i).value.astype(np.float64) for i in range(1, 5))
    scale = weight / np.sqrt(var + attributes(node)["eps"])
    shape = [-1 if axis == 1 else 1 for axis in range(len(x.shape))]
    factors = [
        low.model.constant(
            f"{node.name}/{name}", stored(value.reshape(shape), x.layout).astype(np.float32), owner=node.name
        )
        for name, value in (("scale", scale), ("shift", bias - mean * scale))
    ]
    scaled = step(low, node, "MUL", [x, factors[0]], MUL, "scaled")
    low.bind(node, step(low, node, "ADD", [scaled, factors[1]], ADD))


# -- two operands ------------------------------------------------------------------------------------------


def _emit_binary(name: str, code: str) -> None:
    """Register an arithmetic operator with a fused activation."""
    table = f"{code.capitalize()}Options"

    @emits(name)
    def emit(low: Lowering, node: fx.Node) -> None:
        shape = shape_of(node)
        layout = _common_layout(low, node, shape)
        operands = [_broadcast(low, node, index, shape, layout) for index in range(2)]
        options = Options(table, {"fusedActivationFunction": activation_code(node)})
        quantisation = low.output_quantisation(node)
        low.bind(node, low.call(node, code, [*operands], shape, layout, options, quantisation=quantisation))


def _common_layout(low: Lowering, node: fx.Node, shape: Shape) -> Layout:
    """The layout of the operand with the most elements, which is the most expensive to transpose."""
    best, size = plain(len(shape)), 0
    for index in range(2):
        source = operand(node, index)
        if low.is_constant(source):
            continue
        value = low.operand(node, index)
        elements = math.prod(value.shape)
        fits = value.layout.flat is None or _all_same_shape(node, low)
        if len(value.shape) == len(shape) and elements > size and fits:
            best, size = value.layout, elements
    return best


def _all_same_shape(node: fx.Node, low: Lowering) -> bool:
    """Whether the computed operands agree in shape, so that they can keep the order of a flattened map."""
    return len({shape_of(source) for source in operands(node) if not low.is_constant(source)}) == 1


def _broadcast(low: Lowering, node: fx.Node, index: int, shape: Shape, layout: Layout) -> Value:
    """An operand in a layout of the output's rank; leading axes of length 1 are added to a smaller one."""
    source = operand(node, index)
    own = shape_of(source)
    missing = len(shape) - len(own)
    padded = (1,) * missing + own
    if low.is_constant(source):
        return low.constant_operand(node, index, padded, layout)
    if missing == 0:
        return low.operand(node, index, layout)
    value = low.operand(node, index, plain(len(own)))
    grown = low.reshape(node, value, padded, plain(len(shape)), f"operand{index}")
    return low.convert(node, grown, layout)


_emit_binary("add", "ADD")
_emit_binary("sub", "SUB")
_emit_binary("mul", "MUL")
_emit_binary("div", "DIV")
