"""ONNX rules: convolutions, products, normalisation, arithmetic, activations, pooling."""

from __future__ import annotations

from dataclasses import replace

from mcc.frontend import aten_arithmetic as arithmetic
from mcc.frontend import aten_weights as weights
from mcc.frontend.onnx_table import Result, Site, onnx_op
from mcc.frontend.values import AnyValue, Const


@onnx_op("Gemm")
def gemm(site: Site) -> Result:
    """alpha A B + beta C: a linear layer where B and C do not depend on the input."""
    e, weight, bias = site.emitter, site.value(1), site.optional(2)
    if site.get("transA", 0):
        e.refuse("Gemm with transA works across the batch axis")
    if not site.get("transB", 0):
        turned = e.transposed_weight(weight)
        if turned is None:
            e.refuse("Gemm of two computed values is not supported", "use MatMul on three axes")
        weight = turned
    weight = _scaled(site, weight, site.get("alpha", 1.0))
    bias = None if bias is None else _scaled(site, bias, site.get("beta", 1.0))
    outputs = e.shape(weight)[0]
    if isinstance(bias, Const) and tuple(bias.tensor.shape) != (outputs,):
        flat = bias.tensor.reshape(-1)
        bias = e.like(bias, flat.expand(outputs) if flat.numel() == 1 else flat)
    return e.call("linear", site.value(0), weight, bias)


def _scaled(site: Site, value: AnyValue, factor: float) -> AnyValue:
    if factor == 1.0:
        return value
    if isinstance(value, Const):
        return site.emitter.like(value, value.tensor * factor)
    return site.emitter.broadcast("mul", value, factor)


@onnx_op("MatMul")
def matmul(site: Site) -> Result:
    """Matrix product; with a constant matrix on the right it is a linear layer."""
    turned = site.emitter.transposed_weight(site.value(1))
    if turned is not None:
        return site.emitter.call("linear", site.value(0), turned, None)
    return weights.matmul(site.emitter, site.value(0), site.value(1))


@onnx_op("BatchNormalization")
def batch_norm(site: Site) -> Result:
    """Batch norm with stored statistics."""
    if site.get("training_mode", 0):
        site.emitter.refuse("normalises with the statistics of the batch", "export the model in eval mode")
    scale, bias, mean, var = (site.value(i) for i in range(1, 5))
    mean, var = (replace(v, trains=False) if isinstance(v, Const) else v for v in (mean, var))
    eps = float(site.get("epsilon", 1e-5))
    return site.emitter.call("batch_norm", site.value(0), scale, bias, mean, var, eps=eps)


@onnx_op("InstanceNormalization")
def instance_norm(site: Site) -> Result:
    """A group norm of one channel each."""
    groups, eps = site.emitter.shape(site.value())[1], float(site.get("epsilon", 1e-5))
    return site.emitter.call(
        "group_norm", site.value(0), site.value(1), site.value(2), groups=groups, eps=eps
    )


@onnx_op("GroupNormalization")
def group_norm(site: Site) -> Result:
    """Group norm; before opset 21 scale and bias are per group."""
    e, groups = site.emitter, site.get("num_groups")
    channels = e.shape(site.value())[1]
    affine: list[AnyValue] = []
    for index in (1, 2):
        value = site.value(index)
        if isinstance(value, Const) and value.tensor.numel() == groups != channels:
            value = e.like(value, value.tensor.repeat_interleave(channels // groups))
        affine.append(value)
    eps = float(site.get("epsilon", 1e-5))
    return e.call("group_norm", site.value(0), *affine, groups=groups, eps=eps)


@onnx_op("LayerNormalization")
def layer_norm(site: Site) -> Result:
    """Layer norm over the last axes."""
    shape = site.emitter.shape(site.value())
    first = site.emitter.axis(site.value(), site.get("axis", -1))
    return site.emitter.call(
        "layer_norm", site.value(0), site.value(1), site.optional(2),
        axes=tuple(range(first, len(shape))), eps=float(site.get("epsilon", 1e-5)),
    )  # fmt: skip


# -- arithmetic and activations ----------------------------------------------------------------------------


@onnx_op("Add", "Sub", "Mul", "Div")
def binary(site: Site) -> Result:
    """Two operands with broadcasting."""
    return site.emitter.broadcast(site.op.lower(), site.value(0), site.value(1))


@onnx_op("Sum")
def total(site: Site) -> Result:
    """The sum of all inputs."""
    result, *others = site.rest()
    for other in others:
        result = site.emitter.broadcast("add", result, other)
    return result


@onnx_op("Min", "Max")
def extremum(site: Site) -> Result:
    """The smaller or larger of the inputs."""
    result, *others = site.rest()
    for other in others:
        if isinstance(result, Const):
            result, other = other, result
        rule = arithmetic.minimum if site.op == "Min" else arithmetic.maximum
        result = rule(site.emitter, result, other)
    return result


_UNARY = {
    "Relu": "relu", "HardSwish": "hardswish", "Sigmoid": "sigmoid", "Tanh": "tanh", "Mish": "mish",
    "Softplus": "softplus", "Exp": "exp", "Log": "log", "Sqrt": "sqrt", "Abs": "abs", "Neg": "neg",
}  # fmt: skip


@onnx_op(*_UNARY)
def unary(site: Site) -> Result:
    """One operand, no attributes."""
    return site.emitter.call(_UNARY[site.op], site.value())


@onnx_op("LeakyRelu", "Elu", "Selu", "Celu", "Gelu", "Softsign", "Reciprocal")
def parametric(site: Site) -> Result:
    """One operand, with a parameter."""
    e, x = site.emitter, site.value()
    if site.op == "LeakyRelu":
        return arithmetic.leaky_relu(e, x, site.get("alpha", 0.01))
    if site.op == "Elu":
        return arithmetic.elu(e, x, site.get("alpha", 1.0))
    if site.op == "Celu":
        return arithmetic.celu(e, x, site.get("alpha", 1.0))
    if site.op == "Gelu":
        return arithmetic.gelu(e, x, site.get("approximate", "none"))
    if site.op == "Reciprocal":
        return arithmetic.reciprocal(e, x)
    if site.op == "Softsign":
        return e.broadcast("div", x, e.broadcast("add", e.call("abs", x), 1.0))
    if site.op == "Selu" and "alpha" not in site.attributes and "gamma" not in site.attributes:
        return arithmetic.selu(e, x)
    e.refuse(f"{site.op} with these parameters is not supported", "use ReLU")


@onnx_op("HardSigmoid")
def hard_sigmoid(site: Site) -> Result:
    """clamp(alpha x + beta, 0, 1)."""
    e, alpha, beta = site.emitter, site.get("alpha", 0.2), site.get("beta", 0.5)
    if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:
        return e.call("hardsigmoid", site.value())
    line = e.broadcast("add", e.broadcast("mul", site.value(), alpha), beta)
    return e.call("clamp", line, min=0.0, max=1.0)


@onnx_op("PRelu")
def prelu(site: Site) -> Result:
    """Slopes per channel come as [C, 1, 1]."""
    slope = site.value(1)
    if isinstance(slope, Const) and slope.tensor.numel() in (1, site.emitter.shape(site.value())[1]):
        return site.emitter.call("prelu", site.value(), site.emitter.like(slope, slope.tensor.reshape(-1)))
    site.emitter.refuse("PRelu with slopes other than one per channel is not supported")


@onnx_op("Clip")
def clip(site: Site) -> Result:
    """Limits come as constant inputs; left out they are open."""
    low, high = site.numbers(1, "min"), site.numbers(2, "max")
    infinity = float("inf")
    return arithmetic.limit(
        site.emitter, site.value(), float(low[0]) if low else -infinity, float(high[0]) if high else infinity
    )


@onnx_op("Pow")
def power(site: Site) -> Result:
    """Of a constant exponent; a computed one takes a positive base: exp(y log x)."""
    e, exponent = site.emitter, site.value(1)
    if isinstance(site.value(), Const):
        base = site.value()
        assert isinstance(base, Const)
        return e.call("exp", e.broadcast("mul", e.like(base, base.tensor.log()), exponent))
    if not isinstance(exponent, Const) or exponent.tensor.numel() != 1:
        return e.call("exp", e.broadcast("mul", e.call("log", site.value()), exponent))
    return arithmetic.power(site.emitter, site.value(), float(exponent.tensor))


@onnx_op("Softmax", "LogSoftmax")
def softmax(site: Site) -> Result:
    """Along one axis."""
    rule = weights.softmax if site.op == "Softmax" else weights.log_softmax
    return rule(site.emitter, site.value(), site.get("axis", -1))
