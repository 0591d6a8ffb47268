"""Pictures without labels: a network is judged by agreement with the original, and the report calls it so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import mcc
from mcc.data import DataModule, load_data
from mcc.data.agreement import Agreement, labelled_by
from mcc.data.outputs import Output
from mcc.errors import DataError, UsageError
from tests.compress import stand_ins
from tests.data.samples import write_folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    write_folder(tmp_path / "pictures", {"x": 60}, size=(32, 32))
    for file in sorted((tmp_path / "pictures").rglob("*.png")):
        file.rename(tmp_path / "pictures" / f"{file.parent.name}{file.name}")
    return tmp_path / "pictures"


@pytest.mark.slow
def test_a_job_without_labels_reports_agreement(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_ins.install(monkeypatch)
    report = mcc.compress(
        stand_ins.MODEL, f"imagefolder:{pictures}", "litert-host", out=tmp_path / "out", speedup="1.1x",
        epochs=0, strategies=["uniform-width"],
    )  # fmt: skip
    assert report.kind.name == "agreement with the original"
    original, narrow = report.strategies[0], report.strategies[-1]
    assert original.validation is not None
    assert narrow.validation is not None
    assert original.validation.value == 1
    assert narrow.validation.value < 1
    assert any("It is no accuracy" in sentence for sentence in report.warnings)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "agreement with the original" in page
    assert "accuracy reference" not in page
    text = (tmp_path / "out" / "report.json").read_text()
    assert '"accuracy":' not in text


def answers(images: np.ndarray) -> list[np.ndarray]:
    """The channel with the largest sum."""
    return [np.zeros((len(images), 4), np.float32), images.sum((2, 3))]


OUTPUTS = (Output("boxes", (1, 4, 5)), Output("scores", (1, 3)))


def unlabelled(pictures: Path) -> DataModule:
    return load_data(f"imagefolder:{pictures}")


def test_the_classes_of_the_original_are_the_labels(pictures: Path) -> None:
    data = labelled_by(unlabelled(pictures), answers, OUTPUTS)
    assert data.class_names == ("class 0", "class 1", "class 2")
    assert isinstance(data.task, Agreement)
    for part in (data.train, data.calibration, data.validation, data.test):
        wanted = part.inputs(np.arange(len(part))).sum((2, 3)).argmax(1)
        assert np.array_equal(part.targets, wanted)
    with pytest.raises(UsageError, match="no output"):
        labelled_by(unlabelled(pictures), answers, OUTPUTS, "none")
    with pytest.raises(DataError, match="no output of the network holds scores of classes"):
        labelled_by(unlabelled(pictures), answers, OUTPUTS[:1])
