"""The operators of the canonical form as TensorFlow functions, on NCHW values.

They are written from the definitions of the operators (`mcc.ir.ops`), not from the TFLite writer: the two are
compared with each other.
"""

# TensorFlow has no types; neither have the parameters of the functions of the table.
# pyright: reportUnknownLambdaType=false

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from mcc.errors import UnsupportedError

Value = Any  # a tf.Tensor: TensorFlow has no types that pyright could read
Options = dict[str, Any]
Function = Callable[..., Value]


def functions(tf: Any) -> dict[str, Function]:
    """One function per row of the op table, by name: positional tensors, keyword attributes.

    Args:
        tf: The module `tensorflow`.
    """
    return {**_elementwise(tf), **_windows(tf), **_shapes(tf), **_reductions(tf), **_recurrent(tf)}


def same(value: Value) -> Value:
    """The identity, in place of the quantiser of a weight."""
    return value


def _last(tf: Any, x: Value) -> Value:
    return tf.transpose(x, (0, 2, 3, 1))


def _first(tf: Any, x: Value) -> Value:
    return tf.transpose(x, (0, 3, 1, 2))


def _activate(tf: Any, x: Value, activation: str) -> Value:
    return {"none": lambda v: v, "relu": tf.nn.relu, "relu6": tf.nn.relu6}[activation](x)


def _per_channel(tf: Any, value: Value, rank: int) -> Value:
    return tf.reshape(value, [-1 if axis == 1 else 1 for axis in range(rank)])


def _elementwise(tf: Any) -> dict[str, Function]:
    def with_activation(function: Function) -> Function:
        return lambda a, b, activation: _activate(tf, function(a, b), activation)

    def batch_norm(x: Value, w: Value, b: Value, mean: Value, var: Value, eps: float) -> Value:
        w, b, mean, var = (_per_channel(tf, v, len(x.shape)) for v in (w, b, mean, var))
        return (x - mean) * w * tf.math.rsqrt(var + eps) + b

    def prelu(x: Value, slope: Value) -> Value:
        shaped = _per_channel(tf, slope, len(x.shape)) if slope.shape[0] > 1 else slope
        return tf.where(x > 0, x, shaped * x)

    found: dict[str, Function] = {
        "identity": tf.identity, "relu": tf.nn.relu, "relu6": tf.nn.relu6, "sigmoid": tf.sigmoid,
        "tanh": tf.tanh, "silu": tf.nn.silu, "exp": tf.exp, "log": tf.math.log, "sqrt": tf.sqrt,
        "abs": tf.abs, "sign": tf.sign, "neg": tf.negative, "softplus": tf.math.softplus, "prelu": prelu,
        "hardswish": lambda x: x * tf.nn.relu6(x + 3.0) / 6.0,
        "hardsigmoid": lambda x: tf.nn.relu6(x + 3.0) / 6.0,
        "mish": lambda x: x * tf.tanh(tf.math.softplus(x)),
        "gelu": lambda x, approximate: tf.nn.gelu(x, approximate=approximate == "tanh"),
        "leaky_relu": lambda x, slope: tf.nn.leaky_relu(x, slope),
        "elu": lambda x, alpha: tf.nn.relu(x) + alpha * tf.nn.elu(tf.minimum(x, 0.0)),
        "clamp": lambda x, min, max: tf.clip_by_value(x, max_lower(min), min_upper(max)),
        "batch_norm": batch_norm,
        "add": with_activation(tf.add), "sub": with_activation(tf.subtract),
        "mul": with_activation(tf.multiply), "div": with_activation(tf.divide), "matmul": tf.matmul,
    }  # fmt: skip
    return found


def max_lower(value: float) -> float:
    """A lower limit within float32."""
    return max(value, float(np.finfo(np.float32).min))


def min_upper(value: float) -> float:
    """An upper limit within float32."""
    return min(value, float(np.finfo(np.float32).max))


def _windows(tf: Any) -> dict[str, Function]:
    def padded(x: Value, padding: tuple[int, ...], value: float = 0.0) -> Value:
        top, bottom, left, right = padding
        return tf.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=value)

    def conv2d(x: Value, weight: Value, bias: Value | None, *, taps: Function = same, **at: Any) -> Value:
        groups, channels = at["groups"], x.shape[1]
        image = padded(_last(tf, x), at["padding"])
        if groups == channels and groups > 1 and at["stride"][0] == at["stride"][1]:
            shape = (groups, -1, *weight.shape[2:])
            held = tf.transpose(tf.reshape(weight, shape), (2, 3, 0, 1))
            flat = taps(tf.reshape(held, (*weight.shape[2:], 1, weight.shape[0])))
            strides = (1, *at["stride"], 1)
            held = tf.reshape(flat, held.shape)
            y = tf.nn.depthwise_conv2d(image, held, strides, "VALID", dilations=at["dilation"])
        else:
            held = taps(tf.transpose(weight, (2, 3, 1, 0)))
            y = tf.nn.conv2d(image, held, at["stride"], "VALID", dilations=at["dilation"])
        y = y if bias is None else y + bias
        return _first(tf, _activate(tf, y, at["activation"]))

    def conv_transpose2d(
        x: Value, weight: Value, bias: Value | None, *, taps: Function = same, **at: Any
    ) -> Value:
        """Insert zeros between the pixels, then convolve with the flipped kernel."""
        inner, _, height, width = weight.shape
        rows = inner // at["groups"]
        parts: list[Value] = []
        for group in range(at["groups"]):
            own = slice(group * rows, (group + 1) * rows)
            image = _spread(tf, _last(tf, x[:, own]), at["stride"])
            extent = [(k - 1) * d for k, d in zip((height, width), at["dilation"], strict=True)]
            edges = padded(image, (extent[0], extent[0] + at["output_padding"][0],
                                   extent[1], extent[1] + at["output_padding"][1]))  # fmt: skip
            held = taps(tf.transpose(tf.reverse(weight[own], (2, 3)), (2, 3, 0, 1)))
            parts.append(tf.nn.conv2d(edges, held, 1, "VALID", dilations=at["dilation"]))
        full = tf.concat(parts, 3)
        top, bottom, left, right = at["padding"]
        y = full[:, top : full.shape[1] - bottom, left : full.shape[2] - right]
        y = y if bias is None else y + bias
        return _first(tf, _activate(tf, y, at["activation"]))

    def max_pool2d(x: Value, **at: Any) -> Value:
        image = padded(_last(tf, x), at["padding"], float(np.finfo(np.float32).min))
        pooled = tf.nn.pool(
            image, at["kernel"], "MAX", strides=at["stride"] if at["dilation"] == (1, 1) else (1, 1),
            padding="VALID", dilations=at["dilation"],
        )  # fmt: skip
        if at["dilation"] != (1, 1):
            pooled = pooled[:, :: at["stride"][0], :: at["stride"][1]]
        return _first(tf, pooled)

    def avg_pool2d(x: Value, **at: Any) -> Value:
        def mean(image: Value) -> Value:
            return tf.nn.avg_pool2d(padded(image, at["padding"]), at["kernel"], at["stride"], "VALID")

        pooled = mean(_last(tf, x))
        if not at["count_include_pad"] and any(at["padding"]):
            pooled = pooled / mean(tf.ones((1, *x.shape[2:], 1)))
        return _first(tf, pooled)

    def resize(x: Value, size: tuple[int, int], mode: str, align_corners: bool) -> Value:
        image = _last(tf, x)
        if mode == "nearest":
            made = tf.compat.v1.image.resize_nearest_neighbor(image, size)
        else:
            made = tf.compat.v1.image.resize_bilinear(
                image, size, align_corners=align_corners, half_pixel_centers=not align_corners
            )
        return _first(tf, made)

    def linear(
        x: Value, weight: Value, bias: Value | None, *, activation: str, taps: Function = same
    ) -> Value:
        rows = tf.reshape(x, (-1, x.shape[-1]))
        if taps is same:
            y = tf.matmul(rows, weight, transpose_b=True)
        else:  # the converter loses the channels of a product's grid, and keeps those of a convolution's
            held = taps(tf.reshape(tf.transpose(weight), (1, 1, x.shape[-1], weight.shape[0])))
            y = tf.nn.conv2d(tf.reshape(rows, (-1, 1, 1, x.shape[-1])), held, 1, "VALID")
        y = y if bias is None else y + bias
        return tf.reshape(_activate(tf, y, activation), (*x.shape[:-1], weight.shape[0]))

    return {
        "conv2d": conv2d, "conv_transpose2d": conv_transpose2d, "max_pool2d": max_pool2d, "linear": linear,
        "avg_pool2d": avg_pool2d, "resize": resize,
    }  # fmt: skip


def _spread(tf: Any, image: Value, stride: tuple[int, int]) -> Value:
    """Insert stride - 1 zeros between the pixels of an NHWC image, none after the last."""
    n, height, width, channels = image.shape
    rows = tf.reshape(image, (n, height, 1, width * channels))
    rows = tf.pad(rows, ((0, 0), (0, 0), (0, stride[0] - 1), (0, 0)))
    columns = tf.reshape(rows, (n * height * stride[0], width, 1, channels))
    columns = tf.pad(columns, ((0, 0), (0, 0), (0, stride[1] - 1), (0, 0)))
    grown = tf.reshape(columns, (n, height * stride[0], width * stride[1], channels))
    return grown[:, : (height - 1) * stride[0] + 1, : (width - 1) * stride[1] + 1]


def _shapes(tf: Any) -> dict[str, Function]:
    def taken(x: Value, axis: int, start: int, stop: int, step: int) -> Value:
        index = [slice(None)] * len(x.shape)
        index[axis] = slice(start, stop, step)
        return x[tuple(index)]

    def pad(x: Value, padding: tuple[tuple[int, int], ...], mode: str, value: float) -> Value:
        if mode == "constant":
            return tf.pad(x, padding, constant_values=value)
        if mode == "reflect":
            return tf.pad(x, padding, mode="REFLECT")
        for axis, (low, high) in enumerate(padding):
            length = x.shape[axis]
            places = np.clip(np.arange(-low, length + high), 0, length - 1)
            x = tf.gather(x, places, axis=axis)
        return x

    def pixel_shuffle(x: Value, factor: int) -> Value:
        n, channels, height, width = x.shape
        inner = channels // factor**2
        parted = tf.reshape(x, (n, inner, factor, factor, height, width))
        moved = tf.transpose(parted, (0, 1, 4, 2, 5, 3))
        return tf.reshape(moved, (n, inner, height * factor, width * factor))

    return {
        "concat": lambda *xs, axis: tf.concat(xs, axis), "slice": taken, "pad": pad,
        "reshape": lambda x, shape: tf.reshape(x, (x.shape[0], *shape)),
        "transpose": lambda x, perm: tf.transpose(x, perm), "pixel_shuffle": pixel_shuffle,
    }  # fmt: skip


def _reductions(tf: Any) -> dict[str, Function]:
    def normalise(x: Value, axes: tuple[int, ...], eps: float) -> Value:
        mean = tf.reduce_mean(x, axes, keepdims=True)
        variance = tf.reduce_mean(tf.square(x - mean), axes, keepdims=True)
        return (x - mean) * tf.math.rsqrt(variance + eps)

    def layer_norm(x: Value, w: Value | None, b: Value | None, axes: tuple[int, ...], eps: float) -> Value:
        gone = {axis % len(x.shape) for axis in axes}
        shape = [length if axis in gone else 1 for axis, length in enumerate(x.shape)]
        y = normalise(x, axes, eps)
        y = y if w is None else y * tf.reshape(w, shape)
        return y if b is None else y + tf.reshape(b, shape)

    def group_norm(x: Value, w: Value | None, b: Value | None, groups: int, eps: float) -> Value:
        parted = tf.reshape(x, (x.shape[0], groups, math.prod(x.shape[1:]) // groups))
        y = tf.reshape(normalise(parted, (2,), eps), x.shape)
        y = y if w is None else y * _per_channel(tf, w, len(x.shape))
        return y if b is None else y + _per_channel(tf, b, len(x.shape))

    def global_response_norm(x: Value, w: Value, b: Value, axis: int, eps: float) -> Value:
        others = tuple(other for other in range(1, len(x.shape)) if other != axis % len(x.shape))
        shape = [length if other == axis % len(x.shape) else 1 for other, length in enumerate(x.shape)]
        norms = tf.sqrt(tf.reduce_sum(tf.square(x), others, keepdims=True))
        response = norms / (tf.reduce_mean(norms, axis, keepdims=True) + eps)
        return x + x * response * tf.reshape(w, shape) + tf.reshape(b, shape)

    return {
        "mean": lambda x, axes, keepdim: tf.reduce_mean(x, axes, keepdims=keepdim),
        "sum": lambda x, axes, keepdim: tf.reduce_sum(x, axes, keepdims=keepdim),
        "amax": lambda x, axes, keepdim: tf.reduce_max(x, axes, keepdims=keepdim),
        "softmax": lambda x, axis: tf.nn.softmax(x, axis), "layer_norm": layer_norm,
        "group_norm": group_norm, "global_response_norm": global_response_norm,
    }  # fmt: skip


def _recurrent(tf: Any) -> dict[str, Function]:
    def run(
        x: Value, reverse: bool, state: list[Value], cell: Callable[[Value, list[Value]], list[Value]]
    ) -> Value:
        steps = tf.unstack(x, axis=1)
        results: list[Value] = []
        for step in reversed(steps) if reverse else steps:
            state = cell(step, state)
            results.append(state[0])
        return tf.stack(results[::-1] if reverse else results, 1)

    def product(x: Value, weight: Value, bias: Value | None) -> Value:
        y = tf.matmul(x, weight, transpose_b=True)
        return y if bias is None else y + bias

    def lstm(x: Value, w: Value, own: Value, b: Value | None, own_b: Value | None, reverse: bool) -> Value:
        def cell(step: Value, state: list[Value]) -> list[Value]:
            gates = tf.split(product(step, w, b) + product(state[0], own, own_b), 4, 1)
            entering, kept, leaving = (tf.sigmoid(gates[index]) for index in (0, 1, 3))
            cells = kept * state[1] + entering * tf.tanh(gates[2])
            return [leaving * tf.tanh(cells), cells]

        zeros = tf.zeros((x.shape[0], own.shape[1]))
        return run(x, reverse, [zeros, zeros], cell)

    def gru(
        x: Value, w: Value, own: Value, b: Value | None, own_b: Value | None, reverse: bool, reset_after: bool
    ) -> Value:
        hidden = own.shape[1]

        def cell(step: Value, state: list[Value]) -> list[Value]:
            (h,) = state
            read = tf.split(product(step, w, b), 3, 1)
            held = tf.split(product(h, own, own_b), 3, 1)
            reset, update = (tf.sigmoid(read[index] + held[index]) for index in (0, 1))
            last = None if own_b is None else own_b[2 * hidden :]
            joined = reset * held[2] if reset_after else product(reset * h, own[2 * hidden :], last)
            return [(1.0 - update) * tf.tanh(read[2] + joined) + update * h]

        return run(x, reverse, [tf.zeros((x.shape[0], hidden))], cell)

    return {"lstm": lstm, "gru": gru}


def refuse_quantised(name: str, where: str) -> None:
    """Raise UnsupportedError: this lowering is float only, since TensorFlow would choose its own scales."""
    if name == "fake_quantize":
        raise UnsupportedError(
            "TensorFlow's converter would not keep the trained scales",
            where=where,
            hint="write quantised graphs without --via tensorflow",
        )
