"""Deterministic randomness: orders and augmentations that depend only on seed, epoch and index.

Nothing here keeps a state, so a run that was killed and goes on at step s sees, bit for bit, the images
it would have seen. Each image has its own random number, whatever batch it comes in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mcc.data.arrays import Pixels

IndexArray = NDArray[np.int64]


def epoch_order(count: int, seed: int, epoch: int) -> IndexArray:
    """The order of `count` images in an epoch: a permutation that depends on seed and epoch alone."""
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch])))
    return generator.permutation(count).astype(np.int64)


def _mixed(seed: int, epoch: int, index: IndexArray) -> NDArray[np.uint64]:
    """64 random bits for each index (the SplitMix64 finaliser, Steele 2014, over seed, epoch and index)."""
    start = np.random.SeedSequence([seed, epoch, 1]).generate_state(1, np.uint64)
    value = index.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + start
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@dataclass(frozen=True)
class Moves:
    """Where the images of a batch go.

    Attributes:
        down, right: [N] Row and column of an image that become its first; negative: it moves down, right.
        mirrored: [N] Whether an image is mirrored left to right before it moves.
        size: (height, width).
    """

    down: IndexArray
    right: IndexArray
    mirrored: NDArray[np.bool_]
    size: tuple[int, int]

    def apply(self, images: Pixels, fill: Sequence[int]) -> Pixels:
        """Images [N, C, H, W], moved: a new array; `fill` has one value per channel for uncovered pixels."""
        count, channels, height, width = images.shape
        shift = int(np.abs([self.down, self.right]).max(initial=0))
        padded = np.empty((count, channels, height + 2 * shift, width + 2 * shift), images.dtype)
        padded[:] = np.asarray(fill, images.dtype)[None, :, None, None]
        padded[:, :, shift : shift + height, shift : shift + width] = images
        rows = (self.down + shift)[:, None] + np.arange(height)
        columns = (self.right + shift)[:, None] + np.arange(width)
        columns[self.mirrored] = columns[self.mirrored, ::-1]
        return padded[
            np.arange(count)[:, None, None, None],
            np.arange(channels)[None, :, None, None],
            rows[:, None, :, None],
            columns[:, None, None, :],
        ]


@dataclass(frozen=True)
class Augmentation:
    """Random shift and mirror image.

    Args:
        shift: the most pixels that an image moves up, down, left or right ("crop after padding").
        mirror: whether half of the images are mirrored left to right.
    """

    shift: int = 4
    mirror: bool = True

    def moves(self, size: tuple[int, int], index: IndexArray, *, seed: int, epoch: int) -> Moves:
        """The moves of images of that size.

        Args:
            index: [N] place of each image in its split: what its randomness depends on.
        """
        bits = _mixed(seed, epoch, index)
        span = np.uint64(2 * self.shift + 1)
        # Disjoint bits of the one random number: rows, columns, mirror.
        down = ((bits & np.uint64(0xFFFFF)) % span).astype(np.int64)
        right = (((bits >> np.uint64(20)) & np.uint64(0xFFFFF)) % span).astype(np.int64)
        mirrored = ((bits >> np.uint64(40)) & np.uint64(1)).astype(bool) & self.mirror
        return Moves(down - self.shift, right - self.shift, mirrored, size)

    def apply(
        self, images: Pixels, index: IndexArray, *, seed: int, epoch: int, fill: tuple[int, ...]
    ) -> Pixels:
        """Images [N, C, H, W], shifted and mirrored: see `moves` and `Moves.apply`."""
        height, width = images.shape[2:]
        return self.moves((height, width), index, seed=seed, epoch=epoch).apply(images, fill)
