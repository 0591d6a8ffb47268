"""Checks of the files on a command line before torch is imported, which takes seconds.

Each must be a readable regular file, not empty, within the size limit of its kind, and begin as its format
does. The content is checked by the reader of the format.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from mcc.errors import DataError, MccError, UsageError
from mcc.files import readable_file, split_entry

MAX_MODEL_BYTES = 768 << 20
"""Limit of a model file: VGG-16, the largest of the public classifiers, 528 MiB. Readers hold two copies."""

MAX_WEIGHTS_BYTES = 4 * MAX_MODEL_BYTES  # a checkpoint may hold optimiser state, twice the weights

MAX_SOURCE_BYTES = 16 << 20  # a user's Python file: the largest file of torch itself has 1 MB

GRAPH_HEADER = b"mcc 1"
MAX_FIELDS = 100_000  # top-level fields of ONNX's ModelProto (graph, functions, metadata); no model has more
_TAG_GRAPH = 7  # field `graph` of ONNX's ModelProto


def check_model_file(path: Path | str, *, raising: type[MccError] = DataError) -> Path:
    """Check a model file of any format that mcc reads or runs, by its suffix, and return its path.

    Args:
        raising: Type of the error where there is no such file.

    Raises:
        DataError: The file is empty, truncated, or of another format.
        MccError: (`raising`) The file is absent, not regular, or too large.
    """
    path = readable_file(path, at_most_bytes=MAX_MODEL_BYTES, raising=raising)
    known = _FORMATS.get(path.suffix)
    if known is None:
        return path
    words, begins, hint = known
    try:
        with path.open("rb") as stream:
            if not stream.read(1):
                raise DataError("is empty", where=str(path), hint=hint)
            stream.seek(0)
            good = begins(stream, path.stat().st_size)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", where=str(path)) from error
    if not good:
        raise DataError(f"is no {words}, or not a whole one", where=str(path), hint=hint)
    return path


def check_model(spec: str, weights: Path | None = None) -> None:
    """Check a MODEL of the command line, and its --weights. Raises UsageError, DataError.

    A model given as `package.module:factory` is checked when it is imported.
    """
    if Path(spec).suffix in _FORMATS:
        check_model_file(spec, raising=UsageError)
    _check_source(spec)
    if weights is not None:
        weights, _ = split_entry(weights)
        found = readable_file(weights, at_most_bytes=MAX_WEIGHTS_BYTES, hint="check --weights")
        if not found.stat().st_size:
            raise DataError("is empty", where=str(weights), hint="check --weights")


def check_specs(*specs: str | None) -> None:
    """Check DATA or further MODELs of the command line that name a file. Raises UsageError, DataError."""
    for spec in specs:
        if spec is not None:
            check_model(spec)


def _check_source(spec: str) -> None:
    """Check the file of `path/to/file.py:name`."""
    source = spec.removeprefix("unseen-train:").rpartition(":")[0]
    if source.endswith(".py"):
        readable_file(Path(source).expanduser(), at_most_bytes=MAX_SOURCE_BYTES, raising=UsageError)


def _is_protobuf(stream: BinaryIO, size: int) -> bool:
    """Whether the fields of an ONNX model fill the file and include its graph; their content is not read."""
    tags: set[int] = set()
    for _ in range(MAX_FIELDS):
        if stream.tell() >= size:
            break
        key = _varint(stream)
        if key is None or key >> 3 == 0:  # protobuf has no field 0: a file of zeros
            return False
        tags.add(key >> 3)
        kind = key & 7
        if kind == 0:
            length = 0 if _varint(stream) is not None else None
        else:
            length = {1: 8, 5: 4}.get(kind) if kind != 2 else _varint(stream)
        if length is None or length > size - stream.tell():
            return False
        stream.seek(length, 1)
    return _TAG_GRAPH in tags and stream.tell() >= size


def _varint(stream: BinaryIO) -> int | None:
    """A protobuf varint (7 bits a byte), or None where it is unterminated."""
    found = 0
    for shift in range(0, 64, 7):
        byte = stream.read(1)
        if not byte:
            return None
        found |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return found
    return None


def _is_zip(stream: BinaryIO, size: int) -> bool:
    return stream.read(2) == b"PK"


def _is_graph(stream: BinaryIO, size: int) -> bool:
    return stream.read(64).lstrip().startswith(GRAPH_HEADER)


def _flatbuffer(identifier: bytes) -> Callable[[BinaryIO, int], bool]:
    """A check of a flatbuffer: root table's offset within the file, then the identifier or its prefix."""

    def begins(stream: BinaryIO, size: int) -> bool:
        head = stream.read(8)
        if len(head) < 8 or not head[4:].startswith(identifier):
            return False
        return struct.unpack_from("<I", head)[0] < size

    return begins


_FORMATS: dict[str, tuple[str, Callable[[BinaryIO, int], bool], str]] = {
    ".onnx": ("readable ONNX model", _is_protobuf, "export it again"),
    ".pt2": ("readable exported program", _is_zip, "save it with torch.export.save of torch 2.9 or newer"),
    ".mcc": ("mcc graph", _is_graph, "the first line must be 'mcc 1'"),
    ".tflite": ("TFLite file", _flatbuffer(b"TFL3"), "write it again"),
    ".ort": ("ORT file", _flatbuffer(b"ORTM"), "write it again"),
    ".pte": ("ExecuTorch program", _flatbuffer(b"ET"), "write it again"),
}
