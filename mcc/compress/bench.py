"""Measuring candidates: latency interleaved with the baseline, peak memory, and the task's metric.

Every measurement is kept by the digest of the file, in the folder of the run and, as far as it is a time or
peak memory, in the table that runs share: a run that goes on after a kill, or is made again with the same
table, rests on the same figures and comes to the same plan.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mcc.calibrate.calm import calm_times
from mcc.compress.measured import MeasuredFiles
from mcc.data import DataModule, Task, load_task
from mcc.data.module import SplitName
from mcc.data.outputs import Output
from mcc.errors import DataError
from mcc.ir.storage import write_beside
from mcc.report.judge import judge_file
from mcc.runtime.samples import LatencySamples
from mcc.runtime.target import Target

log = logging.getLogger(__name__)

Statistics = npt.NDArray[np.float64]

TRIAL_SECONDS = 3.0  # of measuring a candidate and the baseline; what is delivered is measured longer
AGAIN = 2  # how often a disturbed measurement is made anew
DISTURBED = 1.3
"""A median that far above the fastest tenth of its samples: others had the processor for half of them.

Undisturbed, the two are within 10 % of each other. On a machine with 15 programs waiting for two cores, one
of 15 measurements in LiteRT.js of a file against itself came out 3.8 to 1, and a plan rested on it (2026-11).
"""


@dataclass(frozen=True)
class Speed:
    """Latency of a file and of the baseline, measured in turns.

    Attributes:
        latency_us: median, and `low_us`, `high_us` its 95 % interval.
        p10_us, p90_us: of all samples.
        runs: inferences timed.
        baseline_us: median of the baseline in the same rounds.
        others_cores: processor cores that other programs kept busy meanwhile.
    """

    latency_us: float
    low_us: float
    high_us: float
    p10_us: float
    p90_us: float
    runs: int
    baseline_us: float
    others_cores: float

    @property
    def speedup(self) -> float:
        """Baseline over this file."""
        return self.baseline_us / self.latency_us

    @property
    def speedup_ci95(self) -> tuple[float, float]:
        """Interval of the speed-up from that of the median."""
        return self.baseline_us / self.high_us, self.baseline_us / self.low_us


class Bench:
    """Measures files of one job on one target, and remembers.

    Args:
        target, threads: where to measure.
        baseline: the original, lowered the same way.
        store: JSON file of what was measured in this run.
        shared: what any run measured of the same files; None to look at this run's only.
        task: bound to the outputs of the job's network; None binds the data's to each file's own.
        outputs: of that network.

    Raises:
        DataError: `store` holds something else.
    """

    def __init__(
        self,
        target: Target,
        threads: int,
        baseline: Path,
        store: Path,
        shared: MeasuredFiles | None = None,
        *,
        task: Task | None = None,
        outputs: Sequence[Output] | None = None,
    ) -> None:
        self.task, self.outputs = task, outputs
        self.target = target
        self.threads = threads
        self.baseline = baseline
        self.store = store
        self.shared = shared
        self.known = _stored(store)

    def original(self, *, budget_s: float) -> Speed:
        """Latency of the baseline alone; the fastest session counts where something disturbed it.

        Trials are measured as ratios to the baseline and become times by this figure: one that is too slow
        would make every plan too fast and every prediction too slow.
        """

        def measure() -> dict[str, Any]:
            (found,) = calm_times(self.target, [self.baseline], threads=self.threads, budget_s=budget_s)
            return asdict(_speed(found, found))

        return Speed(**self._measured(f"original {digest(self.baseline)}", measure))

    def speed(self, path: Path, *, budget_s: float = TRIAL_SECONDS) -> Speed:
        """Latency of one file in turns with the baseline, until its median is sure or the time is spent.

        Of the baseline itself: that of `original`.
        """
        if digest(path) == digest(self.baseline):
            return self.original(budget_s=budget_s)
        key = f"speed {digest(self.baseline)} {digest(path)}"
        return Speed(**self._measured(key, lambda: asdict(self._together([path], budget_s)[0])))

    def speeds(self, paths: Sequence[Path], *, budget_s: float, anew: bool = False) -> list[Speed]:
        """Latency of several files, all in turns with one another and the baseline, in fresh processes.

        Files of the same bytes are measured as one: that they differ by noise would mean nothing.

        Args:
            anew: measure even what is known, and remember that instead.
        """
        marks = [digest(path) for path in paths]
        unlike = dict(zip(marks, paths, strict=True))
        key = "speeds " + hashlib.sha256(" ".join((digest(self.baseline), *unlike)).encode()).hexdigest()
        budget_s *= len(unlike) / max(1, len(paths))
        files = list(unlike.values())
        found = self._measured(
            key, lambda: [asdict(speed) for speed in self._together(files, budget_s)], anew=anew
        )
        by_mark = dict(zip(unlike, (Speed(**speed) for speed in found), strict=True))
        return [by_mark[mark] for mark in marks]

    def _together(self, paths: Sequence[Path], budget_s: float) -> list[Speed]:
        """Measured until nothing disturbs it, at most `1 + AGAIN` times; the least disturbed counts.

        A file of the baseline's bytes is the baseline: loaded twice, one file can differ by 5 % in a browser.
        """
        marks = [digest(path) for path in paths]
        first = digest(self.baseline)
        others = [path for path, mark in zip(paths, marks, strict=True) if mark != first]
        best: list[LatencySamples] = []
        for _ in range(1 + AGAIN):
            found = self.target.time([self.baseline, *others], threads=self.threads, budget_s=budget_s)
            best = min((best, found), key=_disturbance) if best else found
            if _disturbance(best) <= DISTURBED:
                break
        rest = iter(best[1:])
        return [_speed(best[0] if mark == first else next(rest), best[0]) for mark in marks]

    def memory_bytes(self, path: Path) -> int:
        """Peak memory of a fresh runner, see `mcc.runtime.target.Target.peak_memory`."""
        key = f"peak {self.target.memory_kind} {digest(path)}"
        return int(self._measured(key, lambda: self.target.peak_memory(path, self.threads)))

    def metric(self, path: Path, data: DataModule, split: SplitName) -> float:
        """The task's metric of a lowered file, run in the target's runtime.

        Raises:
            NotFiniteError: the output that is judged is not a number, or infinite.
        """
        return float(self._task(data).summarise(self.statistics(path, data, split)).value)

    def chance(self, path: Path, data: DataModule, split: SplitName) -> str | None:
        """Why that metric is no better than guessing; None where it is better."""
        targets = data.split(split).targets
        found = self.statistics(path, data, split)
        return self._task(data).chance(found, targets, data.class_names, targets)

    def _task(self, data: DataModule) -> Task:
        return self.task or load_task(data.task)

    def statistics(self, path: Path, data: DataModule, split: SplitName) -> Statistics:
        """What the task measures of each image of a split, [images, ...] in a fixed order; kept in the run's
        folder, so that strategies are compared in pairs on the same images."""
        kept = self.store.parent / "statistics" / f"{split}-{digest(path)}.npy"
        found = _kept_statistics(kept, len(data.split(split)))
        if found is None:
            judged = judge_file(
                self.target, path, data, split, task=self.task, outputs=self.outputs, threads=self.threads
            )
            found = judged.statistics
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_beside(kept, lambda p: _save_array(p, found))
        return found

    def _measured(self, key: str, measure: Callable[[], Any], *, anew: bool = False) -> Any:
        """What this run or, before it, any run measured; else, or if it has to be `anew`, measured now."""
        if anew or key not in self.known:
            found = self.shared.get(key) if self.shared is not None and not anew else None
            if found is None:
                found = measure()
                if self.shared is not None:
                    self.shared.put(key, found)
            self.remember({key: found})
        return self.known[key]

    def remember(self, found: dict[str, Any]) -> None:
        """Keep measurements, on disk first."""
        self.known.update(found)
        text = json.dumps(self.known)
        write_beside(self.store, lambda p: p.write_text(text, encoding="utf-8"))


def _stored(path: Path) -> dict[str, Any]:
    """Measurements of an earlier part of this run."""
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            "holds no measurements", where=str(path), hint="remove it; what it held is measured anew"
        ) from error
    return dict(found)


def _kept_statistics(path: Path, images: int) -> Statistics | None:
    """Statistics of an earlier part of this run; None where there are none, or not of so many images."""
    if not path.exists():
        return None
    try:
        found: Any = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        found = None
    if not isinstance(found, np.ndarray) or found.shape[:1] != (images,):
        log.warning("%s is damaged: what it held is taken again", path)
        return None
    return found.astype(np.float64)


def _save_array(path: Path, values: Statistics) -> None:
    with path.open("wb") as opened:  # np.save would add a suffix to a name
        np.save(opened, values)


def _disturbance(measured: Sequence[LatencySamples]) -> float:
    """The largest ratio of a median to the fastest tenth of its samples."""
    return max(one.median_us / one.p10_us for one in measured)


def _speed(one: LatencySamples, baseline: LatencySamples) -> Speed:
    return Speed(
        one.median_us, one.ci_low_us, one.ci_high_us, one.p10_us, one.p90_us, one.runs,
        baseline.median_us, one.load.others_cores,
    )  # fmt: skip


def digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
