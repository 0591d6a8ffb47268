"""Lock files: checks before locking, and identification of the holder."""

from __future__ import annotations

import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import psutil

from mcc.errors import UsageError

log = logging.getLogger(__name__)

SAY_AFTER_S = 2.0  # of waiting before the holder is logged
LOCKS = Path("/proc/locks")
MOST_WORDS = 100  # characters of a command line in a message


def checked_lock(path: Path, *, hint: str) -> Path:
    """Check that a path can be a lock file, and return it.

    Opening a lock file truncates it: through a symbolic link, that would destroy another file.

    Raises:
        UsageError: The path is a symbolic link or not a regular file.
    """
    try:
        mode = path.lstat().st_mode
    except OSError:  # absent or inaccessible; locking will report the latter
        return path
    if stat.S_ISLNK(mode):
        raise UsageError("is a symbolic link, and a lock file must be none", where=str(path), hint=hint)
    if not stat.S_ISREG(mode):
        raise UsageError("is no regular file, as a lock file must be", where=str(path), hint=hint)
    return path


@contextmanager
def said_when_waiting(path: Path, what: str) -> Generator[None]:
    """Log the holder of a file's lock if the body of the context has to wait for it.

    Args:
        path: Path of the locked file.
        what: Description of the awaited event for the message.
    """

    def say() -> None:
        if holders_of(path):
            log.warning("waiting for %s, held by %s (%s)", what, holder_words(path), path)

    with _after(SAY_AFTER_S, say):
        yield


@contextmanager
def _after(seconds: float, call: Callable[[], None]) -> Generator[None]:
    timer = threading.Timer(seconds, call)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def holder_words(path: Path) -> str:
    """Description of a lock's holder: process, command and start time; else `another process`."""
    for pid in holders_of(path):
        try:
            process = psutil.Process(pid)
            command, began = " ".join(process.cmdline()), process.create_time()
        except psutil.Error:
            return f"process {pid}"
        if len(command) > MOST_WORDS:
            command = command[: MOST_WORDS - 1] + "…"
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(began))
        shown = "".join(letter if letter.isprintable() else "?" for letter in command)
        return f"process {pid} ({shown or process.name()}, running since {since})"
    return "another process"


def holders_of(path: Path) -> list[int]:
    """Processes other than this one that hold a lock on a file, if the system lists them."""
    try:
        found = path.stat()
        lines = LOCKS.read_text().splitlines()
    except OSError:  # no such file, or a system without /proc
        return []
    # 1: FLOCK  ADVISORY  WRITE 708 08:01:1312 0 EOF; a line with -> is a waiting process
    place = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    pids: list[int] = []
    for line in lines:
        words = line.split()
        if "->" not in words and len(words) > 5 and words[5] == place and words[4].isdecimal():
            pids.append(int(words[4]))
    return [pid for pid in dict.fromkeys(pids) if pid not in (0, os.getpid())]
