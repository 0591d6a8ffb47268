"""Measurement: its order, its statistics and its lock. Counts are asserted, never times."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mcc.errors import TargetError
from mcc.runtime import LatencySamples, MachineLoad, get_target, lock, measuring, wait_while_measuring
from mcc.runtime.samples import median_interval
from mcc.runtime.timing import MIN_ROUNDS, Contender, run_rounds
from tests.runtime import models

IDLE = MachineLoad(0.0, 0.0, 0.0)


@dataclass
class FakeRunner:
    """Notes who takes a turn; an inference of the n-th turn takes `us + n * drift`, at least 50."""

    us: float
    log: list[str]
    name: str
    drift: float = 0.0
    pid: int = 0
    requests: list[dict[str, Any]] = field(default_factory=list)

    def request(self, header: dict[str, Any], **_: object) -> tuple[dict[str, Any], list[Any]]:
        self.requests.append(header)
        self.log.append(self.name)
        us = max(50.0, self.us + len(self.requests) * self.drift)
        return {"us": [us] * header["samples"]}, []


def contender(runner: FakeRunner) -> Contender:
    return Contender(Path(runner.name), runner, 0)  # type: ignore[arg-type]


def test_files_take_turns_and_the_order_rotates() -> None:
    log: list[str] = []
    contenders = [contender(FakeRunner(60.0, log, name)) for name in "abc"]
    run_rounds(contenders, budget_s=60.0, precision=0.01)
    assert len(log) == 3 * MIN_ROUNDS
    assert log[:9] == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]
    assert all(len(c.turns) == MIN_ROUNDS for c in contenders)


def test_rounds_go_on_until_the_median_is_known_or_the_budget_is_spent() -> None:
    noisy = contender(FakeRunner(60.0, [], "noisy", drift=5.0))
    run_rounds([noisy], budget_s=0.0, precision=0.01)
    assert len(noisy.turns) == MIN_ROUNDS
    run_rounds([noisy], budget_s=0.2, precision=0.01)
    assert len(noisy.turns) > 3 * MIN_ROUNDS
    assert noisy.halfwidth() > 0.01


def test_warm_up_ends_when_stable_and_batches_short_inferences() -> None:
    quick = contender(FakeRunner(50.0, [], "quick"))
    quick.warm_up(sample_us=20_000.0)
    assert quick.warmup_runs >= 3
    assert quick.per_sample == 400  # 20 ms at 50 us each
    assert quick.samples == 3
    slow = contender(FakeRunner(30_000.0, [], "slow"))
    slow.warm_up(sample_us=20_000.0)
    assert (slow.per_sample, slow.samples, slow.settle) == (1, 3, 1)
    slower = contender(FakeRunner(90_000.0, [], "slower"))
    slower.warm_up(sample_us=20_000.0)
    assert (slower.per_sample, slower.samples, slower.settle) == (1, 1, 1)
    settling = FakeRunner(100.0, [], "settling", drift=-10.0)
    contender(settling).warm_up(sample_us=1.0)
    assert len(settling.requests) > 3


def test_statistics_of_known_samples() -> None:
    turns = [[float(v) for v in range(10 * t, 10 * t + 10)] for t in range(10)] + [[1000.0] * 10]
    latency = LatencySamples.from_turns(turns, per_sample=4, warmup_runs=7, load=IDLE)
    assert latency.samples[-1] == 1000.0  # outliers stay
    assert len(latency.samples) == 110
    assert latency.median_us == 54.5
    assert latency.runs == 440
    assert latency.ci_low_us <= latency.median_us <= latency.ci_high_us
    assert latency.as_json() == {"median": 54.5, "p10": 10.9, "p90": 98.1, "runs": 440}
    full = latency.as_full_json()
    assert len(full["samples"]) == 110
    assert full["load"]["others_cores"] == 0.0


def test_the_interval_covers_the_true_median_though_samples_of_a_turn_move_together() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        turns = rng.normal(100.0, 5.0, size=(20, 1)) + rng.normal(0.0, 0.5, size=(20, 10))
        low, high = median_interval(turns.tolist())
        covered += low <= 100.0 <= high
    assert covered >= 180  # 95 % meant; intervals of single samples would cover some 45 %


def test_intervals_of_one_turn_and_of_unequal_turns() -> None:
    assert median_interval([[3.0, 1.0, 2.0]]) == (1.0, 3.0)
    low, high = median_interval([[1.0] * 5, [1.0] * 3, [2.0]])
    assert 1.0 <= low <= high <= 2.0


@pytest.mark.parametrize(
    ("spec", "per_runner"),
    [
        ("litert-host", 1),
        ("litert-host", 2),
        ("litert-web:node", 1),
        pytest.param("litert-web:chromium", 2, marks=pytest.mark.slow),
    ],
)
def test_real_files_are_measured_alike(spec: str, per_runner: int, tmp_path: Path) -> None:
    files = [
        models.chain_tflite([models.conv(i, (3, 8 * (i + 1)), size=16)], tmp_path / f"{i}.tflite")
        for i in range(3 if spec == "litert-host" else 2)
    ]
    results = get_target(spec).time(files, budget_s=0.1, files_per_runner=per_runner)
    assert len(results) == len(files)
    assert len({len(r.turns) for r in results}) == 1
    for result in results:
        assert len(result.turns) >= MIN_ROUNDS
        assert result.runs == len(result.samples) * result.per_sample
        assert result.warmup_runs > 0
        assert 0 < result.p10_us <= result.median_us <= result.p90_us


def test_one_bad_file_among_several_is_named_and_frees_the_lock(tmp_path: Path) -> None:
    good = models.write_tflite(models.conv(), tmp_path / "good.tflite")
    bad = tmp_path / "bad.tflite"
    bad.write_bytes(b"nothing")
    with pytest.raises(TargetError, match=r"bad\.tflite"):
        get_target("litert-host").time([good, bad])
    assert wait_while_measuring(timeout_s=5.0) < 5.0


@pytest.fixture
def own_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lock apart from the machine's, for this process and those that it starts."""
    monkeypatch.setenv("MCC_LOCK_DIR", str(tmp_path))
    assert lock.lock_path().parent == tmp_path
    return lock.lock_path()


HOLDER = """
import sys
from mcc.runtime import measuring
with measuring():
    print("held", flush=True)
    sys.stdin.read()
"""


def holder() -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.communicate()
    assert process.returncode == 0


def test_measuring_excludes_other_processes(own_lock: Path) -> None:
    other = holder()
    from filelock import Timeout

    with pytest.raises(Timeout), measuring(timeout_s=0.2):
        pass
    end(other)
    with measuring(timeout_s=5.0):
        assert own_lock.exists()


def test_training_waits_and_goes_on(own_lock: Path) -> None:
    assert wait_while_measuring() == 0.0
    other = holder()
    waited: list[float] = []
    thread = threading.Thread(target=lambda: waited.append(wait_while_measuring()))
    thread.start()
    thread.join(0.3)
    assert thread.is_alive()
    end(other)
    thread.join(30)
    assert len(waited) == 1
    assert waited[0] > 0.2


def test_a_killed_holder_frees_the_machine(own_lock: Path) -> None:
    other = holder()
    other.kill()
    other.communicate()
    with measuring(timeout_s=5.0):
        pass


def test_a_process_tree_never_waits_for_itself(own_lock: Path) -> None:
    child = "from mcc.runtime import measuring, wait_while_measuring\n"
    child += "assert wait_while_measuring() == 0.0\nwith measuring(timeout_s=0.0): print('through')\n"
    with measuring(), measuring():
        assert wait_while_measuring() == 0.0
        done = subprocess.run(
            [sys.executable, "-c", child], capture_output=True, text=True, timeout=60, check=True
        )
    assert done.stdout == "through\n"


def test_a_lock_that_cannot_be_opened_does_not_stop_work(
    own_lock: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(lock.FileLock, "acquire", refuse)
    with measuring():
        pass
    assert "cannot lock" in caplog.text
