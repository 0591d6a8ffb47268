"""ATen rules: reductions, pooling, resizing."""

from __future__ import annotations

from collections.abc import Sequence

from mcc.frontend.aten import aten
from mcc.frontend.aten_arithmetic import axes_of
from mcc.frontend.emitter import Emitter
from mcc.frontend.pooling import adaptive_pool, average_pool, max_pool
from mcc.frontend.values import AnyValue, pair

Ints = Sequence[int]


@aten("mean.dim")
def mean(e: Emitter, x: AnyValue, dim: Ints | None, keepdim: bool = False) -> AnyValue:
    """Mean over axes."""
    return e.call("mean", x, axes=axes_of(e, x, dim), keepdim=keepdim)


@aten("sum.dim_IntList")
def sum_(e: Emitter, x: AnyValue, dim: Ints | None, keepdim: bool = False) -> AnyValue:
    """Sum over axes."""
    return e.call("sum", x, axes=axes_of(e, x, dim), keepdim=keepdim)


@aten("amax.default")
def amax(e: Emitter, x: AnyValue, dim: Ints | None = None, keepdim: bool = False) -> AnyValue:
    """Maximum over axes."""
    return e.call("amax", x, axes=axes_of(e, x, dim), keepdim=keepdim)


@aten("amin.default")
def amin(e: Emitter, x: AnyValue, dim: Ints | None = None, keepdim: bool = False) -> AnyValue:
    """Minimum over axes."""
    return e.call("neg", amax(e, e.call("neg", x), dim, keepdim))


@aten("max.dim")
def max_dim(e: Emitter, x: AnyValue, dim: int, keepdim: bool = False) -> list[AnyValue]:
    """Maximum along one axis; its indices are not in the canonical form."""
    return [e.call("amax", x, axes=axes_of(e, x, dim), keepdim=keepdim)]


@aten("mean.default", "sum.default", "max.default", "min.default")
def over_all(e: Emitter, x: AnyValue) -> AnyValue:
    """Reductions without axes run over the batch, too."""
    e.refuse("reduces over the batch axis", "name the axes to reduce over")


def _variance(e: Emitter, x: AnyValue, dim: Ints | None, correction: float) -> tuple[AnyValue, AnyValue]:
    """Variance and mean over axes, both with their axes kept; the divisor is n - correction."""
    axes = axes_of(e, x, dim)
    count = 1
    for axis in axes:
        count *= e.shape(x)[axis]
    average = e.call("mean", x, axes=axes, keepdim=True)
    centred = e.broadcast("sub", x, average)
    spread: AnyValue = e.call("mean", e.broadcast("mul", centred, centred), axes=axes, keepdim=True)
    if correction:
        spread = e.broadcast("mul", spread, count / (count - correction))
    return spread, average


def _drop(e: Emitter, value: AnyValue, x: AnyValue, dim: Ints | None, keepdim: bool) -> AnyValue:
    axes = axes_of(e, x, dim)
    shape = [n for axis, n in enumerate(e.shape(value)) if axis and (keepdim or axis not in axes)]
    return e.reshape(value, shape)


@aten("var.correction", "var.dim")
def var(
    e: Emitter, x: AnyValue, dim: Ints | None, correction: float | None = None, keepdim: bool = False,
    unbiased: bool = True,
) -> AnyValue:  # fmt: skip
    """Variance over axes."""
    degrees = (1.0 if unbiased else 0.0) if correction is None else correction
    return _drop(e, _variance(e, x, dim, degrees)[0], x, dim, keepdim)


@aten("std.correction", "std.dim")
def std(
    e: Emitter, x: AnyValue, dim: Ints | None, correction: float | None = None, keepdim: bool = False,
    unbiased: bool = True,
) -> AnyValue:  # fmt: skip
    """Standard deviation over axes."""
    degrees = (1.0 if unbiased else 0.0) if correction is None else correction
    return _drop(e, e.call("sqrt", _variance(e, x, dim, degrees)[0]), x, dim, keepdim)


@aten("var_mean.correction", "var_mean.dim")
def var_mean(
    e: Emitter, x: AnyValue, dim: Ints | None, correction: float | None = None, keepdim: bool = False,
    unbiased: bool = True,
) -> list[AnyValue]:  # fmt: skip
    """Variance and mean over axes."""
    degrees = (1.0 if unbiased else 0.0) if correction is None else correction
    return [_drop(e, value, x, dim, keepdim) for value in _variance(e, x, dim, degrees)]


@aten("linalg_vector_norm.default", "norm.ScalarOpt_dim")
def vector_norm(
    e: Emitter, x: AnyValue, dim: Ints | int | None = None, keepdim: bool = False, ord: float = 2,
    p: float | None = None,
) -> AnyValue:  # fmt: skip
    """Sum of magnitudes, or root of the sum of squares, over axes."""
    order = ord if p is None else p
    axes = axes_of(e, x, dim)
    if order == 1:
        return e.call("sum", e.call("abs", x), axes=axes, keepdim=keepdim)
    if order == 2:
        return e.call("sqrt", e.call("sum", e.call("mul", x, x), axes=axes, keepdim=keepdim))
    e.refuse(f"takes a norm of order {order}", "orders 1 and 2 are supported")


@aten("max_pool2d.default", "max_pool2d_with_indices.default")
def max_pool2d(
    e: Emitter, x: AnyValue, kernel_size: Ints, stride: Ints = (), padding: Ints = (0,),
    dilation: Ints = (1,), ceil_mode: bool = False,
) -> AnyValue:  # fmt: skip
    """Maximum over windows."""
    kernel = pair(kernel_size)
    return max_pool(
        e, x, kernel, pair(stride) if stride else kernel, pair(padding), pair(dilation), ceil_mode
    )


@aten("avg_pool2d.default")
def avg_pool2d(
    e: Emitter, x: AnyValue, kernel_size: Ints, stride: Ints = (), padding: Ints = (0,),
    ceil_mode: bool = False, count_include_pad: bool = True, divisor_override: int | None = None,
) -> AnyValue:  # fmt: skip
    """Mean over windows."""
    kernel = pair(kernel_size)
    step = pair(stride) if stride else kernel
    counted = count_include_pad and divisor_override is None
    if divisor_override is None:
        return average_pool(e, x, kernel, step, pair(padding), ceil_mode, counted)
    # A fixed divisor: padding counts fully, so it is padded first and the mean scaled afterwards.
    summed = average_pool(e, x, kernel, step, pair(padding), ceil_mode, None)
    return e.broadcast("mul", summed, kernel[0] * kernel[1] / divisor_override)


@aten("avg_pool3d.default")
def avg_pool3d(
    e: Emitter, x: AnyValue, kernel_size: Ints, stride: Ints = (), padding: Ints = (0,),
    ceil_mode: bool = False, count_include_pad: bool = True, divisor_override: int | None = None,
) -> AnyValue:  # fmt: skip
    """Along one axis alone, over which local response norms take their sums: the others become one."""
    shape = e.shape(x)
    plain = not any(padding) and not ceil_mode and divisor_override is None
    if len(shape) != 5 or not plain or tuple(kernel_size[1:]) != (1, 1) or set(stride or kernel_size) != {1}:
        e.refuse("pools volumes", "mcc reads networks on maps [N, C, H, W] and rows [N, C, L]")
    _, channels, depth, height, width = shape
    flat = e.reshape(x, (channels, depth, height * width))
    made = average_pool(e, flat, (kernel_size[0], 1), (1, 1), (0, 0), False, True)
    return e.reshape(made, (channels, e.shape(made)[2], height, width))


@aten("adaptive_avg_pool2d.default", "_adaptive_avg_pool2d.default")
def adaptive_avg_pool2d(e: Emitter, x: AnyValue, output_size: Ints) -> AnyValue:
    """Mean over windows that divide the map."""
    return adaptive_pool(e, x, pair(output_size), "mean")


@aten("adaptive_max_pool2d.default")
def adaptive_max_pool2d(e: Emitter, x: AnyValue, output_size: Ints) -> list[AnyValue]:
    """Maximum over windows that divide the map; its indices are not in the canonical form."""
    return [adaptive_pool(e, x, pair(output_size), "amax")]
