"""Timing on a machine that others use, too: once more what they disturbed, and the fastest session counts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mcc.runtime.samples import LatencySamples
from mcc.runtime.target import Target

UNDISTURBED = 0.97  # of the median at least: the tenth percentile of what was timed undisturbed
SESSIONS = 4  # at most, of timing one file


def undisturbed(samples: LatencySamples) -> bool:
    """Whether nothing else had a part in a file's median."""
    return samples.p10_us >= UNDISTURBED * samples.median_us


def undisturbed_times(
    target: Target, files: Sequence[Path], *, threads: int, budget_s: float
) -> list[LatencySamples]:
    """Time files in turns; those that something else disturbed are timed again. What disturbs only ever adds.

    Args:
        budget_s: of each session.

    Raises:
        TargetError: as `Target.time`.
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
