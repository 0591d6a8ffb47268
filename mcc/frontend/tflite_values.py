"""Values of a .tflite file as nodes of the canonical graph, each with the order in which the file stores it.

A file stores maps as N H W C, the graph has N C H W. A value keeps the node and the order of its axes in the
file, so that a TRANSPOSE or a RESHAPE of the file becomes a node only where an operator needs another order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import fx

from mcc.frontend.emitter import Emitter
from mcc.frontend.values import Const
from mcc.ir.notes import shape_of
from mcc.lower.layout import FLAT_ORDER, IMAGE, Layout, Shape, plain, reshaped, same_memory, stored_shape

Array = npt.NDArray[Any]

SWAPPED = Layout((0, 2, 1))
"""A sequence [N, L, C] of the file as rows [N, C, L]."""


@dataclass(frozen=True, eq=False)
class Grid:
    """The int8 grid of a value: constants, one pair for all values on it."""

    scale: Const
    zero: Const


@dataclass(frozen=True, eq=False)
class View:
    """A computed value of the file.

    Attributes:
        node: node of the graph; its axis 0 is the batch.
        layout: order in which the file stores the axes of the node.
        batched: whether the file shows the batch axis; without it the file is for a batch of 1.
        grid: of an int8 value, else None.
        shuffled: block of a DEPTH_TO_SPACE behind it, where its channels were put in the order of
            `pixel_shuffle`; else 0.
        spaced: between SPACE_TO_BATCH_ND and BATCH_TO_SPACE_ND: the block, which is the dilation of the
            convolution between them, and its padding.
    """

    node: fx.Node
    layout: Layout
    batched: bool = True
    grid: Grid | None = None
    shuffled: int = 0
    spaced: tuple[tuple[int, int], tuple[int, int, int, int]] | None = None

    @property
    def sample(self) -> Shape:
        """Shape in the file, without the batch axis."""
        return stored_shape(shape_of(self.node), self.layout)[1:]

    @property
    def rank(self) -> int:
        """Number of axes in the file."""
        return len(self.sample) + self.batched

    def axis(self, place: int) -> int:
        """The axis of the node that an axis of the file is; negative places count from the end."""
        return self.layout.order[place % self.rank + (not self.batched)]


class Values:
    """Conversions between orders and shapes of values.

    Args:
        emitter: builds the graph.
        batch: batch length of the file.
    """

    def __init__(self, emitter: Emitter, batch: int) -> None:
        self.emitter = emitter
        self.batch = batch

    def shape(self, x: View) -> Shape:
        """Shape in the file."""
        return (self.batch, *x.sample) if x.batched else x.sample

    def on_grid(self, node: fx.Node, grid: Grid | None) -> fx.Node:
        """The node on a grid; the node itself without one."""
        if grid is None:
            return node
        return self.emitter.fake_quantize(node, grid.scale, grid.zero, -128, 127, None)

    def moved(self, x: View, op: str, **attributes: Any) -> fx.Node:
        """An operator that moves numbers, on the grid of its operand."""
        return self.on_grid(self.emitter.call_node(op, x.node, **attributes), x.grid)

    def fit(self, x: View, layout: Layout) -> View:
        """The same value as a node that the file stores in another order."""
        if x.layout == layout:
            return x
        if x.layout.flat is not None:
            return self.fit(self._unflattened(x), layout)
        perm = [0] * len(layout.order)
        for new, old in zip(layout.order, x.layout.order, strict=True):
            perm[new] = old
        if perm == sorted(perm):
            return replace(x, layout=layout)
        return replace(x, node=self.moved(x, "transpose", perm=tuple(perm)), layout=layout)

    def plain(self, x: View) -> View:
        """The value with the axes of its node in the order of the file."""
        return self.fit(x, plain(len(x.sample) + 1))

    def image(self, x: View) -> View:
        """The value as a map N C H W. Refuses other ranks."""
        if x.rank != 4 or not x.batched:
            self.emitter.refuse(f"works on {list(self.shape(x))}, which is no batch of maps [N, H, W, C]")
        return self.fit(x, IMAGE)

    def settled(self, x: View) -> View:
        """The value in the order of inputs and outputs: maps as N C H W, others as in the file."""
        return self.fit(x, IMAGE if len(x.sample) == 3 else plain(len(x.sample) + 1))

    def loose(self, x: View) -> View:
        """The value with its batch axis of 1 as any other axis: file [1, C] as node [1, 1, C]."""
        if not x.batched:
            return x
        if self.batch != 1:
            self.emitter.refuse("moves or folds the batch axis", "convert the model for a batch of 1")
        x = self.plain(x)
        return View(self.moved(x, "reshape", shape=(1, *x.sample)), plain(len(x.sample) + 2), False, x.grid)

    def reshape(self, x: View, target: Shape) -> View:
        """The value in another shape of the file; a node only where the shape of a sample changes."""
        if target == self.shape(x):
            return x
        batched = target[:1] == (self.batch,) and math.prod(target[1:]) == math.prod(x.sample)
        if math.prod(target) != math.prod(self.shape(x)) or not (batched or self.batch == 1):
            self.emitter.refuse(
                f"reshapes {list(self.shape(x))} to {list(target)}, across the batch axis",
                "convert the model for a batch of 1",
            )
        sample = target[1:] if batched else target
        if x.layout.flat is not None:
            x = self._unflattened(x)
        before = shape_of(x.node)
        for shape, layout in _candidates(sample):
            found = reshaped(before, x.layout, shape)
            if found is not None and same_memory(shape, found, layout):
                node = x.node if shape == before else self.moved(x, "reshape", shape=shape[1:])
                return View(node, layout, batched, x.grid)
        if x.layout == IMAGE and len(sample) == 1 and batched:
            channels, height, width = before[1:]
            node = self.moved(x, "reshape", shape=sample)
            return View(node, Layout(FLAT_ORDER, (channels, height, width)), True, x.grid)
        x = self.plain(x)
        return View(self.moved(x, "reshape", shape=sample), plain(len(sample) + 1), batched, x.grid)

    def _unflattened(self, x: View) -> View:
        """A flattened map in the order of the file."""
        assert x.layout.flat is not None
        image = replace(x, node=self.moved(x, "reshape", shape=x.layout.flat), layout=IMAGE)
        ordered = self.plain(image)
        return replace(x, node=self.moved(ordered, "reshape", shape=x.sample), layout=plain(2))

    def constant(self, value: Array, like: View) -> Array:
        """A constant of the file in the axes of a value that it is combined with.

        Its missing axes in front are added with length 1. Refuses one that differs along the batch.
        """
        value = value.reshape((1,) * (like.rank - value.ndim) + value.shape)
        if like.batched and value.shape[0] != 1:
            if not (value == value[:1]).all():
                self.emitter.refuse("combines samples of a batch with constants that differ between them")
            value = value[:1]
        if not like.batched:
            value = value[None]
        return np.ascontiguousarray(value.transpose(np.argsort(like.layout.order)))

    def together(self, views: Sequence[View]) -> list[View]:
        """Values of one rank and order, for an operator that broadcasts or joins them."""
        rank = max(view.rank for view in views)
        grown = [
            self.reshape(v, (1,) * (rank - v.rank) + self.shape(v)) if v.rank < rank else v for v in views
        ]
        if len({view.batched for view in grown}) > 1:
            grown = [self.loose(view) for view in grown]
        layouts = [view.layout for view in grown]
        if len(set(layouts)) == 1 and (layouts[0].flat is None or len({v.node for v in grown}) == 1):
            return grown
        if len(set(layouts)) == 1 and len({shape_of(v.node) for v in grown}) == 1:
            return grown
        largest = max(grown, key=lambda view: math.prod(view.sample))
        wanted = largest.layout if largest.layout.flat is None else plain(len(largest.sample) + 1)
        return [self.fit(view, wanted) for view in grown]


def _candidates(sample: Shape) -> list[tuple[Shape, Layout]]:
    """Shapes of the node, and orders, that a value of this shape of the file can have; the best first."""
    whole = ((1, *sample), plain(len(sample) + 1))
    if len(sample) == 3:
        return [((1, sample[2], sample[0], sample[1]), IMAGE), whole]
    if len(sample) == 2:
        return [whole, ((1, sample[1], sample[0]), SWAPPED)]
    return [whole]


def tensor(value: Array) -> torch.Tensor:
    """A tensor of its own from an array."""
    return torch.from_numpy(np.array(value))
