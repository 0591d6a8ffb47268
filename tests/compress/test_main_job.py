"""Whole jobs: files are written and run for real; times come from stand-ins, the same in every run."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import mcc
from mcc.app.writer import app_files
from mcc.cli import main
from mcc.compress.driver import RETRIES
from mcc.errors import MccError
from mcc.ir.graph import inputs
from mcc.ir.notes import shape_of
from mcc.ir.storage import load_graph
from mcc.report.schema import Report, load_report
from tests.compress import stand_ins

LEFT = {
    "model.tflite", "baseline.tflite", "report.json", "report.html", "plan.json", "before.mcc", "after.mcc",
    "before.safetensors", "after.safetensors",
}  # fmt: skip
STRATEGIES = [
    "original", "original-trained", "int8-ptq", "uniform-width", "channel-pruning", "sparse-1x1", "low-rank",
    "prune-then-quantize", "joint",
]  # fmt: skip
ASKED: dict[str, Any] = {"speedup": 1.5, "epochs": 0.1}


def job(folder: Path, **options: Any) -> Report:
    """The job of these tests; further options as of `mcc.compress`."""
    return mcc.compress(stand_ins.MODEL, "digits", "litert-host", out=folder, **{**ASKED, **options})


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of plan, graphs, weights and models."""
    names = sorted(LEFT - {"report.json", "report.html"})
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def structure(folder: Path) -> dict[str, Any]:
    """What was decided."""
    return json.loads((folder / "plan.json").read_text())["structure"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished job; beside it `table`, the cache that it filled."""
    place = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MCC_CACHE_DIR", str(place / "table"))
        stand_ins.install(patch)
        job(place / "out")
    return place / "out"


@pytest.fixture
def target(finished: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> stand_ins.StandIn:
    """The stand-in for a job with a copy of the table that the finished one filled."""
    shutil.copytree(finished.parent / "table", cache_dir)
    return stand_ins.install(monkeypatch)


def test_a_job_leaves_everything_that_the_interface_names(finished: Path) -> None:
    assert {path.name for path in finished.iterdir() if path.is_file()} == LEFT
    assert {path.name for path in (finished / "app").iterdir()} == set(app_files(".tflite"))
    report = load_report(finished / "report.json")
    assert [strategy.name for strategy in report.strategies] == STRATEGIES
    assert report.met == {"speedup": True}
    assert all(strategy.validation_accuracy is not None for strategy in report.strategies)
    for result, name in ((report.baseline, "baseline.tflite"), (report.compressed, "model.tflite")):
        assert result.size_bytes == (finished / name).stat().st_size
        assert result.accuracy is not None
        assert result.latency_us is not None
        assert result.latency_us.median == pytest.approx(stand_ins.US_PER_BYTE * result.size_bytes)
    assert report.speedup >= 1.5
    assert report.predicted_latency_us is not None
    assert report.decisions
    assert not list(finished.rglob("*.part"))


def test_the_graphs_beside_the_report_can_be_read(finished: Path) -> None:
    for name in ("before.mcc", "after.mcc"):
        graph = load_graph(finished / name)
        assert shape_of(inputs(graph)[0]) == (1, 3, 32, 32)
    plan = json.loads((finished / "plan.json").read_text())
    chosen = next(s for s in load_report(finished / "report.json").strategies if s.chosen)
    assert plan["strategy"] == chosen.name
    assert plan["predicted_latency_us"] == chosen.predicted_latency_us
    assert {decision["node"] for decision in plan["decisions"]}


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


class Assassin:
    """A progress that kills at the given calls, counted over all runs."""

    def __init__(self, *moments: int) -> None:
        self.moments = set(moments)
        self.calls = 0

    def __call__(self, stage: str, done: float, total: float, note: str = "") -> None:
        self.calls += 1
        if self.calls in self.moments:
            raise Killed(stage)


@pytest.mark.slow
def test_a_killed_job_ends_in_the_same_plan_and_weights_and_tries_nothing_twice(
    finished: Path, target: stand_ins.StandIn, tmp_path: Path
) -> None:
    assassin, kills = Assassin(1, 8, 24, 45, 70), 0
    for attempt in range(6):
        try:
            job(tmp_path / "out", resume=attempt > 0, progress=assassin)
            break
        except Killed:
            kills += 1
    assert kills >= 3
    assert digests(tmp_path / "out") == digests(finished)
    assert [len(files) > 2 for files in target.timed] == [
        True
    ]  # no trial; all strategies once, for the report
    assert not any("trials" in path.parts for path in target.weighed)


@pytest.mark.slow
def test_a_job_done_again_reports_what_it_timed_itself(
    target: stand_ins.StandIn, tmp_path: Path, finished: Path
) -> None:
    """The first run's table holds every figure; the machine has become slower since."""
    before = load_report(finished / "report.json")
    target.slower = 1.03
    target.heavier = 1.5
    asked: dict[str, Any] = {"strategies": ["int8-ptq"], "epochs": 0, "speedup": 1.2}
    report = job(tmp_path / "out", **asked)
    assert report.baseline.peak_memory_bytes == 1.5 * (before.baseline.peak_memory_bytes or 0)
    for again in (report, job(tmp_path / "out", resume=True, **asked)):  # finished: timed again, too
        (fresh,) = [one for one in again.strategies if one.name == "int8-ptq"]
        (old,) = [one for one in before.strategies if one.name == "int8-ptq"]
        assert fresh.latency_us is not None
        assert old.latency_us is not None
        assert fresh.latency_us.median == pytest.approx(1.03 * old.latency_us.median)
    assert len(target.timed) == 2
    assert report.timed_at > before.timed_at
    day = before.timed_at[:10]
    assert report.remembered["latency of the original"].startswith(day)


@pytest.mark.slow
def test_a_plan_feeds_back_to_the_same_structure(
    finished: Path, target: stand_ins.StandIn, tmp_path: Path
) -> None:
    plan = Path(shutil.copy(finished / "plan.json", tmp_path))
    report = job(tmp_path / "out", plan=plan)
    assert report.met == {"speedup": True}
    joint = report.strategies[-1]
    assert "The plan was given, not computed." in joint.notes
    raw = json.loads((tmp_path / "out/state/joint/outcome.json").read_text())
    assert raw["structure"] == structure(finished)


@pytest.mark.slow
def test_only_the_strategies_asked_for_are_compared(
    finished: Path, target: stand_ins.StandIn, tmp_path: Path
) -> None:
    report = job(tmp_path / "out", strategies=["joint", "int8-ptq"], epochs=0)
    assert [strategy.name for strategy in report.strategies] == ["original", "int8-ptq", "joint"]
    assert report.met == {"speedup": True}


@pytest.mark.slow
def test_more_strategies_can_be_asked_for_when_a_job_goes_on(
    target: stand_ins.StandIn, tmp_path: Path
) -> None:
    job(tmp_path / "out", strategies=["int8-ptq"], epochs=0, speedup=1.01)
    kept = tmp_path / "out/state/int8-ptq/outcome.json"
    before = kept.stat().st_mtime_ns
    report = job(tmp_path / "out", strategies=["int8-ptq", "joint"], epochs=0, speedup=1.01, resume=True)
    assert [strategy.name for strategy in report.strategies] == ["original", "int8-ptq", "joint"]
    assert kept.stat().st_mtime_ns == before


def test_a_given_plan_makes_another_job(finished: Path, target: stand_ins.StandIn, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "out")
    with pytest.raises(MccError, match="holds the state of another job"):
        job(tmp_path / "out", plan=finished / "plan.json", resume=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["after.safetensors", "model.tflite", "report.json"])
def test_a_disk_that_fills_up_at_the_end_is_named_and_space_is_all_that_is_missing(
    name: str,
    finished: Path,
    target: stand_ins.StandIn,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "out"
    shutil.copytree(finished / "state", folder / "state")
    replace = os.replace

    def full(source: Any, destination: Any) -> None:
        if Path(destination).name == name:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, destination)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(
            MccError, match=f"{name}: cannot be written: No space left on device; .*another -o"
        ):
            job(folder, resume=True)
    assert not (folder / "report.json").exists()  # which stands for all the others
    assert not list(folder.rglob("*.part"))
    job(folder, resume=True)
    assert digests(folder) == digests(finished)


@pytest.mark.slow
def test_a_size_is_kept_to_the_byte(
    finished: Path, target: stand_ins.StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    budget = 11_000
    words = [stand_ins.MODEL, "--data", "digits", "--target", "litert-host", "--epochs", "0", "-q"]
    assert main.run(["compress", *words, "--size", "11kB", "-o", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out/model.tflite").stat().st_size <= budget
    assert load_report(tmp_path / "out/report.json").met == {"size_bytes": True}
    assert str(tmp_path / "out") in capsys.readouterr().out


@pytest.mark.slow
def test_an_impossible_budget_leaves_the_nearest_result_marked_as_missing_it(
    finished: Path, target: stand_ins.StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    shutil.copytree(finished, folder)  # results of another job, which must not pass for this one's
    words = [stand_ins.MODEL, "--data", "digits", "--target", "litert-host", "--epochs", "0", "-q"]
    words += ["--latency", "1us", "-o", str(folder)]
    assert main.run(["compress", *words]) == 1
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "no strategy keeps --latency 1us" in captured.err.replace(".00", "")
    assert "the nearest feasible: --latency" in captured.err
    assert "prune-then-quantize" in captured.out  # the table of what was tried
    assert captured.out.startswith("Warning: No result keeps every budget.")
    kept = {path.name for path in folder.iterdir() if path.is_file()}
    assert kept == LEFT
    report = load_report(folder / "report.json")
    assert report.met == {"latency_us": False}
    assert report.warnings[0] in (folder / "report.html").read_text()
    chosen = report.chosen
    assert chosen is not None
    latencies = [one.latency_us.upper for one in report.strategies if one.latency_us is not None]
    assert chosen.latency_us is not None
    assert chosen.latency_us.upper == min(latencies)  # misses by least
    assert (folder / "model.tflite").stat().st_size == chosen.size_bytes

    assert main.run(["compress", *words, "--resume", "--json"]) == 1
    captured = capsys.readouterr()
    assert Report.model_validate_json(captured.out).met == {"latency_us": False}
    assert "the nearest feasible" in captured.err


@pytest.mark.slow
def test_a_last_measurement_that_misses_narrowly_plans_once_more(
    finished: Path, target: stand_ins.StandIn, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    shutil.copytree(finished / "state", folder / "state")
    target.slower = 1.08  # all files but the baseline, from now on: slower than the trials had them
    report = job(folder, resume=True)
    assert report.met == {"speedup": True}
    assert 1 <= len(list((folder / "state").glob("joint-at-*/outcome.json"))) <= RETRIES
    first = json.loads((folder / "state/joint/outcome.json").read_text())["structure"]
    assert structure(folder) != first
