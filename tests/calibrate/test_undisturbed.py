"""What something else disturbed is timed again, and the fastest session counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mcc.calibrate.undisturbed import SESSIONS, undisturbed, undisturbed_times
from mcc.runtime.samples import LatencySamples
from tests.compress.stand_ins import samples

UNDISTURBED = samples(100.0)
LESS = replace(samples(130.0), p10_us=100.0)
LEAST = replace(samples(110.0), p10_us=90.0)


class Device:
    """Gives what it was told to, file by file."""

    def __init__(self, told: dict[str, list[LatencySamples]]) -> None:
        self.told = told
        self.sessions: list[list[str]] = []

    def time(self, files: Sequence[Path], **_: object) -> list[LatencySamples]:
        self.sessions.append([file.name for file in files])
        return [self.told[file.name].pop(0) for file in files]


def test_only_what_was_disturbed_is_timed_again() -> None:
    device: Any = Device({"a": [UNDISTURBED], "b": [LESS, UNDISTURBED], "c": [LESS, LEAST, LESS, LESS]})
    found = undisturbed_times(device, [Path("a"), Path("b"), Path("c")], threads=1, budget_s=1.0)
    assert found == [UNDISTURBED, UNDISTURBED, LEAST]
    assert device.sessions == [["a", "b", "c"], ["b", "c"], ["c"], ["c"]]
    assert len(device.sessions) == SESSIONS


def test_calm_is_a_tenth_percentile_near_the_median() -> None:
    assert undisturbed(UNDISTURBED)
    assert not undisturbed(LESS)
