"""Results of latency measurements: samples, their median, and its confidence interval.

Successive samples are not independent: the clock of the processor, its caches and other programs change
slowly. So a measurement consists of *turns*, short series spread over the whole measuring time, and the 95 %
interval of the median comes from resampling whole turns (a block bootstrap, Künsch 1989); resampling single
samples would make it far too narrow.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil

RESAMPLES = 1000  # of the block bootstrap; 25 of them are beyond each end of the 95 % interval
CONFIDENCE_PERCENT = (2.5, 97.5)
INTERRUPTED_RATIO = 1.5  # a duration above this multiple of an operator's median was interrupted
CLOCK_STEP_US = 2.0  # and exceeds it by more than the rounding of begin and end to microseconds
UNDISTURBED_SHARE = (
    0.25  # of the runs of a profile: on a busy machine most begin with another program's caches
)
FEWEST_UNDISTURBED = 5


@dataclass(frozen=True)
class MachineLoad:
    """Load of the machine during a measurement.

    Attributes:
        one_minute_before: One-minute load average at the start.
        one_minute_after: One-minute load average at the end.
        others_cores: Average number of cores used by processes outside the measurement.
    """

    one_minute_before: float
    one_minute_after: float
    others_cores: float

    def as_json(self) -> dict[str, float]:
        """The three figures, rounded to two digits."""
        return {
            "one_minute_before": round(self.one_minute_before, 2),
            "one_minute_after": round(self.one_minute_after, 2),
            "others_cores": round(self.others_cores, 2),
        }


class LoadWatch:
    """Records the load of the machine from its creation to `stop()`.

    Args:
        pids: Processes of the measurement besides this one, including their descendants; they must still be
            running at `stop()`.
    """

    def __init__(self, pids: Sequence[int]) -> None:
        self._runners = [psutil.Process(pid) for pid in pids]
        self._before = os.getloadavg()[0]
        self._busy, self._ours, self._clock = _busy_seconds(), self._own_seconds(), time.monotonic()

    def stop(self) -> MachineLoad:
        """The load since the creation of this watch."""
        elapsed = max(time.monotonic() - self._clock, 1e-3)
        others = (_busy_seconds() - self._busy) - (self._own_seconds() - self._ours)
        return MachineLoad(self._before, os.getloadavg()[0], max(0.0, others / elapsed))

    def _own_seconds(self) -> float:
        total = 0.0
        processes = [psutil.Process()]
        for runner in self._runners:
            with suppress(psutil.Error):  # a browser has several child processes
                processes += [runner, *runner.children(recursive=True)]
        for process in processes:
            try:
                used = process.cpu_times()
            except psutil.Error:
                continue
            total += used.user + used.system
        return total


def _busy_seconds() -> float:
    times = psutil.cpu_times()._asdict()
    return float(
        sum(value for key, value in times.items() if key not in ("idle", "iowait", "guest", "guest_nice"))
    )


@dataclass(frozen=True)
class LatencySamples:
    """Latency of one file: all samples, in microseconds per inference, including outliers.

    Attributes:
        median_us, p10_us, p90_us: Median and percentiles of all samples.
        ci_low_us, ci_high_us: 95 % interval of the median.
        runs: Number of timed inferences (samples x inferences per sample).
        per_sample: Number of inferences in one sample, which is their mean.
        turns: Samples in order of time, one tuple for each turn.
        warmup_runs: Number of inferences before the first sample.
        load: Load of the machine during the measurement.
    """

    median_us: float
    p10_us: float
    p90_us: float
    ci_low_us: float
    ci_high_us: float
    runs: int
    per_sample: int
    turns: tuple[tuple[float, ...], ...]
    warmup_runs: int
    load: MachineLoad

    @staticmethod
    def from_turns(
        turns: Sequence[Sequence[float]], *, per_sample: int, warmup_runs: int, load: MachineLoad
    ) -> LatencySamples:
        """Summarise turns of samples (microseconds per inference); there must be at least one sample."""
        flat = np.concatenate([np.asarray(turn, dtype=np.float64) for turn in turns])
        p10, median, p90 = (float(v) for v in np.percentile(flat, [10, 50, 90]))
        low, high = median_interval(turns)
        return LatencySamples(
            median_us=median,
            p10_us=p10,
            p90_us=p90,
            ci_low_us=low,
            ci_high_us=high,
            runs=int(flat.size) * per_sample,
            per_sample=per_sample,
            turns=tuple(tuple(float(v) for v in turn) for turn in turns),
            warmup_runs=warmup_runs,
            load=load,
        )

    @property
    def samples(self) -> tuple[float, ...]:
        """All samples in order of time, in microseconds per inference."""
        return tuple(value for turn in self.turns for value in turn)

    @property
    def relative_halfwidth(self) -> float:
        """Half the width of the 95 % interval relative to the median."""
        return (self.ci_high_us - self.ci_low_us) / 2 / self.median_us

    def as_json(self) -> dict[str, float | int]:
        """The four figures of `latency_us` in reports: median, p10, p90, runs."""
        return {
            "median": round(self.median_us, 2),
            "p10": round(self.p10_us, 2),
            "p90": round(self.p90_us, 2),
            "runs": self.runs,
        }

    def as_full_json(self) -> dict[str, Any]:
        """`as_json()`, the interval of the median, the machine's load and every sample."""
        return {
            **self.as_json(),
            "ci95": [round(self.ci_low_us, 2), round(self.ci_high_us, 2)],
            "per_sample": self.per_sample,
            "warmup_runs": self.warmup_runs,
            "load": self.load.as_json(),
            "samples": [round(value, 3) for value in self.samples],
        }


def undisturbed_runs(totals_us: Sequence[float]) -> list[int]:
    """Indices of the fastest quarter of the runs of one file (at least five), in order of time.

    Other programs slow down a whole run: after each of their time slices the caches are cold, and all
    operators of the file take up to 1.8 times as long.
    """
    count = max(FEWEST_UNDISTURBED, round(UNDISTURBED_SHARE * len(totals_us)))
    return sorted(np.argsort(np.asarray(totals_us), kind="stable")[:count].tolist())


def undisturbed_mean(us: Sequence[float]) -> float:
    """Mean of the durations of one operator, without those interrupted by other programs.

    Profilers count whole microseconds, so a median would be too coarse for short operators; a plain mean is
    dominated by the few runs that waited for a time slice of milliseconds.
    """
    durations = np.asarray(us, dtype=np.float64)
    usual = float(np.median(durations))
    return float(durations[durations <= INTERRUPTED_RATIO * usual + CLOCK_STEP_US].mean())


def median_interval(turns: Sequence[Sequence[float]]) -> tuple[float, float]:
    """95 % interval of the median of all samples, by resampling whole turns with a fixed seed.

    Args:
        turns: Series of samples; turns are weighted by their length.

    Returns:
        Lower and upper bound, in the unit of the samples. One turn alone gives its extremes.
    """
    arrays = [np.asarray(turn, dtype=np.float64) for turn in turns]
    if len(arrays) == 1:
        return float(arrays[0].min()), float(arrays[0].max())
    generator = np.random.default_rng(0)
    picks = generator.integers(0, len(arrays), size=(RESAMPLES, len(arrays)))
    if len({array.size for array in arrays}) == 1:
        stacked = np.stack(arrays)
        medians = np.median(stacked[picks].reshape(RESAMPLES, -1), axis=1)
    else:
        medians = np.array([np.median(np.concatenate([arrays[i] for i in row])) for row in picks])
    low, high = np.percentile(medians, CONFIDENCE_PERCENT)
    return float(low), float(high)
