"""Storage layouts of graph values in lowered files, and the effect of reshapes on them.

The graph is in NCHW; TFLite's kernels read images as NHWC. Each value has its own `order` of axes, so that a
transpose of the graph has no cost until an operator needs another order. The batch axis is first in every
layout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """Storage order of a value.

    Attributes:
        order: Storage order; `order[i]` is the axis of the graph value stored at position i.
        flat: Lengths (C, H, W) of a flattened map [N, C*H*W] stored in the order H, W, C; else None.
    """

    order: tuple[int, ...]
    flat: tuple[int, int, int] | None = None

    @property
    def is_plain(self) -> bool:
        """Whether the value is stored in the order of the graph."""
        return self.flat is None and self.order == tuple(range(len(self.order)))

    def position(self, axis: int) -> int:
        """Position at which an axis of the graph value (negative ones count from the end) is stored."""
        return self.order.index(axis % len(self.order))


IMAGE = Layout((0, 2, 3, 1))  # NHWC
FLAT_ORDER = (0, 1)


def plain(rank: int) -> Layout:
    """The layout in the order of the graph."""
    return Layout(tuple(range(rank)))


def image_or_plain(rank: int) -> Layout:
    """NHWC for rank 4, the order of the graph for others: the layout of graph inputs and outputs."""
    return IMAGE if rank == 4 else plain(rank)


def stored_shape(shape: Shape, layout: Layout) -> Shape:
    """Shape of a value as stored."""
    return tuple(shape[axis] for axis in layout.order)


def stored(value: Array, layout: Layout) -> Array:
    """A constant transposed to the layout; axes may have length 1 for broadcasting."""
    if layout.flat is not None:
        if value.shape[1] == 1:
            return value
        channels, height, width = layout.flat
        split = value.reshape(value.shape[0], channels, height, width)
        return split.transpose(0, 2, 3, 1).reshape(value.shape)
    return value.transpose(layout.order)


def significant(shape: Shape, layout: Layout) -> tuple[int, ...]:
    """Axes in storage order without those of length 1, which do not affect memory; the batch is kept."""
    return tuple(axis for axis in layout.order if axis == 0 or shape[axis] != 1)


def same_memory(shape: Shape, a: Layout, b: Layout) -> bool:
    """Whether a value of this shape has the same bytes in both layouts."""
    return a.flat == b.flat and significant(shape, a) == significant(shape, b)


def settle(shape: Shape, layout: Layout) -> Layout:
    """The usual layout (NHWC for rank 4, else plain) where it has the same bytes, else the layout itself."""
    for usual in (image_or_plain(len(shape)), plain(len(shape))):
        if layout.flat is None and same_memory(shape, layout, usual):
            return usual
    return layout


def transposed(layout: Layout, perm: tuple[int, ...]) -> Layout:
    """Layout, in the same memory, of a value whose axis j is axis perm[j] of the old one."""
    back = {old: new for new, old in enumerate(perm)}
    return Layout(tuple(back[axis] for axis in layout.order))


def reshaped(before: Shape, layout: Layout, after: Shape) -> Layout | None:
    """Layout, in the same memory, of a value reshaped from `before` to `after`; None if there is none.

    The axes are grouped such that both sides have equal lengths; a group keeps its place if its axes are
    stored adjacently and in order.
    """
    if layout.flat is not None:
        return None
    order = significant(before, layout)[1:]
    target: list[int] = [0]
    groups = _groups(before, after)
    while order:
        old, new = next((group for group in groups if group[0][:1] == order[:1]), ((), ()))
        if not old or order[: len(old)] != old:
            return None
        target.extend(new)
        order = order[len(old) :]
    target.extend(axis for axis in range(len(after)) if axis not in target)
    return settle(after, Layout(tuple(target)))


def gathered(before: Shape, layout: Layout, after: Shape) -> Layout:
    """A layout close to the present one in which the reshape needs no data movement.

    For images the axes of each group are moved next to its first one; values that become a sequence or a
    matrix are stored plain, as their readers need them.
    """
    if layout.flat is not None or len(after) != 4:
        return plain(len(before))
    groups = _groups(before, after)
    order: list[int] = [0]
    for axis in significant(before, layout)[1:]:
        if axis not in order:
            order.extend(next(old for old, _ in groups if axis in old))
    order.extend(axis for axis in range(len(before)) if axis not in order)
    return settle(before, Layout(tuple(order)))


def _groups(before: Shape, after: Shape) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The finest pairing of runs of axes with equal products, without the batch and axes of length 1."""
    old = [axis for axis in range(1, len(before)) if before[axis] != 1]
    new = [axis for axis in range(1, len(after)) if after[axis] != 1]
    groups: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    while old:
        left, right = [old.pop(0)], [new.pop(0)]
        while (a := np.prod([before[i] for i in left])) != (b := np.prod([after[i] for i in right])):
            if a < b:
                left.append(old.pop(0))
            else:
                right.append(new.pop(0))
        groups.append((tuple(left), tuple(right)))
    return groups
