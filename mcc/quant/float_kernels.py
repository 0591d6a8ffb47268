"""Float operators between integer ones, with the rounding of XNNPACK's float32 kernels.

A last-bit difference of a float kernel changes an int8 code only next to a rounding boundary. The operators
whose results are often there are reproduced exactly: means of few codes end in halves, and hardswish is used
in many networks. The others use torch, whose results differ by one or two units in the last place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx

from mcc.ir.graph import op_name
from mcc.ir.table import row_of

_SIXTH = float(np.float32(1.0 / 6.0))
_TAPS = 9  # values added in one pass of the pooling kernel


def evaluate(node: fx.Node, values: Sequence[Tensor | None]) -> Tensor:
    """The float32 result of one operator node for given operands."""
    attributes: dict[str, Any] = dict(node.kwargs)
    kernel = _KERNELS.get(op_name(node))
    first = values[0]
    if kernel is not None and first is not None:
        return kernel(first, attributes)
    function: Callable[..., Tensor] = row_of(node).function
    return function(*values, **attributes)


def hardswish(x: Tensor, attributes: dict[str, Any]) -> Tensor:
    """f32-vhswish: x * clamp(fma(x, 1/6, 1/2), 0, 1), the fused step rounded once."""
    gate = (x.to(torch.float64) * _SIXTH + 0.5).to(torch.float32)
    return gate.clamp(0.0, 1.0) * x


def avg_pool2d(x: Tensor, attributes: dict[str, Any]) -> Tensor:
    """f32-avgpool over x [N, C, H, W]: taps are added nine at a time, then multiplied by a reciprocal.

    Where padding is excluded from the divisor, the sum is multiplied by the reciprocal of the number of taps
    on the image if TFLite's SAME has the same padding, and otherwise corrected by a second factor, as lowered
    to TFLite.
    """
    top, bottom, left, right = attributes["padding"]
    kernel, stride = attributes["kernel"], attributes["stride"]
    padded = F.pad(x.to(torch.float32), (left, right, top, bottom))
    total = _sum_of_taps(_taps(padded, kernel, stride))
    whole = np.float32(1.0) / np.float32(kernel[0] * kernel[1])
    if attributes["count_include_pad"] or not any(attributes["padding"]):
        return total * float(whole)
    ones = F.pad(torch.ones_like(x[:1, :1], dtype=torch.float32), (left, right, top, bottom))
    count = F.avg_pool2d(ones, kernel, stride, divisor_override=1)
    if _is_same(x.shape[2], kernel[0], stride[0], (top, bottom)) and _is_same(
        x.shape[3], kernel[1], stride[1], (left, right)
    ):
        return total * (1.0 / count)
    correction = (kernel[0] * kernel[1] / count.to(torch.float64)).to(torch.float32)
    return total * float(whole) * correction


def _taps(x: Tensor, kernel: tuple[int, int], stride: tuple[int, int]) -> list[Tensor]:
    """The value under each tap of the window, column by column: the order of XNNPACK's indirection."""
    height = (x.shape[2] - kernel[0]) // stride[0] * stride[0] + 1
    width = (x.shape[3] - kernel[1]) // stride[1] * stride[1] + 1
    return [
        x[:, :, i : i + height : stride[0], j : j + width : stride[1]]
        for j in range(kernel[1])
        for i in range(kernel[0])
    ]


def _sum_of_taps(taps: list[Tensor]) -> Tensor:
    total, zero = torch.zeros_like(taps[0]), torch.zeros_like(taps[0])
    for start in range(0, len(taps), _TAPS):
        part = taps[start : start + _TAPS]
        v = part + [zero] * (_TAPS - len(part))
        total = total + (((v[2] + v[3]) + (v[4] + v[5])) + (((v[0] + v[1]) + v[8]) + (v[6] + v[7])))
    return total


def _is_same(length: int, kernel: int, stride: int, padding: tuple[int, int]) -> bool:
    """Whether TFLite's SAME has this padding on one axis."""
    total = max((-(-length // stride) - 1) * stride + kernel - length, 0)
    return padding == (total // 2, total - total // 2)


_KERNELS: dict[str, Callable[[Tensor, dict[str, Any]], Tensor]] = {
    "hardswish": hardswish,
    "avg_pool2d": avg_pool2d,
}
