"""Integer kernels of operators, from int8 codes to int8 codes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mcc.ir import ops
from mcc.ir.graph import op_name
from mcc.quant import arithmetic
from mcc.quant.params import INT8_MAX, INT8_MIN, QuantParams
from mcc.quant.regions import IntegerNode
from mcc.quant.scales import IntegerWeights


@dataclass(frozen=True)
class Call:
    """One evaluation of an integer kernel.

    Attributes:
        entry: Operator with the parameters of its operands and result.
        codes: Activation operands as int8, batch first.
        weights: Integers of a weighted operator, else None.
    """

    entry: IntegerNode
    codes: tuple[Tensor, ...]
    weights: IntegerWeights | None

    @property
    def attributes(self) -> dict[str, Any]:
        """The operator's attributes."""
        return dict(self.entry.node.kwargs)

    @property
    def source(self) -> QuantParams:
        """Parameters of the first operand."""
        return self.entry.inputs[0]


def run_kernel(call: Call) -> Tensor:
    """The int8 result of an integer node, requantised if the kernel cannot change the scale."""
    result = _KERNELS[op_name(call.entry.node)](call)
    if call.entry.requantise == "output":
        return arithmetic.requantize(result, call.source, call.entry.output)
    return result


def _weighted(
    call: Call, product: Callable[[Tensor, Tensor], Tensor], reduced: tuple[int, ...], channel_axis: int
) -> Tensor:
    """Centred input times centred weight, plus bias, requantised per output channel."""
    weights = call.weights
    assert weights is not None
    dtype = arithmetic.accumulator_dtype(weights.weight, weights.bias, reduced)
    x = arithmetic.centred(call.codes[0], call.source, dtype)
    total = product(x, torch.from_numpy(weights.weight).to(dtype))
    shape = [-1 if axis == channel_axis else 1 for axis in range(total.dim())]
    total += torch.from_numpy(weights.bias).to(dtype).reshape(shape)
    scale = torch.from_numpy(weights.requantise).reshape(shape)
    bounds = arithmetic.clamp_bounds(call.attributes["activation"], call.entry.output)
    return arithmetic.requantize_accumulator(total, scale, call.entry.output.zero_point, bounds)


def _conv2d(call: Call) -> Tensor:
    options: dict[str, Any] = {**call.attributes, "activation": "none"}
    # Padding is with the zero point, which is 0 after centring.
    return _weighted(call, lambda x, w: ops.conv2d(x, w, None, **options), (1, 2, 3), 1)


def _conv_transpose2d(call: Call) -> Tensor:
    options: dict[str, Any] = {**call.attributes, "activation": "none"}
    return _weighted(call, lambda x, w: ops.conv_transpose2d(x, w, None, **options), (0, 2, 3), 1)


def _linear(call: Call) -> Tensor:
    return _weighted(call, lambda x, w: x @ w.t(), (1,), call.codes[0].dim() - 1)


def _activated(call: Call, codes: Tensor) -> Tensor:
    least, greatest = arithmetic.clamp_bounds(call.attributes["activation"], call.entry.output)
    return codes.clamp(least, greatest)


def _sum(call: Call, sign_b: int) -> Tensor:
    a, b = call.codes
    return _activated(call, arithmetic.add(a, b, call.entry.inputs, call.entry.output, sign_b))


def _mul(call: Call) -> Tensor:
    a, b = call.codes
    return _activated(call, arithmetic.multiply(a, b, call.entry.inputs, call.entry.output))


def _mean(call: Call) -> Tensor:
    axes = tuple(axis % call.codes[0].dim() for axis in call.attributes["axes"])
    count = int(np.prod([call.codes[0].shape[axis] for axis in axes]))
    keepdim = bool(call.attributes["keepdim"])
    return arithmetic.reduce_mean(call.codes[0], axes, keepdim, count, call.source, call.entry.output)


def _clamped(call: Call, least: float, greatest: float) -> Tensor:
    output = call.entry.output
    if arithmetic.code_of(least, output) == INT8_MIN and arithmetic.code_of(greatest, output) == INT8_MAX:
        return call.codes[0]  # the saturation of the result is the clamp
    low, high = arithmetic.code_of(least, call.source), arithmetic.code_of(greatest, call.source)
    return call.codes[0].clamp(low, high)


def _lookup(call: Call) -> Tensor:
    return arithmetic.lookup(call.codes[0], op_name(call.entry.node), call.source, call.entry.output)


def _leaky_relu(call: Call) -> Tensor:
    slope = float(call.attributes["slope"])
    return arithmetic.leaky_relu(call.codes[0], slope, call.source, call.entry.output)


def _max_pool2d(call: Call) -> Tensor:
    # Codes have the order of the real numbers, and float32 represents them and the padding's minus infinity.
    return ops.max_pool2d(call.codes[0].to(torch.float32), **call.attributes).to(torch.int8)


def _avg_pool2d(call: Call) -> Tensor:
    options = call.attributes
    top, bottom, left, right = options["padding"]
    codes = call.codes[0].to(torch.float64)
    padded = F.pad(codes, (left, right, top, bottom), value=float(call.source.zero_point))
    kernel = options["kernel"]
    total = F.avg_pool2d(padded, kernel, options["stride"], divisor_override=1).to(torch.int64)
    return arithmetic.average(total, kernel[0] * kernel[1])


def _concat(call: Call) -> Tensor:
    output = call.entry.output
    parts = zip(call.codes, call.entry.inputs, strict=True)
    return torch.cat([arithmetic.requantize(q, p, output) for q, p in parts], call.attributes["axis"])


def _pad(call: Call) -> Tensor:
    options = call.attributes
    fill = arithmetic.code_of(float(options["value"]), call.source)
    codes = call.codes[0].to(torch.float32)  # reflection is not implemented for int8
    return ops.pad(codes, padding=options["padding"], mode=options["mode"], value=fill).to(torch.int8)


def _resize(call: Call) -> Tensor:
    options = call.attributes
    if options["mode"] == "bilinear":
        return arithmetic.resize_bilinear(call.codes[0], options["size"], bool(options["align_corners"]))
    return ops.resize(call.codes[0].to(torch.float32), **options).to(torch.int8)


def _moves(call: Call) -> Tensor:
    """Operators that move codes unchanged."""
    function: Callable[..., Tensor] = getattr(ops, op_name(call.entry.node))
    return function(call.codes[0], **call.attributes)


_KERNELS: dict[str, Callable[[Call], Tensor]] = {
    "conv2d": _conv2d,
    "conv_transpose2d": _conv_transpose2d,
    "linear": _linear,
    "add": lambda call: _sum(call, sign_b=1),
    "sub": lambda call: _sum(call, sign_b=-1),
    "mul": _mul,
    "mean": _mean,
    "relu": lambda call: _clamped(call, 0.0, float("inf")),
    "relu6": lambda call: _clamped(call, 0.0, 6.0),
    "clamp": lambda call: _clamped(call, call.attributes["min"], call.attributes["max"]),
    "sigmoid": _lookup,
    "tanh": _lookup,
    "softmax": lambda call: arithmetic.softmax(
        call.codes[0], int(call.attributes["axis"]), call.source, call.entry.output
    ),
    "leaky_relu": _leaky_relu,
    "max_pool2d": _max_pool2d,
    "avg_pool2d": _avg_pool2d,
    "concat": _concat,
    "pad": _pad,
    "resize": _resize,
    "identity": _moves,
    "slice": _moves,
    "reshape": _moves,
    "transpose": _moves,
    "pixel_shuffle": _moves,
}
