"""Counts of the basic blocks executed in one inference, in total and for each operator.

`counter.c` writes its counts as text; a window is the execution between two readings of the clock. In a run
with LiteRT's profiler, the clock (`ticks.c`) counts its own readings, so the profiler's events give the
windows of each operator. The total counts come from a run without the profiler, since its own work would be
included.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcc.errors import TargetError
from mcc.runtime.arm64 import build
from mcc.runtime.arm64.cores import Core
from mcc.runtime.arm64.emulator import emulated
from mcc.runtime.arm64.install import Installed

BYTES_PER_INSTRUCTION = 4
TICK_US = 1000  # between two readings of the clock in ticks.c
WARMUP = 2  # the first inference allocates, the second reuses its memory; later ones are identical
OPERATOR, DELEGATE_OPERATOR, DELEGATE_PROFILED = 2, 4, 8  # event types of single operators
BEGIN_OF_RUN = "LiteRT::Run[buffer registration]"
INTERPRETER = "Invoke"  # the event that contains all operators
PLAIN_EVENT = 1
LIMIT_S = 1800.0  # reference kernels of a large network take minutes under emulation

Block = bytes  # the instructions of one block, as in memory
Blocks = Counter[Block]


def instructions(blocks: Mapping[Block, int]) -> int:
    """Number of executed instructions."""
    return sum(len(block) // BYTES_PER_INSTRUCTION * times for block, times in blocks.items())


@dataclass(frozen=True)
class OperatorCount:
    """Blocks executed in one operator; `kind` is its name in LiteRT's profiler."""

    name: str
    kind: str
    blocks: Blocks


@dataclass(frozen=True)
class Counted:
    """A report of the runner and its windows.

    Attributes:
        report: Measurements of the runner: `ns`, `events`, `peak_before_bytes`, ...
        windows: Blocks of each window of the marked inference.
    """

    report: Mapping[str, Any]
    windows: tuple[Blocks, ...]

    def total(self) -> Blocks:
        """Blocks of all windows."""
        return sum(self.windows, Counter[Block]())

    def operators(self) -> list[OperatorCount]:
        """Blocks of each operator, in order of execution; the runner must have been told to `--profile`.

        Raises:
            TargetError: The events of this version of LiteRT cannot be matched with the windows.
        """
        events = self.report["events"]
        places = operator_windows(events)
        first = events[0][3] // TICK_US  # window w is between readings first + w - 1 and first + w
        return [
            OperatorCount(str(index), kind, _joined(self.windows[begin - first + 1 : end - first + 1]))
            for index, (kind, begin, end) in enumerate(places)
        ]


def _joined(windows: Iterable[Blocks]) -> Blocks:
    joined: Blocks = Counter()
    for window in windows:
        joined.update(window)
    return joined


def operator_windows(events: Sequence[Sequence[Any]]) -> list[tuple[str, int, int]]:
    """Kind of every operator, and the readings of the clock at its start and end.

    Events are [tag, type, elapsed, start] in order of their start. XNNPACK reads the clock once before its
    operators and once after each, and reports only their durations.

    Raises:
        TargetError: The last reading is not the one before the interpreter's own end.
    """
    if not events or events[0][0] != BEGIN_OF_RUN:
        raise TargetError("LiteRT's profiler gives events in another order than in 2.3")
    found: list[tuple[str, int, int]] = []
    reading = end = -1
    inside = False  # XNNPACK, after its first reading
    for tag, kind, elapsed, start in events:
        if tag == INTERPRETER and kind == PLAIN_EVENT:
            reading, end = start // TICK_US, (start + elapsed) // TICK_US
        elif kind in (DELEGATE_OPERATOR, DELEGATE_PROFILED):
            reading += 0 if inside else 1
            inside = True
            found.append((tag, reading, reading + elapsed // TICK_US))
            reading = found[-1][2]
        elif kind == OPERATOR:
            inside = False
            found.append((tag, start // TICK_US, (start + elapsed) // TICK_US))
            reading = found[-1][2]
    if reading + 1 != end:
        raise TargetError(f"LiteRT's profiler read the clock {end - reading - 1} times more than expected")
    return found


def count(
    tools: Installed,
    core: Core,
    files: Sequence[Path],
    *,
    profile: bool = False,
    arguments: Sequence[str] = (),
) -> list[Counted]:
    """Counts of one inference of each file, all in one process.

    Args:
        profile: Whether LiteRT's profiler is on, for `Counted.operators`.
        arguments: Further arguments of the runner.

    Raises:
        TargetError: The runner rejects a file or crashes; the message is its own.
    """
    given = [
        "--marks",
        "--warmup",
        str(WARMUP),
        "--runs",
        "1",
        *arguments,
        *(["--profile"] if profile else []),
    ]
    with tempfile.TemporaryDirectory(prefix="mcc-arm64-") as folder:
        counts = Path(folder) / "counts"
        plugin = ["-plugin", f"{build.counter()},out={counts}"]
        command = emulated(tools, core, build.counted_runner(), qemu_options=plugin)
        lines = run([*command, *given, *map(str, files)], tools, LIMIT_S).splitlines()
        windows = read_counts(counts)
    reports = [json.loads(line) for line in lines[1::2]]
    if not len(reports) == len(windows) == len(files):
        raise TargetError(f"the counter saw {len(windows)} inferences of {len(files)} files")
    return [Counted(report, tuple(part)) for report, part in zip(reports, windows, strict=True)]


def read_counts(path: Path) -> list[list[Blocks]]:
    """Windows of every mark, from the output of `counter.c`."""
    blocks: list[Block] = []
    marks: list[list[Blocks]] = [[]]
    with path.open() as lines:
        for line in lines:
            match line.split():
                case ["C", block, times]:
                    marks[-1][-1][blocks[int(block)]] += int(times)
                case ["B", _, _, code]:
                    blocks.append(bytes.fromhex(code))
                case ["W", _]:
                    marks[-1].append(Counter())
                case ["E"]:
                    marks.append([])
                case other:
                    raise TargetError(f"the counter gave up: {' '.join(other)}")
    return marks[:-1]


def run(command: Sequence[str], tools: Installed, limit_s: float) -> str:
    """Standard output of the runner. Raises TargetError with its error message."""
    try:
        done = subprocess.run(
            command,
            env=tools.environment,
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise TargetError(f"the emulated runner did not end within {limit_s:.0f} s") from None
    if done.returncode:
        raise TargetError(complaint(done.returncode, done.stderr))
    return done.stdout


def complaint(status: int, errors: str) -> str:
    """Last line of the runner's errors, preceded by LiteRT's own reason."""
    lines = [line.strip() for line in errors.splitlines() if line.strip() and not line.startswith("INFO")]
    reasons = [line for line in lines if line.startswith(("ERROR", "runner:"))] or lines[-1:]
    how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    return f"the ARM64 runner {how}" + (f" ({'; '.join(reasons[-2:])[:300]})" if reasons else "")
