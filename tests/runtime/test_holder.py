"""Locks: which files may be one, and who holds one that is waited for."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from filelock import FileLock

from mcc.calibrate.store import Store
from mcc.errors import UsageError
from mcc.runtime import holder, lock

needs_proc = pytest.mark.skipif(not holder.LOCKS.exists(), reason="the system does not tell who holds locks")

FILE_LOCK = """
import sys
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""
TABLE_LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def held(program: str, path: Path) -> Generator[subprocess.Popen[bytes]]:
    """The lock of a file, in another process."""
    command = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
        process.communicate()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of this test's machine-wide lock; a process that waits says so at once."""
    monkeypatch.setenv("MCC_LOCK_DIR", str(tmp_path))
    monkeypatch.setattr(holder, "SAY_AFTER_S", 0.05)
    return tmp_path


@needs_proc
def test_who_holds_a_lock_is_told_and_oneself_is_not(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with FileLock(path):
        assert holder.holders_of(path) == []
    with held(FILE_LOCK, path) as process:
        assert holder.holders_of(path) == [process.pid]
        words = holder.holder_words(path)
        assert words.startswith(f"process {process.pid} (")
        assert "\n" not in words
        assert "running since 2" in words
    assert holder.holder_words(path) == "another process"


@needs_proc
def test_a_measurement_says_for_whom_it_waits(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It goes on as soon as the other is done, and has said who that was by then."""
    said = threading.Event()
    caplog.set_level("WARNING")
    with held(FILE_LOCK, lock.lock_path()) as process:
        caplog.handler.addFilter(lambda record: said.set() or True)
        acquired = threading.Event()

        def measure() -> None:
            with lock.measuring():
                acquired.set()

        thread = threading.Thread(target=measure)
        thread.start()
        assert said.wait(60)
        assert not acquired.is_set()
        assert f"held by process {process.pid}" in caplog.text
        process.communicate()
        assert acquired.wait(60)
        thread.join()


@needs_proc
def test_a_table_says_for_whom_it_waits(
    place: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = place / "latencies.sqlite"
    Store(table).close()
    with held(TABLE_LOCK, table) as process:
        monkeypatch.setattr("mcc.calibrate.store.WAIT_S", 1.0)
        with pytest.raises(Exception, match=f"database is locked, held by process {process.pid}"):
            Store(table).forget("of nobody")
    assert "waiting for the table of measured kernels, held by process" in caplog.text
    with closing(sqlite3.connect(table)) as connection:
        assert connection.execute("SELECT COUNT(*) FROM kernels").fetchone() == (0,)


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_a_lock_that_is_no_plain_file_is_refused(kind: str, place: Path) -> None:
    precious, path = place / "precious", lock.lock_path()
    precious.write_text("mine")
    if kind == "link":
        path.symlink_to(precious)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    with (
        pytest.raises(UsageError, match=r"is (a symbolic|no regular).*MCC_LOCK_DIR"),
        lock.measuring(),
    ):
        pass
    with pytest.raises(UsageError, match="MCC_LOCK_DIR"):
        lock.wait_while_measuring()
    assert precious.read_text() == "mine"


def test_the_note_of_the_holder_is_not_written_through_a_link(place: Path) -> None:
    precious = place / "precious"
    precious.write_text("mine")
    lock.lock_path().with_suffix(".pid").symlink_to(precious)
    with lock.measuring():
        assert lock.lock_path().with_suffix(".pid").read_text() == str(os.getpid())
    assert precious.read_text() == "mine"
