"""TFLite Metadata for apps: pixel normalisation and class labels.

The format is that of `metadata_schema.fbs` (tensorflow/tflite-support), which Android Studio, ML Kit and
MediaPipe read: a flatbuffer with the identifier M001 under the name TFLITE_METADATA, and the labels in a
`labels.txt` inside a zip archive appended to the model. Written with the plain flatbuffers builder, since the
generated code for that schema is in no maintained package.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import flatbuffers
from flatbuffers.number_types import UOffsetTFlags

from mcc.errors import UsageError

METADATA_NAME = "TFLITE_METADATA"
MORE_NAME = "MCC_PREPROCESSING"
"""Name of a second entry, in JSON, for properties outside the schema of the first."""
LABELS_FILE = "labels.txt"
IDENTIFIER = b"M001"
PARSER_VERSION = "1.0.0"
MAX_LABELS_BYTES = 16 << 20  # unpacked: a few kB can expand to a gigabyte
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # the format's earliest date: equal input gives equal bytes

# Constants of the schema: union members and enum values.
_CONTENT_FEATURE, _CONTENT_IMAGE = 1, 2
_COLOUR_UNKNOWN, _COLOR_RGB, _COLOR_GREY = 0, 1, 2
_PROCESS_NORMALISATION = 1
_FILE_AXIS_LABELS = 2


@dataclass(frozen=True)
class Normalisation:
    """Normalisation of pixels: (pixel - mean) / deviation, per channel, for pixels of 0 to 255.

    Attributes:
        crop, channels: As in `mcc.data.Preprocessing`; no format has fields for them.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    crop: float = 1.0
    channels: str = "rgb"

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.deviation) or not self.mean:
            raise UsageError(
                f"a normalisation has as many means as deviations, not {len(self.mean)} and "
                f"{len(self.deviation)}"
            )
        if any(value <= 0 for value in self.deviation):
            raise UsageError("a deviation of the normalisation is not positive")

    @property
    def more(self) -> dict[str, Any]:
        """Non-default properties other than mean and deviation, as JSON values; usually empty."""
        usual = Normalisation((0.0,), (1.0,))
        return {k: getattr(self, k) for k in ("crop", "channels") if getattr(self, k) != getattr(usual, k)}


class _Tables:
    """Writer of flatbuffer tables field by field, without generated code."""

    def __init__(self) -> None:
        self.builder = flatbuffers.Builder(1024)

    def text(self, value: str) -> int:
        return int(self.builder.CreateString(value))

    def floats(self, values: Sequence[float]) -> int:
        self.builder.StartVector(4, len(values), 4)
        for value in reversed(values):
            self.builder.PrependFloat32(value)
        return int(self.builder.EndVector())

    def offsets(self, values: Sequence[int]) -> int:
        self.builder.StartVector(4, len(values), 4)
        for value in reversed(values):
            self.builder.PrependUOffsetTRelative(value)
        return int(self.builder.EndVector())

    def table(self, offsets: dict[int, int], numbers: dict[int, int] | None = None) -> int:
        """A table from offset fields and byte-wide number fields, by slot."""
        numbers = numbers or {}
        self.builder.StartObject(max([-1, *offsets, *numbers]) + 1)
        for slot, offset in offsets.items():
            self.builder.PrependUOffsetTRelativeSlot(slot, UOffsetTFlags.py_type(offset), 0)
        for slot, number in numbers.items():
            self.builder.PrependUint8Slot(slot, number, 0)
        return int(self.builder.EndObject())


def model_metadata(
    name: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    labels: Sequence[str] | None,
    normalisation: Normalisation | None,
    judged: int = 0,
) -> bytes:
    """The metadata flatbuffer: the first input is an image, the output `judged` has a score per label."""
    t = _Tables()
    input_tables = [
        _input(t, text, normalisation if index == 0 else None) for index, text in enumerate(inputs)
    ]
    output_tables = [
        _output(t, text, index == judged and labels is not None) for index, text in enumerate(outputs)
    ]
    in_vector, out_vector = t.offsets(input_tables), t.offsets(output_tables)
    subgraph = t.offsets([t.table({2: in_vector, 3: out_vector})])
    root = t.table({0: t.text(name), 3: subgraph, 7: t.text(PARSER_VERSION)})
    t.builder.Finish(root, file_identifier=IDENTIFIER)
    return bytes(t.builder.Output())


def _input(t: _Tables, name: str, normalisation: Normalisation | None) -> int:
    """TensorMetadata: name 0, content 3, process units 4."""
    fields = {0: t.text(name)}
    if normalisation is not None:
        known = {1: _COLOR_GREY, 3: _COLOR_RGB if normalisation.channels == "rgb" else _COLOUR_UNKNOWN}
        colour = known.get(len(normalisation.mean), _COLOUR_UNKNOWN)
        image = t.table({}, {0: colour})
        fields[3] = t.table({1: image}, {0: _CONTENT_IMAGE})
        mean, deviation = t.floats(normalisation.mean), t.floats(normalisation.deviation)
        options = t.table({0: mean, 1: deviation})
        fields[4] = t.offsets([t.table({1: options}, {0: _PROCESS_NORMALISATION})])
    return t.table(fields)


def _output(t: _Tables, name: str, labelled: bool) -> int:
    """TensorMetadata: name 0, content 3, associated files 6."""
    fields = {0: t.text(name), 3: t.table({1: t.table({})}, {0: _CONTENT_FEATURE})}
    if labelled:
        file = t.table({0: t.text(LABELS_FILE)}, {2: _FILE_AXIS_LABELS})
        fields[6] = t.offsets([file])
    return t.table(fields)


def append_labels(model: bytes, labels: Sequence[str]) -> bytes:
    """Append a zip archive with `labels.txt` to the model, where readers of the metadata expect it.

    Raises UsageError for a label with a line break.
    """
    if any("\n" in label or "\r" in label for label in labels):
        raise UsageError("a class label contains a line break", hint="rename the class")
    buffer = io.BytesIO()
    buffer.write(model)
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_STORED) as archive:
        entry = zipfile.ZipInfo(LABELS_FILE, _ZIP_TIME)
        archive.writestr(entry, "".join(f"{label}\n" for label in labels).encode())
    return buffer.getvalue()


def read_labels(model: bytes) -> list[str]:
    """The class labels appended to a model: `labels.txt`, or the only text file; empty if there is none."""
    try:
        with zipfile.ZipFile(io.BytesIO(model)) as archive:
            texts = [name for name in archive.namelist() if name.endswith(".txt")]
            if LABELS_FILE not in texts and len(texts) != 1:
                return []
            name = LABELS_FILE if LABELS_FILE in texts else texts[0]
            if archive.getinfo(name).file_size > MAX_LABELS_BYTES:
                return []
            return archive.read(name).decode().splitlines()
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError):
        return []
    except (
        RuntimeError
    ):  # a foreign file's archive is encrypted, or compressed in a way zipfile does not know
        return []
