"""Selection of the operator nodes of a quantised graph that run as integer kernels.

The TFLite writer, the ONNX lowering and the integer simulator all use `integer_nodes`. The rules are those
of XNNPACK's int8 kernels as LiteRT 2.3 delegates to them (the scale limits are its delegate's checks in
`tflite/delegates/xnnpack/xnnpack_delegate.cc`), plus average pooling and softmax, which have built-in ones.

    x --fake_quantize--> xq --op--> y --fake_quantize--> yq      op is an integer node: int8 xq to int8 yq

An operator is an integer node when

* it has an integer kernel: hardswish and the rows that the op table calls `float` have none; they run in
  float32 between dequantise and quantise, even where both ends are int8,
* every activation operand is a `fake_quantize` over 8 bits with one scale; a constant operand of add, sub or
  mul passes through its own `fake_quantize`,
* a weight is a symmetric `fake_quantize` of a constant, per output channel or one scale for all; the bias is
  a constant,
* its only user is one `fake_quantize` over 8 bits,
* the kernel accepts the scales.

Kernels that only move or clamp values cannot change the scale. Where their operands and result have
different ones, `IntegerNode.requantise` places one int8-to-int8 requantise (`QUANTIZE` in TFLite) after the
kernel (`output`) or, for concat, before each operand that differs (`inputs`). Average pooling and bilinear
resizing compute new numbers; with different scales they run in float.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import fx

from mcc.ir.graph import is_constant, op_name, operands, optional_operand
from mcc.ir.table import MOVING, WEIGHTED
from mcc.quant.params import QuantParams, is_fake_quantize, quant_params

Requantise = Literal["none", "inputs", "output"]

FIXED_OUTPUTS = {"sigmoid": (2.0**-8, -128), "softmax": (2.0**-8, -128), "tanh": (2.0**-7, 0)}
"""Fixed scale and zero point of the result of these kernels (TFLite's quantisation specification)."""

REQUANTISE_LIMITS = (2.0**-8, 2.0**7)
"""Minimum and maximum of input scale over output scale of an int8-to-int8 requantise and of leaky_relu."""

_ADD_LIMITS = (2.0**-10, 2.0**8)
_MUL_LIMITS = (2.0**-16, 2.0**8)
_WEIGHTED_LIMIT = 2.0**8


@dataclass(frozen=True)
class IntegerNode:
    """One operator that runs on integers.

    Attributes:
        node: The operator.
        inputs: Parameters of its activation operands, in order (without weight and bias).
        weight: Parameters of its weight, or None.
        output: Parameters of its result, those of its only user.
        quantiser: That user, the `fake_quantize` node whose integers the kernel writes.
        requantise: Place of a requantise for a kernel that cannot change the scale; see the module.
    """

    node: fx.Node
    inputs: tuple[QuantParams, ...]
    weight: QuantParams | None
    output: QuantParams
    quantiser: fx.Node
    requantise: Requantise


def integer_nodes(graph: fx.GraphModule) -> dict[fx.Node, IntegerNode]:
    """All operator nodes that run as integer kernels, in graph order."""
    found: dict[fx.Node, IntegerNode] = {}
    for node in graph.graph.nodes:
        if node.op == "call_function":
            entry = _integer_node(graph, node)
            if entry is not None:
                found[node] = entry
    return found


def _integer_node(graph: fx.GraphModule, node: fx.Node) -> IntegerNode | None:
    name = op_name(node)
    rule = _SCALE_RULES.get(name)
    quantiser = next(iter(node.users), None)
    if rule is None or quantiser is None or len(node.users) != 1 or not is_fake_quantize(quantiser):
        return None
    activations = operands(node)[:1] if name in WEIGHTED else operands(node)
    if not all(is_fake_quantize(value) for value in activations):
        return None
    inputs = tuple(quant_params(graph, value) for value in activations)
    output = quant_params(graph, quantiser)
    if not all(params.is_int8_activation for params in (*inputs, output)):
        return None
    weight = _weight_params(graph, node) if name in WEIGHTED else None
    if (name in WEIGHTED and weight is None) or not rule(node, inputs, weight, output):
        return None
    requantise = _requantise(name, inputs, output)
    return IntegerNode(node, inputs, weight, output, quantiser, requantise)


def _weight_params(graph: fx.GraphModule, node: fx.Node) -> QuantParams | None:
    """Parameters of the weight if an integer kernel accepts it and the bias is a constant; else None."""
    weight, bias = optional_operand(node, 1), optional_operand(node, 2)
    if weight is None or not is_fake_quantize(weight) or not is_constant(operands(weight)[0]):
        return None
    if bias is not None and not is_constant(bias):
        return None
    params = quant_params(graph, weight)
    transposed = op_name(node) == "conv_transpose2d"
    return params if params.axis in (None, 1 if transposed else 0) and params.is_symmetric else None


def _requantise(name: str, inputs: tuple[QuantParams, ...], output: QuantParams) -> Requantise:
    if name not in MOVING or all(params.same_mapping(output) for params in inputs):
        return "none"
    return "inputs" if name == "concat" else "output"


def _ratio(params: QuantParams, output: QuantParams) -> float:
    return float(params.scale / output.scale)


_Rule = Callable[[fx.Node, tuple[QuantParams, ...], QuantParams | None, QuantParams], bool]


def _takes_weighted(
    node: fx.Node, inputs: tuple[QuantParams, ...], weight: QuantParams | None, output: QuantParams
) -> bool:
    assert weight is not None
    greatest = inputs[0].scale * np.max(weight.scale_vector) / output.scale
    return bool(greatest < _WEIGHTED_LIMIT)


def _takes_sum(
    node: fx.Node, inputs: tuple[QuantParams, ...], weight: QuantParams | None, output: QuantParams
) -> bool:
    return all(_ADD_LIMITS[0] <= _ratio(params, output) < _ADD_LIMITS[1] for params in inputs)


def _takes_product(
    node: fx.Node, inputs: tuple[QuantParams, ...], weight: QuantParams | None, output: QuantParams
) -> bool:
    product = float(inputs[0].scale * inputs[1].scale / output.scale)
    return _MUL_LIMITS[0] <= product < _MUL_LIMITS[1]


def _takes_leaky(
    node: fx.Node, inputs: tuple[QuantParams, ...], weight: QuantParams | None, output: QuantParams
) -> bool:
    least, greatest = REQUANTISE_LIMITS
    slope = np.float32(float(str(node.kwargs["slope"])))
    positive = np.float32(inputs[0].scale / output.scale)
    negative = float(positive * slope)
    return (
        bool(least <= positive <= greatest)
        and least <= abs(negative)
        and -127.99609375 <= negative <= greatest
    )


def _takes_any(
    node: fx.Node, inputs: tuple[QuantParams, ...], weight: QuantParams | None, output: QuantParams
) -> bool:
    return True


def _takes_fixed(
    node: fx.Node, inputs: tuple[QuantParams, ...], weight: QuantParams | None, output: QuantParams
) -> bool:
    return (output.scales[0], output.zero_point) == FIXED_OUTPUTS[op_name(node)]


def _takes_tied(
    node: fx.Node, inputs: tuple[QuantParams, ...], weight: QuantParams | None, output: QuantParams
) -> bool:
    return all(params.same_mapping(output) for params in inputs)


def _takes_requantised(
    node: fx.Node, inputs: tuple[QuantParams, ...], weight: QuantParams | None, output: QuantParams
) -> bool:
    least, greatest = REQUANTISE_LIMITS
    return all(p.same_mapping(output) or least <= _ratio(p, output) <= greatest for p in inputs)


def _takes_average(
    node: fx.Node, inputs: tuple[QuantParams, ...], weight: QuantParams | None, output: QuantParams
) -> bool:
    # The built-in kernel excludes padding from the divisor; included padding is a PAD before the kernel.
    padding = node.kwargs["padding"]
    assert isinstance(padding, tuple)
    whole = not any(padding) or bool(node.kwargs["count_include_pad"])
    return whole and _takes_tied(node, inputs, weight, output)


def _takes_resize(
    node: fx.Node, inputs: tuple[QuantParams, ...], weight: QuantParams | None, output: QuantParams
) -> bool:
    moves = node.kwargs["mode"] == "nearest"
    return (_takes_requantised if moves else _takes_tied)(node, inputs, weight, output)


_SCALE_RULES: dict[str, _Rule] = {
    **dict.fromkeys(WEIGHTED, _takes_weighted),
    **dict.fromkeys(MOVING, _takes_requantised),
    **dict.fromkeys(FIXED_OUTPUTS, _takes_fixed),
    "resize": _takes_resize,
    "avg_pool2d": _takes_average,
    "add": _takes_sum,
    "sub": _takes_sum,
    "mul": _takes_product,
    "mean": _takes_any,
    "leaky_relu": _takes_leaky,
}

INTEGER_KERNELS = frozenset(_SCALE_RULES)
"""Operators with an integer kernel."""
