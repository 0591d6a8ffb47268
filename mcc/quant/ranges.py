"""Range observers: quantisation ranges of values from calibration data.

    minmax       all observed numbers
    percentile   all observed numbers except the outermost share on either side
    mse          the range with the least sum of squared rounding and clipping errors

Zero is always in the range and is exactly an integer, so that zero padding and ReLU are exact (Jacob 2018,
section 2.1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, fx

from mcc.errors import DataError
from mcc.ir.feed import Feed, tensors_of
from mcc.ir.graph import Graph, calls, constant, is_constant, op_name, operands, outputs
from mcc.ir.interpreter import observe
from mcc.ir.notes import shape_of
from mcc.ir.table import MOVING, WEIGHTED
from mcc.quant.fidelity import Grid, Sample, Sampler, grid_over
from mcc.quant.params import INT8_MAX, INT8_MIN
from mcc.quant.regions import FIXED_OUTPUTS

Observer = Literal["mse", "minmax", "percentile"]
OBSERVERS: tuple[Observer, ...] = ("mse", "minmax", "percentile")

BINS = 2048
PERCENTILE = 0.9999  # share kept on either side; 0.999 clips tails of ReLU that CNNs need
HEADROOM = 1.1
"""Factor of the observed range after the last weights: of 64 new images some exceed the calibration by 6 %
of the range, which cuts a box; the margin costs 0.8 dB."""
GREATEST = 2.0**60
"""Widest range to quantise: products of scales stay within the exponents of float32. Attention masks, with
-3e38 for minus infinity, exceed it."""
SAMPLES = 1 << 18  # numbers of each value and batch in the histogram; the extremes are those of all numbers
_SHRINKS = torch.linspace(0.2, 1.0, 81, dtype=torch.float64)  # candidate ends, as shares of the extreme
_WEIGHT_SHRINKS = torch.linspace(0.5, 1.0, 26, dtype=torch.float64)
_LEAST_CHANNEL = 2.0**-16
"""Minimum scale of a channel as a share of the layer's largest: smaller weights do not affect the int8 result
of the layer, and a scale must not be zero."""


@dataclass(frozen=True)
class Range:
    """The range of real numbers that a value's integers cover; it includes zero."""

    low: float
    high: float

    @property
    def width(self) -> float:
        """Length of the range."""
        return self.high - self.low

    def join(self, other: Range) -> Range:
        """The smallest range that covers both."""
        return Range(min(self.low, other.low), max(self.high, other.high))

    def grid(self) -> Grid:
        """Scale and zero point of int8 over the range; a value that is always zero gets that of 0..1."""
        return grid_over(self.low, self.high)


class Histogram:
    """Counts of one value over fixed bins between its extremes."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = min(low, 0.0), max(high, 0.0)
        self.counts = torch.zeros(BINS, dtype=torch.float64)

    @property
    def centres(self) -> Tensor:
        """Centre of each bin [BINS]."""
        step = (self.high - self.low) / BINS
        return self.low + step * (torch.arange(BINS, dtype=torch.float64) + 0.5)

    def add(self, value: Tensor) -> None:
        """Count the numbers of a value, evenly subsampled if it is large."""
        flat = value.detach().flatten()
        flat = flat[:: max(1, flat.numel() // SAMPLES) | 1]  # an odd stride does not skip channels
        if GREATEST > self.high - self.low > 0:
            self.counts += torch.histc(flat.float(), BINS, self.low, self.high).double()

    def range(self, observer: Observer) -> Range:
        """The range to cover."""
        whole = Range(self.low, self.high)
        if observer == "minmax" or not self.high > self.low or not float(self.counts.sum()) > 0:
            return whole
        return self._percentile() if observer == "percentile" else self._least_squares()

    def _percentile(self) -> Range:
        share = self.counts.cumsum(0) / self.counts.sum()
        low = float(self.centres[int((share > 1 - PERCENTILE).double().argmax())])
        high = float(self.centres[int((share >= PERCENTILE).double().argmax())])
        return Range(min(low, 0.0), max(high, 0.0))

    def _least_squares(self) -> Range:
        """Optimise each end in turn over its candidates until neither changes; they hardly interact."""
        low, high = self.low, self.high
        for _ in range(4):
            before = (low, high)
            if self.high > 0:
                high = self._best([(low, self.high * float(s)) for s in _SHRINKS])[1]
            if self.low < 0:
                low = self._best([(self.low * float(s), high) for s in _SHRINKS])[0]
            if (low, high) == before:
                break
        return Range(low, high)

    def _best(self, candidates: list[tuple[float, float]]) -> tuple[float, float]:
        ends = torch.tensor(candidates, dtype=torch.float64)
        scale = ((ends[:, 1] - ends[:, 0]) / (INT8_MAX - INT8_MIN)).clamp_min(1e-30)[:, None]
        zero = torch.round(-ends[:, :1] / scale)
        codes = torch.round(self.centres / scale + zero).clamp(0, INT8_MAX - INT8_MIN)
        errors = (((codes - zero) * scale - self.centres).square() * self.counts).sum(1)
        return candidates[int(errors.argmin())]


@dataclass(frozen=True)
class Observed:
    """Observations of a value: the range to cover, and a sample of its numbers."""

    range: Range
    sample: Sample


def observe_values(
    graph: Graph, values: Iterable[fx.Node], batches: Iterable[Feed], observer: Observer
) -> dict[fx.Node, Observed]:
    """The range and a sample of each value over calibration batches; of constants, over their own numbers.

    The input, and a value from which an output is computed without weights, keeps its extremes: boxes and
    depths are used individually, and a range that is best on average would clip the largest. After the last
    weights the range has a margin (`HEADROOM`).

    Args:
        values: Placeholders, operators or constants of the graph.
        batches: Inputs [N, ...] of the graph.

    Raises:
        DataError: A value is not finite on the data.
    """
    values, batches = list(values), list(batches)
    extremes: dict[str, tuple[float, float]] = {}
    images = sum(len(batch) for batch in batches)
    samplers = {node.name: Sampler(1 if is_constant(node) else images) for node in values}

    def widen(node: fx.Node, value: Tensor) -> None:
        low, high = _finite_ends(node, value)
        old = extremes.get(node.name, (low, high))
        extremes[node.name] = (min(low, old[0]), max(high, old[1]))
        samplers[node.name].add(value[None] if is_constant(node) else value)

    _see_all(graph, values, batches, widen)
    histograms = {name: Histogram(*ends) for name, ends in extremes.items()}
    if observer != "minmax":
        _see_all(graph, values, batches, lambda node, value: histograms[node.name].add(value))
    behind, bounded = without_weights_to_outputs(graph), _bounded(graph)
    found: dict[fx.Node, Observed] = {}
    for node in values:
        shape = (1, *shape_of(node)) if is_constant(node) else shape_of(node)
        whole = node in behind or node.op == "placeholder"
        covered = histograms[node.name].range("minmax" if whole else observer)
        if node in behind and node.op == "call_function" and node not in bounded:
            covered = Range(covered.low * HEADROOM, covered.high * HEADROOM)
        found[node] = Observed(covered, samplers[node.name].sample(shape))
    return found


def without_weights_to_outputs(graph: Graph) -> set[fx.Node]:
    """The values with a path to an output that passes no operator with weights."""
    found = set(outputs(graph))
    for node in reversed(graph.graph.nodes):
        if node in found and node.op == "call_function" and op_name(node) not in WEIGHTED:
            found.update(operands(node))
    return found


def _bounded(graph: Graph) -> set[fx.Node]:
    """Results of softmax, sigmoid and tanh, also after moving: new images cannot exceed their range."""
    found: set[fx.Node] = set()
    for node in calls(graph):
        moved = op_name(node) in MOVING and all(value in found for value in operands(node))
        if moved or op_name(node) in FIXED_OUTPUTS:
            found.add(node)
    return found


def _finite_ends(node: fx.Node, value: Tensor) -> tuple[float, float]:
    """The extremes of a value. Raises DataError if one is not finite."""
    low, high = (float(end) for end in torch.aminmax(value))
    if not (math.isfinite(low) and math.isfinite(high)):
        raise DataError(
            "the value is not finite on the calibration data",
            where=node.name,
            hint="look for NaN and infinities in the data, and for overflow in the model",
        )
    return low, high


def _see_all(
    graph: Graph, values: list[fx.Node], batches: list[Feed], see: Callable[[fx.Node, Tensor], None]
) -> None:
    wanted = {node.name for node in values}
    for node in values:
        if is_constant(node):
            see(node, constant(graph, node).detach())
    computed = wanted - {node.name for node in values if is_constant(node)}
    for batch in batches:
        observe(graph, tensors_of(batch), see, computed)


def weight_scales(weight: Tensor, axis: int, limit: int, observer: Observer) -> Tensor:
    """Scales [C] of a weight along `axis`, symmetric, for integers -limit..limit.

    Args:
        observer: `minmax` covers every weight; `mse` and `percentile` choose each channel's clip for the
            least sum of squared errors (channels have too few weights for a percentile).
    """
    rows = weight.detach().double().transpose(0, axis).reshape(weight.shape[axis], -1)
    greatest = rows.abs().amax(1)
    if observer != "minmax":
        greatest = greatest * _best_shrinks(rows, greatest, limit)
    return floor_scales(greatest / limit).float()


def floor_scales(scales: Tensor) -> Tensor:
    """Scales of a layer, with those of (nearly) dead channels raised to the minimum of integer kernels."""
    largest = float(scales.max())
    return scales.clamp_min(largest * _LEAST_CHANNEL if largest > 0 else 1.0 / INT8_MAX)


def _best_shrinks(rows: Tensor, greatest: Tensor, limit: int) -> Tensor:
    errors: list[Tensor] = []
    for shrink in _WEIGHT_SHRINKS:
        scale = (greatest * shrink / limit).clamp_min(1e-30)[:, None]
        errors.append(((rows / scale).round().clamp(-limit, limit) * scale - rows).square().sum(1))
    return _WEIGHT_SHRINKS[torch.stack(errors).argmin(0)]


def bias_floor(bias: Tensor, input_scale: float) -> Tensor:
    """Minimum weight scales [C] for which an int32 bias [C] of scale s_in * s_w is below 2**30."""
    return (bias.detach().double().abs() / (input_scale * 2.0**30)).float()
