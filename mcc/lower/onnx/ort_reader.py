"""Reader of .ort files, onnxruntime's own format, with the flatbuffer code of onnxruntime's wheel."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcc.errors import DataError, TargetError
from mcc.ir.first_look import check_model_file

SUFFIX = ".ort"
# `TensorDataType` of the schema, with the numbers of ONNX.
DTYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool",
    10: "float16", 11: "float64", 12: "uint32", 13: "uint64",
}  # fmt: skip


@dataclass(frozen=True)
class OrtNode:
    """A node: names of its operands (empty for an absent optional one) and results."""

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class OrtModel:
    """A model as stored, optimised for a processor.

    Attributes:
        inputs, outputs: Names of values, without constants.
        types: Shape (1 for an axis without a fixed length) and dtype of values, as far as they are stored.
        constants: Constants by name.
        nodes: Nodes in the order of the file.
        metadata: Metadata of the model.
        size_bytes: Size of the file.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    types: Mapping[str, tuple[tuple[int, ...], str]]
    constants: Mapping[str, NDArray[Any]]
    nodes: tuple[OrtNode, ...]
    metadata: Mapping[str, str]
    size_bytes: int


def read_ort(path: Path | str) -> OrtModel:
    """Read a file.

    Raises:
        DataError: The file cannot be read, is no .ort file, or is damaged.
        TargetError: onnxruntime is not installed.
    """
    session = _schema().session
    try:
        raw = check_model_file(path).read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(path)) from error
    if len(raw) < 8 or not session.InferenceSessionBufferHasIdentifier(raw, 0):
        raise DataError("is no .ort file", where=str(path))
    try:
        return _Reader(raw).model(session.GetRootAs(raw, 0).Model())
    except (struct.error, IndexError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise DataError("the .ort file is damaged", where=str(path)) from error


@dataclass(frozen=True)
class Schema:
    """The parts in use of the generated code: two tables, and the enum value of tensors."""

    session: Any
    tensor: Any
    is_tensor: int


@cache
def _schema() -> Schema:
    """The generated code, whose modules import each other as a top-level package."""
    try:
        import_module("onnxruntime.tools.ort_format_model")  # puts the package below on the path
        session, shape, kinds = (
            import_module(f"ort_flatbuffers_py.fbs.{name}")
            for name in ("InferenceSession", "TensorTypeAndShape", "TypeInfoValue")
        )
    except ImportError as error:
        raise TargetError("onnxruntime is not installed", hint="pip install onnxruntime") from error
    return Schema(session.InferenceSession, shape.TensorTypeAndShape, kinds.TypeInfoValue.tensor_type)


class _Reader:
    """Converts the generated accessors to plain values; vectors longer than the file count as damage."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw

    def each(self, count: int, item: Callable[[int], Any]) -> list[Any]:
        if count > len(self.raw):
            raise ValueError("a vector is longer than the file")
        return [item(place) for place in range(count)]

    def names(self, count: int, item: Callable[[int], bytes]) -> tuple[str, ...]:
        return tuple(name.decode() for name in self.each(count, item))

    def model(self, model: Any) -> OrtModel:
        graph = model.Graph()
        tensors = self.each(graph.InitializersLength(), graph.Initializers)
        constants = {tensor.Name().decode(): self.constant(tensor) for tensor in tensors}
        values = self.each(graph.NodeArgsLength(), graph.NodeArgs)
        types = {value.Name().decode(): self.type(value.Type()) for value in values if value.Type()}
        said = self.each(model.MetadataPropsLength(), model.MetadataProps)
        inputs = self.names(graph.InputsLength(), graph.Inputs)
        return OrtModel(
            tuple(name for name in inputs if name not in constants),
            self.names(graph.OutputsLength(), graph.Outputs),
            {name: found for name, found in types.items() if found is not None},
            constants,
            tuple(self.each(graph.NodesLength(), lambda place: self.node(graph.Nodes(place)))),
            {entry.Key().decode(): entry.Value().decode() for entry in said},
            len(self.raw),
        )

    def type(self, info: Any) -> tuple[tuple[int, ...], str] | None:
        if info.ValueType() != _schema().is_tensor:
            return None
        tensor = _schema().tensor()
        table = info.Value()
        tensor.Init(table.Bytes, table.Pos)
        shape = tensor.Shape()
        sizes = [] if shape is None else self.each(shape.DimLength(), lambda axis: _length(shape.Dim(axis)))
        return tuple(sizes), DTYPES.get(tensor.ElemType(), "other")

    def constant(self, tensor: Any) -> NDArray[Any]:
        shape = self.each(tensor.DimsLength(), tensor.Dims)
        dtype = DTYPES.get(tensor.DataType())
        if dtype is None or tensor.RawDataIsNone():  # strings, or data outside the file
            return np.zeros(0, np.uint8)
        data = np.asarray(tensor.RawDataAsNumpy(), np.uint8)
        return np.frombuffer(data.tobytes(), np.dtype(dtype)).reshape(shape)

    def node(self, node: Any) -> OrtNode:
        found = self.each(node.AttributesLength(), node.Attributes)
        return OrtNode(
            (node.Name() or b"").decode(),
            node.OpType().decode(),
            self.names(node.InputsLength(), node.Inputs),
            self.names(node.OutputsLength(), node.Outputs),
            {one.Name().decode(): value for one in found if (value := self.attribute(one)) is not None},
        )

    def attribute(self, given: Any) -> Any:
        """A plain value, or a tuple of them; None for tensors and graphs."""
        match given.Type():  # values of the schema's `AttributeType`
            case 1:
                return float(given.F())
            case 2:
                return int(given.I())
            case 3:
                return given.S().decode()
            case 6:
                return tuple(map(float, self.each(given.FloatsLength(), given.Floats)))
            case 7:
                return tuple(map(int, self.each(given.IntsLength(), given.Ints)))
            case 8:
                return self.names(given.StringsLength(), given.Strings)
            case _:
                return None


def _length(dimension: Any) -> int:
    """The length of an axis; 1 where it is symbolic or absent."""
    value = dimension.Value()
    return max(1, int(value.DimValue())) if value is not None else 1
