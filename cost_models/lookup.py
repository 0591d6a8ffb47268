"""Lookup cost model: measured kernels, and a fit between them for kernels that were not measured.

The fit models the work of a kernel: for each family of kernels (operator, window, stride, precision, storage,
layout) a non-negative sum of the terms that take time,

    t = a + b * tiles + c * weight bytes + d * activation bytes read + e * bytes written,

by least squares of the relative error, with a prior from a roofline through all measured kernels; tiles are
multiply-accumulates with output channels and pixels rounded up to the register tile. The residual is smooth
in the logarithms of the sizes and is interpolated by a Gaussian process (Rasmussen 2006), which also gives
its deviation.

A kernel of a kind without measurements has no fit. Its estimate is a roofline through the measured kernels
(`mcc/cost_roofline.py`), which is its `source`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from mcc.cost_api import WHOLE_ERROR, Estimate, Kernel, Measurement, Precision, Source
from mcc.cost_roofline import Roof, slowdown
from mcc.cost_sum import grouping, kind_of

Vector = NDArray[np.float64]

TILE = 16  # output channels: lanes of AVX-512, twice those of AVX or WebAssembly's and NEON's times 4
LENGTH = 1.0  # correlation length of residuals, in doublings of a size
NOISE = 0.03  # relative error of a measurement: medians of repeated ones differ by 2 to 4 %
FEWEST = 6  # rows that a family needs for a fit of its own; with fewer, a wider family is used
UNSURE = 0.5  # relative error at which a row has no information
CLOCK_US = 0.1  # minimum error of a latency
OUTLIER = 0.3  # relative error beyond which the influence of a row on the fit is constant (Huber 1964)
REWEIGHTED = 4  # rounds of reweighting
FARTHEST = 1.0  # maximum of a residual, in logarithms
FIT_ERROR = 0.1  # relative error of a family's sum of terms, supposed with the weight of...
FEWEST_ERROR = 1.0  # ...so many rows
PRIOR = 2.0  # deviation of a weight from the roofline's, relative to it
SPREAD = 0.15  # deviation of residuals in logarithms supposed of a family without rows
FLOOR_US = 0.01
LEAST_SHARE = 0.25  # of a kernel's latency that remains after a negative offset
NORMAL_MEDIAN = 0.6745  # median of the absolute value of a standard normal variable
SUSPECT = 0.15  # excess over its neighbours, in logarithms, of a row that may have been disturbed, ...
SUSPECT_DEVIATIONS = 2.0  # ...if it is also as many standard deviations
WIDER_ERROR = 0.17  # minimum relative error for each level of a wider family, whose kernels run other code


def features(kernel: Kernel) -> Vector:
    """Features that take time, unscaled.

    One, tiles, weight bytes, activation bytes read, bytes written, pixels; then tiles and pixels again if
    channels are no multiple of 16, and of 8: many runtimes have slower code for the remainder.
    """
    width = 4.0 if kernel.precision == "float" else 1.0
    density = 1.0 - kernel.sparse.sparsity if kernel.sparse is not None else 1.0
    weights = read = 0.0
    for index, operand in enumerate(kernel.operands):
        if operand is None:
            continue
        elements = float(math.prod(operand.shape))
        if operand.constant:
            weights += elements * (density if index == 1 else 1.0)
        else:
            read += elements
    written = float(math.prod(kernel.output))
    made = kernel.output[1] if len(kernel.output) > 1 else 1
    rounded = math.ceil(made / TILE) * TILE / made if kernel.sparse is None else 1.0
    tiles = kernel.macs * density * rounded
    pixels = written / made
    odd = [float(made % TILE != 0), float(made % (TILE // 2) != 0)]
    rest = [value * flag for value in (tiles, pixels) for flag in odd]
    return np.array([1.0, tiles, weights * width, read * width, written * width, pixels, *rest])


def position(kernel: Kernel) -> Vector:
    """Position of a kernel in its family: logarithms (base 2) of its sizes, and their oddness."""
    x = kernel.operands[0]
    read = x.shape[1] if x is not None and len(x.shape) > 1 else 1
    made = kernel.output[1] if len(kernel.output) > 1 else 1
    pixels = math.prod(kernel.output) / max(1, made)
    density = 1.0 - kernel.sparse.sparsity if kernel.sparse is not None else 1.0
    sizes = np.log2(np.array([read, made, pixels, max(density, 1e-3)], dtype=np.float64))
    return np.concatenate([sizes, [_oddness(read), _oddness(made)]])


def _oddness(channels: int) -> float:
    """Distance of channels from whole vectors: 0 for a multiple of 16, 1 for an odd number."""
    return 1.0 - min(4, (channels & -channels).bit_length() - 1) / 4 if channels else 1.0


def family(kernel: Kernel, level: int) -> tuple[Any, ...]:
    """The family of a kernel, which is fitted together; a higher level is a wider family."""
    attributes = dict(kernel.attributes)
    weight = kernel.operands[1] if len(kernel.operands) > 1 else None
    window = weight.shape[2:] if weight is not None and weight.constant and len(weight.shape) == 4 else ()
    grouped, stored = grouping(kernel), kernel.sparse.block if kernel.sparse is not None else 0
    detail = (
        window,
        attributes.get("stride", attributes.get("kernel")),
        attributes.get("activation") == "none",
    )
    whole = (kernel.op, grouped, kernel.precision, stored, kernel.layout, *detail[:2])
    return (
        whole,
        kind_of(kernel),
        (kernel.op, kernel.precision),
    )[level]


LEVELS = 3


def unsure(row: Measurement) -> bool:
    """Whether a row has no information: its spread is as large as itself and above the shortest times."""
    return row.error_us >= max(UNSURE * row.latency_us, CLOCK_US)


class Fit:
    """The fitted surface of one family.

    A family of few rows says little about kernels unlike them. Its weights therefore have a prior: those of a
    roofline through all measured kernels, each known to a factor of about `1 + PRIOR` (a Bayesian linear
    regression, Rasmussen 2006, 2.1.1, by appended rows). The posterior's deviation is part of the error.
    """

    def __init__(self, measured: list[Measurement], roof: Roof) -> None:
        sure = [row for row in measured if row.error_us < UNSURE * row.latency_us]
        rows = sure if 2 * len(sure) > len(measured) else measured
        matrix = np.stack([features(row.kernel) for row in rows])
        times = np.array([row.latency_us for row in rows])
        prior, deviations = _prior(rows[0].kernel, roof)
        least, trust = times + CLOCK_US, np.ones(len(times))
        error = FIT_ERROR
        for _ in range(REWEIGHTED):
            # In units of the prior's deviations.
            known = matrix * deviations * (trust / least / error)[:, None]
            solved, _ = nnls(
                np.vstack([known, np.eye(len(prior))]),
                np.concatenate([times * trust / least / error, prior / deviations]),
            )
            self.weights = solved * deviations
            off = np.abs(matrix @ self.weights - times) / least
            trust = np.minimum(1.0, OUTLIER / np.maximum(off, 1e-9))
            left = FEWEST_ERROR * FIT_ERROR**2 + float(np.square(off * trust).sum())
            error = math.sqrt(left / (FEWEST_ERROR + len(rows)))
        self.deviations = deviations
        known = matrix * deviations * (trust / least / error)[:, None]
        self.posterior = np.linalg.inv(known.T @ known + np.eye(len(prior)))
        self.points = np.stack([position(row.kernel) for row in rows])
        residual = np.clip(np.log(times / self._physics(matrix)), -FARTHEST, FARTHEST)
        supposed = FEWEST * SPREAD**2 + float(residual @ residual)
        self.spread = max(0.05, math.sqrt(supposed / (FEWEST + len(rows))))
        relative = np.array([row.error_us for row in rows]) / times + CLOCK_US / times
        noise = NOISE**2 + np.minimum(relative, 1.0) ** 2
        self.inverse = np.linalg.inv(self._covariance(self.points) + np.diag(noise))
        self.alpha = self.inverse @ residual
        # The deviation of the process comes from predicting each row from the others (Rasmussen 2006, 5.4.2).
        surprise = np.abs(self.alpha) / np.sqrt(np.diag(self.inverse))
        self.doubt = max(1.0, float(np.median(surprise)) / NORMAL_MEDIAN)
        # Excess of each row over its prediction from the others, in logarithms, and in deviations.
        self.above = self.alpha / np.diag(self.inverse)
        self.surprise = self.alpha / np.sqrt(np.diag(self.inverse)) / self.doubt
        self.rows = rows

    def _physics(self, matrix: Vector) -> Vector:
        return np.maximum(matrix @ self.weights, FLOOR_US)

    def _covariance(self, points: Vector) -> Vector:
        apart = points[:, None, :] - self.points[None, :, :]
        return self.spread**2 * np.exp(-0.5 * (apart**2).sum(-1) / LENGTH**2)

    def predict(self, kernel: Kernel) -> tuple[float, float]:
        """Microseconds and one standard deviation."""
        asked = features(kernel)
        base = float(self._physics(asked[None, :])[0])
        near = self._covariance(position(kernel)[None, :])[0]
        shift = float(near @ self.alpha)
        variance = max(0.0, self.spread**2 - float(near @ self.inverse @ near)) + NOISE**2
        latency = base * math.exp(min(FARTHEST, max(-FARTHEST, shift)))
        scaled = asked * self.deviations
        weights = math.sqrt(float(scaled @ self.posterior @ scaled)) / base
        return latency, math.hypot(latency * math.hypot(self.doubt * math.sqrt(variance), weights), CLOCK_US)


def _prior(kernel: Kernel, roof: Roof) -> tuple[Vector, Vector]:
    """Means and deviations of a family's weights, in the order of `features`, before its rows are seen."""
    call, macs, moved = roof.rates
    macs *= slowdown(kernel)
    means = np.array([call, macs, moved, moved, moved, 0.0, 0.0, 0.0, 0.0, 0.0])
    pixel = TILE * macs  # of one pixel of a channel: loading and storing it costs as much as a few products
    odd = [macs, macs, pixel, pixel]
    return means, PRIOR * np.array([call, macs, moved, moved, moved, pixel, *odd])


class Whole(Protocol):
    """A figure of whole networks in a table: `overhead`, `correction`, `offset`, `spread`."""

    @property
    def quantity(self) -> str: ...
    @property
    def precision(self) -> Precision: ...
    @property
    def value(self) -> float: ...
    @property
    def source(self) -> str: ...
    @property
    def date(self) -> str: ...


class Table(Protocol):
    """A table of measured kernels, by fingerprint."""

    def rows(self, fingerprint: str) -> list[Measurement]:
        """Measured kernels."""
        ...

    def wholes(self, fingerprint: str) -> Sequence[Whole]:
        """Figures of whole networks."""
        ...


@dataclass
class LookupCostModel:
    """A cost model from measured kernels.

    Args:
        rows: Measurements under one fingerprint.
        overheads: Microseconds outside the kernels, by precision of the input.
        corrections: Factors of all kernels, by precision, that fit their sums to whole networks.
        offsets: Microseconds added to all kernels, by precision, for the same purpose; less to those under
            1 us, which a runtime fuses.
        spread: Standard deviation of the logarithm of one file's latency between inferences.
    """

    rows: tuple[Measurement, ...]
    overheads: Mapping[Precision, float] = field(default_factory=lambda: {})
    corrections: Mapping[Precision, float] = field(default_factory=lambda: {})
    offsets: Mapping[Precision, float] = field(default_factory=lambda: {})
    spread: float = 0.0
    name: str = "lookup"

    def __post_init__(self) -> None:
        self._measured = {str(row.kernel): row for row in self.rows}
        self._families: list[dict[tuple[Any, ...], list[Measurement]]] = [{} for _ in range(LEVELS)]
        for row in self.rows:
            for level in range(LEVELS):
                self._families[level].setdefault(family(row.kernel, level), []).append(row)
        self._kinds = {kind_of(row.kernel) for row in self.rows if not unsure(row)}
        self._fits: dict[tuple[int, tuple[Any, ...]], Fit] = {}
        self._roofs: dict[Precision, Roof] = {}
        self._cache: dict[Kernel, Estimate] = {}

    @staticmethod
    def from_store(
        store: Table, fingerprint: str, source: str | None = None, family: str | None = None
    ) -> LookupCostModel:
        """A model from the rows of a table for a fingerprint.

        Args:
            source: Source of the overheads (`input 1x3x64x64`); the latest if the table lacks it.
            family: Family of the corrections; no correction if the table lacks it, since that of other
                networks makes predictions worse (docs/results/prediction.md).
        """
        wholes = sorted(store.wholes(fingerprint), key=lambda w: (w.source == source, w.date))
        figures: dict[str, dict[Precision, float]] = {"overhead": {}, "correction": {}, "offset": {}}
        for whole in wholes:
            if whole.quantity not in ("correction", "offset") or whole.source == family:
                figures.setdefault(whole.quantity, {})[whole.precision] = whole.value
        rows = tuple(store.rows(fingerprint))
        spread = next((w.value for w in reversed(wholes) if w.quantity == "spread"), 0.0)
        return LookupCostModel(rows, figures["overhead"], figures["correction"], figures["offset"], spread)

    @property
    def whole_error(self) -> float:
        """Relative error of sums of kernels, or the spread of one file's latency here if larger."""
        return max(WHOLE_ERROR, self.spread)

    def kernel(self, kernel: Kernel) -> Estimate:
        """Latency of a kernel: measured, else fitted."""
        found = self._cache.get(kernel)
        if found is None:
            found = self._cache[kernel] = self._estimate(kernel)
        return found

    def overhead(self, precision: Precision) -> Estimate:
        """Latency outside the kernels; of another precision if that of this one is unknown."""
        value = self.overheads.get(precision)
        if value is None:
            value = max(self.overheads.values(), default=0.0)
        return Estimate(value, 0.1 * value, "measured" if precision in self.overheads else "fitted")

    def corrected(self, precision: Precision, factor: float) -> LookupCostModel:
        """The same model with another correction of one precision."""
        return replace(self, corrections={**self.corrections, precision: factor})

    def suspects(self) -> list[Kernel]:
        """Kernels without a reliable time, then those measured as clearly slower than similar ones.

        They may have been disturbed, which only adds time, or are slow. Those with the largest possible
        effect are first.
        """
        found = [(math.inf, row.kernel) for row in self.rows if unsure(row)]
        for key, rows in self._families[0].items():
            if len(rows) < FEWEST:
                continue
            fit = self._fit(0, key, rows)
            found += [
                (above * row.latency_us, row.kernel)
                for row, above, surprise in zip(fit.rows, fit.above, fit.surprise, strict=True)
                if above > SUSPECT
                and surprise > SUSPECT_DEVIATIONS
                and above * row.latency_us > CLOCK_US
                and not unsure(row)
            ]
        return [kernel for _, kernel in sorted(found, key=lambda pair: -pair[0])]

    def _estimate(self, kernel: Kernel) -> Estimate:
        row = self._measured.get(str(kernel))
        if row is not None and unsure(row):
            row = None  # disturbed: the prediction from its neighbours is better
        latency, error, source = self._fitted(kernel) if row is None else _measured(row)
        factor = self.corrections.get(kernel.precision, 1.0)
        offset = self.offsets.get(kernel.precision, 0.0) * min(1.0, latency)
        corrected = max(LEAST_SHARE * latency, factor * latency + offset)
        return Estimate(corrected, error * factor, source)

    def _fitted(self, kernel: Kernel) -> tuple[float, float, Source]:
        if kind_of(kernel) not in self._kinds:
            return self._unseen(kernel)
        for level in range(LEVELS):
            key = family(kernel, level)
            rows = self._families[level].get(key, [])
            if len(rows) >= FEWEST or (level == LEVELS - 1 and rows):
                latency, error = self._fit(level, key, rows).predict(kernel)
                return max(FLOOR_US, latency), max(error, level * WIDER_ERROR * latency), "fitted"
        return self._unseen(kernel)

    def _fit(self, level: int, key: tuple[Any, ...], rows: list[Measurement]) -> Fit:
        fit = self._fits.get((level, key))
        if fit is None:
            fit = self._fits[level, key] = Fit(rows, self._roof(rows[0].kernel.precision))
        return fit

    def _roof(self, precision: Precision) -> Roof:
        roof = self._roofs.get(precision)
        if roof is None:
            sure = [row for row in self.rows if not unsure(row)]
            own = [row for row in sure if row.kernel.precision == precision]
            roof = self._roofs[precision] = Roof(own or sure)
        return roof

    def _unseen(self, kernel: Kernel) -> tuple[float, float, Source]:
        """Estimate for a kind without measurements: a roofline through others, of its precision if any."""
        roof = self._roof(kernel.precision)
        latency = max(FLOOR_US, roof.latency_us(kernel))
        return latency, latency * roof.deviation, "roofline"


def _measured(row: Measurement) -> tuple[float, float, Source]:
    return row.latency_us, math.hypot(row.error_us, CLOCK_US), "measured"
