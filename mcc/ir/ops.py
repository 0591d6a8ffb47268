"""The closed set of operators of the canonical form, as plain functions on tensors.

Each function is the reference evaluation of one row of the op table (`mcc.ir.table`). Tensors are
positional, attributes are keyword-only plain values, layout is NCHW, axis 0 is the batch and may have any
length at run time whatever the graph declares. `padding` is (top, bottom, left, right) in elements; weight
axes are O I H W. `activation` is a clamp fused into the operator: `none`, `relu` or `relu6`.

Every function returns one tensor. All of them are differentiable, so that a canonical graph trains.
"""

from __future__ import annotations

import builtins
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor

Pair = tuple[int, int]
Quad = tuple[int, int, int, int]

ACTIVATIONS = ("none", "relu", "relu6")

_batch_statistics: ContextVar[float | None] = ContextVar("mcc_batch_statistics", default=None)


@contextmanager
def batch_statistics(momentum: float = 0.1) -> Generator[None]:
    """Let `batch_norm` normalise with the statistics of the batch and update its running ones in place.

    Args:
        momentum: Weight of the new batch in the running mean and variance (torch's convention).
    """
    token = _batch_statistics.set(momentum)
    try:
        yield
    finally:
        _batch_statistics.reset(token)


def activate(x: Tensor, activation: str) -> Tensor:
    """Apply a fused activation by name. Raises ValueError for a name outside `ACTIVATIONS`."""
    if activation == "none":
        return x
    if activation == "relu":
        return F.relu(x)
    if activation == "relu6":
        return F.relu6(x)
    raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, not {activation!r}")


def _pad_spatial(x: Tensor, padding: Quad, value: float = 0.0) -> tuple[Tensor, Pair]:
    """Pad explicitly only where top/bottom or left/right differ; symmetric padding is left to the kernel."""
    top, bottom, left, right = padding
    if top == bottom and left == right:
        return x, (top, left)
    return F.pad(x, (left, right, top, bottom), value=value), (0, 0)


def _check_bias(bias: Tensor | None, channels: int) -> None:
    """Raise ValueError unless a bias has one entry per channel; torch's shape rules accept others."""
    if bias is not None and tuple(bias.shape) != (channels,):
        raise ValueError(f"a bias of {channels} channels has {channels} entries, not {tuple(bias.shape)}")


def _check_window(x: Tensor, padding: Quad = (0, 0, 0, 0), **steps: Pair) -> None:
    """Raise ValueError for windows that torch's shape rules accept and kernels refuse or crash on."""
    if x.dim() != 4:
        raise ValueError(f"needs a map [N, C, H, W], not {tuple(x.shape)}")
    for name, step in steps.items():
        if len(step) != 2 or min(step) < 1:
            raise ValueError(f"{name} must be two positive numbers, not {step}")
    if len(padding) != 4 or min(padding) < 0:
        raise ValueError(f"padding must be four numbers, none negative, not {padding}")


def _check_weight(channels: int, weight: Tensor, groups: int) -> None:
    """Raise ValueError unless a weight has four axes and the length of the first is divisible by `groups`."""
    if weight.dim() != 4 or groups < 1 or weight.shape[0] % groups or channels % groups:
        raise ValueError(
            f"a weight {tuple(weight.shape)} does not fit {groups} groups of {channels} channels"
        )


# -- convolutions and matrix products ---------------------------------------------------------------------


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    stride: Pair,
    padding: Quad,
    dilation: Pair,
    groups: int,
    activation: str,
) -> Tensor:
    """Cross-correlation of x [N, I, H, W] with weight [O, I/groups, kH, kW], plus bias [O]."""
    _check_window(x, padding, stride=stride, dilation=dilation)
    _check_weight(x.shape[1], weight, groups)
    _check_bias(bias, weight.shape[0])
    x, symmetric = _pad_spatial(x, padding)
    return activate(F.conv2d(x, weight, bias, stride, symmetric, dilation, groups), activation)


def conv_transpose2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    stride: Pair,
    padding: Quad,
    output_padding: Pair,
    dilation: Pair,
    groups: int,
    activation: str,
) -> Tensor:
    """Transposed convolution of x [N, I, H, W], weight [I, O/groups, kH, kW]; padding crops the output."""
    _check_window(x, stride=stride, dilation=dilation)
    _check_weight(x.shape[1], weight, groups)
    _check_bias(bias, weight.shape[1] * groups)
    full = F.conv_transpose2d(x, weight, None, stride, 0, 0, groups, dilation)
    top, bottom, left, right = padding
    full = F.pad(full, (-left, output_padding[1] - right, -top, output_padding[0] - bottom))
    if bias is not None:
        full = full + bias.reshape(1, -1, 1, 1)
    return activate(full, activation)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, *, activation: str) -> Tensor:
    """x [..., I] times the transpose of weight [O, I], plus bias [O]."""
    _check_bias(bias, weight.shape[0])
    return activate(F.linear(x, weight, bias), activation)


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """Matrix product over the last two axes, broadcasting the others."""
    return torch.matmul(a, b)


# -- normalisation -----------------------------------------------------------------------------------------


def batch_norm(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, *, eps: float) -> Tensor:
    """(x - mean) / sqrt(var + eps) * weight + bias over axis 1; see `batch_statistics` for training."""
    momentum = _batch_statistics.get()
    if momentum is None:
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)
    return F.batch_norm(x, mean, var, weight, bias, True, momentum, eps)


def layer_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, *, axes: tuple[int, ...], eps: float
) -> Tensor:
    """Normalise over `axes`; weight and bias have the shape of those axes, in ascending order."""
    mean = x.mean(axes, keepdim=True)
    var = (x - mean).square().mean(axes, keepdim=True)
    y = (x - mean) * torch.rsqrt(var + eps)
    shape = [x.shape[axis] if axis in axes else 1 for axis in range(x.dim())]
    if weight is not None:
        y = y * weight.reshape(shape)
    if bias is not None:
        y = y + bias.reshape(shape)
    return y


def group_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, *, groups: int, eps: float) -> Tensor:
    """Group normalisation over axis 1 (Wu and He 2018)."""
    return F.group_norm(x, groups, weight, bias, eps)


def global_response_norm(x: Tensor, weight: Tensor, bias: Tensor, *, axis: int, eps: float) -> Tensor:
    """x + weight * x * g / (mean(g) + eps) + bias along `axis`, g the L2 norm over all other axes (Woo 2023).

    The mean is over `axis`; weight and bias have its length. The batch axis is not reduced.
    """
    others = [other for other in range(1, x.dim()) if other != axis % x.dim()]
    if not others or axis % x.dim() == 0 or {tuple(weight.shape), tuple(bias.shape)} != {(x.shape[axis],)}:
        raise ValueError(f"a weight and a bias of the length of axis {axis}, and other axes, are needed")
    shape = [x.shape[axis] if other == axis % x.dim() else 1 for other in range(x.dim())]
    norms = torch.linalg.vector_norm(x, 2, others, keepdim=True)
    response = norms / (norms.mean(axis, keepdim=True) + eps)
    return x + weight.reshape(shape) * (x * response) + bias.reshape(shape)


# -- element-wise, one operand -----------------------------------------------------------------------------


def identity(x: Tensor) -> Tensor:
    """x itself."""
    return x


def relu(x: Tensor) -> Tensor:
    """max(x, 0)."""
    return F.relu(x)


def relu6(x: Tensor) -> Tensor:
    """min(max(x, 0), 6)."""
    return F.relu6(x)


def hardswish(x: Tensor) -> Tensor:
    """x * relu6(x + 3) / 6 (Howard 2019)."""
    return F.hardswish(x)


def hardsigmoid(x: Tensor) -> Tensor:
    """relu6(x + 3) / 6."""
    return F.hardsigmoid(x)


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x))."""
    return torch.sigmoid(x)


def tanh(x: Tensor) -> Tensor:
    """Hyperbolic tangent."""
    return torch.tanh(x)


def silu(x: Tensor) -> Tensor:
    """x * sigmoid(x)."""
    return F.silu(x)


def mish(x: Tensor) -> Tensor:
    """x * tanh(softplus(x))."""
    return F.mish(x)


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x))."""
    return F.softplus(x)


def exp(x: Tensor) -> Tensor:
    """e to the x."""
    return torch.exp(x)


def log(x: Tensor) -> Tensor:
    """Natural logarithm."""
    return torch.log(x)


def sqrt(x: Tensor) -> Tensor:
    """Square root."""
    return torch.sqrt(x)


def abs(x: Tensor) -> Tensor:
    """Absolute value."""
    return torch.abs(x)


def neg(x: Tensor) -> Tensor:
    """-x."""
    return torch.neg(x)


def sign(x: Tensor) -> Tensor:
    """-1, 0 or 1; with relu it is a comparison."""
    return torch.sign(x)


def gelu(x: Tensor, *, approximate: str) -> Tensor:
    """Gaussian error linear unit; `approximate` is `none` or `tanh`."""
    return F.gelu(x, approximate=approximate)


def leaky_relu(x: Tensor, *, slope: float) -> Tensor:
    """x where positive, slope * x elsewhere."""
    return F.leaky_relu(x, slope)


def elu(x: Tensor, *, alpha: float) -> Tensor:
    """x where positive, alpha * (exp(x) - 1) elsewhere."""
    return F.elu(x, alpha)


def clamp(x: Tensor, *, min: float, max: float) -> Tensor:
    """Clamp to [min, max]; an open end is infinite."""
    return torch.clamp(x, min, max)


def prelu(x: Tensor, weight: Tensor) -> Tensor:
    """x where positive, weight * x elsewhere; weight [C] runs over axis 1, or is [1]."""
    return F.prelu(x, weight)


# -- pooling and reductions --------------------------------------------------------------------------------


def max_pool2d(x: Tensor, *, kernel: Pair, stride: Pair, padding: Quad, dilation: Pair) -> Tensor:
    """Maximum over windows; padding counts as minus infinity."""
    _check_window(x, padding, kernel=kernel, stride=stride, dilation=dilation)
    top, bottom, left, right = padding
    if any(padding):
        x = F.pad(x, (left, right, top, bottom), value=float("-inf"))
    return F.max_pool2d(x, kernel, stride, 0, dilation)


def avg_pool2d(x: Tensor, *, kernel: Pair, stride: Pair, padding: Quad, count_include_pad: bool) -> Tensor:
    """Mean over windows; padding counts as zeros, and in the divisor only if `count_include_pad`."""
    _check_window(x, padding, kernel=kernel, stride=stride)
    top, bottom, left, right = padding
    pads = (left, right, top, bottom)
    total = F.avg_pool2d(F.pad(x, pads), kernel, stride, divisor_override=1)
    if count_include_pad or not any(padding):
        return total / (kernel[0] * kernel[1])
    ones = torch.ones((1, 1, x.shape[2], x.shape[3]), dtype=x.dtype, device=x.device)
    return total / F.avg_pool2d(F.pad(ones, pads), kernel, stride, divisor_override=1)


def mean(x: Tensor, *, axes: tuple[int, ...], keepdim: bool) -> Tensor:
    """Mean over `axes`; over (2, 3) it is the global average pool."""
    return x.mean(axes, keepdim)


def sum(x: Tensor, *, axes: tuple[int, ...], keepdim: bool) -> Tensor:
    """Sum over `axes`."""
    return x.sum(axes, keepdim)


def amax(x: Tensor, *, axes: tuple[int, ...], keepdim: bool) -> Tensor:
    """Maximum over `axes`."""
    return x.amax(axes, keepdim)


# -- element-wise, two operands ----------------------------------------------------------------------------


def add(a: Tensor, b: Tensor, *, activation: str) -> Tensor:
    """a + b with broadcasting."""
    return activate(a + b, activation)


def sub(a: Tensor, b: Tensor, *, activation: str) -> Tensor:
    """a - b with broadcasting."""
    return activate(a - b, activation)


def mul(a: Tensor, b: Tensor, *, activation: str) -> Tensor:
    """a * b with broadcasting."""
    return activate(a * b, activation)


def div(a: Tensor, b: Tensor, *, activation: str) -> Tensor:
    """a / b with broadcasting."""
    return activate(a / b, activation)


# -- shape -------------------------------------------------------------------------------------------------


def concat(*xs: Tensor, axis: int) -> Tensor:
    """Concatenate along `axis`."""
    return torch.cat(xs, axis)


def slice(x: Tensor, *, axis: int, start: int, stop: int, step: int) -> Tensor:
    """x[start:stop:step] along `axis`; 0 <= start < stop <= length, step >= 1."""
    if not (0 <= start < stop <= x.shape[axis] and step >= 1):
        raise ValueError(f"{start}:{stop}:{step} is no range of 0..{x.shape[axis]}")
    index = [builtins.slice(None)] * x.dim()
    index[axis] = builtins.slice(start, stop, step)
    return x[tuple(index)]


def pad(x: Tensor, *, padding: tuple[Pair, ...], mode: str, value: float) -> Tensor:
    """Pad each axis by (low, high), none negative; `mode` is constant, reflect or replicate."""
    if len(padding) != x.dim() or any(amount < 0 for pair in padding for amount in pair):
        raise ValueError(f"padding {padding} must hold two amounts for each of {x.dim()} axes, none negative")
    flat: list[int] = [amount for pair in reversed(padding) for amount in pair]
    if mode == "constant":
        return F.pad(x, flat, value=value)
    while len(flat) > 2 and flat[-1] == 0 and flat[-2] == 0 and len(flat) > 2 * (x.dim() - 2):
        flat = flat[:-2]
    return F.pad(x, flat, mode=mode)


def resize(x: Tensor, *, size: Pair, mode: str, align_corners: bool) -> Tensor:
    """Resize the spatial axes of x [N, C, H, W] to `size`; `mode` is nearest or bilinear."""
    _check_window(x, size=size)
    if mode == "nearest":
        return F.interpolate(x, size, mode="nearest")
    return F.interpolate(x, size, mode=mode, align_corners=align_corners)


def reshape(x: Tensor, *, shape: tuple[int, ...]) -> Tensor:
    """Reshape each sample to `shape`, which excludes the batch axis and has no inferred length."""
    if any(length < 1 for length in shape):
        raise ValueError(f"shape {shape} holds a length that is not positive")
    return x.reshape((x.shape[0], *shape))


def transpose(x: Tensor, *, perm: tuple[int, ...]) -> Tensor:
    """Permute the axes; perm[0] is 0."""
    return x.permute(perm)


def pixel_shuffle(x: Tensor, *, factor: int) -> Tensor:
    """[N, C*f*f, H, W] to [N, C, H*f, W*f] (Shi 2016)."""
    return F.pixel_shuffle(x, factor)


def softmax(x: Tensor, *, axis: int) -> Tensor:
    """exp(x) over its sum along `axis`."""
    return F.softmax(x, axis)


# -- quantisation ------------------------------------------------------------------------------------------


class _RoundStraightThrough(torch.autograd.Function):
    """Round half to even, with the identity as gradient (Bengio 2013)."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return torch.round(x)

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return grad


def fake_quantize(
    x: Tensor, scale: Tensor, zero_point: Tensor, *, qmin: int, qmax: int, axis: int | None
) -> Tensor:
    """Quantise and dequantise: clamp(round(x / scale) + zero_point, qmin, qmax), as real numbers.

    scale and zero_point are scalars, or vectors along `axis`. Rounds half to even. The gradient is
    that of a straight-through estimator inside the range; a scale's is that of LSQ (Esser 2020).
    """
    if axis is not None:
        shape: Sequence[int] = [-1 if i == axis else 1 for i in range(x.dim())]
        scale, zero_point = scale.reshape(shape), zero_point.reshape(shape)
    zero = zero_point.to(x.dtype)
    q = torch.clamp(_RoundStraightThrough.apply(x / scale) + zero, qmin, qmax)  # pyright: ignore
    return (q - zero) * scale
