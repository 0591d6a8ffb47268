"""Translations: convolutions, matrix products, pooling, resizing; images are NHWC."""

from __future__ import annotations

import math

import numpy as np

from mcc.lower.pte.delegate import NO_VALUE, XnnValue
from mcc.lower.pte.translation import Translation, fused, in_float, padding_of, translates
from mcc.lower.tflite.reader import TfliteOperator

TRANSPOSE_B, ALIGN_CORNERS, LEGACY, KEEP_DIMS = 1, 8, 4, 64  # XNN_FLAG_*


def _bias(t: Translation, op: TfliteOperator, index: int) -> int:
    present = len(op.inputs) > index and op.inputs[index] >= 0
    return t.packed(op, index).index if present else NO_VALUE


@translates("CONV_2D", "DEPTHWISE_CONV_2D")
def convolution(t: Translation, op: TfliteOperator) -> XnnValue:
    """Filters [O, kH, kW, I/groups], or [1, kH, kW, O] for depthwise."""
    x, filters, out = t.operand(op, 0), t.packed(op, 1), t.result(op)
    depthwise = op.code == "DEPTHWISE_CONV_2D"
    channels = x.shape[3]
    inner = 1 if depthwise else filters.shape[3]
    groups = channels // inner
    t.xnn.node(
        "XNNDepthwiseConv2d" if depthwise else "XNNConv2d",
        clamp=fused(op),
        **padding_of(op, x.shape, filters.shape[1:3]),
        kernel_height=filters.shape[1],
        kernel_width=filters.shape[2],
        subsampling_height=int(op.options["strideH"]),
        subsampling_width=int(op.options["strideW"]),
        dilation_height=int(op.options["dilationHFactor"]),
        dilation_width=int(op.options["dilationWFactor"]),
        group_input_channels=inner,
        group_output_channels=out.shape[3] // groups,
        groups=groups,
        adjustment_height=0,
        adjustment_width=0,
        input1_id=x.index,
        filter_id=filters.index,
        bias_id=_bias(t, op, 2),
        output_id=out.index,
    )
    return out


@translates("TRANSPOSE_CONV")
def transposed_convolution(t: Translation, op: TfliteOperator) -> XnnValue:
    """Operands are the output's shape, filters [O, kH, kW, I], the value, and a bias."""
    x, filters, out = t.operand(op, 2), t.packed(op, 1), t.result(op)
    stride = (int(op.options["strideH"]), int(op.options["strideW"]))
    kernel = filters.shape[1:3]
    total = [(x.shape[1 + i] - 1) * stride[i] + kernel[i] - out.shape[1 + i] for i in range(2)]
    # If the output is larger than the full one, XNNPACK calls the difference an adjustment.
    crop = [max(value, 0) for value in total]
    if any(value < 0 and int(op.options["padding"]) == 0 for value in total):
        raise t.refused(op, "writes more than its windows reach")
    t.xnn.node(
        "XNNConvTranspose2d",
        clamp=fused(op),
        padding_top=crop[0] // 2,
        padding_bottom=crop[0] - crop[0] // 2,
        padding_left=crop[1] // 2,
        padding_right=crop[1] - crop[1] // 2,
        kernel_height=kernel[0],
        kernel_width=kernel[1],
        subsampling_height=stride[0],
        subsampling_width=stride[1],
        dilation_height=1,
        dilation_width=1,
        group_input_channels=x.shape[3],
        group_output_channels=out.shape[3],
        groups=1,
        adjustment_height=max(-total[0], 0),
        adjustment_width=max(-total[1], 0),
        input1_id=x.index,
        filter_id=filters.index,
        bias_id=_bias(t, op, 3),
        output_id=out.index,
    )
    return out


@translates("FULLY_CONNECTED")
def fully_connected(t: Translation, op: TfliteOperator) -> XnnValue:
    """Weight [O, I]; leading axes are unchanged."""
    x, weight, out = t.operand(op, 0), t.packed(op, 1), t.result(op)
    if len(x.shape) != len(out.shape):
        x = t.reshape(x, (*out.shape[:-1], weight.shape[1]))
    t.xnn.node(
        "XNNFullyConnected", clamp=fused(op), input1_id=x.index, filter_id=weight.index,
        bias_id=_bias(t, op, 2), output_id=out.index,
    )  # fmt: skip
    return out


@translates("BATCH_MATMUL")
def matrix_product(t: Translation, op: TfliteOperator) -> XnnValue:
    """A product of two float values over the last two axes."""
    a, b = (t.real(t.operand(op, index)) for index in range(2))
    if op.options.get("adjX"):
        rank = len(a.shape)
        a = t.transpose(a, (*range(rank - 2), rank - 1, rank - 2))
    rank = max(len(a.shape), len(b.shape))
    a, b = (t.reshape(v, (1,) * (rank - len(v.shape)) + v.shape) for v in (a, b))
    tensor = t.model.tensors[op.outputs[0]]
    out = t.xnn.value(tensor.shape)
    flags = TRANSPOSE_B if op.options.get("adjY") else 0
    return t.convert(t.binary("XNNBatchMatrixMultiply", a, b, out, flags=flags), tensor.quantisation)


def _pool(t: Translation, op: TfliteOperator, kind: str, x: XnnValue, out: XnnValue) -> XnnValue:
    kernel = (int(op.options["filterHeight"]), int(op.options["filterWidth"]))
    stride = (int(op.options["strideH"]), int(op.options["strideW"]))
    if kernel == (1, 1):  # XNNPACK refuses a window of one element
        if stride != (1, 1):
            raise t.refused(op, "has windows of one element with a stride")
        least, greatest = fused(op) or (-math.inf, math.inf)
        return t.clamp(x, least, greatest, out)
    if kind == "XNNMaxPooling2d" and (stride[0] > kernel[0] or stride[1] > kernel[1]):
        raise t.refused(op, "has a stride beyond its window")
    t.xnn.node(
        kind,
        clamp=fused(op),
        **padding_of(op, x.shape, kernel),
        pooling_height=kernel[0],
        pooling_width=kernel[1],
        stride_height=stride[0],
        stride_width=stride[1],
        dilation_height=1,
        dilation_width=1,
        input_id=x.index,
        output_id=out.index,
    )
    return out


@translates("MAX_POOL_2D")
def max_pool(t: Translation, op: TfliteOperator) -> XnnValue:
    """MAX_POOL_2D, in float or integers."""
    return _pool(t, op, "XNNMaxPooling2d", t.operand(op, 0), t.result(op))


@translates("AVERAGE_POOL_2D")
def average_pool(t: Translation, op: TfliteOperator) -> XnnValue:
    """AVERAGE_POOL_2D, without padding in the divisor; in float, since XNNPACK has no int8 kernel for it."""
    shape = t.model.tensors[op.outputs[0]].shape
    return in_float(t, op, lambda x: _pool(t, op, "XNNAvgPooling2d", x, t.xnn.value(shape)))


@translates("RESIZE_BILINEAR")
def resize_bilinear(t: Translation, op: TfliteOperator) -> XnnValue:
    """Half-pixel centres, aligned corners, or TensorFlow's old grid."""
    out = t.result(op)
    corners, centres = bool(op.options.get("alignCorners")), bool(op.options.get("halfPixelCenters"))
    flags = ALIGN_CORNERS if corners else 0 if centres else LEGACY
    height, width = out.shape[1:3]
    x = t.operand(op, 0)
    return t.unary("XNNStaticResizeBilinear2D", x, out, new_height=height, new_width=width, flags=flags)


@translates("RESIZE_NEAREST_NEIGHBOR")
def resize_nearest(t: Translation, op: TfliteOperator) -> XnnValue:
    """Rows and columns repeated; XNNPACK has no operator for it."""
    if op.options.get("alignCorners") or op.options.get("halfPixelCenters"):
        raise t.refused(op, "rounds its positions in another way than down")
    x = t.operand(op, 0)
    for axis, length in zip((1, 2), t.model.tensors[op.outputs[0]].shape[1:3], strict=True):
        scale = np.float32(x.shape[axis]) / np.float32(length)
        positions = np.floor(np.arange(length).astype(np.float32) * scale).astype(int)
        x = t.take(op, x, axis, np.minimum(positions, x.shape[axis] - 1).tolist())
    return x
