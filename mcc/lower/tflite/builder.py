"""Builder of TFLite flatbuffers from typed tensors and operators.

Wraps the object API of the schema in ai-edge-litert, so that no other file of the lowering uses the untyped
generated code. Equal calls give equal bytes: nothing here depends on time, hashes or paths.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import flatbuffers
import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from mcc.lower.tflite.quantisation import Quantisation
from mcc.lower.tflite.sparse import SparseWeight
from mcc.lower.tflite.versions import Signature, TensorInfo, minimum_runtime, operator_version

Array = npt.NDArray[Any]

SCHEMA_VERSION = 3
FILE_IDENTIFIER = b"TFL3"
# `force_align: 16` of Buffer.data in the TFLite schema; kernels load constants with aligned vector loads.
BUFFER_ALIGNMENT = 16

DTYPE_CODES: dict[str, int] = {
    "float32": schema.TensorType.FLOAT32,
    "float16": schema.TensorType.FLOAT16,
    "int32": schema.TensorType.INT32,
    "int64": schema.TensorType.INT64,
    "int8": schema.TensorType.INT8,
    "uint8": schema.TensorType.UINT8,
    "bool": schema.TensorType.BOOL,
}


@dataclass(frozen=True)
class Options:
    """The options table of an operator: schema name without the trailing T, and its fields."""

    table: str
    fields: Mapping[str, Any] = field(default_factory=dict[str, Any])


class _AlignedBuffer(schema.BufferT):
    """A buffer whose bytes start at a multiple of 16 in the file, unlike in the generated code."""

    def __init__(self, raw: bytes) -> None:
        super().__init__()
        self.raw = raw

    def Pack(self, builder: flatbuffers.Builder) -> int:
        builder.StartVector(1, len(self.raw), BUFFER_ALIGNMENT)
        builder.head = builder.head - len(self.raw)
        builder.Bytes[builder.head : builder.head + len(self.raw)] = self.raw
        data = builder.EndVector()
        schema.BufferStart(builder)
        schema.BufferAddData(builder, data)
        return int(schema.BufferEnd(builder))


class FlatModel:
    """One model with one subgraph, built tensor by tensor and operator by operator."""

    def __init__(self, name: str, description: str) -> None:
        self.name = name
        self.description = description
        self.info: list[TensorInfo] = []
        self._tensors: list[Any] = []
        self._operators: list[Any] = []
        self._codes: dict[tuple[int, int], int] = {}
        self._used: list[tuple[str, int]] = []
        self._buffers: list[Any] = [schema.BufferT()]
        self._buffer_of: dict[tuple[str, bytes], int] = {}
        self._constant_of: dict[tuple[object, ...], int] = {}
        self._metadata: dict[str, bytes] = {}
        self._taken: set[str] = set()

    def tensor(
        self, name: str, shape: Sequence[int], dtype: str, quantisation: Quantisation | None = None
    ) -> int:
        """Add a tensor written by an operator or the caller; returns its index."""
        return self._add(name, tuple(shape), dtype, quantisation, buffer=0)

    def constant(
        self, name: str, value: Array, quantisation: Quantisation | None = None, *, owner: str = ""
    ) -> int:
        """Add a constant; the same owner, values, shape and quantisation give the same tensor.

        Args:
            owner: Name in the graph, for trained values: weights that are equal by chance are stored twice,
                so that the size of a file never depends on training.
        """
        value = np.ascontiguousarray(value)
        raw = value.tobytes()
        quant_key = quantisation.key() if quantisation else None
        key = (owner, value.dtype.name, value.shape, quant_key, hashlib.sha256(raw).digest())
        if key not in self._constant_of:
            buffer = self._buffer(raw, owner)
            index = self._add(name, value.shape, value.dtype.name, quantisation, buffer)
            self._constant_of[key] = index
        return self._constant_of[key]

    def sparse_constant(self, name: str, weight: SparseWeight) -> int:
        """Add a constant in TFLite's sparse encoding; only DENSIFY may read it."""
        index = self._add(
            name, weight.shape, weight.values.dtype.name, None, self._buffer(weight.values.tobytes(), name)
        )
        self._tensors[index].sparsity = _sparsity(weight)
        return index

    def operator(
        self, code: str, inputs: Sequence[int], outputs: Sequence[int], options: Options | None = None
    ) -> None:
        """Append an operator by its BuiltinOperator name; an input of -1 is absent.

        Raises AttributeError for a code, options table or field that the schema does not have.
        """
        table = None if options is None else _options_table(options)
        signature = Signature(
            tuple(self._facts(i) for i in inputs),
            tuple(self._facts(i) for i in outputs),
            {} if options is None else dict(options.fields),
        )
        version = operator_version(code, signature)
        operator = schema.OperatorT()
        operator.opcodeIndex = self._opcode(code, version)
        operator.inputs = list(inputs)
        operator.outputs = list(outputs)
        if options is not None:
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, options.table)
            operator.builtinOptions = table
        self._operators.append(operator)

    def rename(self, index: int, name: str) -> None:
        """Give a tensor a name; another tensor that has it gets a free one."""
        tensor = self._tensors[index]
        if tensor.name == name:
            return
        for other in self._tensors:
            if other.name == name:
                other.name = self._unique(name)
        tensor.name = name
        self._taken.add(name)

    def metadata(self, name: str, raw: bytes) -> None:
        """Attach a metadata entry."""
        self._metadata[name] = raw

    def finish(self, inputs: Mapping[str, int], outputs: Mapping[str, int], signature: str) -> bytes:
        """Close the model with its named inputs and outputs and return the file's bytes."""
        self._metadata.setdefault(
            "min_runtime_version", minimum_runtime(self._used).encode().ljust(16, b"\0")
        )
        graph = schema.SubGraphT()
        graph.name = self.name
        graph.tensors = self._tensors
        graph.operators = self._operators
        graph.inputs = list(inputs.values())
        graph.outputs = list(outputs.values())
        model = schema.ModelT()
        model.version = SCHEMA_VERSION
        model.description = self.description
        model.operatorCodes = [_operator_code(code, version) for code, version in self._codes]
        model.subgraphs = [graph]
        model.metadata = [self._metadata_entry(name, raw) for name, raw in self._metadata.items()]
        model.signatureDefs = [_signature(signature, inputs, outputs)]
        model.buffers = self._buffers
        size = sum(len(getattr(buffer, "raw", b"")) for buffer in self._buffers)
        builder = flatbuffers.Builder(size + 1024 * (len(self._tensors) + len(self._operators) + 16))
        builder.Finish(model.Pack(builder), file_identifier=FILE_IDENTIFIER)
        return bytes(builder.Output())

    def _facts(self, index: int) -> TensorInfo | None:
        return self.info[index] if index >= 0 else None

    def _add(
        self, name: str, shape: tuple[int, ...], dtype: str, quantisation: Quantisation | None, buffer: int
    ) -> int:
        tensor = schema.TensorT()
        tensor.name = self._unique(name)
        tensor.shape = list(shape)
        tensor.type = DTYPE_CODES[dtype]
        tensor.buffer = buffer
        tensor.hasRank = True
        if quantisation is not None:
            parameters: Any = schema.QuantizationParametersT()
            parameters.scale = np.asarray(quantisation.scales, np.float32)
            parameters.zeroPoint = np.asarray(quantisation.zero_points, np.int64)
            parameters.quantizedDimension = quantisation.axis
            tensor.quantization = parameters
        self._tensors.append(tensor)
        self.info.append(TensorInfo(shape, dtype, quantisation))
        return len(self._tensors) - 1

    def _unique(self, name: str) -> str:
        unique, count = name, 1
        while unique in self._taken:
            unique, count = f"{name}_{count}", count + 1
        self._taken.add(unique)
        return unique

    def _buffer(self, raw: bytes, owner: str = "") -> int:
        key = (owner, hashlib.sha256(raw).digest())
        if key not in self._buffer_of:
            self._buffers.append(_AlignedBuffer(raw))
            self._buffer_of[key] = len(self._buffers) - 1
        return self._buffer_of[key]

    def _opcode(self, code: str, version: int) -> int:
        key = (int(getattr(schema.BuiltinOperator, code)), version)
        if key not in self._codes:
            self._codes[key] = len(self._codes)
            self._used.append((code, version))
        return self._codes[key]

    def _metadata_entry(self, name: str, raw: bytes) -> Any:
        entry = schema.MetadataT()
        entry.name = name
        entry.buffer = self._buffer(raw)
        return entry


def _operator_code(code: int, version: int) -> Any:
    result = schema.OperatorCodeT()
    # Readers before schema 3a know only the byte-wide field; 127 says "look at the wide one".
    result.deprecatedBuiltinCode = min(code, schema.BuiltinOperator.PLACEHOLDER_FOR_GREATER_OP_CODES)
    result.builtinCode = code
    result.version = version
    return result


def _options_table(options: Options) -> Any:
    table = getattr(schema, options.table + "T")()
    for name, value in options.fields.items():
        if not hasattr(table, name):
            raise AttributeError(f"{options.table} has no field {name}")
        setattr(table, name, value)
    return table


def _signature(key: str, inputs: Mapping[str, int], outputs: Mapping[str, int]) -> Any:
    signature = schema.SignatureDefT()
    signature.signatureKey = key
    signature.subgraphIndex = 0
    signature.inputs = [_tensor_map(name, index) for name, index in inputs.items()]
    signature.outputs = [_tensor_map(name, index) for name, index in outputs.items()]
    return signature


def _tensor_map(name: str, index: int) -> Any:
    entry = schema.TensorMapT()
    entry.name = name
    entry.tensorIndex = index
    return entry


def _sparsity(weight: SparseWeight) -> Any:
    sparsity = schema.SparsityParametersT()
    sparsity.traversalOrder = list(weight.traversal_order)
    sparsity.blockMap = list(weight.block_map)
    sparsity.dimMetadata = []
    for dimension in weight.dimensions:
        entry = schema.DimensionMetadataT()
        if dimension.segments is None or dimension.indices is None:
            entry.format = schema.DimensionType.DENSE
            entry.denseSize = dimension.size
        else:
            entry.format = schema.DimensionType.SPARSE_CSR
            entry.arraySegmentsType, entry.arraySegments = _index_vector(dimension.segments)
            entry.arrayIndicesType, entry.arrayIndices = _index_vector(dimension.indices)
        sparsity.dimMetadata.append(entry)
    return sparsity


def _index_vector(values: npt.NDArray[np.int64]) -> tuple[int, Any]:
    """The narrowest index vector of the schema for the values, as (union type, table)."""
    largest = int(values.max(initial=0))
    for limit, name, dtype in ((2**8, "Uint8Vector", np.uint8), (2**16, "Uint16Vector", np.uint16)):
        if largest < limit:
            narrow: Any = getattr(schema, name + "T")()
            narrow.values = values.astype(dtype)
            return int(getattr(schema.SparseIndexVector, name)), narrow
    table: Any = schema.Int32VectorT()
    table.values = values.astype(np.int32)
    return int(schema.SparseIndexVector.Int32Vector), table
