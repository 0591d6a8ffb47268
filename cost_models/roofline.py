"""Analytic roofline (Williams 2009) for a device that was never measured.

    t = call + max(multiply-accumulates / peak rate, bytes moved / bandwidth)

It ranks alternatives roughly, as stated by its error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from mcc.cost_api import WHOLE_ERROR, Estimate, Kernel, Precision
from mcc.cost_roofline import CALL_US, effective_macs

RELATIVE_ERROR = 0.5  # kernels of real runtimes reach between a third and nearly all of either roof


@dataclass(frozen=True)
class RooflineCostModel:
    """A cost model from a few figures of a device.

    Attributes:
        gmacs: Peak rate in float32, in 10^9 multiply-accumulates per second.
        gbytes: Memory bandwidth, in 10^9 bytes per second.
        call_us: Microseconds per kernel, independent of its size.
        overhead_us: Overhead of an inference, in microseconds.
        speedups: Peak rates of other precisions relative to float32.
    """

    gmacs: float
    gbytes: float
    call_us: float = CALL_US
    overhead_us: float = 5.0
    speedups: Mapping[Precision, float] = field(default_factory=lambda: {"int8": 2.0, "int7": 2.0})
    name: str = "roofline"

    def __post_init__(self) -> None:
        values = (self.gmacs, self.gbytes, *self.speedups.values())
        if not all(math.isfinite(value) and value > 0 for value in values):
            raise ValueError("rates of a roofline must be positive")
        if min(self.call_us, self.overhead_us) < 0:
            raise ValueError("times of a roofline cannot be negative")

    @property
    def whole_error(self) -> float:
        """`WHOLE_ERROR`."""
        return WHOLE_ERROR

    def kernel(self, kernel: Kernel) -> Estimate:
        """Latency of a kernel."""
        rate = self.gmacs * 1e3 * self.speedups.get(kernel.precision, 1.0)
        macs = effective_macs(kernel)
        latency = self.call_us + max(macs / rate, kernel.bytes_moved / (self.gbytes * 1e3))
        return Estimate(latency, RELATIVE_ERROR * latency, "roofline")

    def overhead(self, precision: Precision) -> Estimate:
        """Latency outside the kernels."""
        return Estimate(self.overhead_us, RELATIVE_ERROR * self.overhead_us, "roofline")
