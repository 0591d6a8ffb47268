"""Counts of one inference: how often each block of instructions ran, in all and for each operator.

`counter.c` writes what it counted as text; a window is what runs between two readings of the clock. In a run
with LiteRT's profiler, the clock (`ticks.c`) counts its own readings, so the profiler's events say in which
windows each operator ran. The counts in all come from a run without the profiler, whose own work would count.
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
TICK_US = 1000  # between two readings of the clock of ticks.c
WARMUP = 2  # the first inference allocates, the second reuses what it left; then all cost the same
OPERATOR, DELEGATE_OPERATOR, DELEGATE_PROFILED = 2, 4, 8  # event types that are one operator
BEGIN_OF_RUN = "LiteRT::Run[buffer registration]"
INTERPRETER = "Invoke"  # the event within which all operators run
PLAIN_EVENT = 1
LIMIT_S = 1800.0  # reference kernels of a large network take minutes under emulation

Block = bytes  # the instructions of one block, as they lie in memory
Blocks = Counter[Block]


def instructions(blocks: Mapping[Block, int]) -> int:
    """Instructions that ran."""
    return sum(len(block) // BYTES_PER_INSTRUCTION * times for block, times in blocks.items())


@dataclass(frozen=True)
class OperatorCount:
    """What one operator ran; `kind` is the name that LiteRT's profiler gives it."""

    name: str
    kind: str
    blocks: Blocks


@dataclass(frozen=True)
class Counted:
    """One line of the runner and the windows that it marked.

    Attributes:
        report: what the runner measured: `ns`, `events`, `peak_before_bytes`, ...
        windows: blocks of each window of the marked inference.
    """

    report: Mapping[str, Any]
    windows: tuple[Blocks, ...]

    def total(self) -> Blocks:
        """All windows together."""
        return sum(self.windows, Counter[Block]())

    def operators(self) -> list[OperatorCount]:
        """Blocks of each operator, in order of execution; the runner must have been told to `--profile`.

        Raises:
            TargetError: the events of this version of LiteRT cannot be matched with the windows.
        """
        events = self.report["events"]
        places = operator_windows(events)
        first = events[0][3] // TICK_US  # window w lies between readings first + w - 1 and first + w
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
    """Kind of every operator, and the readings of the clock at its begin and end.

    Events are [tag, type, elapsed, start] in the order in which they began. XNNPACK reads the clock once in
    front of its operators and once behind each, and reports only how long each took.

    Raises:
        TargetError: the last reading is not the one in front of the interpreter's own end.
    """
    if not events or events[0][0] != BEGIN_OF_RUN:
        raise TargetError("LiteRT's profiler gives events in another order than in 2.3")
    found: list[tuple[str, int, int]] = []
    reading = end = -1
    inside = False  # XNNPACK, whose first reading is counted
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
    """One inference of each file, counted, all in one process.

    Args:
        profile: with LiteRT's profiler, for `Counted.operators`.
        arguments: further ones for the runner.

    Raises:
        TargetError: the runner refuses a file or crashes, in its own words.
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
    """Windows of every mark, from the text that `counter.c` wrote."""
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
    """Standard output of the runner; raises TargetError with its complaint."""
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
    """What the runner said last, and LiteRT's own reason before it."""
    lines = [line.strip() for line in errors.splitlines() if line.strip() and not line.startswith("INFO")]
    reasons = [line for line in lines if line.startswith(("ERROR", "runner:"))] or lines[-1:]
    how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    return f"the ARM64 runner {how}" + (f" ({'; '.join(reasons[-2:])[:300]})" if reasons else "")
