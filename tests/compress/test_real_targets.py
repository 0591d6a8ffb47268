"""The main job in real runtimes, measured for real, through the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import mcc.compress.bench
from mcc.cli import main
from mcc.report.schema import load_report
from mcc.runtime import get_target
from tests.compress import stand_ins

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short measurements: the tests ask for budgets far from what must be told apart."""
    monkeypatch.setattr(mcc.compress.bench, "FINAL_SECONDS", 0.3)
    monkeypatch.setattr(mcc.compress.bench, "TRIAL_SECONDS", 0.3)


@pytest.mark.parametrize("name", ["litert-host", "ort-host", "litert-web:node"])
def test_a_size_and_a_modest_latency_are_kept_in_the_runtime(
    name: str, hurried: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = get_target(name)
    state = target.available()
    assert state.ok, f"{state.reason}; {state.how_to_get}"  # the set-up of the tests installs them all
    suffix = f".{target.format}"
    words = [stand_ins.MODEL, "--data", "digits", "--target", name, "--epochs", "0", "-q", "--json"]
    size = {"tflite": 12_000, "onnx": 13_000}[target.format]  # of 16,320 and 15,209
    folder = tmp_path / "out"
    # A second for what takes microseconds: times on a busy machine must not decide the test.
    assert main.run(["compress", *words, "--size", f"{size}B", "--latency", "1s", "-o", str(folder)]) == 0
    said = json.loads(capsys.readouterr().out)
    report = load_report(folder / "report.json")
    assert said == report.to_dict()
    assert report.met == {"latency_us": True, "size_bytes": True}
    model = folder / f"model{suffix}"
    assert model.stat().st_size == report.compressed.size_bytes <= size
    assert (folder / f"baseline{suffix}").stat().st_size == report.baseline.size_bytes > size
    for left in ("report.html", "plan.json", "before.mcc", "after.mcc", "after.safetensors"):
        assert (folder / left).stat().st_size > 0
    assert report.target.name == name
    assert report.checks
    for result in (report.baseline, report.compressed):
        assert result.latency_us is not None
        assert result.latency_us.runs > 0
        assert result.accuracy is not None
        assert result.peak_memory_bytes


def _command(*words: str) -> list[str]:
    return [sys.executable, "-m", "mcc", "compress", stand_ins.MODEL, "--data", "digits", *words]


def test_ctrl_c_says_how_to_go_on_and_leaves_a_whole_state(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    process = subprocess.Popen(
        _command("--target", "litert-host", "--epochs", "0", "--size", "12kB", "-o", str(folder)),
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        env={**os.environ, "MCC_CACHE_DIR": str(tmp_path / "cache"), "TMPDIR": str(tmp_path)},
        # A background job of a shell without a terminal ignores SIGINT, and so would what it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("measure the original"):
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of the foreground
            break
    _, said = process.communicate()
    assert process.returncode == 130
    last = said.strip().splitlines()[-1]
    assert last.startswith("mcc: stopped; mcc compress ")
    assert last.endswith(f"-o {folder} --resume continues from here")
    assert "Traceback" not in said
    assert not list(folder.rglob("*.part"))
    assert json.loads((folder / "state/job.json").read_text())["digest"]
    assert not (folder / "report.json").exists()


def test_a_killed_job_ends_in_the_same_files_and_weights(tmp_path: Path) -> None:
    """SIGKILL at a random moment. Strategies with a plan: `tools/checks/kill_resume.py` without options."""
    check = [sys.executable, "tools/checks/kill_resume.py", "--kills", "1", "-o", str(tmp_path / "jobs")]
    check += ["--strategies", "original-trained,int8-ptq", "--no-warm"]
    check += ["--speedup", "0.1x"]  # any result keeps it
    done = subprocess.run(check, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all 1 ended in the same plan and weights" in done.stdout
