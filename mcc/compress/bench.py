"""Measures candidates: latency interleaved with the baseline, peak memory, and the task's metric.

Planning measures many files, and the same ones again in the next run. Its measurements are kept by the digest
of the file, with their date: in the folder of the run and, for latency and peak memory, in the table that
runs share. A resumed or repeated run reuses them and so makes the same plan. The figures of the report are
never taken from there: see `mcc.compress.final_measurement`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mcc.calibrate.undisturbed import undisturbed_times
from mcc.compress.final_measurement import FinalFigures
from mcc.compress.measurement_store import MeasuredFiles
from mcc.compress.speed import Speed
from mcc.data import BoundTask, DataModule
from mcc.data.bound import task_of
from mcc.data.module import SplitName
from mcc.data.outputs import Output
from mcc.data.parts import handed_on
from mcc.files import write_beside, write_text
from mcc.report.figures import MetricFigure
from mcc.report.judge import judge_file
from mcc.runtime.samples import LatencySamples
from mcc.runtime.target import Target

log = logging.getLogger(__name__)

Statistics = npt.NDArray[np.float64]

FINAL_SECONDS = 4.0  # for each file in a measurement that is reported
TRIAL_SECONDS = 3.0  # for a candidate and the baseline; the delivered file is measured for longer
AGAIN = 2  # repetitions of a disturbed measurement
DISTURBED = 1.3
"""Ratio of the median to the fastest tenth of the samples above which a measurement counts as disturbed:
other programs had the processor for half of the samples.

Undisturbed, the two are within 10 % of each other. On a machine with 15 programs waiting for two cores, one
of 15 measurements in LiteRT.js of a file against itself came out 3.8 to 1, and a plan relied on it (2026-11).
"""


@dataclass(frozen=True)
class Known:
    """A figure measured for planning.

    Attributes:
        value: Plain JSON values.
        date: Time of the measurement, ISO 8601 in UTC.
        earlier: Whether it was measured by another run and read from the shared table.
    """

    value: Any
    date: str
    earlier: bool = False


class Bench:
    """Measures files of one job on one target, and keeps the results.

    Args:
        target, threads: Target and number of threads.
        baseline: The original, lowered the same way.
        store: JSON file of this run's measurements.
        shared: Measurements of the same files by any run, for planning; None: only this run's are used.
        task: The task, bound to the outputs of the job's network; None: the data's task, bound to each file.
        outputs: Outputs of that network.
    """

    def __init__(
        self,
        target: Target,
        threads: int,
        baseline: Path,
        store: Path,
        shared: MeasuredFiles | None = None,
        *,
        task: BoundTask | None = None,
        outputs: Sequence[Output] | None = None,
    ) -> None:
        self.task, self.outputs = task, outputs
        self.target = target
        self.threads = threads
        self.baseline = baseline
        self.store = store
        self.shared = shared
        self.known = _stored(store)
        self.final = FinalFigures(store.with_name("final.json"))

    # -- for planning --------------------------------------------------------------------------------------

    def original(self) -> Speed:
        """Latency of the baseline alone; if a session was disturbed, the fastest one counts.

        Trials are measured as ratios to the baseline and converted to times by this figure: if it is too
            large,
        every plan is too fast and every prediction too slow.
        """

        def measure() -> Speed:
            (found,) = undisturbed_times(
                self.target, [self.baseline], threads=self.threads, budget_s=FINAL_SECONDS
            )
            return Speed.of(found, found, _now())

        return self._speed(f"original {digest(self.baseline)}", measure)

    def speed(self, path: Path, *, budget_s: float = TRIAL_SECONDS) -> Speed:
        """Latency of one file in turns with the baseline, until its median is certain or the time is spent.

        For the baseline itself, the latency of `original`.
        """
        if digest(path) == digest(self.baseline):
            return self.original()

        def measure() -> Speed:
            baseline, one = self._together([self.baseline, path], budget_s)
            return Speed.of(one, baseline, _now())

        return self._speed(f"speed {digest(self.baseline)} {digest(path)}", measure)

    def trial_memory(self, path: Path) -> int:
        """Peak memory of a candidate in a fresh runner, see `mcc.runtime.target.Target.peak_memory`."""
        key = f"peak {self.target.memory_kind} {digest(path)}"
        return int(self._measured(key, lambda: self._peak(path), _is_bytes).value)

    def _speed(self, key: str, measure: Callable[[], Speed]) -> Speed:
        found = self._measured(key, lambda: asdict(measure()), _is_speed)
        return Speed.from_json({**found.value, "date": found.date})

    @property
    def remembered(self) -> dict[str, str]:
        """The figures that planning reused from earlier runs, and their dates, by kind of figure."""
        kinds = {"original": "latency of the original", "speed": "latency of trials", "peak": "memory"}
        dates: dict[str, list[str]] = {}
        for key, one in sorted(self.known.items()):
            kind = kinds.get(key.split(" ")[0])
            if one.earlier and kind is not None:
                dates.setdefault(kind, []).append(one.date)
        return {kind: period_words(found) for kind, found in dates.items()}

    # -- for the report ------------------------------------------------------------------------------------

    def final_speeds(
        self, paths: Sequence[Path], *, doubtful: Callable[[Speed], bool], budget_s: float | None = None
    ) -> list[Speed]:
        """Latency of several files, all in turns with one another and the baseline, timed in this run.

        Files with the same bytes are measured as one: their difference would be noise only, and one file,
            loaded
        twice, can differ by 5 % from itself in a browser.

        Args:
            budget_s: Duration of one session; None: `FINAL_SECONDS` for each file.
            doubtful: Whether a figure calls for another session, see `mcc.compress.final_measurement`.
        """
        marks = [digest(path) for path in paths]
        first = digest(self.baseline)
        unlike = {first: self.baseline, **dict(zip(marks, paths, strict=True))}
        unlike[first] = self.baseline
        budget_s = FINAL_SECONDS * len(paths) if budget_s is None else budget_s
        budget_s *= len(unlike) / max(1, len(paths))
        found = self.final.speeds(unlike, first, lambda files: self._together(files, budget_s), doubtful)
        return [found[mark] for mark in marks]

    def final_memory(self, path: Path) -> int:
        """Peak memory of a file in a fresh runner, measured in this run."""
        return self.final.peak(digest(path), lambda: self._peak(path))

    def metric(self, path: Path, data: DataModule, split: SplitName) -> float:
        """The task's metric of a lowered file, run in the target's runtime.

        Raises:
            NotFiniteError: The judged output is NaN or infinite.
        """
        return self._task(data).figure(self.statistics(path, data, split))

    def figure(self, path: Path, data: DataModule, split: SplitName) -> MetricFigure:
        """The same with its interval. Raises NotFiniteError as `metric` does."""
        task = self._task(data)
        score = task.summarise(self.statistics(path, data, split))
        return MetricFigure.of(task.metric, score.value, score.low, score.high)

    def figures(self, path: Path, data: DataModule, split: SplitName) -> dict[str, float]:
        """Further figures of the task, by name."""
        return self._task(data).figures(self.statistics(path, data, split))

    def chance(self, path: Path, data: DataModule, split: SplitName) -> str | None:
        """The reason why that metric is no better than chance; None if it is better."""
        targets = handed_on(data.split(split).targets)
        found = self.statistics(path, data, split)
        return self._task(data).chance(found, targets, data.class_names, targets)

    def _task(self, data: DataModule) -> BoundTask:
        return self.task or BoundTask(task_of(data), ())

    def statistics(self, path: Path, data: DataModule, split: SplitName) -> Statistics:
        """The task's statistics of each image of a split, [images, ...] in a fixed order; kept in the run's
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

    # -- measuring and remembering -------------------------------------------------------------------------

    def _together(self, paths: Sequence[Path], budget_s: float) -> list[LatencySamples]:
        """Timed in turns until nothing disturbs it, `1 + AGAIN` times at most; the least disturbed counts."""
        best: list[LatencySamples] = []
        for _ in range(1 + AGAIN):
            found = self.target.time(paths, threads=self.threads, budget_s=budget_s)
            best = min((best, found), key=_disturbance) if best else found
            if _disturbance(best) <= DISTURBED:
                break
        return best

    def _peak(self, path: Path) -> int:
        return self.target.peak_memory(path, self.threads)

    def _measured(self, key: str, measure: Callable[[], Any], valid: Callable[[Any], bool]) -> Known:
        """The measurement of this run or, before it, of any run; otherwise a new one."""
        if key in self.known and valid(self.known[key].value):
            return self.known[key]
        found = self.shared.get(key) if self.shared is not None else None
        if found is not None and valid(found.value):
            known = Known(found.value, found.date, earlier=True)
        else:
            if found is not None:
                log.warning("a remembered measurement is no figure (%s): it is measured again", key)
            known = Known(measure(), _now())
            if self.shared is not None:
                self.shared.put(key, known.value)
        self.remember({key: known})
        return known

    def remember(self, found: dict[str, Known]) -> None:
        """Keep measurements; written to disk first."""
        self.known.update(found)
        text = json.dumps({key: asdict(one) for key, one in self.known.items()})
        write_text(self.store, text)


def _stored(path: Path) -> dict[str, Known]:
    """Measurements of an earlier part of this run; none if the file is damaged."""
    if not path.exists():
        return {}
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        return {str(k): Known(v["value"], str(v["date"]), v["earlier"] is True) for k, v in raw.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s cannot be read (%s): what it held is measured again", path, error)
        return {}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def period_words(dates: Sequence[str]) -> str:
    """The days of some dates: `2026-11-03`, or `2026-11-03 to 2026-11-09`."""
    days = sorted(date[:10] for date in dates)
    return days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_bytes(value: Any) -> bool:
    return _is_number(value) and value >= 0


def _is_speed(value: Any) -> bool:
    try:
        Speed.from_json(value)
    except (TypeError, ValueError):
        return False
    return True


def _kept_statistics(path: Path, images: int) -> Statistics | None:
    """Statistics of an earlier part of this run; None if missing or of another number of images."""
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


def digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
