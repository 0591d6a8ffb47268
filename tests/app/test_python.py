"""The Python file of an app: it prepares pictures and reads answers as mcc does."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from tests.app.models import DECODERS, HEIGHT, LABELS, WIDTH, Written, expected, picture, written


def loaded(made: Written) -> ModuleType:
    spec = importlib.util.spec_from_file_location("an_app", made.folder / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CASES = [
    (".tflite", {}, False), (".tflite", {"io": "int8"}, True), (".tflite", {}, True),
    (".onnx", {}, False), (".onnx", {}, True),
]  # fmt: skip


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("kind", ["classes", "map", "values"])
@pytest.mark.parametrize(("suffix", "options", "integer"), CASES)
def test_outputs_are_those_of_the_graph(
    tmp_path: Path, suffix: str, options: dict[str, str], integer: bool, kind: str, channels: int
) -> None:
    made = written(tmp_path, suffix, kind, integer=integer, channels=channels, **options)
    app, file = loaded(made), picture(tmp_path, seed=channels)
    wanted = expected(made, file)
    with Image.open(file) as opened:
        found = app.Model().run(app.prepare(opened))
        answer = app.Model().answer(opened)
        size = opened.size
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == other.shape
        step = float(np.diff(np.unique(other)).min()) if integer else 0.0  # a pixel may be rounded either way
        np.testing.assert_allclose(one, other, atol=2.01 * step if integer else 1e-5 * np.abs(other).max())
    if kind == "classes":
        scores = found[1][0]
        shares = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
        assert [name for name, _ in answer] == [LABELS[place] for place in np.argsort(-shares, kind="stable")]
        np.testing.assert_allclose([share for _, share in answer], np.sort(shares)[::-1], rtol=1e-4)
    elif kind == "map":
        assert answer.shape == size[::-1]
        middle = answer[
            size[1] // HEIGHT // 2 :: size[1] // HEIGHT, size[0] // WIDTH // 2 :: size[0] // WIDTH
        ]
        assert set(np.unique(middle)) <= set(range(len(LABELS)))
        exact = found[1][0].argmax(0).astype(np.uint8)
        np.testing.assert_array_equal(
            answer, np.asarray(Image.fromarray(exact).resize(size, Image.Resampling.NEAREST))
        )
    else:
        np.testing.assert_array_equal(answer, found[1])


@pytest.mark.parametrize("kind", DECODERS)
@pytest.mark.parametrize(("suffix", "integer"), [(".tflite", False), (".tflite", True), (".onnx", False)])
def test_boxes_are_those_of_the_decoder(tmp_path: Path, suffix: str, integer: bool, kind: str) -> None:
    made = written(tmp_path, suffix, kind, integer=integer)
    app, decoder = loaded(made), DECODERS[kind]
    with Image.open(picture(tmp_path, seed=2)) as opened:
        outputs = app.Model().run(app.prepare(opened))
        answer, (wide, high) = app.Model().answer(opened), opened.size
    (wanted,) = decoder.decode(outputs)
    assert 3 < len(wanted.scores) == len(answer)
    assert [label for label, _, _ in answer] == [made.facts.labels[place] for place in wanted.classes]
    np.testing.assert_allclose([score for _, score, _ in answer], wanted.scores, rtol=1e-6)
    scale = np.array([wide / WIDTH, high / HEIGHT] * 2)
    np.testing.assert_allclose([box for _, _, box in answer], wanted.boxes * scale, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("suffix", [".tflite", ".onnx", pytest.param(".pte", marks=pytest.mark.slow)])
def test_it_runs_as_a_program_on_any_picture(tmp_path: Path, suffix: str) -> None:
    made = written(tmp_path, suffix, "classes")
    files = [
        picture(tmp_path, seed=one, size=size) for one, size in ((1, (16, 12)), (2, (300, 20)), (5, (7, 90)))
    ]
    said = subprocess.run(
        [sys.executable, "model.py", *map(str, files)],
        cwd=made.folder,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert len(said) == len(files)
    for line, file in zip(said, files, strict=True):
        best = LABELS[int(expected(made, file)[1].argmax())]
        assert line.startswith(f"{file}  {best} ")


def test_the_notes_name_what_the_file_takes(tmp_path: Path) -> None:
    made = written(tmp_path, ".tflite", "classes", integer=True, io="int8")
    notes = (made.folder / "README.md").read_text()
    assert "int8 [1, 12, 16, 3], channels last" in notes
    assert "centre of the picture" in notes
    assert "no web page" in notes
    assert not (made.folder / "index.html").exists()


def test_pictures_of_16_bits_are_read_as_mcc_reads_them(tmp_path: Path) -> None:
    made = written(tmp_path, ".tflite", "classes", channels=1)
    values = np.random.default_rng(7).integers(0, 1 << 16, (HEIGHT, WIDTH), dtype=np.uint16)
    file = tmp_path / "deep.png"
    Image.fromarray(values).save(file)
    app = loaded(made)
    with Image.open(file) as opened:
        found = app.Model().run(app.prepare(opened))
    np.testing.assert_allclose(found[1], expected(made, file)[1], atol=1e-4)
