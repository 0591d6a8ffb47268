"""Emit functions: concat, slice, pad, reshape, transpose."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
from torch import fx

from mcc.errors import UnsupportedError
from mcc.ir.graph import Graph, op_name, operand, operands
from mcc.ir.notes import shape_of
from mcc.lower.layout import FLAT_ORDER, IMAGE, Layout, gathered, plain, reshaped, transposed
from mcc.lower.tflite import regions
from mcc.lower.tflite.builder import Options
from mcc.lower.tflite.emit_conv import attributes
from mcc.lower.tflite.lowering import Lowering, Value, emits
from mcc.lower.tflite.quantisation import per_tensor
from mcc.lower.tflite.windows import VALID, pad_value
from mcc.quant.params import is_fake_quantize

_MIRROR_REFLECT, _MIRROR_SYMMETRIC = 0, 1


@emits("concat")
def concat(low: Lowering, node: fx.Node) -> None:
    """CONCATENATION along the stored axis; int8 operands are first requantised to the grid of the output."""
    rank = len(shape_of(node))
    layout = _majority_layout(low, node)
    quantisation = low.output_quantisation(node)
    values: list[Value | int] = []
    for index in range(len(operands(node))):
        value = low.operand(node, index, layout)
        values.append(value if quantisation is None else low.requantise(node, value, quantisation))
    axis = layout.position(int(attributes(node)["axis"]) % rank)
    options = Options("ConcatenationOptions", {"axis": axis})
    low.bind(
        node,
        low.call(node, "CONCATENATION", values, shape_of(node), layout, options, quantisation=quantisation),
    )


def _majority_layout(low: Lowering, node: fx.Node) -> Layout:
    """The layout of the majority of the elements."""
    sizes: Counter[Layout] = Counter()
    for index, source in enumerate(operands(node)):
        if not low.is_constant(source):
            value = low.operand(node, index)
            if value.layout.flat is None:
                sizes[value.layout] += math.prod(value.shape)
    return sizes.most_common(1)[0][0] if sizes else plain(len(shape_of(node)))


def _pixel_step(node: fx.Node) -> tuple[int, int] | None:
    """Row and column step of a slice of every n-th row or column of an image, beginning with the first."""
    if node.op != "call_function" or op_name(node) != "slice":
        return None
    at = attributes(node)
    before = shape_of(operand(node, 0))
    axis, step = int(at["axis"]), int(at["step"])
    if len(before) != 4 or axis not in (2, 3) or step == 1 or at["start"] != 0:
        return None
    if -(-before[axis] // step) != shape_of(node)[axis]:
        return None
    return (step, 1) if axis == 2 else (1, step)


def joined_reader(graph: Graph, node: fx.Node) -> fx.Node | None:
    """The slice of the other image axis that is the only reader of this one, so that one operator does both.

    There may be a fake quantisation without effect between the two.
    """
    if _pixel_step(node) is None or _joined_source(graph, node) is not None:
        return None
    readers = list(node.users)
    if len(readers) == 1 and regions.changes_nothing(graph, readers[0]):
        readers = list(readers[0].users)
    if len(readers) != 1 or _pixel_step(readers[0]) is None:
        return None
    return readers[0] if attributes(readers[0])["axis"] != attributes(node)["axis"] else None


def _joined_source(graph: Graph, node: fx.Node) -> fx.Node | None:
    """The preceding slice whose step this slice also performs, or None."""
    source = operand(node, 0)
    inner = operand(source, 0) if is_fake_quantize(source) else source
    return inner if joined_reader(graph, inner) is node else None


def _take_pixels(low: Lowering, node: fx.Node, step: tuple[int, int]) -> None:
    """Take every n-th pixel by a depthwise 1x1 convolution with weight 1, exact in float and int8.

    XNNPACK has no strided slice, and a break in its region costs more than this: ResNet20 takes 0.73
    instead of 0.80 ms in float, 0.35 instead of 0.43 in int8 (Xeon with VNNI, LiteRT 2.3.0, 2026-11).
    """
    source = operand(node, 0)
    inner = _joined_source(low.graph, node)
    if inner is not None:
        rows, columns = _pixel_step(inner) or (1, 1)
        step, source = (step[0] * rows, step[1] * columns), operand(inner, 0)
    x = low.value(source, IMAGE, integer=node in low.integer)
    channels = x.shape[1]
    dtype, parameters, bias_parameters = np.dtype(np.float32), None, None
    bias_dtype = dtype
    if x.quantisation is not None:
        dtype, bias_dtype = np.dtype(np.int8), np.dtype(np.int32)
        parameters, bias_parameters = per_tensor(1.0, 0), per_tensor(x.quantisation.scale, 0)
    ones = low.model.constant("ones", np.ones((1, 1, 1, channels), dtype), parameters)
    zeros = low.model.constant("zeros", np.zeros(channels, bias_dtype), bias_parameters)
    fields = {"padding": VALID, "strideH": step[0], "strideW": step[1], "depthMultiplier": 1}
    options = Options("DepthwiseConv2DOptions", fields)
    low.bind(
        node,
        low.call(
            node, "DEPTHWISE_CONV_2D", [x, ones, zeros], shape_of(node), IMAGE, options,
            quantisation=x.quantisation,
        ),
    )  # fmt: skip


@emits("slice")
def slice_(low: Lowering, node: fx.Node) -> None:
    """STRIDED_SLICE along the stored axis; masks select the whole of all other axes."""
    if joined_reader(low.graph, node) is not None:
        return
    step = _pixel_step(node)
    if step is not None:
        _take_pixels(low, node, step)
        return
    at = attributes(node)
    x = _unflattened(low, node)
    axis = x.layout.position(int(at["axis"]))
    rank = len(x.shape)
    begin, end, strides = [0] * rank, list(x.stored_shape), [1] * rank
    begin[axis], end[axis], strides[axis] = at["start"], at["stop"], at["step"]
    whole = ((1 << rank) - 1) & ~(1 << axis)
    options = Options("StridedSliceOptions", {"beginMask": whole, "endMask": whole})
    inputs = [x, low.integers(begin, "begin"), low.integers(end, "end"), low.integers(strides, "strides")]
    low.bind(
        node,
        low.call(
            node, "STRIDED_SLICE", inputs, shape_of(node), x.layout, options, quantisation=x.quantisation
        ),
    )


def _unflattened(low: Lowering, node: fx.Node) -> Value:
    """Operand 0, not in the order of a flattened map."""
    x = low.operand(node, 0)
    return x if x.layout.flat is None else low.operand(node, 0, plain(len(x.shape)))


@emits("pad")
def pad(low: Lowering, node: fx.Node) -> None:
    """PAD (zeros), PADV2 (another number), MIRROR_PAD (reflect; replicate: symmetric by 1, repeated)."""
    at = attributes(node)
    x = _unflattened(low, node)
    amounts = [tuple(at["padding"][axis]) for axis in x.layout.order]
    if any(amount < 0 for pair in amounts for amount in pair):
        raise UnsupportedError(
            "a negative pad has no form in TFLite", where=node.name, hint="write it as a slice"
        )
    if at["mode"] == "replicate":
        low.bind(node, _replicate(low, node, x, amounts))
        return
    table = low.model.constant("paddings", np.array(amounts, np.int32))
    inputs: list[Value | int] = [x, table]
    if at["mode"] == "reflect":
        code, options = "MIRROR_PAD", Options("MirrorPadOptions", {"mode": _MIRROR_REFLECT})
    elif at["value"] == 0:
        code, options = "PAD", Options("PadOptions")
    else:
        code, options = "PADV2", Options("PadV2Options")
        inputs.append(pad_value(low, x, float(at["value"])))
    low.bind(
        node, low.call(node, code, inputs, shape_of(node), x.layout, options, quantisation=x.quantisation)
    )


def _replicate(low: Lowering, node: fx.Node, x: Value, amounts: list[tuple[int, ...]]) -> Value:
    """Replicate the border by repeated symmetric pads of one element each."""
    left = [list(pair) for pair in amounts]
    while any(amount for pair in left for amount in pair):
        now = [[min(amount, 1) for amount in pair] for pair in left]
        left = [[amount - min(amount, 1) for amount in pair] for pair in left]
        shape = list(x.shape)
        for position, axis in enumerate(x.layout.order):
            shape[axis] += sum(now[position])
        table = low.model.constant("paddings", np.array(now, np.int32))
        options = Options("MirrorPadOptions", {"mode": _MIRROR_SYMMETRIC})
        x = low.call(
            node, "MIRROR_PAD", [x, table], tuple(shape), x.layout, options,
            quantisation=x.quantisation, suffix="border",
        )  # fmt: skip
    return x


@emits("reshape")
def reshape(low: Lowering, node: fx.Node) -> None:
    """RESHAPE. If data would have to move, a flattened map keeps its order, other values are transposed."""
    x = low.operand(node, 0)
    target = shape_of(node)
    layout = reshaped(x.shape, x.layout, target)
    if layout is None and x.layout == IMAGE and len(target) == 2:
        layout = Layout(FLAT_ORDER, (x.shape[1], x.shape[2], x.shape[3]))
    if layout is None:
        x = low.operand(node, 0, gathered(x.shape, x.layout, target))
        layout = reshaped(x.shape, x.layout, target)
    assert layout is not None
    low.bind(node, low.reshape(node, x, target, layout, ""))


@emits("transpose")
def transpose(low: Lowering, node: fx.Node) -> None:
    """No operator: the same bytes with permuted axes. Readers that need another order transpose them."""
    x = _unflattened(low, node)
    perm = tuple(int(axis) for axis in attributes(node)["perm"])
    layout = transposed(x.layout, perm)
    low.bind(node, Value(x.index, shape_of(node), layout, x.quantisation))
