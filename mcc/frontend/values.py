"""What a frontend passes around while it builds a graph: nodes, constants, values still to be expanded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, fx

from mcc.ir.notes import shape_of


@dataclass(frozen=True, eq=False)
class Const:
    """A constant that no node reads yet.

    Attributes:
        tensor: its value.
        name: wished name in the graph.
        trains: whether it is, or is computed from, a parameter.
    """

    tensor: Tensor
    name: str
    trains: bool = False


@dataclass(frozen=True, eq=False)
class Expanded:
    """A value seen at a larger shape, as `expand` returns it; element-wise operators broadcast it for free.

    Attributes:
        inner: the value as it is stored.
        shape: the shape after the batch axis.
    """

    inner: fx.Node
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Turned:
    """A value whose batch axis the model sees elsewhere than in front, or does not see.

    Attributes:
        inner: the value with its batch axis in front.
        place: where the model sees the batch axis. None: nowhere, since the model squeezed it or folded it
            into another; this takes a capture at a batch of 1.
    """

    inner: fx.Node
    place: int | None

    def seen(self) -> list[int]:
        """Axes of the inner value in the order in which the model sees them."""
        axes = list(range(1, len(shape_of(self.inner))))
        if self.place is not None:
            axes.insert(self.place, 0)
        return axes


@dataclass(frozen=True, eq=False)
class Row:
    """A row [N, C, L] of a one-dimensional network, stored as the map of height 1 that kernels take.

    Attributes:
        inner: the map, [N, C, 1, L].
    """

    inner: fx.Node


Value = fx.Node | Const
AnyValue = Value | Expanded | Turned | Row


def graph_nodes(value: object) -> list[fx.Node]:
    """The node of a value that an operator computes; none of constants, inputs and lists."""
    inner = value.inner if isinstance(value, Expanded | Turned | Row) else value
    return [inner] if isinstance(inner, fx.Node) and inner.op == "call_function" else []


def canonical_name(path: str) -> str:
    """A name out of a dotted module path: `features.0.weight` -> `features_0_weight`."""
    name = re.sub(r"\W", "_", path.strip(".")) or "model"
    name = f"m{name}" if name[0].isdigit() else name
    # `graph`, `code` and the like are attributes of every graph module.
    return f"{name}_" if hasattr(fx.GraphModule, name) else name


def pair(value: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) from one number, a sequence of one, or of two."""
    if isinstance(value, int):
        return value, value
    return (int(value[0]), int(value[0])) if len(value) == 1 else (int(value[0]), int(value[1]))


def symmetric(padding: tuple[int, int]) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) from torch's (height, width)."""
    return padding[0], padding[0], padding[1], padding[1]
