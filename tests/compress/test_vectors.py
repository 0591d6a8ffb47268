"""Inputs that are not pictures go through a whole job with a user's data module."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import numpy as np
import pytest

from mcc.cli.main import run as command
from tests.compress import stand_ins, vectors

FILE = vectors.__file__
DATA = ["--data", f"{FILE}:data"]


@pytest.mark.slow
def test_a_network_of_vectors_is_compressed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_ins.install(monkeypatch)
    words = ["compress", f"{FILE}:network", *DATA, "--target", "litert-host", "--epochs", "0", "-q", "--json"]
    out = tmp_path / "out"
    assert command(
        [*words, "--speedup", "1.2x", "--strategies", "int8-ptq,uniform-width", "-o", str(out)]
    ) in (0, 1)
    report = json.loads((out / "report.json").read_text())
    found = {one["name"]: one for one in report["strategies"]}
    assert set(found) == {"original", "int8-ptq", "uniform-width"}
    assert found["original"]["validation_metric"]["value"] == 1
    assert found["int8-ptq"]["size_bytes"] < found["original"]["size_bytes"]
    assert {path.name for path in (out / "app").iterdir()} == {
        "model.tflite",
        "model.py",
        "Model.kt",
        "README.md",
    }
    app = runpy.run_path(str(out / "app" / "model.py"))
    data = vectors.data()
    model, right = app["Model"](), 0
    for batch in data.batches("test", 1):
        ((name, _), *_) = app["answer"](model.run(np.asarray(batch.inputs)))
        right += name == data.class_names[int(batch.targets[0])]
    assert right == len(data.test)


@pytest.mark.slow
def test_files_of_vectors_are_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "net.tflite"
    assert command(["lower", f"{FILE}:network", "--to", "tflite", "-o", str(file), "-q"]) == 0
    capsys.readouterr()
    assert command(["evaluate", str(file), *DATA, "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert entry["accuracy"] == 1
