"""Every command on targets whose runners are slow to start: ExecuTorch, imitated cores, stand-in phones.

All is real but the number of measurements: a run on a stand-in phone takes up to a second, and nobody reads
its times. `test_real_targets.py` has the other targets.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

import mcc.compress.bench
import mcc.compress.session
from mcc.calibrate import kernel_selection
from mcc.cli import main
from mcc.report.schema import Report, load_report
from mcc.runtime import get_target, timing
from mcc.runtime.android import runner as phone_runner
from mcc.runtime.android.phone import phone
from tests.compress import stand_ins
from tests.runtime.stand_in import AdbServer
from tests.runtime.stand_in.fixtures import adb_port, one_phone

__all__ = ["adb_port", "one_phone"]

pytestmark = pytest.mark.slow
FEW = kernel_selection.Choices(ratios=(1.0,), mixed=0, precisions=("float",), sparsities=())
TWO = "int8-ptq,joint"  # strategies, where each file costs seconds
TIGHT, LOOSE = "12kB", "25kB"  # of 16 kB: the first wants channels removed, the second nothing


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch, cache_dir: Path, disturbed_rows_count: None) -> None:
    """One round of each measurement, and of kernels those of the network as it is."""
    monkeypatch.setattr(kernel_selection, "choices_for", lambda target, seed=0: FEW)
    for module, name, value in (
        (timing, "MIN_ROUNDS", 1), (timing, "WARM_LIMIT_S", 0.0), (mcc.compress.bench, "AGAIN", 0),
        (mcc.compress.bench, "FINAL_SECONDS", 0.0), (mcc.compress.bench, "TRIAL_SECONDS", 0.0),
        (phone_runner, "BUSY_S", 1), (phone_runner, "REST_S", 1),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)


@pytest.fixture
def supposed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans from supposed costs of kernels, where measuring them takes minutes."""
    monkeypatch.setattr(mcc.compress.session, "Costs", stand_ins.Costs)


class Commands:
    """Runs `mcc` as the command line does, for one target."""

    def __init__(self, target: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.target, self.folder, self.capsys = target, folder, capsys
        self.suffix = get_target(target).suffixes[0]

    def __call__(self, *words: str, status: int = 0) -> Any:
        """What a command prints with --json."""
        self.capsys.readouterr()
        assert main.run([*words, "--target", self.target, "--json", "-q"]) == status
        return json.loads(self.capsys.readouterr().out)

    def compress(self, size: str, latency: str, strategies: str = "") -> Report:
        """The main job, and its report; both files are there, and budgets are kept."""
        job = [stand_ins.MODEL, "--data", "digits", "--epochs", "0", "--size", size, "--latency", latency]
        job += ["--strategies", strategies] if strategies else []
        said = self("compress", *job, "-o", str(self.folder))
        report = load_report(self.folder / "report.json")
        assert said == report.to_dict()
        assert all(report.met.values())
        assert len(report.met) == 2
        assert report.checks
        for result, name in ((report.baseline, "baseline"), (report.compressed, "model")):
            assert result.size_bytes == self.file(name).stat().st_size
            assert result.accuracy is not None
            assert result.peak_memory_bytes
        return report

    def file(self, name: str) -> Path:
        """A lowered file of the job."""
        return self.folder / f"{name}{self.suffix}"

    def examine(self, report: Report) -> list[dict[str, Any]]:
        """Verify and evaluate the compressed file on the target, and measure it beside the baseline."""
        model = str(self.file("model"))
        assert self("verify", str(self.folder / "after.mcc"), model, "--count", "4")["passed"]
        wrong = self("verify", stand_ins.MODEL, model, "--count", "4", "--tolerance", "0", status=1)
        assert not wrong["passed"]
        (found,) = self("evaluate", model, "--data", "digits")
        assert found["accuracy"] == pytest.approx(report.compressed.accuracy)
        measured = self("bench", str(self.file("baseline")), model, "--budget", "1s")
        assert [Path(one["file"]).stem for one in measured] == ["baseline", "model"]
        assert all(one["target"] == self.target and one["ops"] for one in measured)
        return measured

    def foresee(self) -> None:
        """Measure kernels, predict the network's layers from them, and plan with that table."""
        first = self("calibrate", "--model", stand_ins.MODEL)
        assert first["measured"] > 0
        assert first["left"] == 0
        assert first["failed"] == []
        assert self("calibrate", "--model", stand_ins.MODEL)["measured"] == 0
        shown = self("inspect", stand_ins.MODEL)
        assert {layer["source"] for layer in shown["layers"] if "source" in layer} == {"measured"}
        total = f"predicted_{get_target(self.target).unit.key}"
        assert shown[total] > 0
        job = (stand_ins.MODEL, "--data", "digits", "--size", TIGHT)
        self.folder.mkdir(exist_ok=True)
        planned = self("plan", *job, "-o", str(self.folder / "only-plan.json"))
        decided = planned["structure"]
        assert decided["widths"] or decided["ranks"] or decided["precision"] != "float"
        assert (self.folder / "only-plan.json").exists()


@pytest.fixture
def litert_phone(one_phone: AdbServer) -> Generator[str]:
    yield f"litert-android:{one_phone.serial}"
    phone(one_phone.serial).leave()
    assert list(one_phone.phone.temporary.iterdir()) == []  # everything was removed again


def test_executorch(supposed: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mcc = Commands("executorch-host", tmp_path / "out", capsys)
    report = mcc.compress(LOOSE, "1s", TWO)
    assert report.target.runtime == "executorch"
    for one in mcc.examine(report):
        assert one["latency_us"]["runs"] > 0


def test_executorch_plans(supposed: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Commands("executorch-host", tmp_path, capsys).foresee()


def test_an_imitated_core(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mcc = Commands("litert-arm64-sim:a53", tmp_path / "out", capsys)
    report = mcc.compress(TIGHT, "1000Mcycles")
    assert report.compressed.latency_us is None
    assert report.simulated
    baseline, model = mcc.examine(report)
    assert baseline["instructions"] > model["instructions"]
    assert model["model_cycles"] == pytest.approx(report.compressed.model_cycles)


def test_an_imitated_core_plans(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Commands("litert-arm64-sim:a53", tmp_path, capsys).foresee()


def test_a_phone(
    supposed: None, litert_phone: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mcc = Commands(litert_phone, tmp_path / "out", capsys)
    report = mcc.compress(LOOSE, "10s", TWO)
    assert "emulated" in report.target.device
    for one in mcc.examine(report):
        assert one["conditions"]["emulated"]
        assert one["conditions"]["phone"]["before"]["thermal_status"] == 0


def test_a_phone_plans(
    supposed: None, litert_phone: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Commands(litert_phone, tmp_path, capsys).foresee()


def test_onnxruntime_on_a_phone(
    supposed: None, one_phone: AdbServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mcc = Commands(f"ort-android:{one_phone.serial}", tmp_path / "out", capsys)
    report = mcc.compress(LOOSE, "10s", TWO)
    assert report.target.runtime == "onnxruntime"
    assert mcc("verify", str(mcc.folder / "after.mcc"), str(mcc.file("model")), "--count", "2")["passed"]
