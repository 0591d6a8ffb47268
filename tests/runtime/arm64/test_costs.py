"""Model cycles through calibration and prediction: what a plan rests on."""

import json
from pathlib import Path

import pytest

from mcc.cli import main
from mcc.ir.storage import save_graph
from mcc.lower.tflite.writer import write_tflite
from mcc.runtime.litert_arm64_sim import LiteRtArm64Sim
from tests.runtime.arm64 import networks

TARGET = LiteRtArm64Sim()


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
    assert shown["predicted_model_cycles"] == pytest.approx(counts.model_cycles, rel=0.1)
    layers = {layer["node"]: layer["predicted_model_cycles"] for layer in shown["layers"]}
    assert sum(layers.values()) < shown["predicted_model_cycles"]
