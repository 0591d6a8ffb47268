"""Encoding and decoding of 1x1 convolution weights in TFLite's sparse format.

A weight [O, 1, 1, I] is stored row by row: for each output channel (or block of 2 or 4 output channels that
share one pattern) the input channels with a non-zero weight, CSR-like. In the terms of the schema the
dimensions are traversed in storage order (0, 1, 2, 3), all dense but the last, which is SPARSE_CSR; a block
adds a fifth, dense dimension that `block_map` maps onto dimension 0.

Source: `SparsityParameters` in the TFLite schema, after Kjolstad 2017 (the tensor algebra compiler).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

MAX_ELEMENTS = 1 << 24  # of a sparse weight, 16 times the largest of public networks; it is decoded dense


@dataclass(frozen=True, eq=False)
class Dimension:
    """One traversed dimension: dense with `size`, or compressed with segments and indices."""

    size: int = 0
    segments: npt.NDArray[np.int64] | None = None
    indices: npt.NDArray[np.int64] | None = None


@dataclass(frozen=True, eq=False)
class SparseWeight:
    """A tensor in the sparse encoding.

    Attributes:
        shape: Dense shape.
        values: Stored values, 1-D, in traversal order.
        traversal_order: Dimensions (and block dimensions, numbered after them) in storage order.
        block_map: Dimension that each block dimension divides.
        dimensions: Dimensions, one per entry of `traversal_order`.
    """

    shape: tuple[int, ...]
    values: Array
    traversal_order: tuple[int, ...]
    block_map: tuple[int, ...]
    dimensions: tuple[Dimension, ...]

    @property
    def block(self) -> int:
        """Number of elements of a block; 1 where single values are stored."""
        return int(np.prod([d.size for d in self.dimensions[len(self.shape) :]], dtype=np.int64))


def encode(weight: Array, block: int = 1) -> SparseWeight:
    """Encode a weight [O, 1, 1, I]; a block in which any value is non-zero is stored whole.

    Args:
        weight: Dense weight in TFLite's layout.
        block: Number of output channels that share a pattern: 1, 2 or 4. Single values are stored if it does
            not divide O, since the format has no partial blocks.

    Raises:
        ValueError: The shape is not that of a 1x1 convolution weight, or the block size is another.
    """
    if weight.ndim != 4 or weight.shape[1:3] != (1, 1):
        raise ValueError(f"only weights [O, 1, 1, I] are stored sparse, not {list(weight.shape)}")
    if block not in (1, 2, 4):
        raise ValueError(f"block must be 1, 2 or 4, not {block}")
    out_channels, in_channels = weight.shape[0], weight.shape[3]
    if out_channels % block:
        block = 1
    blocks = weight.reshape(out_channels // block, block, in_channels)
    kept = (blocks != 0).any(axis=1)
    rows, columns = np.nonzero(kept)
    segments = np.zeros(len(blocks) + 1, np.int64)
    segments[1:] = np.cumsum(kept.sum(axis=1))
    outer = (Dimension(len(blocks)), Dimension(1), Dimension(1))
    inner = Dimension(segments=segments, indices=columns.astype(np.int64))
    values = np.ascontiguousarray(blocks[rows, :, columns]).reshape(-1)
    if block == 1:
        return SparseWeight(weight.shape, values, (0, 1, 2, 3), (), (*outer, inner))
    return SparseWeight(weight.shape, values, (0, 1, 2, 3, 4), (0,), (*outer, inner, Dimension(block)))


def decode(weight: SparseWeight) -> Array:
    """Decode any tensor in the sparse encoding, from any writer, to its dense form.

    Raises:
        ValueError: The metadata do not fit the shape or the values.
    """
    rank = len(weight.shape)
    if min(weight.shape, default=0) < 1 or math.prod(weight.shape) > MAX_ELEMENTS:
        raise ValueError(f"a sparse weight of shape {weight.shape} is beyond what mcc handles")
    if sorted(weight.traversal_order) != list(range(rank + len(weight.block_map))):
        raise ValueError(f"traversal order {weight.traversal_order} is no order of the dimensions")
    coordinates, count = _coordinates(weight)
    if count != weight.values.size:
        raise ValueError(f"metadata describe {count} values, the buffer holds {weight.values.size}")
    block_sizes = {
        axis: weight.dimensions[level].size
        for level, axis in enumerate(weight.traversal_order)
        if axis >= rank
    }
    dense_index = [coordinates[axis] for axis in range(rank)]
    for number, axis in enumerate(weight.block_map):
        dense_index[axis] = dense_index[axis] * block_sizes[rank + number] + coordinates[rank + number]
    dense = np.zeros(weight.shape, weight.values.dtype)
    dense[tuple(dense_index)] = weight.values
    return dense


def _coordinates(weight: SparseWeight) -> tuple[dict[int, npt.NDArray[np.int64]], int]:
    """Coordinates of every stored value along every traversed dimension, from the tree of levels."""
    coordinates: dict[int, npt.NDArray[np.int64]] = {}
    count = 1  # positions at the current level; each has its own row of coordinates
    for axis, level in zip(weight.traversal_order, weight.dimensions, strict=True):
        if level.segments is None or level.indices is None:
            if count * level.size > MAX_ELEMENTS:
                raise ValueError(f"metadata describe more than {MAX_ELEMENTS} values")
            repeats = np.full(count, level.size, np.int64)
            own = np.tile(np.arange(level.size, dtype=np.int64), count)
        else:
            if len(level.segments) != count + 1 or int(level.segments[-1]) != len(level.indices):
                raise ValueError("segments do not fit the level above or the indices")
            repeats = np.diff(level.segments)
            own = level.indices
        coordinates = {seen: np.repeat(values, repeats) for seen, values in coordinates.items()}
        coordinates[axis] = own
        count = int(repeats.sum())
    return coordinates, count
