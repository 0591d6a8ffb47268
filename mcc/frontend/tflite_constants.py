"""Constants of a .tflite file: weights, biases and operands, real or on their grids.

uint8 of the older scheme becomes int8, the same numbers 128 lower, and so do its zero points.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from mcc.errors import DataError
from mcc.frontend.emitter import UNSIGNED_TO_SIGNED, Emitter
from mcc.frontend.tflite_values import Array, Grid
from mcc.frontend.values import AnyValue, Const, canonical_name
from mcc.lower.tflite.quantisation import Quantisation
from mcc.lower.tflite.reader import TfliteModel, TfliteTensor

INT8 = (-128, 127)
SYMMETRIC_MIN = -127
EIGHT_BITS = ("int8", "uint8")

LONGEST_NAME = 80
"""Characters of a name taken over: converters join the names of all operators that they fuse."""


def short_name(name: str) -> str:
    """The first of the names that a converter joined, in a usable length."""
    return canonical_name(name.split(";")[0].strip("/")[-LONGEST_NAME:].replace("/", "."))


class Constants:
    """The constants of a file; one that several operators read in one form is one constant."""

    def __init__(self, model: TfliteModel, emitter: Emitter) -> None:
        self.model = model
        self.emitter = emitter
        self.folded: dict[int, Array] = {}
        self.folded_from: set[int] = set()
        self._grids: dict[tuple[float, int], Grid] = {}
        self._made: dict[tuple[int, str, bytes], AnyValue] = {}

    def raw(self, index: int) -> Array | None:
        """The stored array of a constant, decoded; None for a computed value."""
        return self.folded[index] if index in self.folded else self.model.tensors[index].data

    def grid(self, tensor: TfliteTensor) -> Grid | None:
        """The int8 grid of a computed value; None for real numbers. Refuses other integers."""
        found = tensor.quantisation
        if found is None or tensor.dtype == "float32":
            return None
        if tensor.dtype not in EIGHT_BITS:
            self.emitter.refuse(
                f"quantises to {tensor.dtype}",
                "mcc inspect, bench and evaluate take the file; give the float one for more",
            )
        if found.scales.size != 1:
            self.emitter.refuse("quantises an activation per channel")
        scale, zero = float(found.scale), _signed_zeros(tensor, found)[0]
        if not (np.isfinite(scale) and scale > 0 and INT8[0] <= zero <= INT8[1]):
            raise DataError(
                f"has the scale {scale} and the zero point {found.zero_point} for {tensor.dtype}",
                where=self.emitter.place,
                hint="convert the model again",
            )
        key = (scale, int(zero))
        if key not in self._grids:
            name = short_name(tensor.name)
            self._grids[key] = Grid(
                Const(torch.tensor(found.scale), f"{name}_scale"),
                Const(torch.tensor(int(zero), dtype=torch.int32), f"{name}_zero_point"),
            )
        return self._grids[key]

    def real(self, tensor: TfliteTensor, form: Callable[[Array], Array] = np.asarray) -> Const:
        """A constant as real numbers, in the axes that `form` brings it into."""
        value = form(self.values_of(tensor))
        return self._once(tensor, "real", value, lambda: self._const(tensor, value))

    def weight(
        self, tensor: TfliteTensor, form: Callable[[Array], Array], axis: int, *, integer: bool,
        order: Array | None = None,
    ) -> AnyValue:  # fmt: skip
        """A weight; on its grid where it is stored in 8 bits and the operator computes with integers.

        Args:
            axis: axis, after `form`, along which the scales run, if they are several.
            order: order of the scales; None: as stored.
        """
        found = tensor.quantisation
        if found is None or tensor.dtype not in EIGHT_BITS or not integer:
            return self.real(tensor, form)
        value = form(self.values_of(tensor))
        return self._once(tensor, "grid", value, lambda: self._on_grid(tensor, found, value, axis, order))

    def operand(self, tensor: TfliteTensor, form: Callable[[Array], Array], *, integer: bool) -> AnyValue:
        """A constant operand of arithmetic; on its grid among integers."""
        found = tensor.quantisation
        if integer and found is not None and found.scales.size != 1:
            self.emitter.refuse("has a constant operand quantised per channel")
        return self.weight(tensor, form, 0, integer=integer)

    def _on_grid(
        self, tensor: TfliteTensor, found: Quantisation, value: Array, axis: int, order: Array | None
    ) -> AnyValue:
        zeros = _signed_zeros(tensor, found)
        lowest = int(np.min(self._stored(tensor))) - (UNSIGNED_TO_SIGNED if tensor.dtype == "uint8" else 0)
        low = SYMMETRIC_MIN if lowest >= SYMMETRIC_MIN and not zeros.any() else INT8[0]
        several = found.scales.size > 1
        if several and value.shape[axis] != found.scales.size:
            self.emitter.refuse(f"has {found.scales.size} scales for a weight of shape {list(tensor.shape)}")
        if several and order is not None:
            found = found.take(order)
        name = f"{self.emitter.hint}_{self._role(tensor)}"
        scales = found.scales if several else found.scales.reshape(())
        points = zeros if several else zeros.reshape(())
        return self.emitter.fake_quantize(
            self._const(tensor, value),
            Const(torch.from_numpy(np.array(scales, np.float32)), f"{name}_scale"),
            Const(torch.from_numpy(points.astype(np.int32)), f"{name}_zero_point"),
            low, INT8[1], axis if several else None,
        )  # fmt: skip

    def _const(self, tensor: TfliteTensor, value: Array) -> Const:
        copied = torch.from_numpy(np.array(value, np.float32))
        return Const(copied, f"{self.emitter.hint}_{self._role(tensor)}", trains=copied.dim() > 0)

    def _role(self, tensor: TfliteTensor) -> str:
        """What a constant is to the operator that is read now."""
        return "bias" if tensor.dtype == "int32" or len(tensor.shape) == 1 else "weight"

    def _once(self, tensor: TfliteTensor, kind: str, value: Array, make: Callable[[], Any]) -> Any:
        values = hashlib.blake2b(
            np.ascontiguousarray(value).tobytes()
        ).digest()  # `form` is another each time
        key = (tensor.index, f"{kind} {value.shape}", values)
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def _stored(self, tensor: TfliteTensor) -> Array:
        found = self.raw(tensor.index)
        assert found is not None
        return found

    def values_of(self, tensor: TfliteTensor) -> Array:
        """The real numbers of a constant, as stored."""
        stored, found = self._stored(tensor), tensor.quantisation
        if found is None or stored.dtype.kind == "f":
            return stored
        shape = (
            [-1 if axis == found.axis else 1 for axis in range(stored.ndim)] if found.scales.size > 1 else ()
        )
        scales = found.scales.astype(np.float64).reshape(shape)
        zeros = found.zero_points.astype(np.float64).reshape(shape)
        return (stored.astype(np.float64) - zeros) * scales


def _signed_zeros(tensor: TfliteTensor, found: Quantisation) -> Array:
    """Zero points for int8."""
    return found.zero_points.reshape(-1) - (UNSIGNED_TO_SIGNED if tensor.dtype == "uint8" else 0)
