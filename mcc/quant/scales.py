"""The scale table of a quantised graph, and the integer weights and biases computed from it.

The table is read from the `fake_quantize` nodes, so that every format has exactly the trained scales;
weights, biases and requantisation scales are computed here once, for all formats.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from mcc.errors import UnsupportedError
from mcc.ir.graph import constant, is_constant, op_name, operand, optional_operand
from mcc.ir.ops import fake_quantize
from mcc.quant.params import QuantParams, is_fake_quantize, quant_params
from mcc.quant.regions import IntegerNode

BIAS_LIMIT = 2**30
"""Largest bias in int32 steps that leaves half of the accumulator's range to the products."""


@dataclass(frozen=True)
class ScaleTable(Mapping[str, QuantParams]):
    """Quantisation parameters by the name of the quantised value (its `fake_quantize` node)."""

    values_by_name: Mapping[str, QuantParams]

    def __getitem__(self, name: str) -> QuantParams:
        return self.values_by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_by_name)

    def __len__(self) -> int:
        return len(self.values_by_name)


def scale_table(graph: fx.GraphModule) -> ScaleTable:
    """Read the parameters of every `fake_quantize` node. Raises GraphError for unusable constants."""
    found = {node.name: quant_params(graph, node) for node in graph.graph.nodes if is_fake_quantize(node)}
    return ScaleTable(found)


def quantized_constant(graph: fx.GraphModule, quantiser: fx.Node) -> NDArray[np.int8]:
    """Integers of a constant with a `fake_quantize`: clamp(round(value / scale) + zero_point, qmin, qmax).

    Divides in float32 and rounds half to even, as `mcc.ir.ops.fake_quantize` does, so that a trained weight
    and its integer are the same number. Raises GraphError if operand 0 is not a constant.
    """
    params = quant_params(graph, quantiser)
    value = constant(graph, operand(quantiser, 0)).detach().to(torch.float32)
    scale = torch.from_numpy(params.scale_vector)
    zero = torch.tensor(params.zero_points, dtype=torch.float32)
    if params.axis is not None:
        shape = [-1 if axis == params.axis else 1 for axis in range(value.dim())]
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    integers = torch.clamp(torch.round(value / scale) + zero, params.qmin, params.qmax)
    result: NDArray[np.int8] = integers.to(torch.int8).numpy()
    return result


def output_channels(node: fx.Node, weight: NDArray[np.int8]) -> int:
    """Output channels of a weighted operator (weight axes O I H W, of a transposed convolution I O H W)."""
    if op_name(node) != "conv_transpose2d":
        return weight.shape[0]
    return weight.shape[1] * int(str(node.kwargs["groups"]))


@dataclass(frozen=True)
class IntegerWeights:
    """Integers and scales of an integer kernel with weights.

    Attributes:
        weight: Weight as int8, in the axes of the canonical operator.
        weight_scale: Scales of the weight, float32 [O].
        bias: Bias as int32 [O], with scale `bias_scale`; zeros if the operator has none.
        bias_scale: Scales of the bias, float32 [O]: input scale times weight scale.
        requantise: Requantisation scales, float32 [O], from accumulator steps to output steps.
    """

    weight: NDArray[np.int8]
    weight_scale: NDArray[np.float32]
    bias: NDArray[np.int32]
    bias_scale: NDArray[np.float32]
    requantise: NDArray[np.float32]


def integer_weights(graph: fx.GraphModule, entry: IntegerNode) -> IntegerWeights:
    """Integers and scales of a conv2d, conv_transpose2d or linear that runs on integers.

    The bias is round_half_even(bias / (input scale * weight scale)); the requantisation scale is computed in
    float32 in XNNPACK's order, (input scale * weight scale) / output scale. Raises GraphError.
    """
    assert entry.weight is not None
    weight = quantized_constant(graph, operand(entry.node, 1))
    channels = output_channels(entry.node, weight)
    weight_scale = np.resize(entry.weight.scale_vector, channels)  # repeats one scale, or those of a group
    bias_scale = (entry.inputs[0].scale * weight_scale).astype(np.float32)
    bias_node = optional_operand(entry.node, 2)
    bias = None if bias_node is None else constant(graph, bias_node)
    steps = np.zeros(channels, np.int32) if bias is None else int32_bias(bias, bias_scale)
    requantise = (bias_scale / entry.output.scale).astype(np.float32)
    return IntegerWeights(weight, weight_scale, steps, bias_scale, requantise)


def int32_bias(bias: Tensor, bias_scale: NDArray[np.float32]) -> NDArray[np.int32]:
    """round_half_even(bias [O] / bias_scale [O]), saturated to int32."""
    real: NDArray[np.float64] = bias.detach().to(torch.float64).cpu().numpy()
    steps = np.rint(real / bias_scale.astype(np.float64))
    limits = np.iinfo(np.int32)
    return np.clip(steps, limits.min, limits.max).astype(np.int32)


def clamp_weight_scales(weight_scale: Tensor, bias: Tensor | None, input_scale: float) -> Tensor:
    """Raise the scales [O] of near-dead channels so that their bias fits int32 with a margin.

    A channel whose weights are almost zero has a tiny scale, and a bias in steps of input scale times weight
    scale that overflows. Each scale becomes at least |bias| / (input_scale * 2^30); the weights of such a
    channel are far below that scale, and their loss of resolution has no effect.
    """
    if bias is None:
        return weight_scale
    least = bias.detach().abs().to(torch.float64) / (input_scale * BIAS_LIMIT)
    return torch.maximum(weight_scale, least.to(weight_scale.dtype))


def real_constant(graph: fx.GraphModule, node: fx.Node) -> NDArray[np.float32]:
    """A constant as real numbers, after its `fake_quantize` if it has one.

    Raises UnsupportedError if the value is computed.
    """
    if is_constant(node):
        return constant(graph, node).detach().to("cpu", torch.float32).numpy()
    if not is_quantized_constant(node):
        raise UnsupportedError("is computed, but a constant is needed", where=node.name)
    parts = [constant(graph, operand(node, index)).detach().cpu() for index in range(3)]
    attributes: dict[str, Any] = dict(node.kwargs)
    result: NDArray[np.float32] = fake_quantize(*parts, **attributes).to(torch.float32).numpy()
    return result


def is_quantized_constant(node: fx.Node) -> bool:
    """Whether a value is the `fake_quantize` of a constant: a weight, or a constant operand."""
    return is_fake_quantize(node) and is_constant(operand(node, 0))
