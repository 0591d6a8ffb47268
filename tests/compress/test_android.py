"""The main job on a stand-in phone, through the command line: every file runs as ARM64 program behind adb."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import mcc.compress.bench
import mcc.compress.driver
from mcc.cli import main
from mcc.report.schema import load_report
from mcc.runtime import process, timing
from tests.compress import stand_ins
from tests.runtime.stand_in import AdbServer
from tests.runtime.stand_in.fixtures import adb_port, one_phone

__all__ = ["adb_port", "one_phone"]


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """As few runs as there can be: each takes half a second, and nobody reads the times."""
    monkeypatch.setattr(mcc.compress.driver, "Costs", stand_ins.Costs)  # a kit's test calibrates on a phone
    for module, name, value in (
        (timing, "MIN_ROUNDS", 2), (timing, "WARM_LIMIT_S", 0.0), (process, "MEMORY_RUNNERS", 1),
        (mcc.compress.driver, "FINAL_SECONDS", 0.0), (mcc.compress.bench, "TRIAL_SECONDS", 0.0),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)


@pytest.mark.slow
def test_the_main_job_on_a_phone(
    one_phone: AdbServer, hurried: None, cache_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = f"litert-android:{one_phone.serial}"
    words = [stand_ins.MODEL, "--data", "digits", "--target", target, "--epochs", "0", "-q", "--json"]
    folder = tmp_path / "out"
    assert main.run(["compress", *words, "--size", "12000B", "--latency", "10s", "-o", str(folder)]) == 0
    assert json.loads(capsys.readouterr().out)["target"]["name"] == "litert-android"
    report = load_report(folder / "report.json")
    assert report.met == {"latency_us": True, "size_bytes": True}
    assert "emulated" in report.target.device
    for result in (report.baseline, report.compressed):
        assert result.latency_us is not None
        assert result.accuracy is not None
        assert result.peak_memory_bytes
    model = str(folder / "model.tflite")
    assert main.run(["verify", str(folder / "after.mcc"), model, "--target", target, "--count", "4"]) == 0
    assert main.run(["evaluate", model, "--data", "digits", "--target", target, "--json"]) == 0
