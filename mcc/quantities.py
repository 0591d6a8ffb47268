"""Parsing of times, sizes, ratios and shapes of the command line.

A number without a unit is refused where it would be ambiguous: 8 may be microseconds or milliseconds. Units
of size are powers of ten (`kB`, `MB`) or of two (`KiB`, `MiB`).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from mcc.errors import UsageError

_NUMBER = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([^\d\s].*?)?\s*$")

_DIGITS = re.compile(r"\d{1,18}")  # they fit in 64 bits; Python parses no integer of more than 4300 digits

TIMES = {"ns": 1e-3, "us": 1.0, "µs": 1.0, "μs": 1.0, "ms": 1e3, "s": 1e6}
CYCLES = {"cycles": 1.0, "kcycles": 1e3, "mcycles": 1e6, "gcycles": 1e9}
SIZES = {
    "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30,
}  # fmt: skip
DURATIONS = {"s": 1.0, "sec": 1.0, "min": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class LatencyLimit:
    """A latency budget: a time where time is measured, model cycles where it is simulated.

    Attributes:
        latency_us, model_cycles: The limit; one of the two is set.
    """

    latency_us: float | None = None
    model_cycles: float | None = None


def _split(text: str, what: str, example: str) -> tuple[float, str]:
    """The number and the unit of a quantity, the number positive and finite."""
    match = _NUMBER.match(text)
    if match is None:
        raise UsageError(f"{text!r} is not {what}", hint=f"write for example {example}")
    value = float(match[1])
    if not value > 0 or not math.isfinite(value):
        raise UsageError(f"{text!r} is not {what} above zero", hint=f"write for example {example}")
    return value, (match[2] or "").lower()


def _scaled(text: str, units: dict[str, float] | dict[str, int], what: str, example: str) -> float:
    value, unit = _split(text, what, example)
    if unit not in units:
        problem = f"has the unknown unit {unit!r}" if unit else "has no unit"
        known = ", ".join(unit for unit in units if unit.isascii())
        raise UsageError(f"{text!r} {problem}", hint=f"write {what} as for example {example} ({known})")
    scaled = value * units[unit]
    if not math.isfinite(scaled):
        raise UsageError(f"{text!r} is too large", hint=f"write {what} as for example {example}")
    return scaled


def parse_latency(text: str) -> LatencyLimit:
    """`8ms`, `800us`, `0.5s`, or `20Mcycles` for simulators. Raises UsageError."""
    units = {**TIMES, **CYCLES}
    value = _scaled(text, units, "a latency", "8ms, or 20Mcycles on a simulator")
    _, unit = _split(text, "a latency", "8ms")
    return LatencyLimit(model_cycles=value) if unit in CYCLES else LatencyLimit(latency_us=value)


def parse_ratio(text: str) -> float:
    """`2x`, `1.8x` or `2`. Raises UsageError."""
    value, unit = _split(text, "a speed-up", "2x")
    if unit not in ("", "x", "×"):
        raise UsageError(f"{text!r} has the unknown unit {unit!r}", hint="write a speed-up as for example 2x")
    return value


def parse_size(text: str) -> int:
    """`1.5MB`, `120kB`, `6MiB` in bytes, rounded down. Raises UsageError."""
    size = int(_scaled(text, SIZES, "a size", "1.5MB or 6MiB"))
    if size < 1:
        raise UsageError(f"{text!r} is less than one byte", hint="write a size as for example 1.5MB")
    return size


def parse_duration(text: str) -> float:
    """`90s`, `5min`, `1h` in seconds. Raises UsageError."""
    return _scaled(text, DURATIONS, "a duration", "5min")


def parse_loss(text: str) -> float:
    """Allowed loss of a metric, `1.0` or `0.5`; zero allowed. Raises UsageError.

    Points of a fraction end at 100; that is checked once the task is known (`mcc.budget`).
    """
    hint = "write points of accuracy as for example 1.0, or so much of another metric, in its unit"
    try:
        value = float(text)
    except ValueError:
        raise UsageError(f"{text!r} is no number", hint=hint) from None
    if not 0 <= value < math.inf:
        raise UsageError(f"{text!r} is not between 0 and 100, nor a loss in a metric's unit", hint=hint)
    return value


def parse_epochs(text: str) -> float:
    """Passes over the data, `2.5`; zero allowed. Raises UsageError."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise UsageError(f"{text!r} is no number of passes over the data", hint="write for example 2.5, or 0")
    return value


def parse_names(text: str) -> tuple[str, ...]:
    """`joint,int8-ptq`: names between commas, at least one. Raises UsageError."""
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise UsageError(f"{text!r} has a place without a name", hint="write names with commas between them")
    return names


def parse_shape(text: str) -> tuple[int, ...]:
    """`1,3,224,224` or `1x3x224x224`; batch first. Raises UsageError."""
    words = [word.strip() for word in re.split("[,x]", text)]
    if not all(_DIGITS.fullmatch(word) and int(word) > 0 for word in words):
        raise UsageError(f"{text!r} is no shape", hint="write for example 1,3,224,224")
    return tuple(int(word) for word in words)


def parse_sides(text: str) -> tuple[int, int]:
    """`224`, or `240x320` for height and width. Raises UsageError."""
    words = re.split("[x,]", text)
    if len(words) > 2 or not all(_DIGITS.fullmatch(word) for word in words):
        raise UsageError(f"{text!r} is no size of a picture", hint="write 224, or 240x320 (height x width)")
    sides = int(words[0]), int(words[-1])
    if not all(sides):
        raise UsageError(
            f"{text!r} is no size of a picture, which has at least one pixel",
            hint="write 224, or 240x320 (height x width)",
        )
    return sides


def parse_roofline(text: str) -> tuple[float, float]:
    """`20,10`: 10^9 multiply-accumulates and 10^9 bytes a second. Raises UsageError."""
    try:
        gmacs, gbytes = (float(word) for word in text.split(","))
    except ValueError:
        gmacs = gbytes = 0.0
    if not (0 < gmacs < math.inf and 0 < gbytes < math.inf):
        raise UsageError(
            f"{text!r} is no pair of rates above zero",
            hint="write 10^9 multiply-accumulates and 10^9 bytes a second, as for example 20,10",
        )
    return gmacs, gbytes
