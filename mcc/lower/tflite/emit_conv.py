"""Emit functions: convolutions, transposed convolutions, linear, matmul."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import fx

from mcc.errors import UnsupportedError
from mcc.ir.graph import is_constant, op_name, operand, optional_operand
from mcc.ir.notes import note, shape_of
from mcc.lower.layout import IMAGE, Layout, Shape, plain
from mcc.lower.tflite import regions
from mcc.lower.tflite.builder import Options
from mcc.lower.tflite.lowering import Lowering, Value, Weight, emits
from mcc.lower.tflite.sparse import encode
from mcc.lower.tflite.windows import SAME, VALID, Quad, fits_same, pad_image
from mcc.quant.scales import IntegerWeights, integer_weights, output_channels

log = logging.getLogger(__name__)

ACTIVATION_CODES = {"none": 0, "relu": 1, "relu6": 3}
INT32_LIMIT = 2**31 - 1


def attributes(node: fx.Node) -> Any:
    """The keyword attributes of a node."""
    return node.kwargs


def activation_code(node: fx.Node) -> int:
    """TFLite's code for the fused activation of a node."""
    return ACTIVATION_CODES[attributes(node)["activation"]]


def weight_and_bias(low: Lowering, node: fx.Node) -> tuple[Weight, Weight]:
    """Weight (in the graph's axes) and bias of a node: float32, or int8 and int32 with their scales.

    The scales of an int8 weight are per output channel. A missing bias is replaced by zeros.
    Raises UnsupportedError for a computed weight, and if the int32 bias would overflow.
    """
    entry = low.integer.get(node)
    if entry is not None:
        held = integer_weights(low.graph, entry)
        _check_bias(low, node, held)
        scales = regions.per_channel(held.weight_scale)
        weight = Weight(held.weight, scales, operand(node, 1).name)
        return weight, Weight(held.bias, regions.per_channel(held.bias_scale), _bias_name(node))
    weight = low.weight(node, 1)
    channels = output_channels(node, weight.value)
    source = optional_operand(node, 2)
    bias = np.zeros(channels, np.float32) if source is None else low.weight(node, 2).value
    return weight, Weight(bias, None, _bias_name(node))


def _check_bias(low: Lowering, node: fx.Node, held: IntegerWeights) -> None:
    source = optional_operand(node, 2)
    if source is None:
        return
    real = regions.array_of(low.graph, source).astype(np.float64)
    steps = np.abs(np.rint(real / held.bias_scale.astype(np.float64)))
    worst = int(np.argmax(steps))
    if steps[worst] > INT32_LIMIT:
        raise UnsupportedError(
            f"the bias of output channel {worst} ({real[worst]:g}) does not fit into int32 at scale "
            f"{held.bias_scale[worst]:g}",
            where=node.name,
            hint="clamp the weight scale to at least |bias| / (input scale * 2^30)",
        )


def _bias_name(node: fx.Node) -> str:
    source = optional_operand(node, 2)
    return f"{node.name}/bias" if source is None else str(source.target)


def _ordered(constant: Weight, order: npt.NDArray[np.int64] | None) -> Weight:
    """A weight or bias with its output channels (axis 0) in another order."""
    if order is None:
        return constant
    quantisation = constant.quantisation.take(order) if constant.quantisation else None
    return replace(constant, value=constant.value[order], quantisation=quantisation)


@emits("conv2d")
def conv2d(low: Lowering, node: fx.Node) -> None:
    """CONV_2D, or DEPTHWISE_CONV_2D if every input channel is its own group; explicit PAD where not SAME."""
    at = attributes(node)
    x = low.operand(node, 0, IMAGE)
    order = low.channel_order.get(node)
    weight, bias = (_ordered(constant, order) for constant in weight_and_bias(low, node))
    out_channels, kernel = weight.value.shape[0], weight.value.shape[2:4]
    biases = low.store_weight(_bias_name(node), bias)
    depthwise = at["groups"] == x.shape[1] and at["groups"] > 1
    filters = _filters(low, node, weight, depthwise=depthwise)
    padding = SAME
    if not fits_same(x.shape[2:4], kernel, at["stride"], at["dilation"], at["padding"]):
        padding = VALID
        x = pad_image(low, node, x, at["padding"])
    fields = {
        "padding": padding,
        "strideH": at["stride"][0],
        "strideW": at["stride"][1],
        "dilationHFactor": at["dilation"][0],
        "dilationWFactor": at["dilation"][1],
        "fusedActivationFunction": activation_code(node),
    }
    code, options = "CONV_2D", Options("Conv2DOptions", fields)
    if depthwise:
        multiplier = out_channels // x.shape[1]
        code, options = (
            "DEPTHWISE_CONV_2D",
            Options("DepthwiseConv2DOptions", fields | {"depthMultiplier": multiplier}),
        )
    shape, quantisation = shape_of(node), low.output_quantisation(node)
    low.bind(
        node, low.call(node, code, [x, filters, biases], shape, IMAGE, options, quantisation=quantisation)
    )


def _filters(low: Lowering, node: fx.Node, weight: Weight, *, depthwise: bool) -> int:
    """Tensor index of the filters [O, kH, kW, I], or [1, kH, kW, O] for depthwise, sparse if so noted."""
    name = f"{node.name}/weight"
    if depthwise:
        quantisation = weight.quantisation.along(3) if weight.quantisation else None
        across = weight.value[:, 0].transpose(1, 2, 0)[None]
        return low.store_weight(name, replace(weight, value=across, quantisation=quantisation))
    filters = replace(weight, value=weight.value.transpose(0, 2, 3, 1))
    sparse = note(node).sparse
    pointwise = filters.value.shape[1:3] == (1, 1) and attributes(node)["groups"] == 1
    if sparse is None or not pointwise or filters.quantisation is not None:
        return low.store_weight(name, filters)
    if low.sparse_refusal is not None:
        log.warning("%s is stored dense, or runtimes would misread it: %s", node.name, low.sparse_refusal)
        return low.store_weight(name, filters)
    packed = low.model.sparse_constant(f"{name}/sparse", encode(filters.value, sparse.block))
    dense = low.model.tensor(name, filters.value.shape, "float32")
    low.model.operator("DENSIFY", [packed], [dense], Options("DensifyOptions"))
    return dense


@emits("conv_transpose2d")
def conv_transpose2d(low: Lowering, node: fx.Node) -> None:
    """TRANSPOSE_CONV.

    Groups become a block-diagonal filter, dilation becomes zeros between its taps, and a crop other than
    SAME's a slice.
    """
    at = attributes(node)
    x = low.operand(node, 0, IMAGE)
    weight, bias = weight_and_bias(low, node)
    weight = _dense_transposed(weight, at["groups"], at["dilation"])
    biases = low.store_weight(_bias_name(node), bias)
    filters = low.store_weight(f"{node.name}/weight", weight)
    out = shape_of(node)
    kernel = weight.value.shape[1:3]
    same = fits_same(out[2:4], kernel, at["stride"], (1, 1), _transposed_padding(at, x.shape, kernel, out))
    full = tuple(
        max((x.shape[2 + i] - 1) * at["stride"][i] + kernel[i], at["padding"][2 * i] + out[2 + i])
        for i in range(2)
    )
    shape = out if same else (*out[:2], *full)
    fields = {
        "padding": SAME if same else VALID,
        "strideH": at["stride"][0],
        "strideW": at["stride"][1],
        "fusedActivationFunction": activation_code(node),
    }
    output_shape = low.integers((shape[0], shape[2], shape[3], shape[1]))
    result = low.call(
        node, "TRANSPOSE_CONV", [output_shape, filters, x, biases], shape, IMAGE,
        Options("TransposeConvOptions", fields),
        quantisation=low.output_quantisation(node), suffix="" if same else "full",
    )  # fmt: skip
    if shape != out:
        result = crop_image(low, node, result, at["padding"][0], at["padding"][2], out)
    low.bind(node, result)


def _dense_transposed(weight: Weight, groups: int, dilation: tuple[int, int]) -> Weight:
    """Weight [I, O/groups, kH, kW] as TFLite's ungrouped, undilated [O, kH', kW', I]."""
    value = weight.value
    inner, per_group, height, width = value.shape
    size = ((height - 1) * dilation[0] + 1, (width - 1) * dilation[1] + 1)
    dense = np.zeros((per_group * groups, *size, inner), value.dtype)
    rows = inner // groups
    for group in range(groups):
        i, o = slice(group * rows, (group + 1) * rows), slice(group * per_group, (group + 1) * per_group)
        dense[o, :: dilation[0], :: dilation[1], i] = value[i].transpose(1, 2, 3, 0)
    return replace(weight, value=dense)


def _transposed_padding(at: Any, x: Shape, kernel: tuple[int, ...], out: Shape) -> Quad:
    """Padding of the forward convolution that this one transposes, as (top, bottom, left, right)."""
    top, _, left, _ = at["padding"]
    total = [(x[2 + i] - 1) * at["stride"][i] + kernel[i] - out[2 + i] for i in range(2)]
    return (top, total[0] - top, left, total[1] - left)


def crop_image(low: Lowering, node: fx.Node, value: Value, top: int, left: int, out: Shape) -> Value:
    """Crop an NHWC value to the spatial size of `out`."""
    begin, end = (0, top, left, 0), (0, top + out[2], left + out[3], 0)
    fields = {"beginMask": 0b1001, "endMask": 0b1001}
    inputs = [
        value,
        low.integers(begin, "begin"),
        low.integers(end, "end"),
        low.integers((1,) * 4, "strides"),
    ]
    return low.call(
        node, "STRIDED_SLICE", inputs, out, IMAGE, Options("StridedSliceOptions", fields),
        quantisation=value.quantisation,
    )  # fmt: skip


@emits("linear")
def linear(low: Lowering, node: fx.Node) -> None:
    """FULLY_CONNECTED; the columns of the weight follow the storage order of a flattened map."""
    x = low.operand(node, 0)
    if x.layout.flat is None:
        x = low.operand(node, 0, plain(len(x.shape)))
    weight, bias = weight_and_bias(low, node)
    if x.layout.flat is not None:
        split = weight.value.reshape(-1, *x.layout.flat)
        weight = replace(weight, value=split.transpose(0, 2, 3, 1).reshape(weight.value.shape))
    biases = low.store_weight(_bias_name(node), bias)
    filters = low.store_weight(f"{node.name}/weight", weight)
    shape = shape_of(node)
    fields = {"fusedActivationFunction": activation_code(node), "keepNumDims": len(shape) != 2}
    low.bind(
        node,
        low.call(
            node, "FULLY_CONNECTED", [x, filters, biases], shape, plain(len(shape)),
            Options("FullyConnectedOptions", fields), quantisation=low.output_quantisation(node),
        ),
    )  # fmt: skip


def _matrix(low: Lowering, node: fx.Node, index: int) -> tuple[Value, bool]:
    """An operand of a matrix product, possibly with its last two axes swapped, and whether they are."""
    source = operand(node, index)
    if is_constant(source):
        return low.operand(node, index), False
    x = low.operand(node, index)
    rank = len(x.shape)
    swapped = Layout((*range(rank - 2), rank - 1, rank - 2))
    if x.layout == swapped:
        return x, True
    return low.operand(node, index, plain(rank)), False


@emits("matmul")
def matmul(low: Lowering, node: fx.Node) -> None:
    """BATCH_MATMUL; a directly preceding transpose of the last two axes becomes a flag."""
    a, adjoint_a = _matrix(low, node, 0)
    b, adjoint_b = _matrix(low, node, 1)
    if len(a.shape) < 2 or len(b.shape) < 2:
        raise UnsupportedError("a product with a vector has no form in TFLite", where=op_name(node))
    shape = shape_of(node)
    options = Options("BatchMatMulOptions", {"adjX": adjoint_a, "adjY": adjoint_b})
    low.bind(node, low.call(node, "BATCH_MATMUL", [a, b], shape, plain(len(shape)), options))
