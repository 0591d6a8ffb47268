"""Builder of graphs for ExecuTorch's XNNPACK delegate.

The format is that of `executorch/backends/xnnpack/serialization/schema.fbs` in the wheel:

    header (30 bytes, padded to 32) | flatbuffer

Constants are stored by name in the program, outside the delegate: the runtime frees the delegate's bytes
after compiling them, but XNNPACK keeps reading constants that it does not pack (operands of additions). What
it packs (weights and biases) the runtime frees by name, so that a constant of both kinds is stored twice.
Values have XNNPACK's layout (NHWC). Only the schema and the `flatc` of the wheel are used: importing
`executorch` itself takes seconds.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mcc.flatc import compile_json
from mcc.lower.tflite.quantisation import Quantisation

Array = npt.NDArray[Any]
Shape = tuple[int, ...]

SCHEMA = "backends/xnnpack/serialization/schema.fbs"
ELSEWHERE = 2**64 - 1  # the offset of a constant stored by name in the program
NAME_LENGTH = 32  # hex digits of a constant's name: 128 bits of its hash
HEADER_BYTES, PADDED_HEADER = 30, 32
HEADER_MAGIC = b"XH00"
EXTERNAL_INPUT, EXTERNAL_OUTPUT = 1, 2
NO_VALUE = 2**32 - 1  # XNN_INVALID_VALUE_ID: an absent operand, or a value that is not external
NO_HANDLE = 65535  # the debug handle of ExecuTorch's own writer for nodes without one
PLAIN_TYPES = {"float32": "xnn_datatype_fp32"}
TENSOR_TYPES = {"int8": "xnn_datatype_qint8", "int32": "xnn_datatype_qint32"}
CHANNEL_TYPES = {"int8": "xnn_datatype_qcint8", "int32": "xnn_datatype_qcint32"}


@dataclass(frozen=True)
class XnnValue:
    """A value of the delegate's graph.

    Attributes:
        index: Id of the value.
        shape: Shape as stored.
        dtype: `float32`, or `int8` and `int32` with their `quantisation`.
    """

    index: int
    shape: Shape
    dtype: str
    quantisation: Quantisation | None = None


class XnnGraph:
    """Collects values, constants and nodes; equal constants are stored once."""

    def __init__(self) -> None:
        self._values: list[dict[str, Any]] = []
        self._nodes: list[dict[str, Any]] = []
        self.constants: dict[str, bytes] = {}  # by name, in the order of first use
        self._places: dict[str, int] = {}

    def value(
        self, shape: Shape, dtype: str = "float32", quantisation: Quantisation | None = None
    ) -> XnnValue:
        """Add a value that is written by a node or the caller."""
        return self._add(shape, dtype, quantisation, 0)

    def constant(
        self, array: Array, quantisation: Quantisation | None = None, *, packed: bool = False
    ) -> XnnValue:
        """Add a constant: float32, or int8 and int32 with their quantisation, per tensor or per channel.

        Args:
            packed: whether the only readers are operators that pack it, as weight or bias.
        """
        array = np.ascontiguousarray(array).reshape(array.shape)
        raw = array.tobytes()
        name = hashlib.sha256(raw if packed else b"read" + raw).hexdigest()[:NAME_LENGTH]
        self.constants.setdefault(name, raw)
        place = self._places.setdefault(name, len(self._places) + 1)  # 0 stands for "no constant"
        return self._add(array.shape, array.dtype.name, quantisation, place)

    def node(self, kind: str, clamp: tuple[float, float] | None = None, **fields: Any) -> None:
        """Add a node of a kind of the schema; `clamp` limits its result, in real numbers."""
        entry: dict[str, Any] = {
            "xnode_union_type": kind,
            "xnode_union": {**fields, "flags": fields.get("flags", 0)},
            "debug_handle": NO_HANDLE,
        }
        if clamp is not None:
            entry["output_min_max"] = {"output_min": _number(clamp[0]), "output_max": _number(clamp[1])}
        self._nodes.append(entry)

    def finish(self, inputs: Sequence[XnnValue], outputs: Sequence[XnnValue]) -> bytes:
        """The delegate's bytes, without `constants`; inputs and outputs are distinct values, none constant.

        Raises:
            TargetError: `flatc` of the wheel is missing or rejects the graph.
        """
        for number, value in enumerate([*inputs, *outputs]):
            tensor = _tensor(self._values[value.index])
            tensor["external_id"] = number
            tensor["flags"] = EXTERNAL_INPUT if number < len(inputs) else EXTERNAL_OUTPUT
        named = [
            {"offset": ELSEWHERE, "size": len(raw), "named_key": name} for name, raw in self.constants.items()
        ]
        content = {
            "version": "0",
            "xnodes": self._nodes,
            "xvalues": self._values,
            "num_externs": len(inputs) + len(outputs),
            "input_ids": [value.index for value in inputs],
            "output_ids": [value.index for value in outputs],
            "constant_data": [{"offset": 0, "size": 0}, *named],
        }
        flat = compile_json(SCHEMA, content)
        return _header(len(flat)) + flat

    def _add(self, shape: Shape, dtype: str, quantisation: Quantisation | None, buffer: int) -> XnnValue:
        index = len(self._values)
        per_channel = quantisation is not None and quantisation.scales.size > 1
        types = PLAIN_TYPES if quantisation is None else CHANNEL_TYPES if per_channel else TENSOR_TYPES
        tensor = {
            "datatype": types[dtype],
            "num_dims": len(shape),
            "dims": list(shape),
            "constant_buffer_idx": buffer,
            "external_id": NO_VALUE,
            "flags": 0,
            "id_out": index,
        }
        if quantisation is None:
            entry = {"xvalue_union_type": "XNNTensorValue", "xvalue_union": tensor}
        else:
            union = {"tensor_value": tensor, **_parameters(quantisation, per_channel)}
            entry = {"xvalue_union_type": "XNNQuantizedTensorValue", "xvalue_union": union}
        self._values.append(entry)
        return XnnValue(index, shape, dtype, quantisation)


def _parameters(quantisation: Quantisation, per_channel: bool) -> dict[str, Any]:
    if per_channel:
        scales = [float(scale) for scale in quantisation.scales]
        kind, fields = "PerChannelQuant", {"scale": scales, "channel_dim": quantisation.axis}
        fields |= {"scale_buffer_idx": 0, "num_scales": len(scales)}
    else:
        kind = "PerTensorQuant"
        fields = {"scale": float(quantisation.scale), "zero_point": quantisation.zero_point}
    return {"quant_params_type": kind, "quant_params": fields}


def _tensor(entry: dict[str, Any]) -> dict[str, Any]:
    union = entry["xvalue_union"]
    return union.get("tensor_value", union)


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else "inf" if value > 0 else "-inf"


def _header(flat_bytes: int) -> bytes:
    parts = [
        bytes(4),
        HEADER_MAGIC,
        HEADER_BYTES.to_bytes(2, "little"),
        PADDED_HEADER.to_bytes(4, "little"),
        flat_bytes.to_bytes(4, "little"),
        (PADDED_HEADER + flat_bytes).to_bytes(4, "little"),  # offset of the constants: there are none
        bytes(8),
    ]
    return b"".join(parts).ljust(PADDED_HEADER, b"\0")
