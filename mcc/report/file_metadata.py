"""Reads preprocessing and class names from the metadata of files, by mcc and by others."""

from __future__ import annotations

import ast
import json
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from mcc.data.preprocessing import Preprocessing
from mcc.errors import DataError
from mcc.ir.first_look import check_model_file

SLOT_BYTES = 2  # of a vtable entry; the first two entries are sizes
NORMALISATION = 1  # `ProcessUnitOptions.NormalizationOptions` of TFLite's metadata schema

PROGRAM = b"ET"  # begins the file identifier of ExecuTorch's programs, whatever their version
MAX_EXTRA_BYTES = 1 << 20  # of a preprocessing, which takes some hundred bytes
PT2_EXTRA = "extra/preprocessing.json"
"""Entry of a .pt2: `torch.export.save(program, file, extra_files={"preprocessing.json": ...})`."""


@dataclass(frozen=True)
class Description:
    """Metadata of a file; None for anything that is missing or cannot be read.

    Attributes:
        preprocessing: Preprocessing of its images.
        labels: Class names, in the order of the output with their scores.
        output: Name or index of that output.
    """

    preprocessing: Preprocessing | None = None
    labels: tuple[str, ...] | None = None
    output: str | None = None


def describe(file: Path | str) -> Description:
    """Read the metadata of a .tflite, .onnx, .ort, .pte, .pt2 or .mcc file.

    Raises:
        DataError: The file itself cannot be read.
    """
    path = Path(file)
    reader = READERS.get(path.suffix)
    if reader is None:
        return Description()
    check_model_file(path)
    raw: dict[str, Any] = {}
    try:
        for part, read in reader(path).items():
            try:
                raw[part] = read()
            except _FOREIGN:
                continue
    except _FOREIGN:
        return Description()
    return Description(raw.get("preprocessing"), raw.get("labels"), raw.get("output"))


def stored_preprocessing(file: Path | str) -> Preprocessing | None:
    """The preprocessing that a file states, see `describe`; None if there is none that can be read."""
    return describe(file).preprocessing


Parts = dict[str, Callable[[], Any]]
"""A reader for each field of a `Description`, since each may be damaged or in another form."""

_FOREIGN = (ValueError, KeyError, IndexError, TypeError, AttributeError, struct.error)
"""Metadata of other tools, in their own form."""


def _normalisation(mean: Any, deviation: Any, more: Any = None) -> Preprocessing | None:
    """From numbers for pixels of 0 to 255; None if they are no normalisation."""
    try:
        found = Preprocessing.from_bytes(tuple(mean), tuple(deviation))
        more = more if isinstance(more, dict) else {}
        return replace(found, **{k: v for k, v in more.items() if k in ("crop", "channels")})
    except (DataError, TypeError):
        return None


def _labels(found: Any) -> tuple[str, ...] | None:
    return tuple(str(name) for name in found) or None


_LABEL_KEYS = ("labels", "names", "classes", "class_names")
"""Properties in which exporters store class names: mcc the first, Ultralytics `names`."""


def _names_in(text: str) -> tuple[str, ...] | None:
    """Class names from a list, or a mapping from indices to names, in JSON or Python syntax, or from lines.

    Raises:
        ValueError: The text is none of these.
    """
    try:
        found: Any = json.loads(text)
    except ValueError:
        try:
            found = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            found = [line.strip() for line in text.splitlines() if line.strip()]
    if isinstance(found, dict):
        by_place = {int(str(place)): name for place, name in cast(dict[Any, Any], found).items()}
        found = [by_place[place] for place in range(len(by_place))]
    if not isinstance(found, list | tuple):
        raise ValueError("no list of names")
    return _labels(found)


def _in_onnx(path: Path) -> Parts:
    import onnx

    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # the protocol-buffer library raises its own kinds
        raise DataError(f"cannot be read as ONNX: {type(error).__name__}", where=str(path)) from error
    return _from_texts({entry.key: entry.value for entry in model.metadata_props})


def _in_ort(path: Path) -> Parts:
    from mcc.lower.onnx.ort_reader import read_ort

    return _from_texts(read_ort(path).metadata)


def _from_texts(texts: Mapping[str, str]) -> Parts:
    """Metadata from the properties that mcc's ONNX writer stores, and that onnxruntime copies to .ort."""

    def preprocessing() -> Preprocessing | None:
        values = json.loads(texts["normalisation"])
        return _normalisation(values["mean"], values["deviation"], values)

    return {
        "preprocessing": preprocessing,
        "labels": lambda: _names_in(next((texts[key] for key in _LABEL_KEYS if key in texts), "")),
        "output": lambda: str(json.loads(texts["labelled_output"])),
    }


def _in_pte(path: Path) -> Parts:
    """Metadata from constant methods of the program; see `mcc.lower.pte.writer`."""
    from mcc.lower.pte.program import read_answers

    raw = path.read_bytes()
    if raw[4:6] != PROGRAM:
        raise DataError("is no ExecuTorch program", where=str(path))
    answers = read_answers(raw)

    def preprocessing() -> Preprocessing | None:
        mean, deviation = answers["normalisation_mean"], answers["normalisation_deviation"]
        more = json.loads(str(answers.get("preprocessing", "{}")))
        return None if isinstance(mean, str) else _normalisation(mean, deviation, more)

    return {
        "preprocessing": preprocessing,
        "labels": lambda: _labels(json.loads(str(answers["labels"]))),
        "output": lambda: str(int(float(answers["labelled_output"][0]))),
    }


def _in_tflite(path: Path) -> Parts:
    """Root 3: subgraphs; 2: inputs, 3: outputs; 4: process units (0: kind, 1: options of mean and deviation);
    6: associated files."""
    from mcc.lower.tflite.metadata import METADATA_NAME, MORE_NAME, read_labels
    from mcc.lower.tflite.reader import read_tflite

    metadata = read_tflite(path).metadata

    def subgraph() -> _Table:
        raw = metadata[METADATA_NAME]
        return _Table(raw, struct.unpack_from("<I", raw)[0]).tables(3)[0]

    def preprocessing() -> Preprocessing | None:
        more = json.loads(metadata[MORE_NAME]) if MORE_NAME in metadata else None
        for unit in subgraph().tables(2)[0].tables(4):
            options = unit.table(1)
            if unit.byte(0) == NORMALISATION and options is not None:
                return _normalisation(options.floats(0), options.floats(1), more)
        return None

    def output() -> str | None:
        outputs = subgraph().tables(3)
        labelled = [place for place, output in enumerate(outputs) if output.tables(6)]
        return str(labelled[0]) if len(outputs) > 1 and len(labelled) == 1 else None

    return {
        "preprocessing": preprocessing,
        "labels": lambda: _labels(read_labels(path.read_bytes())),
        "output": output,
    }


def _in_mcc(path: Path) -> Parts:
    from mcc.data.stated import preprocessing_from
    from mcc.ir.storage import said_with

    said = said_with(path)

    def preprocessing() -> Preprocessing | None:
        try:
            return preprocessing_from(said["preprocessing"])
        except DataError as error:
            raise DataError(error.message, where=str(path), hint=error.hint) from error

    return {
        "preprocessing": preprocessing,
        "labels": lambda: _labels(said["labels"]),
        "output": lambda: str(said["judged"]),
    }


def _in_pt2(path: Path) -> Parts:
    from mcc.data.stated import preprocessing_from

    if not zipfile.is_zipfile(path):
        raise DataError("is no .pt2 archive", where=str(path), hint="save it with torch.export.save")

    def preprocessing() -> Preprocessing | None:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(f"/{PT2_EXTRA}")]
            raw = _whole(archive, names[0]) if names else None
        try:
            return None if raw is None else preprocessing_from(json.loads(raw))
        except (DataError, ValueError) as error:
            reason = error.message if isinstance(error, DataError) else "is no JSON"
            raise DataError(f"{PT2_EXTRA}: {reason}", where=str(path)) from error

    return {"preprocessing": preprocessing}


def _whole(archive: zipfile.ZipFile, name: str) -> bytes:
    """The content of an entry, after checking its unpacked size."""
    if archive.getinfo(name).file_size > MAX_EXTRA_BYTES:
        raise ValueError("too large")
    return archive.read(name)


READERS: dict[str, Callable[[Path], Parts]] = {
    ".tflite": _in_tflite,
    ".onnx": _in_onnx,
    ".ort": _in_ort,
    ".pte": _in_pte,
    ".mcc": _in_mcc,
    ".pt2": _in_pt2,
}


class _Table:
    """A flatbuffer table, read without generated code; struct.error if an offset is outside the buffer."""

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
        """A one-byte number; 0 if absent."""
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
        """A vector of tables; empty if absent."""
        start, count = self._vector(slot)
        places = range(start, min(start + 4 * count, len(self.raw)), 4)
        return [_Table(self.raw, place + self._read("<I", place)) for place in places]

    def floats(self, slot: int) -> tuple[float, ...]:
        """A vector of float32."""
        start, count = self._vector(slot)
        return struct.unpack_from(f"<{min(count, len(self.raw))}f", self.raw, start)
