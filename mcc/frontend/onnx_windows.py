"""ONNX rules: convolutions, pooling and reductions of maps and rows."""

from __future__ import annotations

import torch

from mcc.frontend import aten_arithmetic as arithmetic
from mcc.frontend import aten_products as products
from mcc.frontend import aten_reduce as reduce
from mcc.frontend.onnx_table import Result, Site, onnx_op, padding_of, pads_of
from mcc.frontend.values import AnyValue, Const

_ONE = (1, 1)
Quad = tuple[int, int, int, int]


@onnx_op("Conv")
def conv(site: Site) -> Result:
    """Convolution of maps or rows."""
    e, weight = site.emitter, site.kernel()
    kernel = _lengths(site, weight)
    stride, dilation = site.both("strides", 1), site.both("dilations", 1)
    made = e.call(
        "conv2d", site.as_map(), weight, site.optional(2), stride=stride, dilation=dilation,
        padding=padding_of(site, kernel, stride, dilation), groups=site.get("group", 1),
    )  # fmt: skip
    return site.as_read(made)


def _lengths(site: Site, weight: AnyValue) -> tuple[int, int]:
    """Kernel (height, width) of a convolution."""
    shape = site.emitter.shape(weight)
    return shape[2], shape[3]


@onnx_op("ConvTranspose")
def conv_transpose(site: Site) -> Result:
    """Transposed convolution of maps or rows."""
    weight = site.kernel()
    stride, dilation = site.both("strides", 1), site.both("dilations", 1)
    padding, extra = _cropped(site, _lengths(site, weight), stride, dilation)
    made = site.emitter.call(
        "conv_transpose2d", site.as_map(), weight, site.optional(2), stride=stride, padding=padding,
        output_padding=extra, dilation=dilation, groups=site.get("group", 1),
    )  # fmt: skip
    return site.as_read(made)


def _cropped(
    site: Site, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]
) -> tuple[Quad, tuple[int, int]]:
    """What is cut from each side, and what is added below and right.

    `output_shape` and `auto_pad` SAME say how long the result is; what is odd is cut as onnxruntime does.
    """
    auto, extra = site.get("auto_pad", "NOTSET"), site.both("output_padding", 0)
    wanted = site.both("output_shape", 0) if site.get("output_shape") else None
    lengths = site.map_shape()[2:]
    if wanted is None and auto in ("SAME_UPPER", "SAME_LOWER"):
        wanted = (lengths[0] * stride[0], lengths[1] * stride[1])
    if wanted is None:
        return (pads_of(site) if auto == "NOTSET" else (0, 0, 0, 0)), extra
    sides: list[int] = []
    added: list[int] = []
    first = 1 if site.is_row() else 0
    for axis in (0, 1):
        total = stride[axis] * (lengths[axis] - 1) + extra[axis] + dilation[axis] * (kernel[axis] - 1) + 1
        total = total - wanted[axis] if axis >= first else 0
        less, more = max(0, total) // 2, max(0, total) - max(0, total) // 2
        sides += [less, more] if auto == "SAME_UPPER" else [more, less]
        added.append(extra[axis] + max(0, -total))
    return (sides[0], sides[1], sides[2], sides[3]), (added[0], added[1])


@onnx_op("LRN")
def local_response_norm(site: Site) -> Result:
    """x / (bias + alpha / size * s) ^ beta, s the sum of squares over `size` neighbouring channels.

    The sum is a 1x1 convolution with a band of ones, before -(size - 1) // 2 and behind size // 2.
    """
    e, x, size = site.emitter, site.value(), int(site.get("size"))
    channels = e.shape(x)[1]
    places = torch.arange(channels)
    apart = places[None] - places[:, None]
    band = ((apart >= -((size - 1) // 2)) & (apart <= size // 2)).float()
    weight = Const(band.reshape(channels, channels, 1, 1), f"{e.hint}_band")
    whole = {"stride": _ONE, "padding": (0, 0, 0, 0), "dilation": _ONE, "groups": 1}
    squares = e.call("mul", site.as_map(), site.as_map())
    total = e.call("conv2d", squares, weight, None, **whole)
    factor, bias = site.get("alpha", 1e-4) / size, site.get("bias", 1.0)
    base = e.broadcast("add", e.broadcast("mul", total, factor), bias)
    divisor = arithmetic.power(e, base, round(site.get("beta", 0.75), 6))
    return site.as_read(e.broadcast("div", site.as_map(), divisor))


@onnx_op("GlobalAveragePool", "GlobalMaxPool")
def global_pool(site: Site) -> Result:
    """Over all axes behind the channels."""
    axes = tuple(range(2, len(site.emitter.shape(site.value()))))
    op = "mean" if site.op == "GlobalAveragePool" else "amax"
    return site.emitter.call(op, site.value(), axes=axes, keepdim=True)


@onnx_op(
    *("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare"),
    *("ReduceLogSum", "ReduceLogSumExp"),
)
def reduction(site: Site) -> Result:
    """Over constant axes."""
    e, x, keep = site.emitter, site.value(), bool(site.get("keepdims", 1))
    given = site.numbers(1, "axes")
    if not given and site.get("noop_with_empty_axes", 0):
        return x
    axes = arithmetic.axes_of(e, x, given)
    if site.op in ("ReduceL1", "ReduceL2"):
        return reduce.vector_norm(e, x, axes, keep, 1 if site.op == "ReduceL1" else 2)
    if site.op == "ReduceMin":
        return reduce.amin(e, x, axes, keep)
    if site.op == "ReduceSumSquare":
        return e.call("sum", e.call("mul", x, x), axes=axes, keepdim=keep)
    if site.op == "ReduceLogSum":
        return e.call("log", e.call("sum", x, axes=axes, keepdim=keep))
    if site.op == "ReduceLogSumExp":
        return products.logsumexp(e, x, axes, keep)
    op = {"ReduceMean": "mean", "ReduceSum": "sum", "ReduceMax": "amax"}[site.op]
    return e.call(op, x, axes=axes, keepdim=keep)


@onnx_op("MaxPool", "AveragePool")
def pool(site: Site) -> Result:
    """Windows with their own padding; rounding up becomes padding below and right."""
    lengths = site.map_shape()[2:]
    kernel, stride, dilation = (site.both(name, 1) for name in ("kernel_shape", "strides", "dilations"))
    padding = list(padding_of(site, kernel, stride, dilation))
    excess = [0, 0]
    if site.get("ceil_mode", 0):
        for axis in (0, 1):
            low, high = padding[2 * axis], padding[2 * axis + 1]
            reach = dilation[axis] * (kernel[axis] - 1) + 1
            count = -(-(lengths[axis] + low + high - reach) // stride[axis]) + 1
            if (count - 1) * stride[axis] >= lengths[axis] + low:
                count -= 1
            excess[axis] = max(0, (count - 1) * stride[axis] + reach - (lengths[axis] + low + high))
    full = (padding[0], padding[1] + excess[0], padding[2], padding[3] + excess[1])
    e, x = site.emitter, site.as_map()
    if site.op == "MaxPool":
        made = e.call("max_pool2d", x, kernel=kernel, stride=stride, padding=full, dilation=dilation)
        return site.as_read(made)
    if dilation != _ONE:
        e.refuse("AveragePool with dilations is not supported")
    if (kernel, padding) == (tuple(lengths), [0, 0, 0, 0]):
        return site.as_read(e.call("mean", x, axes=(2, 3), keepdim=True))
    counted = bool(site.get("count_include_pad", 0))
    if counted and any(excess) and any(padding):
        amounts = ((0, 0), (0, 0), (padding[0], padding[1]), (padding[2], padding[3]))
        x = e.call("pad", x, padding=amounts, mode="constant", value=0.0)
        full = (0, excess[0], 0, excess[1])
    include = counted and not any(excess)
    made = e.call("avg_pool2d", x, kernel=kernel, stride=stride, padding=full, count_include_pad=include)
    return site.as_read(made)
