"""Padding of sliding windows: TFLite's SAME where it equals torch's padding, explicit PAD elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import fx

from mcc.lower.layout import IMAGE
from mcc.lower.tflite.builder import Options
from mcc.lower.tflite.lowering import Lowering, Value

SAME, VALID = 0, 1
Quad = tuple[int, int, int, int]
Pair = tuple[int, int]


def fits_same(
    size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], padding: Quad
) -> bool:
    """Whether TFLite's SAME pads an input of this height and width by (top, bottom, left, right).

    SAME has ceil(size / stride) positions and pads as they require, the odd element at the end. No padding
    counts as SAME, too, where SAME would not pad.
    """
    for i in range(2):
        extent = (kernel[i] - 1) * dilation[i] + 1
        positions = -(-size[i] // stride[i])
        total = max((positions - 1) * stride[i] + extent - size[i], 0)
        low, high = padding[2 * i], padding[2 * i + 1]
        if low < 0 or high < 0 or (size[i] + low + high - extent) // stride[i] + 1 != positions:
            return False
        # High padding that no window reaches does not matter; SAME never has it.
        reached = (positions - 1) * stride[i] + extent - size[i] - low
        if low != total // 2 or max(reached, 0) != total - total // 2:
            return False
    return True


def pad_image(
    low: Lowering,
    node: fx.Node,
    x: Value,
    padding: Quad,
    *,
    value: float | None = None,
    suffix: str = "padded",
) -> Value:
    """Pad an NHWC value by (top, bottom, left, right) with zeros, or with another real number.

    Zeros use PAD, which XNNPACK fuses into the following convolution; for int8, both operators pad on the
    grid of the input.
    """
    top, bottom, left, right = padding
    if not any(padding):
        return x
    shape = (x.shape[0], x.shape[1], x.shape[2] + top + bottom, x.shape[3] + left + right)
    table = np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32)
    amounts = low.model.constant("paddings", table)
    if value is None:
        return low.call(
            node, "PAD", [x, amounts], shape, IMAGE, Options("PadOptions"),
            quantisation=x.quantisation, suffix=suffix,
        )  # fmt: skip
    filler = pad_value(low, x, value)
    return low.call(
        node, "PADV2", [x, amounts, filler], shape, IMAGE, Options("PadV2Options"),
        quantisation=x.quantisation, suffix=suffix,
    )  # fmt: skip


def pad_value(low: Lowering, x: Value, value: float) -> int:
    """The fill value of PADV2, on the grid of an int8 input."""
    if x.quantisation is None:
        limits = np.finfo(np.float32)
        return low.model.constant("fill", np.asarray(np.clip(value, limits.min, limits.max), np.float32))
    q = np.rint(np.float64(value) / x.quantisation.scale) + x.quantisation.zero_point
    return low.model.constant("fill", np.asarray(np.clip(q, -128, 127), np.int8), x.quantisation)
