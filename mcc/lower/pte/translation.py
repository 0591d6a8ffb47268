"""The state of one translation: mapping of TFLite tensors to values of XNNPACK's graph.

The work of LiteRT's own delegate at load time is done here when the file is written: each operator of the
TFLite lowering becomes the XNNPACK node that it would run as. So layouts, fused activations and integers are
those of the TFLite writer, and the arithmetic is that of LiteRT.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mcc.errors import UnsupportedError
from mcc.lower.pte.delegate import NO_VALUE, Shape, XnnGraph, XnnValue
from mcc.lower.tflite.quantisation import Quantisation
from mcc.lower.tflite.reader import TfliteModel, TfliteOperator

Array = npt.NDArray[Any]
Emit = Callable[["Translation", TfliteOperator], XnnValue]
TRANSLATIONS: dict[str, Emit] = {}

CLAMPS: dict[int, tuple[float, float] | None] = {
    0: None,
    1: (0.0, float("inf")),
    2: (-1.0, 1.0),
    3: (0.0, 6.0),
}
"""Limits of TFLite's fused activations, by code."""

MOST_OPERANDS = 5  # of one concatenation in XNNPACK
MOST_RUNS = 256  # maximum number of slices of one gather


def translates(*codes: str) -> Callable[[Emit], Emit]:
    """Register the translation of TFLite operators."""

    def register(emit: Emit) -> Emit:
        TRANSLATIONS.update(dict.fromkeys(codes, emit))
        return emit

    return register


class Translation:
    """Mapping of tensors to values, and steps common to several operators."""

    def __init__(self, model: TfliteModel) -> None:
        self.model = model
        self.xnn = XnnGraph()
        self.values: dict[int, XnnValue] = {}
        self._packed: dict[int, XnnValue] = {}

    def refused(self, op: TfliteOperator, why: str) -> UnsupportedError:
        """The exception for an operator that XNNPACK lacks."""
        name = self.model.tensors[op.outputs[0]].name if op.outputs else str(op.index)
        return UnsupportedError(f"{op.code} {why}", where=name)

    # -- values ---------------------------------------------------------------------------------------------

    def read(self, tensor: int) -> XnnValue:
        """The value of a tensor; a constant is stored at its first use."""
        if tensor not in self.values:
            data = self.model.constant(tensor)
            if data is None:
                raise UnsupportedError("is read before it is computed", where=self.model.tensors[tensor].name)
            self.values[tensor] = self.xnn.constant(data, self.model.tensors[tensor].quantisation)
        return self.values[tensor]

    def operand(self, op: TfliteOperator, index: int) -> XnnValue:
        """The value of an operand."""
        return self.read(op.inputs[index])

    def packed(self, op: TfliteOperator, index: int) -> XnnValue:
        """The value of an operand that XNNPACK packs if it is constant: a weight or a bias."""
        tensor = op.inputs[index]
        data = self.model.constant(tensor)
        if data is None:
            return self.read(tensor)
        if tensor not in self._packed:
            quantisation = self.model.tensors[tensor].quantisation
            self._packed[tensor] = self.xnn.constant(data, quantisation, packed=True)
        return self._packed[tensor]

    def numbers(self, op: TfliteOperator, index: int) -> list[int]:
        """A constant operand of integers."""
        data = self.model.constant(op.inputs[index])
        if data is None:
            raise self.refused(op, f"computes its operand {index}, which must be constant")
        return [int(value) for value in data.reshape(-1)]

    def result(self, op: TfliteOperator) -> XnnValue:
        """A new value for the result of an operator, with its declared type."""
        tensor = self.model.tensors[op.outputs[0]]
        return self.xnn.value(tensor.shape, tensor.dtype, tensor.quantisation)

    def like(self, x: XnnValue, shape: Sequence[int]) -> XnnValue:
        """A new value of another shape on the same grid."""
        return self.xnn.value(tuple(shape), x.dtype, x.quantisation)

    # -- steps ----------------------------------------------------------------------------------------------

    def unary(self, kind: str, x: XnnValue, out: XnnValue | None = None, **fields: Any) -> XnnValue:
        """A node with one operand; its result has the operand's type unless one is given."""
        out = out or self.like(x, x.shape)
        self.xnn.node(kind, input_id=x.index, output_id=out.index, **fields)
        return out

    def binary(
        self, kind: str, a: XnnValue, b: XnnValue, out: XnnValue | None = None, **fields: Any
    ) -> XnnValue:
        """A node with two operands, which broadcast; its result has the type of the larger one."""
        out = out or self.like(a, np.broadcast_shapes(a.shape, b.shape))
        self.xnn.node(kind, input1_id=a.index, input2_id=b.index, output_id=out.index, **fields)
        return out

    def number(self, value: float) -> XnnValue:
        """A float constant of one element."""
        return self.xnn.constant(np.asarray([value], np.float32))

    def clamp(self, x: XnnValue, least: float, greatest: float, out: XnnValue | None = None) -> XnnValue:
        """Clamp to a range of real numbers."""
        return self.unary("XNNClamp", x, out, clamp=(least, greatest))

    def convert(
        self, x: XnnValue, quantisation: Quantisation | None, out: XnnValue | None = None
    ) -> XnnValue:
        """The same numbers on another grid; as floats if None."""
        if out is None and x.quantisation == quantisation:
            return x
        dtype = "float32" if quantisation is None else "int8"
        return self.unary("XNNConvert", x, out or self.xnn.value(x.shape, dtype, quantisation))

    def real(self, x: XnnValue) -> XnnValue:
        """The value as floats."""
        return self.convert(x, None)

    def reshape(self, x: XnnValue, shape: Sequence[int]) -> XnnValue:
        """The same bytes with another shape."""
        if tuple(shape) == x.shape:
            return x
        out = self.like(x, shape)
        return self.unary("XNNStaticReshape", x, out, num_dims=len(out.shape), new_shape=list(out.shape))

    def transpose(self, x: XnnValue, perm: Sequence[int]) -> XnnValue:
        """Permute the axes; a reshape where only axes of length 1 move."""
        shape = [x.shape[axis] for axis in perm]
        moved = [axis for axis in perm if x.shape[axis] != 1]
        if moved == sorted(moved):
            return self.reshape(x, shape)
        out = self.like(x, shape)
        return self.unary("XNNStaticTranspose", x, out, num_dims=len(shape), perm=list(perm))

    def slice(self, x: XnnValue, offsets: Sequence[int], sizes: Sequence[int]) -> XnnValue:
        """A window of every axis."""
        if tuple(sizes) == x.shape:
            return x
        out = self.like(x, sizes)
        return self.unary(
            "XNNStaticSlice", x, out, num_dims=len(sizes), offsets=list(offsets), sizes=list(sizes)
        )

    def window(self, x: XnnValue, axis: int, begin: int, length: int) -> XnnValue:
        """A window of one axis."""
        offsets, sizes = [0] * len(x.shape), list(x.shape)
        offsets[axis], sizes[axis] = begin, length
        return self.slice(x, offsets, sizes)

    def concat(self, parts: Sequence[XnnValue], axis: int) -> XnnValue:
        """Values of one grid along an axis, five at a time."""
        while len(parts) > 1:
            groups = [parts[i : i + MOST_OPERANDS] for i in range(0, len(parts), MOST_OPERANDS)]
            parts = [self._joined(group, axis) for group in groups]
        return parts[0]

    def _joined(self, parts: Sequence[XnnValue], axis: int) -> XnnValue:
        if len(parts) == 1:
            return parts[0]
        shape = list(parts[0].shape)
        shape[axis] = sum(part.shape[axis] for part in parts)
        out = self.like(parts[0], shape)
        ids = {
            f"input{i + 1}_id": parts[i].index if i < len(parts) else NO_VALUE for i in range(MOST_OPERANDS)
        }
        self.xnn.node(f"XNNConcatenate{len(parts)}", None, axis=axis, output_id=out.index, **ids)
        return out

    def pad(
        self, x: XnnValue, amounts: Sequence[Sequence[int]], value: float = 0.0, out: XnnValue | None = None
    ) -> XnnValue:
        """Pad each axis by (low, high) with a real number."""
        grown = [low + length + high for length, (low, high) in zip(x.shape, amounts, strict=True)]
        return self.unary(
            "XNNStaticConstantPad", x, out or self.like(x, grown), padding_value=value,
            pre_paddings=[low for low, _ in amounts], post_paddings=[high for _, high in amounts],
        )  # fmt: skip

    def take(self, op: TfliteOperator, x: XnnValue, axis: int, indices: Sequence[int]) -> XnnValue:
        """x[..., indices, ...]: an axis permuted, repeated, or concatenated from slices."""
        length, count = x.shape[axis], len(indices)
        if list(indices) == list(range(length)):
            return x
        rows = np.asarray(indices)
        times = count // length
        if times * length == count and (rows == np.repeat(np.arange(length), times)).all():
            shape = [*x.shape[: axis + 1], 1, *x.shape[axis + 1 :]]
            copies = self.concat([self.reshape(x, shape)] * times, axis + 1)
            return self.reshape(copies, [*x.shape[:axis], count, *x.shape[axis + 1 :]])
        for inner in range(2, length):
            fits = length % inner == 0 and count == length
            if fits and (rows == np.arange(length).reshape(-1, inner).T.reshape(-1)).all():
                return self._swapped(x, axis, inner)
        runs = np.split(rows, np.nonzero(np.diff(rows) != 1)[0] + 1)
        if len(runs) > MOST_RUNS:
            raise self.refused(op, f"would take {len(runs)} slices")
        return self.concat([self.window(x, axis, int(run[0]), len(run)) for run in runs], axis)

    def _swapped(self, x: XnnValue, axis: int, inner: int) -> XnnValue:
        """An axis seen as a matrix with rows of length `inner`, transposed."""
        parted = self.reshape(x, [*x.shape[:axis], x.shape[axis] // inner, inner, *x.shape[axis + 1 :]])
        order = list(range(len(parted.shape)))
        order[axis], order[axis + 1] = axis + 1, axis
        return self.reshape(self.transpose(parted, order), x.shape)

    def copy(self, x: XnnValue) -> XnnValue:
        """A copy of a value, for a caller that needs it twice."""
        return self.unary("XNNCopy", x)

    def renamed(self, x: XnnValue, quantisation: Quantisation | None) -> XnnValue:
        """The value with other quantisation parameters, for an operator that keeps codes and not numbers."""
        return replace(x, quantisation=quantisation)


def in_float(t: Translation, op: TfliteOperator, compute: Callable[[XnnValue], XnnValue]) -> XnnValue:
    """An operator without integer kernel, between conversions if its operand and result are integers."""
    found = compute(t.real(t.operand(op, 0)))
    return t.convert(found, t.model.tensors[op.outputs[0]].quantisation)


def fused(op: TfliteOperator) -> tuple[float, float] | None:
    """Limits of the fused activation of an operator. Raises UnsupportedError for one without limits."""
    code = int(op.options.get("fusedActivationFunction", 0) or 0)
    if code not in CLAMPS:
        raise UnsupportedError(f"{op.code} fuses the activation {code}, which XNNPACK does not")
    return CLAMPS[code]


def same_padding(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """Padding of TFLite's SAME along one axis, before and after."""
    extent = (kernel - 1) * dilation + 1
    total = max((-(-size // stride) - 1) * stride + extent - size, 0)
    return total // 2, total - total // 2


def padding_of(op: TfliteOperator, x: Shape, kernel: Shape) -> dict[str, int]:
    """The padding fields of a window over an NHWC value, from SAME (0) or VALID (1)."""
    if int(op.options.get("padding", 0)):
        return dict.fromkeys(("padding_top", "padding_bottom", "padding_left", "padding_right"), 0)
    dilation = (int(op.options.get("dilationHFactor", 1)), int(op.options.get("dilationWFactor", 1)))
    stride = (int(op.options["strideH"]), int(op.options["strideW"]))
    top, bottom = same_padding(x[1], kernel[0], stride[0], dilation[0])
    left, right = same_padding(x[2], kernel[1], stride[1], dilation[1])
    return {"padding_top": top, "padding_bottom": bottom, "padding_left": left, "padding_right": right}
