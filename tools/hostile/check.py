"""Runs one hostile input in a limited and watched process, and reports problems."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tools.hostile.case import LIMIT_S, WORKS, Case

LIMIT_BYTES = 2 << 30
WATCH_S = 0.03  # between two looks at the memory
COMPILED = Path(tempfile.gettempdir()) / f"mcc-hostile-compiled-{os.getuid()}"
ROOT = Path(__file__).resolve().parents[2]
SAID = re.compile(r"^mcc[^:\n]*: ", re.MULTILINE)  # `mcc: error: ...`, and click's `mcc compress: ...`


@dataclass(frozen=True)
class Found:
    """Outcome of a case.

    Attributes:
        problems: Descriptions of all problems; empty if there are none.
        sentence: The command's output.
    """

    name: str
    status: int
    seconds: float
    cpu_s: float
    peak_bytes: int
    sentence: str
    problems: tuple[str, ...]


def snapshot(folder: Path) -> dict[str, str]:
    """Content of a folder: kind and content of each entry, targets of links. Pipes are not read."""
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        if "__pycache__" in path.parts:  # of a model's or data's module, written by Python itself
            continue
        info = path.lstat()
        kind = stat.S_IFMT(info.st_mode)
        if stat.S_ISLNK(kind):
            content = os.readlink(path)
        elif stat.S_ISREG(kind) and info.st_blocks * 512 < info.st_size:  # a hole: large, without content
            content = f"{info.st_size} {info.st_mtime_ns}"
        elif stat.S_ISREG(kind):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            content = ""
        found[str(path.relative_to(folder))] = f"{kind:o} {content}"
    return found


def differences(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Created, removed and changed entries, as text."""
    return [
        *(f"removed {name}" for name in before if name not in after),
        *(f"created {name}" for name in after if name not in before),
        *(f"changed {name}" for name in before if name in after and before[name] != after[name]),
    ]


def run_case(case: Case, folder: Path, *, limit_s: float = LIMIT_S, program: Sequence[str] = ()) -> Found:
    """Make an input, run its command on it, and check what came of it.

    Args:
        folder: Empty; gets `in`, where the command works, `out`, a cache and a folder for temporary files.
        limit_s: Wall time; processor time is always limited by the case.
        program: Instead of mcc's command line, for tests of this check.
    """
    places = {name: folder / name for name in ("in", "out", "cache", "tmp")}
    for place in places.values():
        place.mkdir(parents=True)
    case.make(places["in"])
    before = snapshot(places["in"])
    end = case.hold(places["in"]) if case.hold is not None else None
    words = [*(program or (sys.executable, "-m", "mcc")), *case.command.split()]
    words = ["" if word == "''" else word for word in words]
    env = os.environ | {
        "MCC_CACHE_DIR": str(places["cache"]), "TMPDIR": str(places["tmp"]), "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        # Compiled modules are kept, as they are where packages were installed, and not beside the input.
        "PYTHONPYCACHEPREFIX": str(COMPILED),
    }  # fmt: skip
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    try:
        ran = _watched(words, places["in"], env, folder, limit_s + case.limit_s - LIMIT_S, case.limit_s)
    finally:
        if end is not None:
            end()
    said = (folder / "stdout").read_text(errors="replace") + (folder / "stderr").read_text(errors="replace")
    problems = [*ran.problems, *_wrong(case, ran.status, said, folder)] if not ran.problems else ran.problems
    problems = [*problems, *differences(before, snapshot(places["in"]))]
    return Found(
        case.name, ran.status, ran.seconds, ran.cpu_s, ran.peak_bytes, _sentence(said, case), tuple(problems)
    )


def _wrong(case: Case, status: int, said: str, folder: Path) -> list[str]:
    found: list[str] = []
    if status not in case.status:
        found.append(f"exit status {status}, not {' or '.join(map(str, sorted(case.status)))}")
    if "Traceback (most recent call last)" in said:
        found.append("a traceback")
    if "internal error" in said or list((folder / "tmp").glob("mcc-traceback-*")):
        found.append("an internal error")
    if "\x1b" in said:
        found.append("an escape sequence")
    sentences = [line for line in said.splitlines() if SAID.match(line)]
    if status in WORKS and sentences:
        found.append("an error, and exit status 0")
    if status not in WORKS and len(sentences) != 1:
        found.append(f"{len(sentences)} sentences")
    if not re.search(case.says, said, re.IGNORECASE):
        found.append(f"does not say {case.says!r}")
    return found


def _sentence(said: str, case: Case) -> str:
    lines = said.splitlines()
    named = [line for line in lines if SAID.match(line)]
    found = named or [line for line in lines if re.search(case.says, line, re.IGNORECASE)] or lines[-1:]
    return " ".join(found[0].split()) if found else ""


@dataclass(frozen=True)
class _Ran:
    status: int
    seconds: float
    cpu_s: float
    peak_bytes: int
    problems: list[str]


def _watched(
    words: list[str], cwd: Path, env: dict[str, str], folder: Path, limit_s: float, cpu_limit_s: float
) -> _Ran:
    """Run a command in its own session; ended if it exceeds the limits of time or memory."""
    started, peak, problems = time.monotonic(), 0, list[str]()
    with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
        process = subprocess.Popen(
            words, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
        )
        while True:
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
            if ended:
                break
            peak = max(peak, _resident(process.pid))
            if not problems and time.monotonic() - started > limit_s:
                problems.append(f"not ended after {limit_s:g} s")
            if not problems and peak > LIMIT_BYTES:
                problems.append(f"more than {LIMIT_BYTES >> 30} GB")
            if problems:
                os.killpg(process.pid, signal.SIGKILL)
            time.sleep(WATCH_S)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds, cpu_s = time.monotonic() - started, usage.ru_utime + usage.ru_stime
    if not problems and peak > LIMIT_BYTES:
        problems.append(f"more than {LIMIT_BYTES >> 30} GB")
    if not problems and cpu_s > cpu_limit_s:
        problems.append(f"{cpu_s:.0f} s of processor time")
    return _Ran(process.returncode, seconds, cpu_s, peak, problems)


def _resident(pid: int) -> int:
    """Memory of a process and all below it, in bytes: the most that it ever held, and what they hold now.

    Not `ru_maxrss`, which begins with what this program held when it started the process.
    """
    try:
        first = psutil.Process(pid)
        family = [first, *first.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    total = _most(pid)
    for one in family[1:]:
        try:
            total += one.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def _most(pid: int) -> int:
    """The most that a process held since its program was loaded, in bytes."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"VmHWM:\s+(\d+) kB", text)
    return int(found[1]) * 1024 if found else 0
