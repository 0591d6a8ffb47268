"""Read the input and class metadata of a .tflite file with MediaPipe's own code for the format.

    pip install --no-deps mediapipe        40 MB, of which one generated file is used
    python -m tools.checks.metadata_oracle model.tflite

Prints mean, deviation, colours, labels and signature as read by MediaPipe, zipfile and LiteRT. Exit status 1
if mcc's own reader gives other results for the file.
"""

from __future__ import annotations

import sys
import zipfile
from importlib import util
from pathlib import Path
from typing import Any

from ai_edge_litert.interpreter import Interpreter

from mcc.lower.tflite.metadata import METADATA_NAME, read_labels
from mcc.lower.tflite.reader import read_tflite
from mcc.report.file_metadata import stored_preprocessing

GENERATED = "tasks/metadata/metadata_schema_py_generated.py"
COLOURS = {1: "RGB", 2: "grey"}


def generated() -> Any:
    """MediaPipe's code for the metadata schema, without the rest of the package."""
    package = util.find_spec("mediapipe")
    if package is None or not package.submodule_search_locations:
        raise SystemExit("needs MediaPipe: pip install --no-deps mediapipe")
    path = Path(package.submodule_search_locations[0]) / GENERATED
    found = util.spec_from_file_location("metadata_schema", path)
    assert found is not None
    assert found.loader is not None
    module = util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def read(schema: Any, file: Path) -> dict[str, Any]:
    """The metadata found by MediaPipe's code."""
    raw = read_tflite(file).metadata[METADATA_NAME]
    assert schema.ModelMetadata.ModelMetadataBufferHasIdentifier(raw, 0)
    model = schema.ModelMetadataT.InitFromObj(schema.ModelMetadata.GetRootAs(raw, 0))
    image, scores = (
        model.subgraphMetadata[0].inputTensorMetadata[0],
        model.subgraphMetadata[0].outputTensorMetadata[0],
    )
    found: dict[str, Any] = {"input": image.name.decode(), "output": scores.name.decode()}
    for unit in image.processUnits or ():
        assert isinstance(unit.options, schema.NormalizationOptionsT)
        found["mean"], found["deviation"] = (
            list(map(float, unit.options.mean)),
            list(map(float, unit.options.std)),
        )
    if image.content is not None:
        assert isinstance(image.content.contentProperties, schema.ImagePropertiesT)
        found["colours"] = COLOURS[image.content.contentProperties.colorSpace]
    for associated in scores.associatedFiles or ():
        assert associated.type == schema.AssociatedFileType.TENSOR_AXIS_LABELS
        with zipfile.ZipFile(file) as archive:
            found["labels"] = archive.read(associated.name.decode()).decode().splitlines()
    return found


def main() -> int:
    """Print both results for a file, and whether they agree."""
    file = Path(sys.argv[1])
    theirs, stated = read(generated(), file), stored_preprocessing(file)
    for key, value in theirs.items():
        print(f"{key:10} {value}")
    signature = Interpreter(model_path=str(file)).get_signature_list()
    print(f"{'signature':10} {signature}")
    ours = [] if stated is None else [[255 * v for v in stated.mean], [255 * v for v in stated.std]]
    numbers = [theirs[key] for key in ("mean", "deviation") if key in theirs]
    near = len(ours) == len(numbers) and all(
        abs(a - b) < 1e-3
        for mine, their in zip(ours, numbers, strict=True)
        for a, b in zip(mine, their, strict=True)
    )
    (names,) = signature.values()
    same = (
        near
        and theirs.get("labels", []) == read_labels(file.read_bytes())
        and theirs["input"] in names["inputs"]
    )
    print("agrees with mcc's reader" if same else "DIFFERS from mcc's reader")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
