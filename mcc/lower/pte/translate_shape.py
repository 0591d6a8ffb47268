"""Translations: shapes, slices, padding, reductions."""

from __future__ import annotations

import math

import numpy as np

from mcc.lower.pte.delegate import XnnValue
from mcc.lower.pte.translate_windows import KEEP_DIMS
from mcc.lower.pte.translation import Translation, fused, translates
from mcc.lower.tflite.reader import TfliteOperator


@translates("RESHAPE", "SQUEEZE", "EXPAND_DIMS")
def reshape(t: Translation, op: TfliteOperator) -> XnnValue:
    """Reshape to the declared shape of the result."""
    return t.reshape(t.operand(op, 0), t.model.tensors[op.outputs[0]].shape)


@translates("TRANSPOSE")
def transpose(t: Translation, op: TfliteOperator) -> XnnValue:
    """Permute the axes by a constant."""
    return t.transpose(t.operand(op, 0), t.numbers(op, 1))


@translates("CONCATENATION")
def concatenation(t: Translation, op: TfliteOperator) -> XnnValue:
    """Concatenate operands on the grid of the result."""
    tensor = t.model.tensors[op.outputs[0]]
    parts = [t.convert(t.operand(op, index), tensor.quantisation) for index in range(len(op.inputs))]
    joined = t.concat(parts, int(op.options["axis"]) % len(tensor.shape))
    limits = fused(op)
    return joined if limits is None else t.clamp(joined, *limits)


@translates("STRIDED_SLICE")
def strided_slice(t: Translation, op: TfliteOperator) -> XnnValue:
    """Windows; for every n-th element, a reshape with an axis of length n."""
    if any(op.options.get(mask) for mask in ("ellipsisMask", "newAxisMask", "shrinkAxisMask")):
        raise t.refused(op, "adds or drops axes")
    x = t.operand(op, 0)
    begin, end, strides = (t.numbers(op, index) for index in (1, 2, 3))
    for axis, (first, last, step) in enumerate(zip(begin, end, strides, strict=True)):
        length = x.shape[axis]
        if step < 1:
            raise t.refused(op, "runs backwards")
        low = 0 if int(op.options.get("beginMask") or 0) >> axis & 1 else first + length * (first < 0)
        high = length if int(op.options.get("endMask") or 0) >> axis & 1 else last + length * (last < 0)
        x = _every(t, x, axis, low, min(high, length), step)
    return x


def _every(t: Translation, x: XnnValue, axis: int, low: int, high: int, step: int) -> XnnValue:
    """x[low:high:step] along an axis."""
    count = -(-(high - low) // step)
    if step == 1:
        return t.window(x, axis, low, count)
    x = t.window(x, axis, low, min(count * step, x.shape[axis] - low))
    missing = count * step - x.shape[axis]
    if missing:
        x = t.pad(x, [(0, missing if place == axis else 0) for place in range(len(x.shape))])
    parted = t.reshape(x, (*x.shape[:axis], count, step, *x.shape[axis + 1 :]))
    return t.reshape(t.window(parted, axis + 1, 0, 1), (*x.shape[:axis], count, *x.shape[axis + 1 :]))


@translates("SLICE")
def plain_slice(t: Translation, op: TfliteOperator) -> XnnValue:
    """Windows with a constant begin."""
    return t.slice(t.operand(op, 0), t.numbers(op, 1), t.model.tensors[op.outputs[0]].shape)


@translates("PAD", "PADV2")
def pad(t: Translation, op: TfliteOperator) -> XnnValue:
    """Pad with zeros or another number."""
    x, value = t.operand(op, 0), 0.0
    if len(op.inputs) > 2:
        filler, grid = t.model.constant(op.inputs[2]), t.model.tensors[op.inputs[2]].quantisation
        if filler is None:
            raise t.refused(op, "has a computed fill value")
        value = float(filler.reshape(-1)[0])
        if grid is not None:
            value = float((np.float32(value) - grid.zero_point) * grid.scale)
    return t.pad(x, _pairs(t.numbers(op, 1)), value, t.result(op))


def _pairs(numbers: list[int]) -> list[tuple[int, int]]:
    return list(zip(numbers[::2], numbers[1::2], strict=True))


@translates("MIRROR_PAD")
def mirror_pad(t: Translation, op: TfliteOperator) -> XnnValue:
    """Slices in reverse order; SYMMETRIC (1) repeats the border, REFLECT (0) does not."""
    x, border = t.operand(op, 0), 1 - int(op.options.get("mode") or 0)
    for axis, (low, high) in enumerate(_pairs(t.numbers(op, 1))):
        length = x.shape[axis]
        before = [border + i for i in range(low)][::-1]
        behind = [length - 1 - border - i for i in range(high)]
        x = t.take(op, x, axis, [*before, *range(length), *behind])
    return x


@translates("DEPTH_TO_SPACE")
def depth_to_space(t: Translation, op: TfliteOperator) -> XnnValue:
    """[N, H, W, b*b*C] to [N, H*b, W*b, C]."""
    x, block = t.operand(op, 0), int(op.options["blockSize"])
    n, height, width, channels = x.shape
    parted = t.reshape(x, (n, height, width, block, block, channels // block**2))
    moved = t.transpose(parted, (0, 1, 3, 2, 4, 5))
    return t.reshape(moved, (n, height * block, width * block, channels // block**2))


@translates("GATHER")
def gather(t: Translation, op: TfliteOperator) -> XnnValue:
    """Select by constant indices along an axis."""
    x = t.operand(op, 0)
    if op.options.get("batchDims"):
        raise t.refused(op, "gathers from each batch apart")
    return t.take(op, x, int(op.options.get("axis", 0)) % len(x.shape), t.numbers(op, 1))


@translates("MEAN", "SUM", "REDUCE_MAX")
def reduce(t: Translation, op: TfliteOperator) -> XnnValue:
    """Reductions over the spatial axes; other axes are moved there."""
    tensor = t.model.tensors[op.outputs[0]]
    x = t.operand(op, 0)
    rank = len(x.shape)
    axes = sorted({axis % rank for axis in t.numbers(op, 1)})
    if 0 in axes:
        raise t.refused(op, "reduces over the batch")
    count = math.prod(x.shape[axis] for axis in axes)
    if op.code != "MEAN":
        x = t.real(x)
    if not (rank == 4 and axes == [1, 2]):
        rest = [axis for axis in range(1, rank) if axis not in axes]
        moved = t.transpose(x, (0, *axes, *rest))
        x = t.reshape(moved, (x.shape[0], count, 1, math.prod(x.shape[axis] for axis in rest)))
    shape = (x.shape[0], 1, 1, x.shape[3])
    if op.code == "REDUCE_MAX":
        found = _greatest(t, x, t.like(x, shape))
    else:
        exact = op.code == "MEAN" and x.quantisation is not None
        out = t.xnn.value(shape, tensor.dtype, tensor.quantisation) if exact else t.xnn.value(shape)
        found = t.unary("XNNGlobalAvgPooling2d", x, out, flags=KEEP_DIMS)
    if op.code == "SUM":
        found = t.binary("XNNMultiply", found, t.number(float(count)))
    return t.reshape(t.convert(found, tensor.quantisation), tensor.shape)


def _greatest(t: Translation, x: XnnValue, out: XnnValue) -> XnnValue:
    """The maximum over the spatial axes: one window."""
    if x.shape[1:3] == (1, 1):
        return x
    sizes = {"pooling_height": x.shape[1], "pooling_width": x.shape[2], "stride_height": 1, "stride_width": 1}
    none = dict.fromkeys(("padding_top", "padding_bottom", "padding_left", "padding_right"), 0)
    ones = {"dilation_height": 1, "dilation_width": 1}
    return t.unary("XNNMaxPooling2d", x, out, **sizes, **none, **ones)
