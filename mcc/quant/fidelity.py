"""How much of a value its integers keep: signal to quantisation noise, measured on numbers that it takes.

A `Sample` holds some of the numbers that a value takes on calibration data, evenly from its images and
places, so that any grid can be judged on them at once, without another run, and in bounded memory.
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
"""Numbers of one value that are kept: 128 kB each, and signal to noise to 0.1 dB."""
LEAST_IMAGES = 8
"""Images that a sample comes from at least, if there are so many."""

PERFECT_DB = 150.0
"""Stands for no noise at all: what float32 itself keeps."""

GROUP_GAP = 4.0
"""Channels whose ranges are further apart than this factor, with none between, belong to unlike groups."""
LEAST_SHARE = 1 / 32
"""Channels of a group that counts, as a share of all: boxes are 4 of 84 channels, or scores 1 of 5; a few
nearly dead feature maps in a layer of a hundred are no signal that anybody reads."""
LEAST_NUMBERS = 32
"""Numbers of a channel that its range is known from; the logits of two images say nothing about a class."""
DEAD = 2.0**-20
"""Range of a dead channel as a share of the widest: weights that training left to decay."""
_SHRINKS = (1.0, 0.8, 0.6, 0.4, 0.25, 0.15)
"""Shares of the whole range among which the best grid is sought."""


def decibels(signal: float, noise: float) -> float:
    """Signal to noise from two powers; `PERFECT_DB` at most."""
    if noise <= signal * 10 ** (-PERFECT_DB / 10):
        return PERFECT_DB
    return 10 * math.log10(signal / noise) if signal > 0 else -PERFECT_DB


@lru_cache(maxsize=4096)
def params_of(grid: Grid) -> QuantParams:
    """A grid as parameters of an int8 activation."""
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
    """What is left of real numbers that pass through grids one after the other, requantised in between."""
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
    """Numbers that a value takes.

    Attributes:
        values: [images, places] float32.
        places: [places] of the numbers within one image, flat.
        shape: of one image.
    """

    values: Tensor
    places: Tensor
    shape: tuple[int, ...]

    def sqnr_db(self, *grids: Grid, of: Tensor | None = None) -> float:
        """Signal to noise behind these grids, one after the other.

        Args:
            of: places to judge, a mask; all if None.
        """
        values = self.values if of is None else self.values[:, of]
        noise = (through(values, grids) - values).double().square().mean()
        return decibels(float(values.double().square().mean()), float(noise))

    def best_db(self, of: Tensor | None = None) -> float:
        """Signal to noise on the best grid that int8 could have for these numbers alone."""
        values = self.values if of is None else self.values[:, of]
        low, high = (float(end) for end in torch.aminmax(values))
        return max(self.sqnr_db(grid_over(low * s, high * s), of=of) for s in _SHRINKS)

    @cached_property
    def groups(self) -> tuple[Tensor, ...]:
        """Places of channels with like ranges, a mask for each group; dead and too few channels in none."""
        return channel_groups(self)


def channel_groups(sample: Sample) -> tuple[Tensor, ...]:
    """See `Sample.groups`; channels run along the axis whose ranges are most unlike."""
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
        images: that all batches have together.
    """

    def __init__(self, images: int) -> None:
        self.images = images
        self.parts: list[Tensor] = []
        self.places = torch.zeros(0, dtype=torch.int64)
        self.shape: tuple[int, ...] = ()
        self.wanted = 0.0

    def add(self, value: Tensor) -> None:
        """Take some numbers of a batch [N, ...]."""
        value = value.detach().reshape(len(value), -1)
        if not self.parts:
            self._begin(value.shape[1])
        # An even share of this batch's images, whole numbers of them over all batches.
        before, self.wanted = int(self.wanted), self.wanted + len(value) * self.share
        count = min(len(value), max(int(self.wanted) - before, 0 if self.parts else 1))
        if count:
            rows = torch.linspace(0, len(value) - 1, count).round().long()
            self.parts.append(value[rows][:, self.places].float())

    def _begin(self, length: int) -> None:
        images = min(self.images, max(LEAST_IMAGES, SAMPLE // max(1, length)))
        self.share = images / max(1, self.images)
        stride = max(1, -(-length * images // SAMPLE))
        while math.gcd(stride, length) > 1:  # it would fall in step with an axis, and miss channels
            stride += 1
        self.places = torch.arange(0, length, stride)

    def sample(self, shape: tuple[int, ...]) -> Sample:
        """What was taken.

        Args:
            shape: of the value, of which the first axis is that of the images.
        """
        return Sample(torch.cat(self.parts), self.places, tuple(shape[1:]))
