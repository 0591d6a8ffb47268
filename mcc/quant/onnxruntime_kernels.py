"""Kernels of onnxruntime whose quantised arithmetic differs from XNNPACK's and from torch's in float32.

Derived from comparisons with onnxruntime 1.32 on x86; `core/mlas/lib` and
`core/providers/cpu/tensor/upsample*`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def average_pool(codes: Tensor, zero_point: int, options: dict[str, Any]) -> Tensor:
    """QLinearAveragePool between equal grids: the mean of the raw codes, rounded half to even.

    Args:
        codes: int8 [N, C, H, W].
        zero_point: Code of zero, the value of padding that is included in the mean.
        options: Attributes of `avg_pool2d`.
    """
    top, bottom, left, right = options["padding"]
    kernel, stride = options["kernel"], options["stride"]
    counted = bool(options["count_include_pad"])
    pads = (left, right, top, bottom)
    padded = F.pad(codes.to(torch.float64), pads, value=float(zero_point) if counted else 0.0)
    total = F.avg_pool2d(padded, kernel, stride, divisor_override=1)
    ones = F.pad(torch.ones_like(codes[:1, :1], dtype=torch.float64), pads, value=float(counted))
    count = F.avg_pool2d(ones, kernel, stride, divisor_override=1)
    return torch.round(total / count).to(torch.int8)


def resize_bilinear(x: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    """Resize of real values [N, C, H, W]: four products, summed in this order in float32."""
    top, bottom, below_top, above_bottom = (
        part[:, None] if part.is_floating_point() else part
        for part in _neighbours(x.shape[2], size[0], align_corners)
    )
    left, right, past_left, before_right = _neighbours(x.shape[3], size[1], align_corners)
    upper, lower = x[:, :, top], x[:, :, bottom]
    total = before_right * above_bottom * upper[..., left]
    total = total + past_left * above_bottom * upper[..., right]
    total = total + before_right * below_top * lower[..., left]
    return total + past_left * below_top * lower[..., right]


def _neighbours(length: int, target: int, align_corners: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Indices of both neighbours along one axis, and the distance of each position from them."""
    index = np.arange(target).astype(np.float32)
    if not align_corners:
        position = (index + np.float32(0.5)) / (np.float32(target) / np.float32(length)) - np.float32(0.5)
    elif target == 1:
        position = np.zeros(1, np.float32)
    else:
        position = index * np.float32(length - 1) / np.float32(target - 1)
    position = np.clip(position, np.float32(0), np.float32(length - 1))
    first = position.astype(np.int64)
    second = np.minimum(first + 1, length - 1)
    same = first == second
    half = np.float32(0.5)  # at the border both neighbours are the same, and each has weight one half
    behind = np.where(same, half, np.abs(position - first.astype(np.float32)))
    ahead = np.where(same, half, np.abs(position - second.astype(np.float32)))
    return (
        torch.from_numpy(first),
        torch.from_numpy(second),
        torch.from_numpy(behind.astype(np.float32)),
        torch.from_numpy(ahead.astype(np.float32)),
    )
