"""One plan for several targets, from the command to the files: it keeps the budget on the worst of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mcc.cli import main
from mcc.report.schema import load_report
from tests.compress import stand_ins

SPEEDUP = 1.5
LEAST_US = 60.0  # a quarter of what the original takes: the second target gains less from a smaller file


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The words of a job for two targets, of which the second gains less from whatever is done."""
    other = stand_ins.OrtStandIn()
    other.least_us = LEAST_US
    stand_ins.install_all(monkeypatch, stand_ins.StandIn(), other)
    return [
        "compress", stand_ins.MODEL, "--data", "digits", "--target", "litert-host,ort-host", "--epochs", "0",
        "--strategies", "joint", "-o", str(tmp_path / "out"), "-q",
    ]  # fmt: skip


@pytest.mark.slow
def test_two_targets_get_one_plan_that_keeps_the_budget_on_both(job: list[str], tmp_path: Path) -> None:
    assert main.run([*job, "--speedup", f"{SPEEDUP}x"]) == 0
    shared = json.loads((tmp_path / "out" / "plan.json").read_text())
    speedups = {name: one["speedup"] for name, one in shared["measured"].items()}
    assert SPEEDUP <= speedups["ort-host"] < speedups["litert-host"]  # the worse one decided
    for name, suffix in (("litert-host", "tflite"), ("ort-host", "onnx")):
        folder = tmp_path / "out" / name
        report = load_report(folder / "report.json")
        assert report.met == {"speedup": True}
        assert report.chosen is not None
        assert report.chosen.name == "joint"
        assert json.loads((folder / "plan.json").read_text())["structure"] == shared["structure"]
        assert (folder / f"model.{suffix}").stat().st_size < (folder / f"baseline.{suffix}").stat().st_size


@pytest.mark.slow
def test_what_no_plan_keeps_on_both_is_said(
    job: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run([*job, "--speedup", "4x"]) == 1  # out of reach of the second target alone
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "no plan keeps the budgets on every target" in captured.err
    assert "us on ort-host" in captured.err
    for name, suffix in (("litert-host", "tflite"), ("ort-host", "onnx")):
        folder = tmp_path / "out" / name
        report = load_report(folder / "report.json")
        assert set(report.met) == {"speedup"}
        assert name in captured.out
        assert (folder / f"model.{suffix}").exists()
        assert (folder / "report.html").exists()
    assert not report.met["speedup"]  # of the target that is out of reach
    assert captured.out.count("Warning: No result keeps every budget.") >= 1
