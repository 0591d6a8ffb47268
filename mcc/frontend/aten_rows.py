"""ATen rules: one-dimensional networks. A row is a map of height 1, see `mcc.frontend.rows`."""

from __future__ import annotations

from collections.abc import Sequence

from mcc.frontend import aten_reduce as reduce
from mcc.frontend import aten_weights as weights
from mcc.frontend.aten import aten
from mcc.frontend.emitter import Emitter
from mcc.frontend.rows import RANK, as_map, as_row
from mcc.frontend.values import AnyValue, Const

Ints = Sequence[int]


def _check(e: Emitter, x: AnyValue) -> None:
    if len(e.shape(x)) != RANK:
        e.refuse(f"takes rows [N, C, L], not {len(e.shape(x))} axes", "give the model a batch axis")


def _flat(given: Ints, neutral: int) -> Ints:
    """An argument for both axes of the map from the one for the length; an empty one stays empty."""
    return (neutral, given[0]) if given else ()


def _kernel(e: Emitter, weight: AnyValue) -> Const:
    if not isinstance(weight, Const):
        e.refuse("convolves with weights that are computed", "use stored weights")
    return e.like(weight, weight.tensor.unsqueeze(2))


@aten("conv1d.default")
def conv1d(
    e: Emitter, x: AnyValue, weight: AnyValue, bias: AnyValue | None, stride: Ints, padding: Ints,
    dilation: Ints, groups: int,
) -> AnyValue:  # fmt: skip
    """A convolution of a map of height 1."""
    _check(e, x)
    made = weights.conv2d(
        e, as_map(e, x), _kernel(e, weight), bias, _flat(stride, 1), _flat(padding, 0), _flat(dilation, 1),
        groups,
    )  # fmt: skip
    return as_row(e, made)


@aten("conv1d.padding")
def conv1d_named(
    e: Emitter, x: AnyValue, weight: AnyValue, bias: AnyValue | None, stride: Ints, padding: str,
    dilation: Ints, groups: int,
) -> AnyValue:  # fmt: skip
    """The same with padding `same` or `valid`."""
    _check(e, x)
    made = weights.conv2d_named(
        e, as_map(e, x), _kernel(e, weight), bias, _flat(stride, 1), padding, _flat(dilation, 1), groups
    )
    return as_row(e, made)


@aten("conv_transpose1d.default")
def conv_transpose1d(
    e: Emitter, x: AnyValue, weight: AnyValue, bias: AnyValue | None, stride: Ints, padding: Ints,
    output_padding: Ints, groups: int, dilation: Ints,
) -> AnyValue:  # fmt: skip
    """A transposed convolution of a map of height 1."""
    _check(e, x)
    made = weights.conv_transpose2d(
        e, as_map(e, x), _kernel(e, weight), bias, _flat(stride, 1), _flat(padding, 0),
        _flat(output_padding, 0), groups, _flat(dilation, 1),
    )  # fmt: skip
    return as_row(e, made)


@aten("max_pool1d.default", "max_pool1d_with_indices.default")
def max_pool1d(
    e: Emitter, x: AnyValue, kernel_size: Ints, stride: Ints = (), padding: Ints = (0,),
    dilation: Ints = (1,), ceil_mode: bool = False,
) -> AnyValue:  # fmt: skip
    """Maximum over windows of a row."""
    _check(e, x)
    made = reduce.max_pool2d(
        e, as_map(e, x), _flat(kernel_size, 1), _flat(stride, 1), _flat(padding, 0), _flat(dilation, 1),
        ceil_mode,
    )  # fmt: skip
    return as_row(e, made)


@aten("avg_pool1d.default")
def avg_pool1d(
    e: Emitter, x: AnyValue, kernel_size: Ints, stride: Ints = (), padding: Ints = (0,),
    ceil_mode: bool = False, count_include_pad: bool = True,
) -> AnyValue:  # fmt: skip
    """Mean over windows of a row."""
    _check(e, x)
    made = reduce.avg_pool2d(
        e, as_map(e, x), _flat(kernel_size, 1), _flat(stride, 1), _flat(padding, 0), ceil_mode,
        count_include_pad,
    )  # fmt: skip
    return as_row(e, made)


@aten("adaptive_avg_pool1d.default")
def adaptive_avg_pool1d(e: Emitter, x: AnyValue, output_size: Ints) -> AnyValue:
    """Mean over windows that divide the row."""
    _check(e, x)
    return as_row(e, reduce.adaptive_avg_pool2d(e, as_map(e, x), _flat(output_size, 1)))


@aten("adaptive_max_pool1d.default")
def adaptive_max_pool1d(e: Emitter, x: AnyValue, output_size: Ints) -> list[AnyValue]:
    """Maximum over windows that divide the row; its indices are not in the canonical form."""
    _check(e, x)
    return [as_row(e, made) for made in reduce.adaptive_max_pool2d(e, as_map(e, x), _flat(output_size, 1))]
