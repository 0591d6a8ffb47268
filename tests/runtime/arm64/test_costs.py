"""Model cycles through calibration and prediction: the target's own unit, and what a plan rests on."""

import json
from pathlib import Path

import pytest

from mcc.cli import main
from mcc.compress.job import check_unit
from mcc.errors import UsageError
from mcc.ir.storage import save_graph
from mcc.lower.tflite.writer import write_tflite
from mcc.report.schema import Budget
from mcc.runtime import get_target
from mcc.runtime.litert_arm64_sim import LiteRtArm64Sim
from tests.runtime.arm64 import networks

TARGET = LiteRtArm64Sim()


def test_a_budget_in_another_unit_is_refused() -> None:
    with pytest.raises(UsageError, match=r"litert-arm64-sim has model cycles and no time; .*20Mcycles"):
        check_unit(Budget(latency_us=8000.0), TARGET)
    with pytest.raises(UsageError, match=r"litert-host has time and no model cycles; .*8ms"):
        check_unit(Budget(model_cycles=8e6), get_target("litert-host"))
    for budget in (Budget(model_cycles=8e6), Budget(speedup=2.0), Budget()):
        check_unit(budget, TARGET)


def test_mcc_compress_refuses_milliseconds(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["mcc.examples.digits:network", "--data", "digits", "--target", "litert-arm64-sim"]
    assert main.run(["compress", *words, "--latency", "8ms", "-o", str(tmp_path / "out")]) == 2
    assert "litert-arm64-sim has model cycles and no time" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("cache_dir")
def test_what_was_calibrated_predicts_the_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Kernels in their branches, and sparse ones by difference, add up to the whole."""
    graph, target = networks.eligible(), "litert-arm64-sim"
    save_graph(graph, tmp_path / "net.mcc")
    spec = str(tmp_path / "net.mcc")
    assert main.run(["calibrate", "--target", target, "--model", spec, "--budget", "10min", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["failed"] == []
    assert main.run(["inspect", spec, "--target", target, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert "predicted_latency_us" not in json.dumps(shown)
    (counts,) = TARGET.counts([write_tflite(graph, tmp_path / "net.tflite")])
    assert shown["predicted_model_cycles"] == pytest.approx(counts.model_cycles, rel=0.15)
    layers = {layer["node"]: layer["predicted_model_cycles"] for layer in shown["layers"]}
    assert sum(layers.values()) < shown["predicted_model_cycles"]
