"""Energy of an inference, from what a phone's battery says of itself.

    energy = |mean power while inferences run - mean power at rest before| x time / inferences

Power is current times voltage, of the whole phone. On a cable the charger's share cancels out in the
difference, as long as it stays the same; signs of the current differ between phones, hence the magnitude.
Many phones renew these figures once a second, or do not let adb's user read them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

REST_S, BUSY_S = 3, 5  # long against the second in which a battery's figures are renewed


@dataclass(frozen=True)
class Energy:
    """Energy of one inference in microjoules, and the phone's power at rest and meanwhile in milliwatts."""

    microjoules: float
    rest_mw: float
    busy_mw: float


def energy_of(rest: Sequence[str], busy: Sequence[str], ns: Sequence[int]) -> Energy | None:
    """From readings of the battery, `microamperes microvolts` each; None where the phone gives none.

    Args:
        rest, busy: before the inferences, and while they ran.
        ns: duration of each inference.
    """
    powers = [_milliwatts(readings) for readings in (rest, busy)]
    if powers[0] is None or powers[1] is None or not ns:
        return None
    mean_s = float(np.mean(ns)) / 1e9
    return Energy(abs(powers[1] - powers[0]) * mean_s * 1e3, powers[0], powers[1])


def _milliwatts(readings: Sequence[str]) -> float | None:
    """Mean power; None where no reading holds both figures."""
    found: list[float] = []
    for reading in readings:
        words = reading.split()
        if len(words) == 2 and all(word.lstrip("-").isdigit() for word in words):
            found.append(int(words[0]) * int(words[1]) / 1e9)
    return float(np.mean(found)) if found else None
