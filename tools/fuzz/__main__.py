"""Give mcc broken files: no traceback, no hang, no unbounded memory, and no code of the file is run.

    python -m tools.fuzz --count 1000                      that many of each kind
    python -m tools.fuzz --kind pt2 --first 123 --count 1 --keep DIR     one case again, its file kept

Each case runs `mcc inspect` on the file, in a process that is limited in memory and watched. Ends with a
table, and status 1 if the result was anything but a graph or a refusal in one sentence.
"""

from __future__ import annotations

import argparse
import json
import selectors
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tools.fuzz.mutate import broken
from tools.fuzz.seeds import KINDS, seeds

CASE_CPU_S = 20.0  # a broken file of a few kilobytes
START_CPU_S = 120.0  # torch is imported, whole files are made
GOOD = ("read", "refused")


@dataclass
class Found:
    """Outcomes of a kind of file: number of each, and the failing cases."""

    counts: Counter[str] = field(default_factory=Counter)
    bad: list[tuple[int, str, str]] = field(default_factory=list)

    def add(self, case: int, said: str, detail: str) -> None:
        """One case."""
        self.counts[said] += 1
        if said not in GOOD:
            self.bad.append((case, said, detail))
            print(f"  case {case}: {said}: {detail}", flush=True)


def run_kind(kind: str, first: int, count: int, folder: Path) -> Found:
    """Run cases first..first+count-1, in as many workers as it takes."""
    found, next_case = Found(), first
    while next_case < first + count:
        next_case = _run_worker(kind, next_case, first + count - next_case, folder, found)
    return found


def _run_worker(kind: str, first: int, count: int, folder: Path, found: Found) -> int:
    """Run one worker; returns the case after the last one that it started."""
    command = [sys.executable, "-m", "tools.fuzz.worker", kind, str(first), str(count), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        assert worker.stderr is not None
        watch = _Watch(worker)
        begun, finished = None, first - 1
        while (line := watch.line(START_CPU_S if begun is None else CASE_CPU_S)) is not None:
            entry = json.loads(line)
            begun = entry["case"]
            if "said" in entry:
                finished = begun
                found.add(begun, entry["said"], entry["detail"])
        worker.kill()
        if finished == first + count - 1:
            return finished + 1
        if begun is None:
            raise SystemExit(f"the worker for {kind} does not start: {worker.stderr.read()[-500:]}")
        worker.wait()
        how = "HANG" if watch.hung else "CRASH"
        found.add(begun, how, f"exit status {worker.returncode}")
        return begun + 1


class _Watch:
    """Reads a worker's lines, and measures its CPU time between them."""

    def __init__(self, worker: subprocess.Popen[str]) -> None:
        self.worker = worker
        self.hung = False
        self._process = psutil.Process(worker.pid)
        self._selector = selectors.DefaultSelector()
        assert worker.stdout is not None
        self._selector.register(worker.stdout, selectors.EVENT_READ)
        self._pending: list[str] = []

    def line(self, limit_s: float) -> str | None:
        """The next line; None if the worker has ended or exceeded that CPU time."""
        assert self.worker.stdout is not None
        began = self._cpu_s()
        while not self._selector.select(timeout=1.0):
            if self._cpu_s() - began > limit_s:
                self.hung = True
                return None
        return self.worker.stdout.readline() or None

    def _cpu_s(self) -> float:
        try:
            times = self._process.cpu_times()
        except psutil.Error:
            return 0.0
        return times.user + times.system


def table(found: dict[str, Found], first: int, count: int, seconds: float) -> str:
    """The outcomes, as Markdown."""
    columns = list(dict.fromkeys((*GOOD, "TRACEBACK", "NO SENTENCE", "HANG", "CRASH", "MEMORY", "RAN CODE")))
    lines = [
        f"`python -m tools.fuzz --first {first} --count {count}`, {seconds:.0f} s:",
        "",
        f"| kind | {' | '.join(columns)} |",
        f"| --- |{' ---: |' * len(columns)}",
    ]
    for kind, outcome in found.items():
        lines.append(f"| .{kind} | " + " | ".join(str(outcome.counts[c]) for c in columns) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kind", choices=KINDS, action="append", help="only these kinds of files")
    parser.add_argument("--first", type=int, default=0, help="first case")
    parser.add_argument("--count", type=int, default=1000, help="cases of each kind")
    parser.add_argument("--keep", type=Path, help="write the broken files there, too")
    parser.add_argument("--out", type=Path, help="write the table there, too")
    options = parser.parse_args()
    began, found = time.monotonic(), {}
    for kind in options.kind or KINDS:
        print(kind, flush=True)
        if options.keep:
            options.keep.mkdir(parents=True, exist_ok=True)
            for case in range(options.first, options.first + options.count):
                (options.keep / f"{case}.{kind}").write_bytes(broken(kind, seeds(kind), case))
        with tempfile.TemporaryDirectory() as folder:
            found[kind] = run_kind(kind, options.first, options.count, Path(folder))
    said = table(found, options.first, options.count, time.monotonic() - began)
    print(said)
    if options.out:
        options.out.write_text(said)
    return 1 if any(outcome.bad for outcome in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
