"""TFLite rules: convolutions, fully connected layers, pooling, resizing, depth to space and back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from mcc.frontend.resizing import by_matrices
from mcc.frontend.tflite_table import Result, Site, tflite_op
from mcc.frontend.tflite_values import Array, View
from mcc.frontend.values import AnyValue, Const
from mcc.ir.notes import shape_of
from mcc.lower.layout import IMAGE, plain

Pair = tuple[int, int]
Quad = tuple[int, int, int, int]

SAME, VALID = 0, 1
NO_PADDING: Quad = (0, 0, 0, 0)


def same_padding(size: Pair, kernel: Pair, stride: Pair, dilation: Pair = (1, 1)) -> Quad:
    """(top, bottom, left, right) of SAME: ceil(size / stride) windows, the odd element at the end."""
    sides: list[int] = []
    for length, k, s, d in zip(size, kernel, stride, dilation, strict=True):
        total = max(0, (-(-length // s) - 1) * s + d * (k - 1) + 1 - length)
        sides += [total // 2, total - total // 2]
    return sides[0], sides[1], sides[2], sides[3]


def _padding(site: Site, x: View, kernel: Pair, stride: Pair, dilation: Pair = (1, 1)) -> Quad:
    if int(site.get("padding")) == VALID:
        return NO_PADDING
    _, height, width = site.map_shape(x)
    return same_padding((height, width), kernel, stride, dilation)


def _pair(site: Site, height: str, width: str) -> Pair:
    """An option for height and width; files leave out what is 1."""
    found = int(site.get(height, 1)), int(site.get(width, 1))
    if min(found) < 1:
        site.emitter.refuse(f"has {height} and {width} of {found}, not of 1 and more")
    return found


def _weight_shape(site: Site, index: int, rank: int) -> tuple[int, ...]:
    tensor = site.tensor(index)
    shape = () if tensor is None else tensor.shape
    if len(shape) != rank:
        site.emitter.refuse(f"has a weight of shape {list(shape)}, not of {rank} axes")
    return shape


@tflite_op("CONV_2D")
def conv(site: Site) -> Result:
    """Weight O kH kW I; groups where the weight has fewer input channels than the map."""
    x = site.values.image(site.view())
    shape = _weight_shape(site, 1, 4)
    channels = site.map_shape(x)[0]
    groups, rest = divmod(channels, shape[3]) if shape[3] else (0, 1)
    if rest or not groups or shape[0] % groups:
        site.emitter.refuse(f"has a weight of shape {list(shape)} for {channels} channels")
    block = _shuffled_by(site, shape[0]) if groups == 1 else 0
    order = _shuffle_order(shape[0], block)
    weight = site.weight(1, lambda w: w[order].transpose(0, 3, 1, 2), 0, order)
    bias = site.bias(2, lambda b: b[order])
    return _convolved(site, x, weight, bias, (shape[1], shape[2]), groups, block)


@tflite_op("DEPTHWISE_CONV_2D")
def depthwise(site: Site) -> Result:
    """Weight 1 kH kW O, O a multiple of the channels: as many groups as channels."""
    x = site.values.image(site.view())
    shape = _weight_shape(site, 1, 4)
    channels = site.map_shape(x)[0]
    if shape[0] != 1 or shape[3] % channels:
        site.emitter.refuse(f"has a weight of shape {list(shape)} for {channels} channels")
    weight = site.weight(1, lambda w: w.transpose(3, 0, 1, 2), 0)
    return _convolved(site, x, weight, site.bias(2), (shape[1], shape[2]), channels, 0)


def _convolved(
    site: Site, x: View, weight: AnyValue, bias: Const | None, kernel: Pair, groups: int, block: int
) -> View:
    stride = _pair(site, "strideH", "strideW")
    dilation = _pair(site, "dilationHFactor", "dilationWFactor")
    padding = _padding(site, x, kernel, stride, dilation)
    if x.spaced is not None:
        if (stride, dilation, padding) != ((1, 1), (1, 1), NO_PADDING):
            site.emitter.refuse("has strides or padding between SPACE_TO_BATCH_ND and BATCH_TO_SPACE_ND")
        dilation, padding = x.spaced
    fused, other = site.fused()
    node = site.emitter.call_node(
        "conv2d", x.node, weight, bias, stride=stride, padding=padding, dilation=dilation, groups=groups,
        activation=fused,
    )  # fmt: skip
    found = site.made(node, IMAGE, activation=other, check=x.spaced is None)
    return replace(found, shuffled=block, spaced=x.spaced)


def _shuffled_by(site: Site, channels: int) -> int:
    """The block of a DEPTH_TO_SPACE that alone reads the result; 0 where there is none."""
    reader = site.alone
    block = (
        0 if reader is None or reader.code != "DEPTH_TO_SPACE" else int(reader.options.get("blockSize", 0))
    )
    return block if block > 1 and channels % (block * block) == 0 else 0


def _shuffle_order(channels: int, block: int) -> Array:
    """From the order of `pixel_shuffle` (place in the block last) to that of DEPTH_TO_SPACE (first)."""
    places = np.arange(channels)
    return places.reshape(block * block, -1).T.reshape(-1) if block else places


@tflite_op("TRANSPOSE_CONV", shapes=(0,))
def transposed(site: Site) -> Result:
    """Weight O kH kW I; the result has the shape that the file declares."""
    x = site.values.image(site.view(2))
    shape = _weight_shape(site, 1, 4)
    declared = site.declared
    if len(declared) != 4 or shape[3] != site.map_shape(x)[0]:
        site.emitter.refuse(f"has a weight of shape {list(shape)} for a result {list(declared)}")
    stride = _pair(site, "strideH", "strideW")
    sides: list[int] = []
    added: list[int] = []
    for axis in (0, 1):
        full = (shape_of(x.node)[2 + axis] - 1) * stride[axis] + shape[1 + axis]
        wanted = declared[1 + axis]
        cut = max(0, full - wanted)
        low = cut // 2 if int(site.get("padding")) == SAME else 0
        sides += [low, cut - low]
        added.append(max(0, wanted - full))
    weight = site.weight(1, lambda w: w.transpose(3, 0, 1, 2), 1)
    fused, other = site.fused()
    node = site.emitter.call_node(
        "conv_transpose2d", x.node, weight, site.bias(3), stride=stride, padding=tuple(sides),
        output_padding=tuple(added), dilation=(1, 1), groups=1, activation=fused,
    )  # fmt: skip
    return site.made(node, IMAGE, activation=other)


@tflite_op("FULLY_CONNECTED")
def fully_connected(site: Site) -> Result:
    """Weight O I over the last axis; other values are first reshaped to rows of I numbers."""
    if int(site.get("weightsFormat")):
        site.emitter.refuse("stores its weight in blocks for one processor", "convert the model again")
    x, (_, length) = site.view(), _weight_shape(site, 1, 2)
    shape = site.values.shape(x)
    keeps = bool(site.get("keepNumDims")) or len(shape) == 2
    if shape[-1:] != (length,) or not keeps:
        count = int(np.prod(shape))
        if not length or count % length:
            site.emitter.refuse(f"reads rows of {length} numbers from {list(shape)}")
        x = site.values.reshape(x, (count // length, length))
    flat = x.layout.flat
    if flat is None:
        x = site.values.plain(x)
        weight = site.weight(1, np.asarray, 0)
    else:
        channels, height, width = flat
        weight = site.weight(
            1, lambda w: w.reshape(-1, height, width, channels).transpose(0, 3, 1, 2).reshape(w.shape), 0
        )
    fused, other = site.fused()
    node = site.emitter.call_node("linear", x.node, weight, site.bias(2), activation=fused)
    return site.made(node, plain(len(x.sample) + 1), x.batched, activation=other)


# -- dilation by way of the batch --------------------------------------------------------------------------


@tflite_op("SPACE_TO_BATCH_ND")
def space_to_batch(site: Site) -> Result:
    """Together with the convolution and BATCH_TO_SPACE_ND behind it a dilated convolution."""
    x, reader = site.values.image(site.view()), site.alone
    block, pads = site.numbers(1), site.array(2)
    ends = None if reader is None else site.only_reader(reader)
    if (
        reader is None
        or reader.code not in ("CONV_2D", "DEPTHWISE_CONV_2D")
        or ends is None
        or ends.code != "BATCH_TO_SPACE_ND"
    ):
        site.emitter.refuse("is read by something else than a convolution with BATCH_TO_SPACE_ND behind it")
    blocks, crops = (site.constants.raw(ends.inputs[place]) for place in (1, 2))
    if blocks is None or crops is None or blocks.reshape(-1).tolist() != block or len(block) != 2:
        site.emitter.refuse("has other blocks than the BATCH_TO_SPACE_ND behind it, or not two")
    if pads.shape != (2, 2) or crops.shape != (2, 2) or (pads < crops).any() or min(block) < 1:
        site.emitter.refuse("is cropped by more than it is padded")
    top, bottom, left, right = (int(amount) for amount in (pads - crops).reshape(-1))
    return replace(x, spaced=((block[0], block[1]), (top, bottom, left, right)))


@tflite_op("BATCH_TO_SPACE_ND")
def batch_to_space(site: Site) -> Result:
    """The end of a dilated convolution."""
    x = site.view()
    if x.spaced is None:
        site.emitter.refuse("does not end a dilated convolution")
    return site.checked(replace(x, spaced=None))


# -- pooling and resizing ----------------------------------------------------------------------------------


@tflite_op("MAX_POOL_2D", "AVERAGE_POOL_2D")
def pool(site: Site) -> Result:
    """Windows; SAME does not count its padding in a mean. A mean over the whole map is `mean` in float."""
    x = site.values.image(site.view())
    kernel, stride = _pair(site, "filterHeight", "filterWidth"), _pair(site, "strideH", "strideW")
    padding = _padding(site, x, kernel, stride)
    fused, other = site.fused()
    other = other if fused == "none" else fused
    call = site.emitter.call_node
    if site.code == "MAX_POOL_2D":
        node = call("max_pool2d", x.node, kernel=kernel, stride=stride, padding=padding, dilation=(1, 1))
    elif x.grid is None and kernel == site.map_shape(x)[1:] and padding == NO_PADDING:
        node = call("mean", x.node, axes=(2, 3), keepdim=True)
    else:
        options = {"kernel": kernel, "stride": stride, "padding": padding}
        node = call("avg_pool2d", x.node, **options, count_include_pad=False)
    return site.made(node, IMAGE, activation=other)


@tflite_op("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", shapes=(1,))
def resize(site: Site) -> Result:
    """By the kernel where it samples as PyTorch does, else by matrices with the same numbers."""
    x, size = site.values.image(site.view()), (0, 0)
    if len(site.declared) != 4:
        site.emitter.refuse(f"declares the result {list(site.declared)}")
    size = (site.declared[1], site.declared[2])
    before = site.map_shape(x)[1:]
    corners, centres = bool(site.get("alignCorners")), bool(site.get("halfPixelCenters"))
    bilinear = site.code == "RESIZE_BILINEAR"
    if bilinear:
        native = corners != centres or size == before
    else:
        whole = all(new % old == 0 for new, old in zip(size, before, strict=True))
        native = not corners and (not centres or whole)
    if native:
        mode = "bilinear" if bilinear else "nearest"
        node = site.emitter.call_node(
            "resize", x.node, size=size, mode=mode, align_corners=bilinear and corners
        )
        return site.made(node, IMAGE)
    if x.grid is not None:
        site.emitter.refuse("resizes integers in a way that no kernel of mcc does")
    along = _interpolation(size, corners, centres, bilinear)
    node = site.emitter.node(by_matrices(site.emitter, x.node, size, along))
    return site.made(node, IMAGE)


def _interpolation(
    size: Pair, corners: bool, centres: bool, bilinear: bool
) -> Callable[[Tensor, int], Tensor]:
    """What LiteRT's kernels compute along one axis, as the product with a matrix."""

    def interpolate(x: Tensor, axis: int) -> Tensor:
        old, new = x.shape[2 + axis], size[axis]
        matrix = torch.from_numpy(_sampling(old, new, corners, centres, bilinear)).to(x.dtype)
        return torch.matmul(x, matrix.T) if axis else torch.matmul(matrix, x)

    return interpolate


def _sampling(old: int, new: int, corners: bool, centres: bool, bilinear: bool) -> Array:
    """Weights [new, old] of `resize_bilinear.h` and `resize_nearest_neighbor.h`, in float32 as there."""
    scale = np.float32((old - 1) / (new - 1)) if corners and new > 1 else np.float32(old / new)
    places = np.arange(new, dtype=np.float32)
    at = (
        ((places + np.float32(0.5)) * scale - np.float32(0.5 if bilinear else 0))
        if centres
        else places * scale
    )
    matrix = np.zeros((new, old), np.float32)
    rows = np.arange(new)
    if not bilinear:
        nearest = np.floor(at + np.float32(0.5)) if corners else np.floor(at)
        matrix[rows, np.clip(nearest, 0, old - 1).astype(int)] = 1
        return matrix
    low = np.clip(np.floor(at), 0, old - 1).astype(int)
    high = np.minimum(low + 1, old - 1)
    share = np.clip(at - low, 0, 1).astype(np.float32)
    np.add.at(matrix, (rows, low), 1 - share)
    np.add.at(matrix, (rows, high), share)
    return matrix


@tflite_op("DEPTH_TO_SPACE")
def depth_to_space(site: Site) -> Result:
    """`pixel_shuffle`; the convolution before has put the channels in its order, or a transpose does."""
    x, block = site.values.image(site.view()), int(site.get("blockSize"))
    channels, height, width = site.map_shape(x)
    if block < 1 or channels % (block * block):
        site.emitter.refuse(f"has blocks of {block} for {channels} channels")
    node = x.node
    if x.shuffled != block and block > 1 and channels > block * block:
        inner = channels // (block * block)
        node = _moved(site, x, node, "reshape", shape=(block * block, inner, height, width))
        node = _moved(site, x, node, "transpose", perm=(0, 2, 1, 3, 4))
        node = _moved(site, x, node, "reshape", shape=(channels, height, width))
    return site.made(site.emitter.call_node("pixel_shuffle", node, factor=block), IMAGE)


@tflite_op("SPACE_TO_DEPTH")
def space_to_depth(site: Site) -> Result:
    """The inverse: the place in the block in front of the channels."""
    x, block = site.values.image(site.view()), int(site.get("blockSize"))
    channels, height, width = site.map_shape(x)
    if block < 1 or height % block or width % block:
        site.emitter.refuse(f"has blocks of {block} for maps of {height} x {width}")
    rows, columns = height // block, width // block
    node = _moved(site, x, x.node, "reshape", shape=(channels, rows, block, columns, block))
    node = _moved(site, x, node, "transpose", perm=(0, 3, 5, 1, 2, 4))
    shape = (channels * block * block, rows, columns)
    return site.made(site.emitter.call_node("reshape", node, shape=shape), IMAGE)


def _moved(site: Site, x: View, node: fx.Node, op: str, **attributes: Any) -> fx.Node:
    """An operator that moves numbers on the grid of `x`."""
    return site.values.on_grid(site.emitter.call_node(op, node, **attributes), x.grid)


@tflite_op("LOCAL_RESPONSE_NORMALIZATION")
def local_response_norm(site: Site) -> Result:
    """x / (bias + alpha * s) ^ beta, s the sum of squares over `radius` channels to both sides."""
    from mcc.frontend.aten_arithmetic import power

    e, x = site.emitter, site.values.image(site.view())
    channels, radius = site.map_shape(x)[0], int(site.get("radius"))
    places = torch.arange(channels)
    band = ((places[None] - places[:, None]).abs() <= radius).float()
    weight = Const(band.reshape(channels, channels, 1, 1), f"{e.hint}_band")
    squares = e.call_node("mul", x.node, x.node)
    whole = {"stride": (1, 1), "padding": NO_PADDING, "dilation": (1, 1), "groups": 1}
    total = e.call_node("conv2d", squares, weight, None, **whole)
    base = e.broadcast(
        "add", e.broadcast("mul", total, float(site.get("alpha", 1.0))), float(site.get("bias", 0.0))
    )
    divisor = power(e, base, round(float(site.get("beta", 0.5)), 6))
    return site.made(e.call_node("div", x.node, divisor), IMAGE)
