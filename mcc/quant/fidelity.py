"""Signal to quantisation-noise ratio (SQNR) of values, measured on samples of their numbers.

A `Sample` holds some of the numbers of a value on calibration data, evenly from its images and positions,
so that any quantisation grid can be evaluated on them without another run, and in bounded memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from mcc.quant import arithmetic
from mcc.quant.params import INT8_MAX, INT8_MIN, QuantParams
from mcc.quant.regions import REQUANTISE_LIMITS

Grid = tuple[float, int]
"""Scale and zero point of int8."""

SAMPLE = 1 << 15
"""Numbers kept of one value: 128 kB, which give the SQNR to 0.1 dB."""
LEAST_IMAGES = 8
"""Minimum number of images of a sample, if there are as many."""

PERFECT_DB = 150.0
"""SQNR without noise: that of float32 itself."""

GROUP_GAP = 4.0
"""Channels whose ranges differ by more than this factor, with none between, are in different groups."""
LEAST_SHARE = 1 / 32
"""Minimum size of a group as a share of all channels: boxes are 4 of 84 channels, or scores 1 of 5; a few
nearly dead feature maps in a layer of a hundred do not count as a signal."""
LEAST_NUMBERS = 32
"""Minimum numbers of a channel for a known range; the logits of two images do not give that of a class."""
DEAD = 2.0**-20
"""Range of a dead channel as a share of the widest: its weights have decayed in training."""
_SHRINKS = (1.0, 0.8, 0.6, 0.4, 0.25, 0.15)
"""Shares of the whole range among which the best grid is searched."""


def decibels(signal: float, noise: float) -> float:
    """SQNR in decibels from the powers of signal and noise; at most `PERFECT_DB`."""
    if noise <= signal * 10 ** (-PERFECT_DB / 10):
        return PERFECT_DB
    return 10 * math.log10(signal / noise) if signal > 0 else -PERFECT_DB


@lru_cache(maxsize=4096)
def params_of(grid: Grid) -> QuantParams:
    """The quantisation parameters of an int8 activation with a grid."""
    return QuantParams((grid[0],), (grid[1],), INT8_MIN, INT8_MAX)


def grid_over(low: float, high: float) -> Grid:
    """Scale and zero point of int8 over a range; that of 0..1 for a value that is always zero."""
    low, high = min(low, 0.0), max(high, 0.0)
    if not high - low > torch.finfo(torch.float32).tiny * 256:
        low, high = 0.0, 1.0
    scale = float(torch.tensor((high - low) / (INT8_MAX - INT8_MIN), dtype=torch.float32))
    zero = round(INT8_MIN - low / scale)
    return scale, min(max(zero, INT8_MIN), INT8_MAX)


def through(values: Tensor, grids: Sequence[Grid]) -> Tensor:
    """Real numbers after quantisation on several grids in sequence, requantised in between."""
    params = params_of(grids[0])
    codes = arithmetic.quantize(values, params)
    for grid in grids[1:]:
        target = params_of(grid)
        if not params.same_mapping(target):
            least, greatest = REQUANTISE_LIMITS
            if least <= float(params.scale / target.scale) <= greatest:
                codes = arithmetic.requantize(codes, params, target)
            else:
                codes = arithmetic.quantize(arithmetic.dequantize(codes, params), target)
        params = target
    return arithmetic.dequantize(codes, params)


@dataclass(frozen=True)
class Sample:
    """Sampled numbers of a value.

    Attributes:
        values: Numbers [images, places], float32.
        places: Flat positions [places] of the numbers within one image.
        shape: Shape of the value for one image.
    """

    values: Tensor
    places: Tensor
    shape: tuple[int, ...]

    def sqnr_db(self, *grids: Grid, of: Tensor | None = None) -> float:
        """SQNR after quantisation on these grids in sequence.

        Args:
            of: Mask of the positions to evaluate; all if None.
        """
        values = self.values if of is None else self.values[:, of]
        noise = (through(values, grids) - values).double().square().mean()
        return decibels(float(values.double().square().mean()), float(noise))

    def best_db(self, of: Tensor | None = None) -> float:
        """SQNR on the best int8 grid for these numbers alone."""
        values = self.values if of is None else self.values[:, of]
        low, high = (float(end) for end in torch.aminmax(values))
        return max(self.sqnr_db(grid_over(low * s, high * s), of=of) for s in _SHRINKS)

    @cached_property
    def groups(self) -> tuple[Tensor, ...]:
        """Groups of channels with similar ranges, as masks of positions; dead and few channels have none."""
        return channel_groups(self)


def channel_groups(sample: Sample) -> tuple[Tensor, ...]:
    """See `Sample.groups`; the channel axis is the one whose ranges differ most."""
    best: tuple[float, Tensor, Tensor] | None = None
    for axis, length in enumerate(sample.shape):
        if length < 2 or sample.values.numel() < LEAST_NUMBERS * length:
            continue
        index = _coordinate(sample, axis)
        ranges = torch.zeros(length).scatter_reduce(0, index, sample.values.abs().amax(0), "amax")
        alive = ranges[ranges > DEAD * float(ranges.max())]
        spread = float(alive.log2().std(correction=0)) if len(alive) > 1 else 0.0
        if best is None or spread > best[0]:
            best = spread, index, ranges
    if best is None or not float(best[2].max()) > 0:
        return ()
    _, index, ranges = best
    alive = torch.nonzero(ranges > DEAD * float(ranges.max())).flatten()
    order = alive[ranges[alive].argsort()]
    gaps = torch.nonzero(ranges[order][1:] > GROUP_GAP * ranges[order][:-1]).flatten() + 1
    parts = torch.tensor_split(order, gaps.tolist())
    least = max(1.0, LEAST_SHARE * len(ranges))
    return tuple(torch.isin(index, part) for part in parts if len(part) >= least)


def _coordinate(sample: Sample, axis: int) -> Tensor:
    behind = math.prod(sample.shape[axis + 1 :])
    return (sample.places // behind) % sample.shape[axis]


class Sampler:
    """Collects the sample of one value over batches.

    Args:
        images: Total number of images of all batches.
    """

    def __init__(self, images: int) -> None:
        self.images = images
        self.parts: list[Tensor] = []
        self.places = torch.zeros(0, dtype=torch.int64)
        self.shape: tuple[int, ...] = ()
        self.wanted = 0.0

    def add(self, value: Tensor) -> None:
        """Sample some numbers of a batch [N, ...]."""
        value = value.detach().reshape(len(value), -1)
        if not self.parts:
            self._begin(value.shape[1])
        # An even share of this batch's images, such that the total over all batches is right.
        before, self.wanted = int(self.wanted), self.wanted + len(value) * self.share
        count = min(len(value), max(int(self.wanted) - before, 0 if self.parts else 1))
        if count:
            rows = torch.linspace(0, len(value) - 1, count).round().long()
            self.parts.append(value[rows][:, self.places].float())

    def _begin(self, length: int) -> None:
        images = min(self.images, max(LEAST_IMAGES, SAMPLE // max(1, length)))
        self.share = images / max(1, self.images)
        stride = max(1, -(-length * images // SAMPLE))
        while math.gcd(stride, length) > 1:  # a common factor would skip channels
            stride += 1
        self.places = torch.arange(0, length, stride)

    def sample(self, shape: tuple[int, ...]) -> Sample:
        """The collected sample.

        Args:
            shape: Shape of the value; the first axis is that of the images.
        """
        return Sample(torch.cat(self.parts), self.places, tuple(shape[1:]))
