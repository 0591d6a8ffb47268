"""Energy of an inference, from the readings of a phone's battery.

    energy = |mean power while inferences run - mean power at rest before| x time / inferences

Power is current times voltage, of the whole phone. With a cable attached, the charger's share cancels in the
difference, if it is constant; the sign of the current differs between phones, hence the magnitude. Many
phones update these figures once a second, or do not allow adb's user to read them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

REST_S, BUSY_S = 3, 5  # long compared with the update interval of one second


@dataclass(frozen=True)
class Energy:
    """Energy of one inference in microjoules, and the phone's power at rest and while busy, in milliwatts."""

    microjoules: float
    rest_mw: float
    busy_mw: float


def energy_of(rest: Sequence[str], busy: Sequence[str], ns: Sequence[int]) -> Energy | None:
    """Energy from readings of the battery, `microamperes microvolts` each; None if the phone has none.

    Args:
        rest, busy: Readings before and during the inferences.
        ns: Duration of each inference, in nanoseconds.
    """
    powers = [_milliwatts(readings) for readings in (rest, busy)]
    if powers[0] is None or powers[1] is None or not ns:
        return None
    mean_s = float(np.mean(ns)) / 1e9
    return Energy(abs(powers[1] - powers[0]) * mean_s * 1e3, powers[0], powers[1])


def _milliwatts(readings: Sequence[str]) -> float | None:
    """Mean power in milliwatts; None if no reading has both figures."""
    found: list[float] = []
    for reading in readings:
        words = reading.split()
        if len(words) == 2 and all(word.lstrip("-").isdigit() for word in words):
            found.append(int(words[0]) * int(words[1]) / 1e9)
    return float(np.mean(found)) if found else None
