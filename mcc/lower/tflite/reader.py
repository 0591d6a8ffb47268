"""Reader of .tflite files from any writer.

Used by `inspect`, `diff`, `bench` and by tests that compare a written file with its graph. Sparse constants
are decoded. Weights are views of the file's bytes where the format allows it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from mcc.errors import DataError
from mcc.ir.first_look import check_model_file
from mcc.lower.tflite.quantisation import Quantisation
from mcc.lower.tflite.sparse import Dimension, SparseWeight, decode

Array = npt.NDArray[Any]

DTYPES: dict[int, str] = {
    value: name.lower() for name, value in vars(schema.TensorType).items() if not name.startswith("_")
}
CODES: dict[int, str] = {
    value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")
}
FILE_IDENTIFIER = b"TFL3"


@dataclass(frozen=True, eq=False)
class TfliteTensor:
    """One tensor.

    Attributes:
        shape: Shape as stored (NHWC for images), in elements.
        dtype: numpy name of the element type (`float32`, `int8`, `int4`, ...).
        data: Dense values of a constant; None for an activation (and for types that numpy lacks).
        sparse: Encoding of a constant stored sparse.
        stored_bytes: Bytes of its buffer in the file.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    quantisation: Quantisation | None
    data: Array | None
    sparse: SparseWeight | None
    stored_bytes: int

    @property
    def is_constant(self) -> bool:
        """Whether the file holds its values."""
        return self.stored_bytes > 0


@dataclass(frozen=True, eq=False)
class TfliteOperator:
    """One operator: its BuiltinOperator name (`CUSTOM:name` for custom ones) and tensor indices."""

    index: int
    code: str
    version: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: dict[str, Any]


@dataclass(frozen=True, eq=False)
class TfliteModel:
    """The first subgraph of a file, with its metadata.

    Attributes:
        inputs, outputs: Tensor indices, in order.
        signatures: Input and output names with their tensor indices, by signature key; of the first subgraph.
        subgraphs: Number of subgraphs in the file.
        metadata: Raw entries by name.
        size_bytes: Size of the file.
    """

    tensors: tuple[TfliteTensor, ...]
    operators: tuple[TfliteOperator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    description: str
    signatures: dict[str, tuple[dict[str, int], dict[str, int]]]
    metadata: dict[str, bytes]
    size_bytes: int
    subgraphs: int = 1

    def op_counts(self) -> Counter[str]:
        """Numbers of operators in the file, by kind."""
        return Counter(operator.code for operator in self.operators)

    def producer(self, tensor: int) -> TfliteOperator | None:
        """The operator that writes a tensor, or None for inputs and constants."""
        return next((operator for operator in self.operators if tensor in operator.outputs), None)

    def constant(self, tensor: int) -> Array | None:
        """Values of a constant, also through DENSIFY and through DEQUANTIZE of half precision."""
        data = self.tensors[tensor].data
        producer = self.producer(tensor)
        if data is not None or producer is None or producer.code not in ("DENSIFY", "DEQUANTIZE"):
            return data
        source = self.tensors[producer.inputs[0]]
        if source.data is None or source.dtype not in ("float32", "float16"):
            return None
        return source.data.astype(self.tensors[tensor].dtype, copy=False)


def read_tflite(source: Path | str | bytes) -> TfliteModel:
    """Read a file, or its bytes.

    Raises:
        DataError: The file is not TFLite, truncated or inconsistent.
    """
    raw = source if isinstance(source, bytes) else _read_bytes(Path(source))
    where = "the given bytes" if isinstance(source, bytes) else str(source)
    if len(raw) < 8 or raw[4:8] != FILE_IDENTIFIER:
        raise DataError("not a TFLite file", where=where, hint="its first bytes are not those of the format")
    try:
        _check_sizes(raw)
        return _model(raw)
    except Exception as error:  # the generated reader's exceptions for wrong offsets have no common class
        reason = f"{type(error).__name__}: {error}"
        raise DataError(
            f"the TFLite file is damaged ({reason})", where=where, hint="write it again"
        ) from error


ABSENT = -1
"""Index of an absent optional operand."""


def _read_bytes(path: Path) -> bytes:
    try:
        return check_model_file(path).read_bytes()
    except OSError as error:
        raise DataError(
            f"cannot be read: {error.strerror or error}", where=str(path), hint="check the path"
        ) from error


MAX_TENSORS = 1 << 16  # in all subgraphs; the largest public networks have some thousand
MAX_ENTRIES = 1 << 12  # subgraphs, kinds of operators, metadata, signatures
SHARED_BYTES = 1 << 20
"""Bytes of names and shapes that a file may have beyond four times its size: a few bytes of it can stand in
for many, since tables may share their parts."""


def _check_sizes(raw: bytes) -> None:
    """Raise ValueError for a file whose tables, once unpacked, take far more memory than the file."""
    model: Any = schema.Model.GetRootAs(bytearray(raw), 0)
    entries = (
        model.SubgraphsLength(),
        model.OperatorCodesLength(),
        model.MetadataLength(),
        model.SignatureDefsLength(),
    )
    if max(entries) > MAX_ENTRIES or model.BuffersLength() > 2 * MAX_TENSORS:
        raise ValueError(f"it has {max(*entries, model.BuffersLength())} entries of one kind")
    graphs = [model.Subgraphs(index) for index in range(model.SubgraphsLength())]
    count = sum(graph.TensorsLength() + graph.OperatorsLength() for graph in graphs)
    if count > MAX_TENSORS:
        raise ValueError(f"it has {count} tensors and operators")
    unpacked = sum(_unpacked_bytes(graph) for graph in graphs)
    for index in range(model.MetadataLength()):
        unpacked += model.Buffers(model.Metadata(index).Buffer()).DataLength()
    if unpacked > 4 * len(raw) + SHARED_BYTES:
        raise ValueError(f"its parts share their bytes: {unpacked} of them in a file of {len(raw)}")


def _unpacked_bytes(graph: Any) -> int:
    """Bytes of names, shapes and operands of a subgraph, each counted as often as it is referred to."""
    total = 0
    for index in range(graph.TensorsLength()):
        tensor = graph.Tensors(index)
        total += len(tensor.Name() or b"") + 8 * (tensor.ShapeLength() + tensor.ShapeSignatureLength())
    for index in range(graph.OperatorsLength()):
        operator = graph.Operators(index)
        total += 8 * (operator.InputsLength() + operator.OutputsLength())
    return total


def _model(raw: bytes) -> TfliteModel:
    model: Any = schema.ModelT.InitFromPackedBuf(bytearray(raw), 0)
    graph = model.subgraphs[0]
    buffers = [_buffer_bytes(buffer, raw) for buffer in model.buffers]
    tensors = tuple(_tensor(i, tensor, buffers) for i, tensor in enumerate(graph.tensors or []))
    codes = [_code(code) for code in model.operatorCodes or []]
    operators = tuple(_operator(i, operator, codes) for i, operator in enumerate(graph.operators or []))
    _check_references(tensors, operators, (*_ints(graph.inputs), *_ints(graph.outputs)))
    return TfliteModel(
        tensors=tensors,
        operators=operators,
        inputs=_ints(graph.inputs),
        outputs=_ints(graph.outputs),
        description=_text(model.description),
        signatures={
            _text(entry.signatureKey): (_names(entry.inputs), _names(entry.outputs))
            for entry in model.signatureDefs or []
            if entry.subgraphIndex == 0
        },
        metadata={_text(entry.name): bytes(buffers[entry.buffer]) for entry in model.metadata or []},
        size_bytes=len(raw),
        subgraphs=len(model.subgraphs),
    )


def _check_references(
    tensors: tuple[TfliteTensor, ...], operators: tuple[TfliteOperator, ...], ends: tuple[int, ...]
) -> None:
    """Raise ValueError for an index of a missing tensor, and for scales that do not fit their tensor."""
    for operator in operators:
        named = [*operator.outputs, *(index for index in operator.inputs if index != ABSENT)]
        if any(not 0 <= index < len(tensors) for index in named):
            raise ValueError(f"operator {operator.index} names tensors {named} of {len(tensors)}")
    if any(not 0 <= index < len(tensors) for index in ends):
        raise ValueError(f"inputs and outputs {ends} of {len(tensors)} tensors")
    for tensor in tensors:
        found = tensor.quantisation
        if found is None or (found.scales.size == 1 and found.zero_points.size == 1):
            continue
        lengths = {found.scales.size, found.zero_points.size}
        if not 0 <= found.axis < len(tensor.shape) or lengths != {tensor.shape[found.axis]}:
            raise ValueError(f"tensor {tensor.index} has {found.scales.size} scales for {tensor.shape}")


def _buffer_bytes(buffer: Any, raw: bytes) -> npt.NDArray[np.uint8]:
    if buffer.offset > 1:  # data after the flatbuffer, in files beyond 2 GB
        return np.frombuffer(raw, np.uint8, int(buffer.size), int(buffer.offset))
    if buffer.data is None:
        return np.zeros(0, np.uint8)
    return np.asarray(buffer.data, np.uint8)


def _tensor(index: int, tensor: Any, buffers: list[npt.NDArray[np.uint8]]) -> TfliteTensor:
    dtype = DTYPES[tensor.type]
    shape = _ints(tensor.shape)
    stored = buffers[tensor.buffer]
    sparse = None
    data = None
    if stored.size and dtype in np.sctypeDict:
        values = stored.view(np.dtype(dtype))
        if tensor.sparsity is None:
            data = values.reshape(shape)
        else:
            sparse = _sparse(tensor.sparsity, shape, values)
            data = decode(sparse)
    return TfliteTensor(
        index,
        _text(tensor.name),
        shape,
        dtype,
        _quantisation(tensor.quantization),
        data,
        sparse,
        int(stored.size),
    )


def _quantisation(parameters: Any) -> Quantisation | None:
    if parameters is None or parameters.scale is None or len(parameters.scale) == 0:
        return None
    scales = np.asarray(parameters.scale, np.float32)
    zeros = parameters.zeroPoint
    zero_points = np.zeros(len(scales), np.int64) if zeros is None else np.asarray(zeros, np.int64)
    return Quantisation(scales, zero_points, int(parameters.quantizedDimension))


def _sparse(parameters: Any, shape: tuple[int, ...], values: Array) -> SparseWeight:
    dimensions: list[Dimension] = []
    for entry in parameters.dimMetadata:
        if entry.format == schema.DimensionType.DENSE:
            dimensions.append(Dimension(size=int(entry.denseSize)))
        else:
            segments = np.asarray(entry.arraySegments.values, np.int64)
            indices = np.asarray(entry.arrayIndices.values, np.int64)
            dimensions.append(Dimension(segments=segments, indices=indices))
    order, blocks = _ints(parameters.traversalOrder), _ints(parameters.blockMap)
    return SparseWeight(shape, values, order, blocks, tuple(dimensions))


def _code(code: Any) -> tuple[str, int]:
    number = max(int(code.builtinCode), int(code.deprecatedBuiltinCode))
    name = CODES.get(number, f"UNKNOWN_{number}")
    if name == "CUSTOM":
        name = f"CUSTOM:{_text(code.customCode)}"
    return name, int(code.version)


def _operator(index: int, operator: Any, codes: list[tuple[str, int]]) -> TfliteOperator:
    code, version = codes[operator.opcodeIndex]
    options = {} if operator.builtinOptions is None else dict(vars(operator.builtinOptions))
    return TfliteOperator(index, code, version, _ints(operator.inputs), _ints(operator.outputs), options)


def _ints(values: Any) -> tuple[int, ...]:
    return () if values is None else tuple(int(value) for value in values)


def _names(entries: Any) -> dict[str, int]:
    return {_text(entry.name): int(entry.tensorIndex) for entry in entries or []}


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
