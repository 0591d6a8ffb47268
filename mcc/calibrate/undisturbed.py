"""Timing on a shared machine: disturbed measurements are repeated, and the fastest session is used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mcc.runtime.samples import LatencySamples
from mcc.runtime.target import Target

UNDISTURBED = 0.97  # minimum ratio of the tenth percentile to the median of an undisturbed measurement
SESSIONS = 4  # maximum for one file


def undisturbed(samples: LatencySamples) -> bool:
    """Whether a file's median is free of disturbances."""
    return samples.p10_us >= UNDISTURBED * samples.median_us


def undisturbed_times(
    target: Target, files: Sequence[Path], *, threads: int, budget_s: float
) -> list[LatencySamples]:
    """Time files in turns; disturbed ones are timed again, since disturbances only add time.

    Args:
        budget_s: Seconds of each session.

    Raises:
        TargetError: As in `Target.time`.
    """
    best: dict[int, LatencySamples] = {}
    for _ in range(SESSIONS):
        again = [index for index in range(len(files)) if index not in best or not undisturbed(best[index])]
        if not again:
            break
        taken = target.time([files[index] for index in again], threads=threads, budget_s=budget_s)
        for index, samples in zip(again, taken, strict=True):
            best[index] = min(best.get(index, samples), samples, key=lambda found: found.median_us)
    return [best[index] for index in range(len(files))]
