"""Runner processes that crash, hang or talk nonsense, seen from the caller."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from mcc.errors import TargetError
from mcc.runtime import get_target
from mcc.runtime.process import ProcessRunner
from mcc.runtime.wire import encode, read_message
from tests.runtime import models


def python_runner(code: str) -> ProcessRunner:
    return ProcessRunner([sys.executable, "-c", code], "test-target")


def test_messages_read_back_as_they_were_written() -> None:
    arrays = [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.array([[1]], np.int8),
        np.zeros((0, 4), np.uint8),
    ]
    data = encode({"op": "run", "text": "ä"}, arrays)
    offset = 0

    def read(count: int) -> bytes:
        nonlocal offset
        offset += count
        return data[offset - count : offset]

    header, back = read_message(read)
    assert header["text"] == "ä"
    assert offset == len(data)
    for got, sent in zip(back, arrays, strict=True):
        assert got.dtype == sent.dtype
        np.testing.assert_array_equal(got, sent)


@pytest.mark.parametrize(
    ("code", "complaint"),
    [
        ("import sys; sys.exit('no kernels today')", "ended with status 1.*no kernels today"),
        ("import os; os.abort()", "killed by signal 6"),
        ("import os; os.kill(os.getpid(), 11)", "killed by signal 11"),
    ],
)
def test_a_crash_is_one_sentence(code: str, complaint: str) -> None:
    runner = python_runner(code)
    try:
        with pytest.raises(TargetError, match=f"model.tflite: test-target crashed: .*{complaint}"):
            runner.request({"op": "load"}, [np.zeros(10 << 20, np.uint8)], where="model.tflite")
    finally:
        runner.close()


@pytest.mark.parametrize("payload", [1, 10 << 20])
def test_a_hanging_runner_is_ended(payload: int) -> None:
    runner = python_runner("import time; time.sleep(600)")
    try:
        with pytest.raises(TargetError, match="did not answer 'run' within 0 s"):
            runner.request({"op": "run"}, [np.zeros(payload, np.uint8)], limit_s=0.3)
        assert not psutil.pid_exists(runner.pid)
    finally:
        runner.close()


def test_a_runner_that_does_not_start_is_named() -> None:
    with pytest.raises(TargetError, match="the runner of test-target does not start"):
        ProcessRunner(["/nowhere/node"], "test-target")


def test_a_killed_session_fails_once_for_all_and_a_new_one_works(tmp_path: Path) -> None:
    file = models.write_tflite(models.conv(), tmp_path / "a.tflite")
    target = get_target("litert-host")
    x = np.zeros((1, 8, 8, 3), np.float32)
    session = target.session(file)
    os.kill(session._runner.pid, signal.SIGKILL)  # type: ignore[attr-defined]
    for _ in range(2):
        with pytest.raises(TargetError, match="killed by signal 9"):
            session.run([x])
    session.close()
    session.close()
    with target.session(file) as again:
        assert again.run([x])[0].shape == (1, 8, 8, 8)


def test_no_runner_outlives_its_session(tmp_path: Path) -> None:
    file = models.write_tflite(models.conv(), tmp_path / "a.tflite")
    with get_target("litert-host").session(file) as session:
        pid = session._runner.pid  # type: ignore[attr-defined]
        assert psutil.pid_exists(pid)
    assert not psutil.pid_exists(pid)


def test_the_callers_folder_cannot_shadow_the_workers_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('shadowed')")
    monkeypatch.chdir(tmp_path)
    file = models.write_tflite(models.conv(), tmp_path / "a.tflite")
    with get_target("litert-host").session(file.name) as session:
        assert session.outputs[0].shape == (1, 8, 8, 8)
