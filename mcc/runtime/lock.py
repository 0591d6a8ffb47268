"""Machine-wide lock: one measurement at a time, during which training waits.

`measuring()` is held while a model is timed. A training loop calls `wait_while_measuring()` between batches.
Processes share one lock file in the system's temporary folder; the operating system releases it when its
holder dies. There is no deadlock within a process tree: a process that holds the lock, or whose ancestor
does, passes immediately.
"""

from __future__ import annotations

import logging
import os
import tempfile
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from filelock import BaseFileLock, FileLock, Timeout

from mcc.runtime.holder import checked_lock, holder_words, said_when_waiting

log = logging.getLogger(__name__)

POLL_S = 0.05
HINT = "remove it, or set MCC_LOCK_DIR to a folder of your own"
_held = threading.RLock()  # one measurement at a time in this process, too; re-entrant for nested calls
_depth = 0


def lock_path() -> Path:
    """The machine-wide lock file; the file `.pid` beside it names the holder.

    `MCC_LOCK_DIR` sets its folder: for tests, whose times are not used, and for containers that share a
    machine through a mounted folder.
    """
    return Path(os.environ.get("MCC_LOCK_DIR") or tempfile.gettempdir()) / "mcc-measuring.lock"


@contextmanager
def measuring(timeout_s: float = -1.0) -> Generator[None]:
    """Lock the machine for a measurement; waits until no other process measures.

    Args:
        timeout_s: Maximum seconds to wait; without limit if negative.

    Raises:
        filelock.Timeout: Another process still measures after `timeout_s`.
        UsageError: The lock file is a symbolic link or not a regular file.
    """
    global _depth
    with _held:
        if _depth or _held_by_ancestor():
            yield
            return
        lock = FileLock(checked_lock(lock_path(), hint=HINT), mode=0o666, poll_interval=POLL_S)
        try:
            _acquire(lock, timeout_s)
        except PermissionError:  # another user's file: measure without the lock
            log.warning("cannot lock %s: measurements of other users are not waited for", lock_path())
        _write_holder()
        _depth = 1
        try:
            yield
        finally:
            _depth = 0
            with suppress(OSError):
                _holder_path().unlink()
            lock.release()


def _acquire(lock: BaseFileLock, timeout_s: float) -> None:
    """Take the lock; log its holder while waiting."""
    try:
        lock.acquire(timeout=0.0)
    except Timeout:
        log.info("another process measures: %s", holder_words(lock_path()))
        with said_when_waiting(lock_path(), "another measurement on this machine to end"):
            lock.acquire(timeout=timeout_s)


def wait_while_measuring(timeout_s: float = 3600.0) -> float:
    """Return when no process other than this one and its ancestors measures.

    Its cost of about 20 microseconds allows a call between the batches of a training loop.

    Args:
        timeout_s: Maximum seconds to wait; then a warning is logged.

    Returns:
        Seconds waited.
    """
    if _depth or not lock_path().exists() or _held_by_ancestor():
        return 0.0
    begin = time.monotonic()
    try:
        path = checked_lock(lock_path(), hint=HINT)
        lock = FileLock(path, timeout=timeout_s, mode=0o666, poll_interval=POLL_S)
        with said_when_waiting(path, "a measurement on this machine, during which nothing is trained"), lock:
            pass
    except Timeout:
        log.warning("a measurement holds %s for more than %.0f s: training goes on", lock_path(), timeout_s)
    except PermissionError:
        return 0.0
    return time.monotonic() - begin


def _holder_path() -> Path:
    return lock_path().with_suffix(".pid")


def _write_holder() -> None:
    """Write the holder; a link in its place is removed, never followed."""
    with suppress(OSError):
        path = _holder_path()
        if path.is_symlink():
            path.unlink()
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK
        with os.fdopen(os.open(path, flags, 0o666), "w") as stream:
            stream.write(str(os.getpid()))


def _held_by_ancestor() -> bool:
    try:
        if not _holder_path().is_file():
            return False
        holder = int(_holder_path().read_text())
    except (OSError, ValueError):
        return False
    if holder == os.getpid() or not psutil.pid_exists(holder):
        return False
    return any(parent.pid == holder for parent in psutil.Process().parents())
