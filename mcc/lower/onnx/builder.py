"""An ONNX graph under construction: nodes, initialisers and their names."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from mcc.errors import UsageError

Array = npt.NDArray[Any]

OPSETS = range(13, 24)
"""Supported opsets: 13 introduced per-channel quantisation, 23 is the newest that was tested."""

ELEMENT_TYPES: Mapping[str, int] = {
    "f32": TensorProto.FLOAT,
    "f16": TensorProto.FLOAT16,
    "f64": TensorProto.DOUBLE,
    "i8": TensorProto.INT8,
    "u8": TensorProto.UINT8,
    "i32": TensorProto.INT32,
    "i64": TensorProto.INT64,
    "bool": TensorProto.BOOL,
}


class OnnxGraph:
    """Collects nodes and initialisers; equal constants are stored once, names are made unique.

    Args:
        opset: Version of the default operator set. Raises UsageError outside `OPSETS`.
    """

    def __init__(self, opset: int) -> None:
        if opset not in OPSETS:
            raise UsageError(f"opset {opset} cannot be written", hint=f"choose {OPSETS[0]} to {OPSETS[-1]}")
        self.opset = opset
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[onnx.TensorProto] = []
        self._stored: dict[tuple[str, str, tuple[int, ...], bytes], str] = {}
        self._names: set[str] = set()

    def fresh(self, wished: str) -> str:
        """A name that no value or node has: the requested one, if necessary with a numbered suffix."""
        name, count = wished, 1
        while name in self._names:
            name, count = f"{wished}_{count}", count + 1
        self._names.add(name)
        return name

    def constant(self, value: Array, wished: str, *, owner: str = "") -> str:
        """Store a constant and return its name; the same array of the same owner gives the same name.

        Args:
            owner: Name in the graph, for trained values: weights or scales that are equal by chance are
                stored twice, so that the size of a file never depends on training.
        """
        value = np.ascontiguousarray(value).reshape(value.shape)
        key = (owner, value.dtype.str, value.shape, hashlib.sha256(value.tobytes()).digest())
        if key not in self._stored:
            self._stored[key] = self.own_constant(value, wished)
        return self._stored[key]

    def own_constant(self, value: Array, wished: str) -> str:
        """Store a constant that is not shared, even with an equal one."""
        name = self.fresh(wished)
        self._initializers.append(
            numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name)
        )
        return name

    def integers(self, values: Sequence[int], wished: str = "shape") -> str:
        """An int64 vector, the type of shapes, axes and padding."""
        return self.constant(np.asarray(values, np.int64), wished)

    def number(self, value: float, wished: str = "number") -> str:
        """A float32 scalar."""
        return self.constant(np.asarray(value, np.float32), wished)

    def node(self, op: str, operands: Sequence[str], wished: str, **attributes: Any) -> str:
        """Add an operator with one result and return the result's name; an absent operand is ''."""
        result = self.fresh(wished)
        self._nodes.append(helper.make_node(op, list(operands), [result], name=result, **attributes))
        return result

    def finish(
        self, name: str, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]
    ) -> onnx.ModelProto:
        """Complete the graph. The caller has removed unused values."""
        graph = helper.make_graph(self._nodes, name, list(inputs), list(outputs), self._initializers)
        imports = [helper.make_opsetid("", self.opset)]
        # The oldest IR version that has the opset, so that older runtimes can read the file.
        version = helper.find_min_ir_version_for(imports)
        return helper.make_model(
            graph, opset_imports=imports, ir_version=version, producer_name="mcc", producer_version=""
        )


def value_info(name: str, dtype: str, shape: Sequence[int]) -> onnx.ValueInfoProto:
    """Declaration of a graph input or output. Raises KeyError for a dtype outside `ELEMENT_TYPES`."""
    return helper.make_tensor_value_info(name, ELEMENT_TYPES[dtype], list(shape))
