"""ATen rules: convolutions, matrix products, normalisation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from mcc.frontend.aten import aten
from mcc.frontend.aten_arithmetic import axes_of
from mcc.frontend.emitter import Emitter
from mcc.frontend.values import AnyValue, Const, pair, symmetric

Ints = Sequence[int]


def _map(e: Emitter, x: AnyValue) -> None:
    if len(e.shape(x)) != 4:
        e.refuse(f"takes a map [N, C, H, W], not {len(e.shape(x))} axes", "give the model a batch axis")


@aten("conv2d.default")
def conv2d(
    e: Emitter, x: AnyValue, weight: AnyValue, bias: AnyValue | None, stride: Ints, padding: Ints,
    dilation: Ints, groups: int,
) -> AnyValue:  # fmt: skip
    """Convolution with symmetric padding."""
    _map(e, x)
    return e.call(
        "conv2d", x, weight, bias, stride=pair(stride), padding=symmetric(pair(padding)),
        dilation=pair(dilation), groups=groups,
    )  # fmt: skip


@aten("conv2d.padding")
def conv2d_named(
    e: Emitter, x: AnyValue, weight: AnyValue, bias: AnyValue | None, stride: Ints, padding: str,
    dilation: Ints, groups: int,
) -> AnyValue:  # fmt: skip
    """Convolution with padding `same` (what is odd goes below and right, as in torch) or `valid`."""
    _map(e, x)
    quad = (0, 0, 0, 0)
    if padding == "same":
        kernel, spread = e.shape(weight)[2:], pair(dilation)
        total = [d * (k - 1) for d, k in zip(spread, kernel, strict=True)]
        quad = (total[0] // 2, total[0] - total[0] // 2, total[1] // 2, total[1] - total[1] // 2)
    return e.call(
        "conv2d", x, weight, bias, stride=pair(stride), padding=quad, dilation=pair(dilation), groups=groups
    )


@aten("convolution.default")
def convolution(
    e: Emitter, x: AnyValue, weight: AnyValue, bias: AnyValue | None, stride: Ints, padding: Ints,
    dilation: Ints, transposed: bool, output_padding: Ints, groups: int,
) -> AnyValue:  # fmt: skip
    """The general form, for two dimensions."""
    if transposed:
        return conv_transpose2d(e, x, weight, bias, stride, padding, output_padding, groups, dilation)
    return conv2d(e, x, weight, bias, stride, padding, dilation, groups)


@aten("conv_transpose2d.input")
def conv_transpose2d(
    e: Emitter, x: AnyValue, weight: AnyValue, bias: AnyValue | None, stride: Ints, padding: Ints,
    output_padding: Ints, groups: int, dilation: Ints,
) -> AnyValue:  # fmt: skip
    """Transposed convolution."""
    _map(e, x)
    return e.call(
        "conv_transpose2d", x, weight, bias, stride=pair(stride), padding=symmetric(pair(padding)),
        output_padding=pair(output_padding), dilation=pair(dilation), groups=groups,
    )  # fmt: skip


@aten("linear.default")
def linear(e: Emitter, x: AnyValue, weight: AnyValue, bias: AnyValue | None = None) -> AnyValue:
    """x times the transpose of weight."""
    return e.call("linear", x, weight, bias)


@aten("matmul.default", "mm.default", "bmm.default")
def matmul(e: Emitter, x: AnyValue, other: AnyValue | None = None, mat2: AnyValue | None = None) -> AnyValue:
    """Matrix product; with a constant matrix on the right it is a linear layer."""
    right = other if other is not None else mat2
    assert right is not None
    if isinstance(right, Const) and right.tensor.dim() == 2:
        return e.call("linear", x, e.like(right, right.tensor.t(), "_t"), None)
    if len(e.shape(x)) < 3 or len(e.shape(right)) < 2:
        e.refuse("multiplies matrices across the batch axis", "keep axis 0 for the batch")
    if isinstance(right, Const):
        right = e.one_row(right, len(e.shape(x)))
    return e.call("matmul", x, right)


@aten("addmm.default")
def addmm(e: Emitter, x: AnyValue, mat1: AnyValue, mat2: AnyValue) -> AnyValue:
    """x + mat1 @ mat2, a linear layer with bias where x and mat2 are constants."""
    if isinstance(mat2, Const) and isinstance(x, Const) and x.tensor.shape == mat2.tensor.shape[1:]:
        return e.call("linear", mat1, e.like(mat2, mat2.tensor.t(), "_t"), x)
    return e.broadcast("add", x, matmul(e, mat1, mat2))


@aten("scaled_dot_product_attention.default")
def attention(
    e: Emitter, query: AnyValue, key: AnyValue, value: AnyValue, attn_mask: AnyValue | None = None,
    scale: float | None = None,
) -> AnyValue:  # fmt: skip
    """softmax(q k^T * scale + mask) v (Vaswani 2017)."""
    if len(e.shape(query)) < 3:
        e.refuse("attends across the batch axis", "keep axis 0 for the batch")
    factor = 1.0 / math.sqrt(e.shape(query)[-1]) if scale is None else scale
    rank = len(e.shape(key))
    turned = e.transpose(key, (*range(rank - 2), rank - 1, rank - 2))
    scores: AnyValue = e.broadcast("mul", e.call("matmul", query, turned), factor)
    if attn_mask is not None:
        scores = e.broadcast("add", scores, attn_mask)
    return e.call("matmul", e.call("softmax", scores, axis=rank - 1), value)


def _vector(e: Emitter, value: AnyValue | None, size: int, fill: float, name: str) -> AnyValue:
    return value if value is not None else Const(torch.full((size,), fill), name)


@aten("batch_norm.default", "_native_batch_norm_legit_no_training.default", "native_batch_norm.default")
def batch_norm(
    e: Emitter, x: AnyValue, weight: AnyValue | None, bias: AnyValue | None,
    running_mean: AnyValue | None, running_var: AnyValue | None, eps: float, training: bool = False,
) -> AnyValue | list[AnyValue]:  # fmt: skip
    """Batch norm with running statistics."""
    if training or running_mean is None or running_var is None:
        e.refuse(
            "normalises with the statistics of the batch, which have no place in a deployed model",
            "give the batch norm running statistics (track_running_stats=True) and call .eval()",
        )
    size = e.shape(running_mean)[0]
    scale = _vector(e, weight, size, 1.0, f"{e.hint}_weight")
    shift = _vector(e, bias, size, 0.0, f"{e.hint}_bias")
    return e.call("batch_norm", x, scale, shift, running_mean, running_var, eps=float(eps))


@aten("layer_norm.default")
def layer_norm(
    e: Emitter, x: AnyValue, normalized_shape: Ints, weight: AnyValue | None = None,
    bias: AnyValue | None = None, eps: float = 1e-5,
) -> AnyValue:  # fmt: skip
    """Layer norm over the last axes."""
    rank = len(e.shape(x))
    axes = axes_of(e, x, list(range(rank - len(normalized_shape), rank)))
    return e.call("layer_norm", x, weight, bias, axes=axes, eps=float(eps))


@aten("group_norm.default")
def group_norm(
    e: Emitter, x: AnyValue, num_groups: int, weight: AnyValue | None = None, bias: AnyValue | None = None,
    eps: float = 1e-5,
) -> AnyValue:  # fmt: skip
    """Group norm."""
    return e.call("group_norm", x, weight, bias, groups=num_groups, eps=float(eps))


@aten("instance_norm.default")
def instance_norm(
    e: Emitter, x: AnyValue, weight: AnyValue | None, bias: AnyValue | None, running_mean: AnyValue | None,
    running_var: AnyValue | None, use_input_stats: bool, eps: float,
) -> AnyValue | list[AnyValue]:  # fmt: skip
    """Instance norm: a group norm of one channel each, or a batch norm where it has running statistics."""
    if not use_input_stats:
        return batch_norm(e, x, weight, bias, running_mean, running_var, eps)
    return e.call("group_norm", x, weight, bias, groups=e.shape(x)[1], eps=float(eps))


@aten("rms_norm.default")
def rms_norm(
    e: Emitter, x: AnyValue, normalized_shape: Ints, weight: AnyValue | None = None, eps: float | None = None
) -> AnyValue:
    """x / sqrt(mean(x^2) + eps) * weight over the last axes."""
    rank = len(e.shape(x))
    axes = axes_of(e, x, list(range(rank - len(normalized_shape), rank)))
    mean = e.call("mean", e.call("mul", x, x), axes=axes, keepdim=True)
    shifted = e.broadcast("add", mean, torch.finfo(torch.float32).eps if eps is None else eps)
    scaled = e.broadcast("div", x, e.call("sqrt", shifted))
    return scaled if weight is None else e.broadcast("mul", scaled, weight)


@aten("softmax.int", "_softmax.default")
def softmax(e: Emitter, x: AnyValue, dim: int, half_to_float: bool = False) -> AnyValue:
    """exp(x) over its sum along an axis."""
    return e.call("softmax", x, axis=e.axis(x, dim))


@aten("log_softmax.int", "_log_softmax.default")
def log_softmax(e: Emitter, x: AnyValue, dim: int, half_to_float: bool = False) -> AnyValue:
    """x - max - log(sum(exp(x - max))): the logarithm of a softmax would lose small probabilities."""
    axes = (e.axis(x, dim),)
    shifted = e.broadcast("sub", x, e.call("amax", x, axes=axes, keepdim=True))
    total = e.call("sum", e.call("exp", shifted), axes=axes, keepdim=True)
    return e.broadcast("sub", shifted, e.call("log", total))
