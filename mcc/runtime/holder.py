"""Locks of files: which may be taken, and who holds one that is waited for."""

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

SAY_AFTER_S = 2.0  # of waiting: what takes less, nobody wonders about
LOCKS = Path("/proc/locks")
MOST_WORDS = 100  # characters of a command line in a sentence


def checked_lock(path: Path, *, hint: str) -> Path:
    """The path, where a lock file may be made or is one already.

    To open a lock file empties it: behind a symbolic link, that would be somebody's file.

    Raises:
        UsageError: it is a symbolic link or no regular file.
    """
    try:
        mode = path.lstat().st_mode
    except OSError:  # absent; or not to be looked at, which taking the lock will say
        return path
    if stat.S_ISLNK(mode):
        raise UsageError("is a symbolic link, and a lock file must be none", where=str(path), hint=hint)
    if not stat.S_ISREG(mode):
        raise UsageError("is no regular file, as a lock file must be", where=str(path), hint=hint)
    return path


@contextmanager
def said_when_waiting(path: Path, what: str) -> Generator[None]:
    """Say who holds a file's lock where what is done inside has to wait for it.

    Args:
        path: of the file that is locked.
        what: is waited for, as the sentence has it.
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
    """Who holds the lock of a file: process, command, and since when it runs; else `another process`."""
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
    """Processes other than this one that hold a lock on a file, as far as the system tells."""
    try:
        found = path.stat()
        lines = LOCKS.read_text().splitlines()
    except OSError:  # no such file, or a system without /proc
        return []
    # 1: FLOCK  ADVISORY  WRITE 708 08:01:1312 0 EOF; a line with -> is of one that waits
    place = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    pids: list[int] = []
    for line in lines:
        words = line.split()
        if "->" not in words and len(words) > 5 and words[5] == place and words[4].isdecimal():
            pids.append(int(words[4]))
    return [pid for pid in dict.fromkeys(pids) if pid not in (0, os.getpid())]
