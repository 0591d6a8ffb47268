"""Measured latency of a file, with that of the baseline in the same rounds."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from mcc.runtime.samples import LatencySamples


@dataclass(frozen=True)
class Speed:
    """Latency of a file and of the baseline, measured in turns; model cycles on simulated cores.

    Attributes:
        latency_us: Median; `low_us` and `high_us` are its 95 % interval.
        p10_us, p90_us: Percentiles of all samples.
        runs: Number of timed inferences.
        baseline_us: Median of the baseline in the same rounds.
        others_cores: Processor cores that other programs used meanwhile.
        date: Time of the measurement, ISO 8601 in UTC.
    """

    latency_us: float
    low_us: float
    high_us: float
    p10_us: float
    p90_us: float
    runs: int
    baseline_us: float
    others_cores: float
    date: str = ""

    def __post_init__(self) -> None:
        times = (self.latency_us, self.low_us, self.high_us, self.p10_us, self.p90_us, self.baseline_us)
        if not all(0 < time < math.inf for time in times):
            raise ValueError(f"times must be above zero and finite, not {times}")
        if not self.low_us <= self.latency_us <= self.high_us:
            raise ValueError(f"{self.latency_us} is outside its interval {self.low_us} to {self.high_us}")

    @staticmethod
    def of(one: LatencySamples, baseline: LatencySamples, date: str) -> Speed:
        """The speed from two measurements of the same rounds."""
        # The interval comes from resampling; with very few turns it may exclude the median itself.
        low, high = min(one.ci_low_us, one.median_us), max(one.ci_high_us, one.median_us)
        return Speed(
            one.median_us, low, high, one.p10_us, one.p90_us, one.runs, baseline.median_us,
            one.load.others_cores, date,
        )  # fmt: skip

    @staticmethod
    def from_json(raw: Any) -> Speed:
        """Parse the result of `dataclasses.asdict`. Raises ValueError or TypeError for anything else."""
        if not isinstance(raw, dict):
            raise TypeError("no figures of a speed")
        known = {field.name for field in fields(Speed)}
        return Speed(**{str(name): value for name, value in raw.items() if name in known})

    @property
    def speedup(self) -> float:
        """Speed-up: latency of the baseline over that of this file."""
        return self.baseline_us / self.latency_us

    @property
    def speedup_ci95(self) -> tuple[float, float]:
        """95 % interval of the speed-up, from that of the median."""
        return self.baseline_us / self.high_us, self.baseline_us / self.low_us
