"""Translations: activations, arithmetic, conversions."""

from __future__ import annotations

import math

import numpy as np

from mcc.lower.pte.delegate import XnnValue
from mcc.lower.pte.translation import Translation, fused, in_float, translates
from mcc.lower.tflite.reader import TfliteOperator

UNARY = {
    "ABS": "XNNAbs", "NEG": "XNNNegate", "EXP": "XNNExp", "LOG": "XNNLog", "SQRT": "XNNSquareRoot",
    "RSQRT": "XNNReciprocalSquareRoot", "SQUARE": "XNNSquare", "FLOOR": "XNNFloor", "CEIL": "XNNCeiling",
    "HARD_SWISH": "XNNHardswish",
}  # fmt: skip
INTEGER_UNARY = {"LOGISTIC": "XNNSigmoid", "TANH": "XNNTanh"}
ARITHMETIC = {"ADD": "XNNAdd", "SUB": "XNNSubtract", "MUL": "XNNMultiply", "DIV": "XNNDiv"}
EXTREMES = {"MAXIMUM": "XNNMaximum", "MINIMUM": "XNNMinimum"}
RECTIFIED = {"RELU": (0.0, math.inf), "RELU6": (0.0, 6.0), "RELU_N1_TO_1": (-1.0, 1.0)}


@translates(*UNARY)
def unary(t: Translation, op: TfliteOperator) -> XnnValue:
    """A function of one float."""
    return in_float(t, op, lambda x: t.unary(UNARY[op.code], x))


@translates(*INTEGER_UNARY)
def integer_unary(t: Translation, op: TfliteOperator) -> XnnValue:
    """A function of one value; on integers, by a lookup table."""
    return t.unary(INTEGER_UNARY[op.code], t.operand(op, 0), t.result(op))


@translates(*RECTIFIED)
def rectified(t: Translation, op: TfliteOperator) -> XnnValue:
    """RELU and its variants: a clamp."""
    return t.clamp(t.operand(op, 0), *RECTIFIED[op.code], out=t.result(op))


@translates("SIGN")
def sign(t: Translation, op: TfliteOperator) -> XnnValue:
    """SIGN, which the delegate lacks: every normal float32 times 2^126 is at least 1, or at most -1."""

    def saturated(x: XnnValue) -> XnnValue:
        return t.clamp(t.binary("XNNMultiply", x, t.number(2.0**126)), -1.0, 1.0)

    return in_float(t, op, saturated)


@translates("LEAKY_RELU")
def leaky_relu(t: Translation, op: TfliteOperator) -> XnnValue:
    """LEAKY_RELU, in float or integers."""
    slope = float(op.options["alpha"])
    return t.unary("XNNLeakyReLU", t.operand(op, 0), t.result(op), negative_slope=slope)


@translates("ELU")
def elu(t: Translation, op: TfliteOperator) -> XnnValue:
    """ELU, which TFLite defines with alpha 1."""
    return in_float(t, op, lambda x: t.unary("XNNELU", x, alpha=1.0))


@translates("GELU")
def gelu(t: Translation, op: TfliteOperator) -> XnnValue:
    """GELU; the tanh form is composed, since the delegate's schema has only the exact one."""

    def tanh_gelu(x: XnnValue) -> XnnValue:
        cube = t.binary("XNNMultiply", t.unary("XNNSquare", x), x)
        inner = t.binary("XNNAdd", x, t.binary("XNNMultiply", cube, t.number(0.044715)))
        curve = t.unary("XNNTanh", t.binary("XNNMultiply", inner, t.number(math.sqrt(2 / math.pi))))
        half = t.binary("XNNMultiply", x, t.number(0.5))
        return t.binary("XNNMultiply", half, t.binary("XNNAdd", curve, t.number(1.0)))

    if op.options.get("approximate"):
        return in_float(t, op, tanh_gelu)
    return in_float(t, op, lambda x: t.unary("XNNGelu", x))


@translates("PRELU")
def prelu(t: Translation, op: TfliteOperator) -> XnnValue:
    """PRELU with its slope along the last stored axis, or of its whole shape."""
    return in_float(t, op, lambda x: t.binary("XNNPReLU", x, t.operand(op, 1)))


@translates(*ARITHMETIC)
def arithmetic(t: Translation, op: TfliteOperator) -> XnnValue:
    """Two operands and a fused clamp, in float or integers."""
    a, b, out = t.operand(op, 0), t.operand(op, 1), t.result(op)
    return t.binary(ARITHMETIC[op.code], a, b, out, clamp=fused(op))


@translates(*EXTREMES)
def extreme(t: Translation, op: TfliteOperator) -> XnnValue:
    """MAXIMUM or MINIMUM; with a single number, a clamp."""
    limit = t.model.constant(op.inputs[1])
    if limit is not None and limit.size == 1:
        value = float(limit.reshape(-1)[0])
        grid = t.model.tensors[op.inputs[1]].quantisation
        if grid is not None:
            value = float((np.float32(value) - grid.zero_point) * grid.scale)
        limits = (value, math.inf) if op.code == "MAXIMUM" else (-math.inf, value)
        return t.clamp(t.operand(op, 0), *limits, out=t.result(op))
    a, b = (t.real(t.operand(op, index)) for index in range(2))
    return t.convert(t.binary(EXTREMES[op.code], a, b), t.model.tensors[op.outputs[0]].quantisation)


@translates("QUANTIZE", "DEQUANTIZE")
def convert(t: Translation, op: TfliteOperator) -> XnnValue:
    """Conversion to another grid, to integers or to floats."""
    return t.convert(t.operand(op, 0), t.model.tensors[op.outputs[0]].quantisation)


@translates("SOFTMAX")
def softmax(t: Translation, op: TfliteOperator) -> XnnValue:
    """SOFTMAX over the last stored axis, in float."""
    if float(op.options.get("beta", 1.0)) != 1.0:
        raise t.refused(op, "has a beta other than 1")
    return in_float(t, op, lambda x: t.unary("XNNSoftmax", x))
