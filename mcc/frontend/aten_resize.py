"""ATen rules: resizing of maps and rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mcc.frontend.aten import aten
from mcc.frontend.emitter import Emitter
from mcc.frontend.resizing import Interpolation, by_matrices
from mcc.frontend.rows import RANK, as_map, as_row
from mcc.frontend.values import AnyValue

Ints = Sequence[int]
Scales = Sequence[float | None] | None


def _along(function: Callable[..., Tensor], size: Ints, scales: Scales, *options: Any) -> Interpolation:
    """One of torch's functions along one axis alone."""

    def interpolate(x: Tensor, axis: int) -> Tensor:
        wanted: list[int] = list(x.shape[2:])
        given: list[float | None] = [None, None]
        wanted[axis], given[axis] = size[axis], (scales or given)[axis]
        return function(x, wanted, *options, *given)

    return interpolate


def _resize(
    e: Emitter, x: AnyValue, function: Callable[..., Tensor], scales: Scales, align: bool | None = None,
    mode: str = "",
) -> AnyValue:  # fmt: skip
    """Resize to the shape that the model's own operator returned.

    Args:
        function: torch's function of map, size, `align` where it is given, and the scales of both axes.
        scales: a factor for each axis or None; with a factor torch samples at i / factor.
        mode: of the kernel that computes the same where the factors are old / new; "" for none.
    """
    given = [scale for scale in scales or () if scale is not None]
    row = len(e.shape(x)) == RANK
    if row:
        size, scales = (1, e.out[2]), (None, given[0] if given else None)
    else:
        size, scales = e.out[2:], scales if given else None
    value: AnyValue = as_map(e, x)
    before = e.shape(value)[2:]
    if tuple(size) != before or (align is not None and not mode):
        factors = zip(scales or (None, None), before, size, strict=True)
        plain = all(scale is None or scale * old == new or align for scale, old, new in factors)
        if mode and plain:
            value = e.call("resize", value, size=tuple(size), mode=mode, align_corners=bool(align))
        else:
            options = () if align is None else (align,)
            value = by_matrices(e, value, size, _along(function, size, scales, *options))
    return as_row(e, value) if row else value


@aten(
    *("upsample_nearest2d.vec", "upsample_nearest2d.default"),
    *("upsample_nearest1d.vec", "upsample_nearest1d.default"),
)
def nearest(
    e: Emitter, x: AnyValue, output_size: Ints | None, scale_factors: Scales = None,
    scales_h: float | None = None, scales_w: float | None = None, scales: float | None = None,
) -> AnyValue:  # fmt: skip
    """Nearest neighbour."""
    factors = scale_factors or ((scales_h, scales_w) if scales is None else (scales,))
    return _resize(e, x, torch.ops.aten.upsample_nearest2d.default, factors, mode="nearest")


@aten(
    *("_upsample_nearest_exact2d.vec", "_upsample_nearest_exact2d.default"),
    *("_upsample_nearest_exact1d.vec", "_upsample_nearest_exact1d.default"),
)
def nearest_exact(
    e: Emitter, x: AnyValue, output_size: Ints | None, scale_factors: Scales = None,
    scales_h: float | None = None, scales_w: float | None = None, scales: float | None = None,
) -> AnyValue:  # fmt: skip
    """Nearest neighbour by centres: kernels have it where the map grows by whole factors."""
    whole = all(new % old == 0 for old, new in zip(e.shape(x)[2:], e.out[2:], strict=True))
    factors = scale_factors or ((scales_h, scales_w) if scales is None else (scales,))
    mode = "nearest" if whole else ""
    return _resize(e, x, torch.ops.aten._upsample_nearest_exact2d.default, factors, mode=mode)


@aten(
    *("upsample_bilinear2d.vec", "upsample_bilinear2d.default"),
    *("upsample_linear1d.vec", "upsample_linear1d.default"),
)
def bilinear(
    e: Emitter, x: AnyValue, output_size: Ints | None, align_corners: bool, scale_factors: Scales = None,
    scales_h: float | None = None, scales_w: float | None = None, scales: float | None = None,
) -> AnyValue:  # fmt: skip
    """Linear interpolation along both axes."""
    factors = scale_factors or ((scales_h, scales_w) if scales is None else (scales,))
    return _resize(e, x, torch.ops.aten.upsample_bilinear2d.default, factors, align_corners, "bilinear")


def _by_matrices(name: str, function: Callable[..., Tensor]) -> None:
    @aten(f"{name}.vec", f"{name}.default")
    def rule(  # pyright: ignore[reportUnusedFunction]
        e: Emitter, x: AnyValue, output_size: Ints | None, align_corners: bool, scale_factors: Scales = None,
        scales_h: float | None = None, scales_w: float | None = None,
    ) -> AnyValue:  # fmt: skip
        return _resize(e, x, function, scale_factors or (scales_h, scales_w), align_corners)


_by_matrices("upsample_bicubic2d", torch.ops.aten.upsample_bicubic2d.default)
_by_matrices("_upsample_bilinear2d_aa", torch.ops.aten._upsample_bilinear2d_aa.default)
_by_matrices("_upsample_bicubic2d_aa", torch.ops.aten._upsample_bicubic2d_aa.default)
