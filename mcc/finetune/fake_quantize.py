"""`fake_quantize` for training: the same results and gradients as `mcc.ir.ops`, in less time and memory.

Training with quantisers is bound by memory bandwidth: the plain implementation makes some ten passes over
each value. This one makes four in the forward pass, block by block while the block is in the cache, and one
in the backward pass. The zero point needs no pass: clamp(round(x / s) + z, qmin, qmax) - z = clamp(round(x /
s), qmin - z, qmax - z), exactly. Neither does an activation fused before the quantiser: rounding is
monotonic, so that its limits become limits of the codes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

PART = 1 << 17
"""Elements of a block: 512 KiB of float32, which fit into a second-level cache of 1 to 2 MiB."""

CEILINGS = {"none": float("inf"), "relu": float("inf"), "relu6": 6.0}


class _QuantiseValue(torch.autograd.Function):
    """Fake quantisation of a value with one scale."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, x: Tensor, scale: Tensor, least: int, greatest: int, low: float, high: float
    ) -> Tensor:
        result = torch.empty_like(x)
        samples = max(1, PART * x.shape[0] // max(1, x.numel()))
        for source, part in zip(x.split(samples), result.split(samples), strict=True):
            torch.div(source, scale, out=part)
            part.round_().clamp_(least, greatest).mul_(scale)
        ctx.ends = (low, high)
        ctx.learns = ctx.needs_input_grad[1]
        ctx.gain = (x[0].numel() * max(greatest, -least)) ** -0.5
        ctx.save_for_backward(x, scale, *((result,) if ctx.learns else ()))
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, scale, *results = ctx.saved_tensors
        passed = torch.ops.aten.hardtanh_backward(grad, x, *ctx.ends)
        if not ctx.learns:
            return passed, None, None, None, None, None
        # d result / d scale = (result - x inside) / scale; summed in float32, bfloat16 would lose it.
        total = (grad.float() * results[0].float()).sum() - (passed.float() * x.float()).sum()
        return passed, total / scale * ctx.gain, None, None, None, None


class _QuantiseWeight(torch.autograd.Function):
    """Symmetric fake quantisation of a weight with a scale per channel."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, x: Tensor, scale: Tensor, qmin: int, qmax: int
    ) -> Tensor:
        codes = (x / scale).round_()
        clamped = codes.clamp(qmin, qmax)
        ctx.save_for_backward(clamped == codes)
        return clamped.mul_(scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (inside,) = ctx.saved_tensors
        return grad * inside, None, None, None


def quantise(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    *,
    qmin: int,
    qmax: int,
    axis: int | None,
    activation: str = "none",
) -> Tensor:
    """`ops.fake_quantize` of x after `activation`.

    The gradient of a learned scale is that of Esser 2020, section 2.2, with its factor 1 / sqrt(elements *
    qmax), which makes it as large relative to the scale as those of weights relative to them; only scales of
    whole values are learned.
    """
    if axis is not None:
        shape = [-1 if i == axis else 1 for i in range(x.dim())]
        return _QuantiseWeight.apply(x, scale.reshape(shape), qmin, qmax)  # pyright: ignore
    step, zero = float(scale.detach()), int(zero_point)
    least, greatest = qmin - zero, qmax - zero
    low, high = (least - 0.5) * step, (greatest + 0.5) * step
    if activation != "none":
        ceiling = CEILINGS[activation]
        least, low = max(least, 0), max(low, 0.0)
        if ceiling < high:
            greatest, high = min(greatest, round(ceiling / step)), ceiling
    return _QuantiseValue.apply(x, scale, least, greatest, low, high)  # pyright: ignore
