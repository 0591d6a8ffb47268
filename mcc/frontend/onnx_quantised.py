"""ONNX rules: quantised models in QDQ form keep their scales.

A QuantizeLinear and the DequantizeLinear behind it become one `fake_quantize`. A stored integer weight
becomes the real numbers that it stands for behind a `fake_quantize` with its scales, which leaves them as
they are. A stored integer bias becomes real numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mcc.frontend.onnx_table import Result, Site, onnx_op
from mcc.frontend.values import AnyValue, Const

_RANGES = {torch.int8: (-128, 127), torch.uint8: (0, 255)}
_SYMMETRIC_MIN = -127


@dataclass(frozen=True, eq=False)
class Quantised:
    """A value between its quantiser and dequantiser.

    Attributes:
        value: the real value.
        scale, zero: constants, scalar or along `axis`.
        axis: axis of the scales, or None.
    """

    value: AnyValue
    scale: Const
    zero: Const
    axis: int | None


def _parameters(
    site: Site, x: Tensor | AnyValue, stored: torch.dtype | None
) -> tuple[Const, Const, int | None]:
    """Scale and zero point as the canonical form wants them: scalars, or vectors along an axis."""
    e, scale, zero = site.emitter, site.optional(1), site.optional(2)
    if not isinstance(scale, Const) or not (zero is None or isinstance(zero, Const)):
        e.refuse(f"{site.op} with a computed scale is not supported")
    if site.get("block_size", 0):
        e.refuse("quantisation in blocks is not supported", "quantise per tensor or per channel")
    if zero is None:
        kind = stored or torch.uint8
        zero = Const(torch.zeros(scale.tensor.shape, dtype=kind), f"{scale.name}_zero")
    if zero.tensor.dtype not in _RANGES and zero.tensor.dtype != torch.int32:
        e.refuse(f"quantises to {zero.tensor.dtype}", "quantise to 8 bits")
    if scale.tensor.numel() == 1:
        return _cached(site, scale, ()), _cached(site, zero, ()), None
    rank = x.dim() if isinstance(x, Tensor) else len(e.shape(x))
    return scale, zero, site.get("axis", 1) % rank


def _cached(site: Site, const: Const, shape: tuple[int, ...]) -> Const:
    """A constant in another shape; tied scales stay one constant."""
    if tuple(const.tensor.shape) == shape:
        return const
    return site.emitter.reshaped(const, shape)


@onnx_op("QuantizeLinear")
def quantize(site: Site) -> Result:
    """Remembered until it is dequantised."""
    scale, zero, axis = _parameters(site, site.value(), None)
    return Quantised(site.value(), scale, zero, axis)


@onnx_op("DequantizeLinear")
def dequantize(site: Site) -> Result:
    """The end of a quantised stretch, or a stored integer tensor."""
    e, source = site.emitter, site.inputs[0]
    if isinstance(source, Quantised):
        scale, zero, axis = _parameters(site, source.value, None)
        if not (
            torch.equal(scale.tensor, source.scale.tensor) and torch.equal(zero.tensor, source.zero.tensor)
        ):
            e.refuse("dequantises with other scales than it was quantised with")
        low, high = _RANGES[source.zero.tensor.dtype]
        return e.fake_quantize(source.value, source.scale, source.zero, low, high, axis)
    if not isinstance(source, Const):
        e.refuse("dequantises a value that was not quantised", "use the QDQ format")
    return _stored(site, source)


def _stored(site: Site, source: Const) -> Result:
    e, raw = site.emitter, source.tensor
    scale, zero, axis = _parameters(site, raw, raw.dtype)
    shape = [-1 if i == axis else 1 for i in range(raw.dim())] if axis is not None else ()
    real = (raw.to(torch.float64) - zero.tensor.double().reshape(shape)) * scale.tensor.double().reshape(
        shape
    )
    const = Const(real.float(), source.name, trains=True)
    if raw.dtype == torch.int32:
        return const
    low, high = _RANGES[raw.dtype]
    if low < 0 and int(raw.min()) >= _SYMMETRIC_MIN and not bool(zero.tensor.any()):
        low = _SYMMETRIC_MIN
    return e.fake_quantize(const, scale, zero, low, high, axis)
