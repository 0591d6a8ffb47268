"""A roofline (Williams 2009) fitted to measured kernels, for kinds of kernels that were not measured.

The error for a kind that was never measured is estimated by leaving each measured kind out of the fit in
turn.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from mcc.cost_api import Kernel, Measurement
from mcc.cost_sum import Kind, kind_of

SPARSE_EFFICIENCY = 0.5  # of a dense kernel's rate for each non-zero (Elsen 2020, figure 2: about half)
DEPTHWISE_EFFICIENCY = 0.25  # no reuse across channels: a depthwise convolution stays far below the peak
FEWEST_KINDS = 3  # needed to estimate the error of a further kind; default with fewer, and minimum: ...
KIND_ERROR, LEAST_KIND_ERROR = 1.0, 0.5  # ...standard deviations of the logarithm
LEAST_US = 0.01
ALLOWED = 0.5  # of the longest time that a term can take
CALL_US = 0.5  # overhead of calling one kernel, whatever its size


def slowdown(kernel: Kernel) -> float:
    """How many times longer than usual a runtime computes a multiply-accumulate that is not skipped."""
    slower = 1.0 / SPARSE_EFFICIENCY if kernel.sparse is not None else 1.0
    if int(dict(kernel.attributes).get("groups", 1)) > 1:
        slower /= DEPTHWISE_EFFICIENCY
    return slower


def effective_macs(kernel: Kernel) -> float:
    """Multiply-accumulates, weighted by the relative rate at which a runtime computes them."""
    density = 1.0 - kernel.sparse.sparsity if kernel.sparse is not None else 1.0
    return kernel.macs * density * slowdown(kernel)


class Roof:
    """A roofline fitted to measured kernels, for kinds of which none was measured.

    A non-negative sum instead of the larger of both roofs, fitted by least squares of the relative error;
    every kind has the same weight, regardless of its number of kernels. `deviation` is one standard
    deviation of the logarithm; `rates` are the weights without zeros, where a fit starts from.
    """

    def __init__(self, rows: Sequence[Measurement]) -> None:
        kinds: dict[Kind, list[Measurement]] = {}
        for row in rows:
            kinds.setdefault(kind_of(row.kernel), []).append(row)
        self.weights = _roof(list(kinds.values()))
        self.rates = _rates(self.weights, rows)
        self.deviation = KIND_ERROR
        if len(kinds) >= FEWEST_KINDS:
            off = [
                _off(_roof([other for key, other in kinds.items() if key != kind]), own)
                for kind, own in kinds.items()
            ]
            self.deviation = max(LEAST_KIND_ERROR, float(np.sqrt(np.mean(np.square(off)))))

    def latency_us(self, kernel: Kernel) -> float:
        """Latency of one kernel."""
        return max(LEAST_US, float(_work(kernel) @ self.weights))


def _work(kernel: Kernel) -> NDArray[np.float64]:
    """Features of the fit: one call, effective multiply-accumulates, bytes."""
    return np.array([1.0, effective_macs(kernel), float(kernel.bytes_moved)])


def _roof(kinds: Sequence[Sequence[Measurement]]) -> NDArray[np.float64]:
    if not kinds:
        return np.zeros(3)
    rows = [row for kind in kinds for row in kind]
    weight = np.array([len(kind) ** -0.5 for kind in kinds for _ in kind])
    matrix = np.stack([_work(row.kernel) for row in rows])
    times = np.array([max(row.latency_us, LEAST_US) for row in rows])
    scale = np.maximum(matrix.max(axis=0), 1e-12)
    # Relative to half a microsecond more: otherwise the shortest kernels would dominate the fit.
    trust = weight / (times + CALL_US)
    solved, _ = nnls(matrix / scale * trust[:, None], times * trust)
    return solved / scale


def _rates(weights: NDArray[np.float64], rows: Sequence[Measurement]) -> NDArray[np.float64]:
    """Weights of which none is 0 where rows tell anything: half of the most that the rows allow, at least.

    No term of a kernel can take longer than the kernel.
    """
    if not rows:
        return np.full(3, LEAST_US)
    matrix = np.stack([_work(row.kernel) for row in rows])
    times = np.array([max(row.latency_us, LEAST_US) for row in rows])
    with np.errstate(divide="ignore"):
        allowed = (times[:, None] / matrix).min(axis=0)
    allowed[~np.isfinite(allowed)] = LEAST_US
    return np.maximum(weights, ALLOWED * allowed)


def _off(weights: NDArray[np.float64], rows: Sequence[Measurement]) -> float:
    """Distance of a kind from a roofline, as a logarithm: the root mean square over its kernels."""
    said = np.array([max(LEAST_US, float(_work(row.kernel) @ weights)) for row in rows]) + CALL_US
    true = np.array([row.latency_us for row in rows]) + CALL_US
    return float(np.sqrt(np.mean(np.log(true / said) ** 2)))
