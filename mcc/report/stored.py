"""What a lowered file says about its images: the normalisation that mcc and others store in it."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mcc.data.preprocessing import Preprocessing
from mcc.errors import DataError

Stated = tuple[Sequence[float], Sequence[float]] | None
SLOT_BYTES = 2  # of a vtable entry; the first two hold sizes
NORMALISATION = 1  # `ProcessUnitOptions.NormalizationOptions` of TFLite's metadata schema

PROGRAM = b"ET"  # begins the file identifier of ExecuTorch's programs, whatever their version


def stored_preprocessing(file: Path | str) -> Preprocessing | None:
    """The normalisation that a .tflite, .onnx, .ort or .pte file states; None where none can be read.

    Raises:
        DataError: the file itself cannot be read.
    """
    path = Path(file)
    try:
        stated = READERS.get(path.suffix, _nothing)(path)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, struct.error):
        return None  # metadata of somebody else's, in a form of their own
    try:
        return None if stated is None else Preprocessing.from_bytes(*stated)
    except (DataError, TypeError):
        return None  # no normalisation that could be meant


def _in_onnx(path: Path) -> Stated:
    import onnx

    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # the protocol-buffer library raises its own kinds
        raise DataError(f"cannot be read as ONNX: {type(error).__name__}", where=str(path)) from error
    return _from_text({entry.key: entry.value for entry in model.metadata_props}.get("normalisation"))


def _in_pte(path: Path) -> Stated:
    """Constant methods of the program; see `mcc.lower.pte.writer`."""
    from mcc.lower.pte.program import read_answers

    raw = path.read_bytes()
    if raw[4:6] != PROGRAM:
        raise DataError("is no ExecuTorch program", where=str(path))
    answers = read_answers(raw)
    mean, deviation = answers["normalisation_mean"], answers["normalisation_deviation"]
    return None if isinstance(mean, str) or isinstance(deviation, str) else (mean, deviation)


def _nothing(path: Path) -> Stated:
    return None


def _in_tflite(path: Path) -> Stated:
    """Root 3: subgraphs; 2: inputs; 4: process units; 0: their kind, 1: options; 0: mean, 1: deviation."""
    from mcc.lower.tflite.metadata import METADATA_NAME
    from mcc.lower.tflite.reader import read_tflite

    raw = read_tflite(path).metadata.get(METADATA_NAME)
    if raw is None:
        return None
    root = _Table(raw, struct.unpack_from("<I", raw)[0])
    for unit in root.tables(3)[0].tables(2)[0].tables(4):
        options = unit.table(1)
        if unit.byte(0) == NORMALISATION and options is not None:
            return options.floats(0), options.floats(1)
    return None


def _in_ort(path: Path) -> Stated:
    from mcc.lower.onnx.ort_reader import read_ort

    return _from_text(read_ort(path).metadata.get("normalisation"))


def _from_text(stated: str | None) -> Stated:
    """What mcc's ONNX writer puts into the model's properties, which onnxruntime carries over."""
    if stated is None:
        return None
    values = json.loads(stated)
    return values["mean"], values["deviation"]


READERS = {".tflite": _in_tflite, ".onnx": _in_onnx, ".ort": _in_ort, ".pte": _in_pte}


class _Table:
    """A flatbuffer table, read without generated code; struct.error where an offset leaves the buffer."""

    def __init__(self, raw: bytes, at: int) -> None:
        self.raw, self.at = raw, at
        self.slots = at - self._read("<i", at)

    def _read(self, kind: str, at: int) -> Any:
        return struct.unpack_from(kind, self.raw, at)[0]

    def _field(self, slot: int) -> int | None:
        place = 2 * SLOT_BYTES + SLOT_BYTES * slot
        if place >= self._read("<H", self.slots):
            return None
        offset = self._read("<H", self.slots + place)
        return self.at + offset if offset else None

    def byte(self, slot: int) -> int:
        """A one-byte number; 0 where it is left out."""
        at = self._field(slot)
        return 0 if at is None else int(self._read("<B", at))

    def table(self, slot: int) -> _Table | None:
        """A table that the field points to."""
        at = self._field(slot)
        return None if at is None else _Table(self.raw, at + self._read("<I", at))

    def _vector(self, slot: int) -> tuple[int, int]:
        at = self._field(slot)
        if at is None:
            return 0, 0
        start = at + self._read("<I", at)
        return start + 4, self._read("<I", start)

    def tables(self, slot: int) -> list[_Table]:
        """A vector of tables; empty where it is left out."""
        start, count = self._vector(slot)
        places = range(start, min(start + 4 * count, len(self.raw)), 4)
        return [_Table(self.raw, place + self._read("<I", place)) for place in places]

    def floats(self, slot: int) -> tuple[float, ...]:
        """A vector of float32."""
        start, count = self._vector(slot)
        return struct.unpack_from(f"<{min(count, len(self.raw))}f", self.raw, start)
