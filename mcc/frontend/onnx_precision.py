"""ONNX files in other precisions, as float32 ones: mcc chooses precisions itself.

float16, bfloat16 and float64 become float32, in weights, inputs, outputs and conversions. An input of
integers (a picture of bytes) becomes a float32 input of the same numbers, where the file converts it to real
numbers before it computes with it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from mcc.errors import UnsupportedError

log = logging.getLogger(__name__)

_REAL: dict[int, str] = {
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.DOUBLE: "float64",
}
_WHOLE: dict[int, str] = {
    TensorProto.UINT8: "uint8", TensorProto.INT8: "int8", TensorProto.UINT16: "uint16",
    TensorProto.INT16: "int16", TensorProto.INT32: "int32", TensorProto.INT64: "int64",
}  # fmt: skip

_MOVING = frozenset({
    "Cast", "Concat", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose",
    "Unsqueeze",
})  # fmt: skip


def in_float32(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with float32 in the place of other real numbers, changed in place; says so in a warning.

    Raises:
        UnsupportedError: an input of integers that the model computes with as such.
    """
    found = {_REAL[kind] for kind in _kinds(model.graph) if kind in _REAL}
    if found:
        log.warning("holds %s: read as float32", " and ".join(sorted(found)))
        _convert(model.graph)
    _free_inputs(model)
    return model


def _tensors(graph: onnx.GraphProto) -> Iterable[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t


def _values(graph: onnx.GraphProto) -> Iterable[onnx.ValueInfoProto]:
    return (*graph.input, *graph.output, *graph.value_info)


def _casts(graph: onnx.GraphProto) -> Iterable[onnx.AttributeProto]:
    for node in graph.node:
        if node.op_type in ("Cast", "EyeLike"):
            yield from (attribute for attribute in node.attribute if attribute.name in ("to", "dtype"))


def _kinds(graph: onnx.GraphProto) -> Iterable[int]:
    yield from (tensor.data_type for tensor in _tensors(graph))
    yield from (value.type.tensor_type.elem_type for value in _values(graph))
    yield from (cast.i for cast in _casts(graph))


def _convert(graph: onnx.GraphProto) -> None:
    for tensor in _tensors(graph):
        if tensor.data_type in _REAL:
            array = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    for value in _values(graph):
        if value.type.tensor_type.elem_type in _REAL:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for cast in _casts(graph):
        if cast.i in _REAL:
            cast.i = TensorProto.FLOAT


def _free_inputs(model: onnx.ModelProto) -> None:
    """Let inputs of integers be float32, where what reads them allows it."""
    stored = {tensor.name for tensor in model.graph.initializer}
    whole = [
        value
        for value in model.graph.input
        if value.name not in stored and value.type.tensor_type.elem_type in _WHOLE
    ]
    if not whole:
        return
    for value in whole:
        _check_readers(model.graph, value)
    names = [f"{value.name} is {_WHOLE[value.type.tensor_type.elem_type]}" for value in whole]
    for value in whole:
        value.type.tensor_type.elem_type = TensorProto.FLOAT
    model.graph.ClearField("value_info")
    log.warning("input %s: read as float32, of the same numbers", ", ".join(names))


def _check_readers(graph: onnx.GraphProto, value: onnx.ValueInfoProto) -> None:
    """Raise UnsupportedError unless integers are only moved about before they are made real numbers."""
    whole = {value.name}
    for node in graph.node:  # which are in the order in which they are computed
        if whole.isdisjoint(node.input):
            continue
        makes = next((attribute.i for attribute in node.attribute if attribute.name == "to"), None)
        if node.op_type == "Cast" and makes in (TensorProto.FLOAT, *_REAL):
            continue
        if node.op_type not in _MOVING or node.input[0] not in whole:
            kind = _WHOLE[value.type.tensor_type.elem_type]
            raise UnsupportedError(
                f"is {kind}, and {node.op_type} computes with its integers",
                where=f"input {value.name}",
                hint="let the model start with a Cast to float32: mcc reads real numbers",
            )
        whole.update(node.output)
