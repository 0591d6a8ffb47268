"""What files say about their images is read back, and what is not there is not made up."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from mcc.data.preprocessing import Preprocessing
from mcc.errors import DataError
from mcc.ir.graph import Graph
from mcc.lower.onnx.ort_format import to_ort
from mcc.lower.onnx.writer import to_onnx
from mcc.lower.tflite.metadata import Normalisation
from mcc.lower.tflite.reader import read_tflite
from mcc.lower.tflite.writer import to_tflite
from mcc.report.file_metadata import describe, stored_preprocessing
from tests.report.networks import classifier

PIXELS = Normalisation((125.3, 123.0, 113.9), (63.0, 62.1, 66.7))


def write_ort(graph: Graph, **options: Any) -> bytes:
    return to_ort(to_onnx(graph, **options))


@pytest.mark.parametrize(("kind", "write"), [("tflite", to_tflite), ("onnx", to_onnx), ("ort", write_ort)])
def test_read_back(tmp_path: Path, kind: str, write: Callable[..., bytes]) -> None:
    path = tmp_path / f"net.{kind}"
    path.write_bytes(write(classifier(), normalisation=PIXELS, labels=[str(i) for i in range(10)]))
    found = stored_preprocessing(path)
    wanted = Preprocessing.from_bytes(PIXELS.mean, PIXELS.deviation)
    assert found is not None
    assert found.mean == pytest.approx(wanted.mean, rel=1e-6)
    assert found.std == pytest.approx(wanted.std, rel=1e-6)
    assert found.size is None
    path.write_bytes(write(classifier(), labels=[str(i) for i in range(10)]))
    assert stored_preprocessing(path) is None
    path.write_bytes(write(classifier()))
    assert stored_preprocessing(path) is None


CLASS_NAMES: dict[str, tuple[str, str, tuple[str, ...] | None]] = {
    "a JSON list": ("labels", '["cat", "dog"]', ("cat", "dog")),
    "lines": ("labels", "cat\ndog\n", ("cat", "dog")),
    "places and names, as Ultralytics writes them": ("names", "{1: 'dog', 0: 'cat'}", ("cat", "dog")),
    "a JSON mapping": ("classes", '{"0": "cat", "1": "dog"}', ("cat", "dog")),
    "places with a gap": ("names", "{0: 'cat', 2: 'dog'}", None),
    "nothing": ("labels", "", None),
    "code": ("names", "__import__('os').getcwd()", ("__import__('os').getcwd()",)),
    "a number": ("labels", "7", None),
}


@pytest.mark.parametrize("form", CLASS_NAMES)
def test_class_names_of_other_exporters(form: str, tmp_path: Path) -> None:
    key, text, wanted = CLASS_NAMES[form]
    model = onnx.load_from_string(to_onnx(classifier()))
    onnx.helper.set_model_props(model, {key: text})
    onnx.save(model, tmp_path / "net.onnx")
    assert describe(tmp_path / "net.onnx").labels == wanted


def test_damaged_metadata_is_no_crash(tmp_path: Path) -> None:
    path = tmp_path / "net.tflite"
    raw = to_tflite(classifier(), normalisation=PIXELS)
    entry = read_tflite(raw).metadata["TFLITE_METADATA"]
    begin = raw.index(entry)
    for place in range(len(entry)):
        path.write_bytes(raw[: begin + place] + b"\xff" + raw[begin + place + 1 :])
        found = stored_preprocessing(path)
        assert found is None or isinstance(found, Preprocessing)


def test_files_that_are_none(tmp_path: Path) -> None:
    for name in ("a.tflite", "a.onnx", "a.pte"):
        (tmp_path / name).write_bytes(b"nonsense")
        with pytest.raises(DataError):
            stored_preprocessing(tmp_path / name)
    assert stored_preprocessing(tmp_path / "a.txt") is None  # a kind that states nothing
