"""Emit functions: activations, normalisation and arithmetic."""

from __future__ import annotations

import math

import numpy as np
from torch import fx

from mcc.ir.graph import operand, optional_operand
from mcc.lower.onnx.lowering import Emit, Lowering, attributes, emits

_RENAMED = {
    "relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "softplus": "Softplus", "exp": "Exp", "log": "Log",
    "sqrt": "Sqrt", "abs": "Abs", "neg": "Neg", "matmul": "MatMul", "sign": "Sign",
}  # fmt: skip
_ARITHMETIC = {"add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div"}


def _renamed(op: str) -> Emit:
    return lambda low, node: low.add(node, op, low.operands(node))


def _arithmetic(op: str) -> Emit:
    def emit(low: Lowering, node: fx.Node) -> str:
        inputs = low.operands(node)
        return low.activated(node, lambda suffix: low.add(node, op, inputs, suffix))

    return emit


for _name, _op in _RENAMED.items():
    emits(_name)(_renamed(_op))
for _name, _op in _ARITHMETIC.items():
    emits(_name)(_arithmetic(_op))


@emits("identity")
def identity(low: Lowering, node: fx.Node) -> str:
    """No operator: an alias of the same value."""
    return low.value(operand(node, 0))


def _clip(low: Lowering, node: fx.Node, least: float, greatest: float) -> str:
    limits = ["" if math.isinf(v) else low.model.number(v, "limit") for v in (least, greatest)]
    while limits and not limits[-1]:
        limits.pop()
    return low.add(node, "Clip", [low.value(operand(node, 0)), *limits])


@emits("relu6")
def relu6(low: Lowering, node: fx.Node) -> str:
    """Clip to 0..6."""
    return _clip(low, node, 0.0, 6.0)


@emits("clamp")
def clamp(low: Lowering, node: fx.Node) -> str:
    """Clip."""
    return _clip(low, node, float(attributes(node)["min"]), float(attributes(node)["max"]))


@emits("leaky_relu")
def leaky_relu(low: Lowering, node: fx.Node) -> str:
    """LeakyRelu."""
    return low.add(node, "LeakyRelu", low.operands(node), alpha=float(attributes(node)["slope"]))


@emits("elu")
def elu(low: Lowering, node: fx.Node) -> str:
    """Elu."""
    return low.add(node, "Elu", low.operands(node), alpha=float(attributes(node)["alpha"]))


@emits("prelu")
def prelu(low: Lowering, node: fx.Node) -> str:
    """PRelu, with its slope along axis 1."""
    slope, rank = low.array(operand(node, 1)), len(low.shape(node))
    shaped = low.model.constant(slope.reshape(-1, *[1] * (rank - 2)), f"{node.name}/slope", owner=node.name)
    return low.add(node, "PRelu", [low.value(operand(node, 0)), shaped])


@emits("hardsigmoid")
def hardsigmoid(low: Lowering, node: fx.Node) -> str:
    """HardSigmoid with slope 1/6."""
    return low.add(node, "HardSigmoid", low.operands(node), alpha=1 / 6, beta=0.5)


@emits("hardswish")
def hardswish(low: Lowering, node: fx.Node) -> str:
    """HardSwish; x * HardSigmoid(x) before opset 14."""
    if low.model.opset >= 14:
        return low.add(node, "HardSwish", low.operands(node))
    gate = low.add(node, "HardSigmoid", low.operands(node), "gate", alpha=1 / 6, beta=0.5)
    return low.add(node, "Mul", [*low.operands(node), gate])


@emits("silu")
def silu(low: Lowering, node: fx.Node) -> str:
    """x * Sigmoid(x)."""
    gate = low.add(node, "Sigmoid", low.operands(node), "gate")
    return low.add(node, "Mul", [*low.operands(node), gate])


@emits("mish")
def mish(low: Lowering, node: fx.Node) -> str:
    """x * Tanh(Softplus(x)), for runtimes without the Mish of opset 18."""
    gate = low.add(node, "Tanh", [low.add(node, "Softplus", low.operands(node), "softplus")], "gate")
    return low.add(node, "Mul", [*low.operands(node), gate])


@emits("gelu")
def gelu(low: Lowering, node: fx.Node) -> str:
    """Gelu; before opset 20 x/2 * (1 + Erf(x / sqrt 2)), or the same with Tanh (Hendrycks 2016)."""
    approximate = str(attributes(node)["approximate"])
    if low.model.opset >= 20:
        return low.add(node, "Gelu", low.operands(node), approximate=approximate)
    number, (x,) = low.model.number, low.operands(node)
    if approximate == "none":
        curve = low.add(node, "Erf", [low.add(node, "Mul", [x, number(math.sqrt(0.5))], "scaled")], "erf")
    else:
        cube = low.add(node, "Mul", [x, low.add(node, "Mul", [x, x], "square")], "cube")
        inner = low.add(node, "Add", [x, low.add(node, "Mul", [cube, number(0.044715)], "term")], "inner")
        scaled = low.add(node, "Mul", [inner, number(math.sqrt(2 / math.pi))], "scaled")
        curve = low.add(node, "Tanh", [scaled], "tanh")
    gate = low.add(node, "Mul", [low.add(node, "Add", [curve, number(1.0)], "shifted"), number(0.5)], "gate")
    return low.add(node, "Mul", [x, gate])


@emits("batch_norm")
def batch_norm(low: Lowering, node: fx.Node) -> str:
    """BatchNormalization."""
    return low.add(node, "BatchNormalization", low.operands(node), epsilon=float(attributes(node)["eps"]))


@emits("layer_norm")
def layer_norm(low: Lowering, node: fx.Node) -> str:
    """LayerNormalization over the last axes; composed for others and before opset 17."""
    at, rank = attributes(node), len(low.shape(node))
    axes = sorted(axis % rank for axis in at["axes"])
    if low.model.opset < 17 or axes != list(range(axes[0], rank)):
        return _composed_norm(low, node, axes, float(at["eps"]))
    lengths = [low.shape(node)[axis] for axis in axes]
    weight, bias = (optional_operand(node, index) for index in (1, 2))
    ones = low.model.constant(np.ones(lengths, np.float32), f"{node.name}/ones")
    inputs = [low.value(operand(node, 0)), ones if weight is None else low.value(weight)]
    if bias is not None:
        inputs.append(low.value(bias))
    return low.add(node, "LayerNormalization", inputs, axis=axes[0], epsilon=float(at["eps"]))


def mean_over(
    low: Lowering, node: fx.Node, x: str, axes: list[int], suffix: str, keepdim: bool = True
) -> str:
    """ReduceMean, whose axes are an attribute before opset 18."""
    return reduction(low, node, "ReduceMean", x, axes, suffix, keepdim, axes_input=low.model.opset >= 18)


def reduction(
    low: Lowering,
    node: fx.Node,
    op: str,
    x: str,
    axes: list[int],
    suffix: str,
    keepdim: bool,
    axes_input: bool,
) -> str:
    """A reduction with its axes as an operand or as an attribute."""
    keep = int(keepdim)
    if axes_input:
        return low.add(node, op, [x, low.model.integers(axes, "axes")], suffix, keepdims=keep)
    return low.add(node, op, [x], suffix, keepdims=keep, axes=axes)


def _composed_norm(low: Lowering, node: fx.Node, axes: list[int], eps: float) -> str:
    x, shape = low.value(operand(node, 0)), low.shape(node)
    centred = low.add(node, "Sub", [x, mean_over(low, node, x, axes, "mean")], "centred")
    squares = low.add(node, "Mul", [centred, centred], "squares")
    variance = mean_over(low, node, squares, axes, "variance")
    guarded = low.add(node, "Add", [variance, low.model.number(eps, "eps")], "guarded")
    result = low.add(node, "Div", [centred, low.add(node, "Sqrt", [guarded], "deviation")], "normalised")
    broadcast = [length if axis in axes else 1 for axis, length in enumerate(shape)]
    return affine(low, node, result, broadcast)


def affine(low: Lowering, node: fx.Node, x: str, shape: list[int]) -> str:
    """Multiply by the weight and add the bias (operands 1 and 2, if present), broadcast with this shape."""
    for index, op in ((1, "Mul"), (2, "Add")):
        source = optional_operand(node, index)
        if source is not None:
            term = low.model.constant(
                low.array(source).reshape(shape), f"{node.name}/{op.lower()}_term", owner=node.name
            )
            x = low.add(node, op, [x, term], op.lower())
    return x


@emits("group_norm")
def group_norm(low: Lowering, node: fx.Node) -> str:
    """InstanceNormalization over groups of channels, then weight and bias per channel."""
    at, shape = attributes(node), low.shape(node)
    groups = int(at["groups"])
    split = low.model.integers([shape[0], groups, -1])
    grouped = low.add(node, "Reshape", [low.value(operand(node, 0)), split], "grouped")
    ones = low.model.constant(np.ones(groups, np.float32), "ones")
    zeros = low.model.constant(np.zeros(groups, np.float32), "zeros")
    eps = float(at["eps"])
    normal = low.add(node, "InstanceNormalization", [grouped, ones, zeros], "normalised", epsilon=eps)
    back = low.add(node, "Reshape", [normal, low.model.integers(shape)], "ungrouped")
    return affine(low, node, back, [shape[1], *[1] * (len(shape) - 2)])


@emits("global_response_norm")
def global_response_norm(low: Lowering, node: fx.Node) -> str:
    """ReduceL2, ReduceMean and arithmetic."""
    at, shape, x = attributes(node), low.shape(node), low.value(operand(node, 0))
    axis = int(at["axis"]) % len(shape)
    others = [other for other in range(1, len(shape)) if other != axis]
    newer = low.model.opset >= 18
    norms = reduction(low, node, "ReduceL2", x, others, "norms", keepdim=True, axes_input=newer)
    mean = mean_over(low, node, norms, [axis], "mean")
    guarded = low.add(node, "Add", [mean, low.model.number(float(at["eps"]), "eps")], "guarded")
    response = low.add(node, "Div", [norms, guarded], "response")
    product = low.add(node, "Mul", [x, response], "responding")
    scaled = affine(low, node, product, [n if other == axis else 1 for other, n in enumerate(shape)])
    return low.add(node, "Add", [x, scaled])
