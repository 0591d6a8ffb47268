"""Emit functions: pooling, resizing, pixel shuffle."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import fx

from mcc.ir import table
from mcc.ir.graph import is_constant, op_name, operand, operands
from mcc.ir.notes import shape_of
from mcc.lower.layout import IMAGE
from mcc.lower.tflite.builder import Options
from mcc.lower.tflite.emit_conv import attributes
from mcc.lower.tflite.emit_elementwise import MUL
from mcc.lower.tflite.lowering import Lowering, Value, emits
from mcc.lower.tflite.windows import SAME, VALID, fits_same, pad_image


def is_not_negative(node: fx.Node) -> bool:
    """Whether the value is provably non-negative, from the operators that compute it."""
    if node.op != "call_function":
        return False
    sign = table.row_of(node).sign
    if sign == "positive" or node.kwargs.get("activation") in ("relu", "relu6"):
        return True
    sources = [operand(node, 0)] if op_name(node) == "fake_quantize" else operands(node)
    return sign == "kept" and all(is_not_negative(source) for source in sources)


def _pool_options(at: Any, padding: int) -> Options:
    return Options(
        "Pool2DOptions",
        {
            "padding": padding,
            "strideH": at["stride"][0],
            "strideW": at["stride"][1],
            "filterHeight": at["kernel"][0],
            "filterWidth": at["kernel"][1],
        },
    )


@emits("max_pool2d")
def max_pool2d(low: Lowering, node: fx.Node) -> None:
    """MAX_POOL_2D. Padding other than SAME's is PAD for non-negative values, else PADV2 with the minimum."""
    at = attributes(node)
    x = low.operand(node, 0, IMAGE)
    out = shape_of(node)
    same = fits_same(x.shape[2:4], at["kernel"], at["stride"], at["dilation"], at["padding"])
    if at["dilation"] != (1, 1):
        same = False
    if not same:
        lowest = None if is_not_negative(operand(node, 0)) else -np.inf
        x = pad_image(low, node, x, at["padding"], value=lowest)
    if at["dilation"] != (1, 1):
        low.bind(node, _dilated_max(low, node, x))
        return
    options = _pool_options(at, SAME if same else VALID)
    low.bind(node, low.call(node, "MAX_POOL_2D", [x], out, IMAGE, options, quantisation=x.quantisation))


def _dilated_max(low: Lowering, node: fx.Node, x: Value) -> Value:
    """The maximum of one strided slice per tap, for the dilated pooling that TFLite lacks."""
    at = attributes(node)
    out = shape_of(node)
    strides = low.integers((1, *at["stride"], 1), "strides")
    best: Value | None = None
    for i in range(at["kernel"][0]):
        for j in range(at["kernel"][1]):
            top, left = i * at["dilation"][0], j * at["dilation"][1]
            end = (0, top + (out[2] - 1) * at["stride"][0] + 1, left + (out[3] - 1) * at["stride"][1] + 1, 0)
            window: list[Value | int] = [
                x,
                low.integers((0, top, left, 0), "begin"),
                low.integers(end, "end"),
                strides,
            ]
            masks = Options("StridedSliceOptions", {"beginMask": 0b1001, "endMask": 0b1001})
            tap = low.call(
                node, "STRIDED_SLICE", window, out, IMAGE, masks, quantisation=x.quantisation, suffix="tap"
            )
            if best is not None:
                tap = low.call(
                    node, "MAXIMUM", [best, tap], out, IMAGE, Options("MaximumMinimumOptions"),
                    quantisation=x.quantisation, suffix="maximum",
                )  # fmt: skip
            best = tap
    assert best is not None
    return best


@emits("avg_pool2d")
def avg_pool2d(low: Lowering, node: fx.Node) -> None:
    """AVERAGE_POOL_2D; TFLite's SAME excludes padding from the divisor, PAD includes it."""
    at = attributes(node)
    x = low.operand(node, 0, IMAGE)
    out = shape_of(node)
    padded = any(at["padding"])
    same = fits_same(x.shape[2:4], at["kernel"], at["stride"], (1, 1), at["padding"])
    if not padded or (same and not at["count_include_pad"]):
        options = _pool_options(at, SAME if same and padded else VALID)
        low.bind(
            node, low.call(node, "AVERAGE_POOL_2D", [x], out, IMAGE, options, quantisation=x.quantisation)
        )
        return
    size = x.shape[2:4]
    x = pad_image(low, node, x, at["padding"])
    options = _pool_options(at, VALID)
    counted = at["count_include_pad"]
    pooled = low.call(
        node, "AVERAGE_POOL_2D", [x], out, IMAGE, options,
        quantisation=x.quantisation, suffix="" if counted else "pooled",
    )  # fmt: skip
    if not counted:
        correction = low.model.constant(f"{node.name}/correction", _pad_correction(at, size, out[2:4]))
        pooled = low.call(node, "MUL", [pooled, correction], out, IMAGE, MUL)
    low.bind(node, pooled)


def _pad_correction(at: Any, size: tuple[int, ...], out: tuple[int, ...]) -> Any:
    """Ratio of window elements to those on the image, per output position: [1, H, W, 1]."""
    counts: list[Any] = []
    for i in range(2):
        first = np.arange(out[i]) * at["stride"][i] - at["padding"][2 * i]
        last = np.minimum(first + at["kernel"][i], size[i])
        counts.append(at["kernel"][i] / (last - np.maximum(first, 0)))
    return np.outer(*counts).astype(np.float32)[None, :, :, None]


@emits("resize")
def resize(low: Lowering, node: fx.Node) -> None:
    """RESIZE_NEAREST_NEIGHBOR (torch's `nearest` rounds down) or RESIZE_BILINEAR."""
    at = attributes(node)
    x = low.operand(node, 0, IMAGE)
    inputs: list[Value | int] = [x, low.integers(at["size"], "size")]
    if at["mode"] == "nearest":
        code, options = "RESIZE_NEAREST_NEIGHBOR", Options("ResizeNearestNeighborOptions")
    else:
        corners = bool(at["align_corners"])
        fields = {"alignCorners": corners, "halfPixelCenters": not corners}
        code, options = "RESIZE_BILINEAR", Options("ResizeBilinearOptions", fields)
    low.bind(node, low.call(node, code, inputs, shape_of(node), IMAGE, options, quantisation=x.quantisation))


def shuffle_order(channels: int, factor: int) -> Any:
    """Permutation from the channel order of DEPTH_TO_SPACE (offset first) to torch's (offset last)."""
    return np.arange(channels).reshape(channels // factor**2, factor**2).T.reshape(-1)


@emits("pixel_shuffle")
def pixel_shuffle(low: Lowering, node: fx.Node) -> None:
    """DEPTH_TO_SPACE, whose channel order differs: a GATHER reorders them unless the producer did."""
    factor = int(attributes(node)["factor"])
    x = low.operand(node, 0, IMAGE)
    order = shuffle_order(x.shape[1], factor)
    if node not in low.channel_order and not (order == np.arange(len(order))).all():
        options = Options("GatherOptions", {"axis": 3})
        x = low.call(
            node, "GATHER", [x, low.integers(order, "order")], x.shape, IMAGE, options,
            quantisation=x.quantisation, suffix="ordered",
        )  # fmt: skip
    options = Options("DepthToSpaceOptions", {"blockSize": factor})
    low.bind(
        node,
        low.call(node, "DEPTH_TO_SPACE", [x], shape_of(node), IMAGE, options, quantisation=x.quantisation),
    )


def plan_channel_orders(low: Lowering, nodes: list[fx.Node]) -> None:
    """Let the convolution directly before a pixel shuffle write its channels in DEPTH_TO_SPACE's order.

    Only if they have no other reader, and only through element-wise operators that treat all channels alike.
    """
    for node in nodes:
        if node.op != "call_function" or op_name(node) != "pixel_shuffle":
            continue
        source = operand(node, 0)
        while (
            source.op == "call_function"
            and op_name(source) in ("fake_quantize", "relu", "relu6", "identity", "clamp", "leaky_relu")
            and len(source.users) == 1
            and not is_constant(operand(source, 0))
        ):
            source = operand(source, 0)
        is_conv = source.op == "call_function" and op_name(source) == "conv2d" and len(source.users) == 1
        if is_conv and attributes(source)["groups"] == 1:
            order = shuffle_order(shape_of(source)[1], int(attributes(node)["factor"]))
            low.channel_order[source] = order
            low.channel_order[node] = order
