"""The integer arithmetic of XNNPACK's int8 kernels, formula by formula, on torch tensors.

Taken from XNNPACK's source (2026-08) and confirmed bit for bit against LiteRT 2.3.0 on x86 with AVX512-VNNI
and on emulated ARM64 (Cortex-A76); the source file of each formula is named. One kernel differs on ARM64, by
one step in under 0.5 % of its codes: the built-in softmax, which has a table of 16-bit integers there.

`q` is an integer code, s a float32 scale, z a zero point; all rounding is half to even (`lrintf`,
`_mm512_cvtps_epi32`) unless a formula adds a rounding term before a shift.

Integer codes are int8 tensors; accumulators are float64 or float32 tensors that represent integers exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mcc.quant.params import INT8_MAX, INT8_MIN, QuantParams

FLOAT32_EXACT = 2**24
"""Integers below this are exact in float32."""

_CVT_BITS = 8  # fractional bits of the multiplier of an int8-to-int8 conversion
_ADD_BITS = 20  # the larger multiplier of an addition is in [2^20, 2^21)
_BILINEAR_BITS = 11  # fractional bits of an interpolation weight


def saturate(steps: Tensor, least: int = INT8_MIN, greatest: int = INT8_MAX) -> Tensor:
    """Clamp integers of any dtype and convert them to int8."""
    return steps.clamp(least, greatest).to(torch.int8)


def quantize(x: Tensor, params: QuantParams) -> Tensor:
    """Real to int8: round(x * (1 / s)) + z, saturated (f32-qs8-vcvt; it multiplies by the reciprocal)."""
    reciprocal = float(np.float32(1.0) / params.scale)
    steps = torch.round(x.to(torch.float32) * reciprocal)
    steps = torch.nan_to_num(steps, nan=0.0).clamp(-512.0, 512.0)
    return saturate(steps + params.zero_point)


def quantize_by_division(x: Tensor, params: QuantParams) -> Tensor:
    """Real to int8 as by onnxruntime's QuantizeLinear: round(x / s) + z, saturated."""
    steps = torch.round(x.to(torch.float32) / float(params.scale))
    steps = torch.nan_to_num(steps, nan=0.0).clamp(-512.0, 512.0)
    return saturate(steps + params.zero_point)


def dequantize(q: Tensor, params: QuantParams) -> Tensor:
    """int8 to float32: (q - z) * s (qs8-f32-vcvt)."""
    return (q.to(torch.float32) - params.zero_point) * float(params.scale)


def centred(q: Tensor, params: QuantParams, dtype: torch.dtype) -> Tensor:
    """q - z in a dtype that represents it exactly."""
    return q.to(dtype).sub_(params.zero_point)


def requantize(q: Tensor, source: QuantParams, target: QuantParams) -> Tensor:
    """int8 to int8 with other parameters (qs8-vcvt): (z' << 8 + (q - z) * m + 128) >> 8, m = round(256 s/s').

    The multiplier has only 8 fractional bits, so a ratio of scales below one is coarse: tie scales instead.
    """
    if source.same_mapping(target):
        return q
    multiplier = _fixed_point(source.scale / target.scale)
    moved = (centred(q, source, torch.int32) * multiplier + 128) >> _CVT_BITS
    return saturate(moved + target.zero_point)


def _fixed_point(ratio: np.float32) -> int:
    return int(np.rint(np.float32(2.0**_CVT_BITS) * ratio))


def leaky_relu(q: Tensor, slope: float, source: QuantParams, target: QuantParams) -> Tensor:
    """qs8-vlrelu: like `requantize` with one multiplier above the zero point and another below."""
    positive = np.float32(source.scale / target.scale)
    above = _fixed_point(positive)
    below = _fixed_point(np.float32(positive * np.float32(slope)))
    steps = centred(q, source, torch.int32)
    moved = (torch.where(steps >= 0, steps * above, steps * below) + 128) >> _CVT_BITS
    return saturate(moved + target.zero_point)


def accumulator_dtype(
    weight: NDArray[np.int8], bias: NDArray[np.int32], reduced: tuple[int, ...]
) -> torch.dtype:
    """float32 where every partial sum of products with the weight is exact in it, else float64.

    The bound is 255 (the largest |q - z|) times the largest sum of |w| over `reduced` axes, plus the bias.
    """
    products = 255 * int(np.abs(weight.astype(np.int64)).sum(axis=reduced).max(initial=0))
    greatest = products + int(np.abs(bias.astype(np.int64)).max(initial=0))
    return torch.float32 if greatest < FLOAT32_EXACT else torch.float64


def requantize_accumulator(
    accumulator: Tensor, scale: Tensor | float, zero_point: int, bounds: tuple[int, int]
) -> Tensor:
    """Accumulator steps to int8: round(float32(acc) * scale) + z, clamped to `bounds`; overwrites its input.

    The fp32 requantisation of qs8-qc8w-gemm, -igemm, -dwconv and of qs8-vmul: the int32 accumulator is
    converted to float32 (rounding above 2^24), multiplied in float32, converted half to even.
    """
    scaled = accumulator.to(torch.float32).mul_(scale).round_()
    limit = 2.0**20  # far outside int8, far inside the exact integers of float32
    return scaled.clamp_(-limit, limit).add_(zero_point).clamp_(*bounds).to(torch.int8)


def clamp_bounds(activation: str, params: QuantParams) -> tuple[int, int]:
    """Minimum and maximum code after a fused activation (`xnn_qs8_quantize` of 0 and 6)."""
    if activation == "none":
        return INT8_MIN, INT8_MAX
    return code_of(0.0, params), code_of(6.0, params) if activation == "relu6" else INT8_MAX


def code_of(real: float, params: QuantParams) -> int:
    """The code of one real number or infinity: round(x / s + z), saturated (`xnn_qs8_quantize`)."""
    if math.isinf(real):
        return INT8_MAX if real > 0 else INT8_MIN
    steps = np.float32(real) / params.scale + np.float32(params.zero_point)
    return int(np.rint(np.clip(steps, INT8_MIN, INT8_MAX)))


@dataclass(frozen=True)
class SumMultipliers:
    """Fixed-point constants of an int8 addition (xnn_init_qs8_add_minmax_scalar_params)."""

    a: int
    b: int
    shift: int


def sum_multipliers(a: np.float32, b: np.float32, output: np.float32, sign_b: int = 1) -> SumMultipliers:
    """Multipliers such that q_out = (a*(q_a - z_a) + b*(q_b - z_b) + 2^(shift-1)) >> shift, plus z_out.

    Args:
        a, b, output: Scales of the operands and the result.
        sign_b: -1 for a subtraction.
    """
    ratio_a, ratio_b = np.float32(a / output), np.float32(b / output)
    exponent = int(np.frexp(max(ratio_a, ratio_b))[1]) - 1
    shift = _ADD_BITS - exponent
    multiplier_a = int(np.rint(np.ldexp(ratio_a, shift)))
    multiplier_b = int(np.rint(np.ldexp(ratio_b, shift)))
    return SumMultipliers(multiplier_a, sign_b * multiplier_b, shift)


def add(
    a: Tensor, b: Tensor, inputs: tuple[QuantParams, ...], output: QuantParams, sign_b: int = 1
) -> Tensor:
    """qs8-vadd: a fixed-point sum, rounded half up by the shift; the activation clamps afterwards."""
    m = sum_multipliers(inputs[0].scale, inputs[1].scale, output.scale, sign_b)
    total = centred(a, inputs[0], torch.int64) * m.a + centred(b, inputs[1], torch.int64) * m.b
    return saturate(((total + (1 << (m.shift - 1))) >> m.shift) + output.zero_point)


def multiply(a: Tensor, b: Tensor, inputs: tuple[QuantParams, ...], output: QuantParams) -> Tensor:
    """qs8-vmul, fp32: round(float32((q_a - z_a)(q_b - z_b)) * ((s_a * s_b) / s)) + z."""
    product = centred(a, inputs[0], torch.float32) * centred(b, inputs[1], torch.float32)
    scale = float(np.float32(inputs[0].scale * inputs[1].scale) / output.scale)
    return requantize_accumulator(product, scale, output.zero_point, (INT8_MIN, INT8_MAX))


def reduce_mean(
    q: Tensor, axes: tuple[int, ...], keepdim: bool, count: int, source: QuantParams, target: QuantParams
) -> Tensor:
    """qs8-rsum and qs8-rdsum: round(acc * r + (z' - n * z * r)) with r = (s/s') * (1/n).

    The sum of n = `count` elements is taken over the raw codes, and their zero point is corrected in float32
    (operators/reduce-nd.c).
    """
    ratio = np.float32(source.scale / target.scale) * (np.float32(1.0) / np.float32(count))
    correction = np.float32(count * source.zero_point) * ratio
    zero = np.float32(target.zero_point) - correction
    total = q.to(torch.int64).sum(axes, keepdim).to(torch.float32)
    return saturate(torch.round(total * float(ratio) + float(zero)))


def average(total: Tensor, count: int) -> Tensor:
    """The built-in AVERAGE_POOL_2D: sum of codes over count, rounded half away from zero."""
    half = count // 2
    return saturate(
        torch.where(
            total > 0,
            torch.div(total + half, count, rounding_mode="trunc"),
            torch.div(total - half, count, rounding_mode="trunc"),
        )
    )


def interpolation(length: int, target: int, align_corners: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Left neighbours, right neighbours and 11-bit weights of a bilinear resize along one axis.

    xnn_indirection_init_resize_bilinear2d_hwc_q11, half-pixel centres or aligned corners.
    """
    adjustment = int(align_corners and target != 1)
    scale = np.float32(length - adjustment) / np.float32(target - adjustment)
    position = np.arange(target).astype(np.float32) * scale
    if not align_corners:
        position = position + (np.float32(0.5) * scale - np.float32(0.5))
    position = np.clip(position, np.float32(0.0), np.float32(length - 1))
    left = position.astype(np.int64)
    weight = np.rint((position - left.astype(np.float32)) * np.float32(2.0**_BILINEAR_BITS)).astype(np.int64)
    right = np.minimum(left + 1, length - 1)
    return torch.from_numpy(left), torch.from_numpy(right), torch.from_numpy(weight)


def resize_bilinear(q: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    """s8-ibilinear over q [N, C, H, W]: rows, then columns, in 22 fractional bits, rounded half up."""
    top, bottom, weight_y = interpolation(q.shape[2], size[0], align_corners)
    left, right, weight_x = interpolation(q.shape[3], size[1], align_corners)
    codes = q.to(torch.int64)
    upper, lower = codes[:, :, top], codes[:, :, bottom]
    along_top = (upper[..., left] << _BILINEAR_BITS) + (upper[..., right] - upper[..., left]) * weight_x
    along_bottom = (lower[..., left] << _BILINEAR_BITS) + (lower[..., right] - lower[..., left]) * weight_x
    total = (along_top << _BILINEAR_BITS) + (along_bottom - along_top) * weight_y[:, None]
    return saturate((total + (1 << (2 * _BILINEAR_BITS - 1))) >> (2 * _BILINEAR_BITS))


def lookup(q: Tensor, function: str, source: QuantParams, target: QuantParams) -> Tensor:
    """A function of one int8 value, tabulated over its 256 codes (unary-elementwise-nc.c, x8-lut).

    Each entry is round(f((q - z) * s) * (1 / s') + z'), f in float32 (reference/unary-elementwise.cc).
    """
    codes = torch.arange(INT8_MIN, INT8_MAX + 1, dtype=torch.int8)
    real = dequantize(codes, source).to(torch.float64)
    value = _FUNCTIONS[function](real).to(torch.float32)
    reciprocal = float(np.float32(1.0) / target.scale)
    table = saturate(torch.round(value * reciprocal + float(target.zero_point)))
    return table[q.to(torch.int64) - INT8_MIN]


# Evaluated in float64: torch's results rounded to float32 equal those of the C library.
_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {"sigmoid": torch.sigmoid, "tanh": torch.tanh}


def softmax(q: Tensor, axis: int, source: QuantParams, target: QuantParams) -> Tensor:
    """The built-in SOFTMAX: tabulated exponentials, summed sequentially in float32.

    round_half_away(e^(s*(q - max)) * (1 / (sum * s'))) + z' (optimized_ops.h, Softmax<int8_t, int8_t>).
    """
    codes = q.to(torch.int64).movedim(axis, -1)
    below = codes.amax(-1, keepdim=True) - codes
    steps = torch.arange(256, dtype=torch.float32) * -float(source.scale)
    exponentials = torch.exp(steps.to(torch.float64)).to(torch.float32)[below]
    total = torch.zeros_like(exponentials[..., 0])
    for part in exponentials.unbind(-1):
        total = total + part
    share = exponentials * (1.0 / (total * float(target.scale)))[..., None]
    return saturate(torch.floor(share + 0.5) + target.zero_point).movedim(-1, axis)
