"""Labels of channels: elements of values that are kept or removed together.

Every value carries a *label array*: integers in the shape of the value (batch axis of length 1), with length
1 along axes on which the label does not vary. Two elements with the same label are kept or removed together.
A rule computes the labels of an operator's output from those of its operands and records

* which axis of which constant is indexed by which labels (`Labels.bind`),
* which labels must stay together (`Labels.union`),
* which labels must be kept, and why (`Labels.freeze`).

The arrays make concatenation, splitting, channel shuffle, flattening and padding ordinary index arithmetic
(in place of following layers by type; the idea of coupled groups is that of Fang 2023, DepGraph).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

LabelArray = npt.NDArray[np.int64]
Role = Literal["produces", "reads", "carries"]


@dataclass(frozen=True)
class Binding:
    """The labels that index one axis of one constant.

    Attributes:
        constant: Name of the constant.
        axis: Axis of the constant.
        role: `produces` (output channels of a weight), `reads` (input channels), `carries` (per channel).
        labels: One label for each index of the axis.
        node: Name of the node whose rule recorded it.
    """

    constant: str
    axis: int
    role: Role
    labels: LabelArray = field(repr=False)
    node: str


class Labels:
    """Union-find over labels, with reasons for frozen ones."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._reasons: dict[int, str] = {}
        self._bound: dict[tuple[str, int], LabelArray] = {}
        self.bindings: list[Binding] = []

    def __len__(self) -> int:
        """Number of labels created so far; labels count from 0."""
        return len(self._parent)

    def fresh(self, shape: Sequence[int], axis: int) -> LabelArray:
        """New labels along one axis of a value, length 1 elsewhere."""
        start = len(self._parent)
        self._parent.extend(range(start, start + shape[axis]))
        array = np.arange(start, start + shape[axis], dtype=np.int64)
        return array.reshape([shape[axis] if i == axis else 1 for i in range(len(shape))])

    def find(self, label: int) -> int:
        """Representative of a label's class."""
        root = label
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[label] != root:
            self._parent[label], label = root, self._parent[label]
        return root

    def resolved(self) -> LabelArray:
        """The representative of every label, as an array indexed by labels; valid until the next union."""
        parents = np.array(self._parent, np.int64)
        while not np.array_equal(roots := parents[parents], parents):
            parents = roots
        return parents

    def union(self, a: LabelArray, b: LabelArray) -> None:
        """Couple two label arrays element by element, with broadcasting. The smaller label represents."""
        for first, second in zip(*(array.flat for array in np.broadcast_arrays(a, b)), strict=True):
            x, y = self.find(int(first)), self.find(int(second))
            if x != y:
                low, high = min(x, y), max(x, y)
                self._parent[high] = low
                if high in self._reasons:
                    self._reasons.setdefault(low, self._reasons[high])

    def freeze(self, labels: LabelArray, reason: str) -> None:
        """Mark labels that must be kept, with a reason in the user's terms."""
        for label in labels.flat:
            self._reasons.setdefault(self.find(int(label)), reason)

    def reason(self, label: int) -> str | None:
        """The reason why the class of a label must be kept, or None if it can be removed."""
        return self._reasons.get(self.find(label))

    def bind(self, constant: str, axis: int, role: Role, labels: LabelArray, node: str) -> None:
        """Record that labels index an axis of a constant; a second binding of the same axis couples both."""
        flat = labels.reshape(-1)
        first = self._bound.setdefault((constant, axis), flat)
        if first is not flat:
            self.union(first, flat)
        self.bindings.append(Binding(constant, axis, role, flat, node))


@dataclass(frozen=True)
class Operand:
    """One operand as a channel rule sees it.

    Attributes:
        shape: Shape in elements.
        labels: Labels of a value; None for a constant.
        constant: Name of a constant; None for a value.
        quantised: Scales and zero points of the constant along an axis: their names and that axis.
    """

    shape: tuple[int, ...]
    labels: LabelArray | None
    constant: str | None
    quantised: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Site:
    """The node that a rule is applied to: its name, operands, attributes and output shape."""

    name: str
    op: str
    operands: tuple[Operand | None, ...]
    attributes: Mapping[str, Any]
    shape: tuple[int, ...]

    def input(self, index: int, space: Labels) -> LabelArray:
        """Labels of operand `index`; a constant in the place of a value gets frozen labels."""
        operand = self.operands[index]
        assert operand is not None
        if operand.labels is not None:
            return operand.labels
        reason = f"{self.name} ({self.op}) reads a constant"
        for axis, length in enumerate(operand.shape):
            held = space.fresh((length,), 0)
            space.freeze(held, reason)
            self.bind(operand, axis, "carries", held, space)
        return frozen_labels(space, operand.shape, reason)

    def bind(self, operand: Operand, axis: int, role: Role, labels: LabelArray, space: Labels) -> None:
        """Record that labels index an axis of a constant operand, and its scales along that axis."""
        if operand.constant is not None:
            space.bind(operand.constant, axis, role, labels, self.name)
        for name, along_axis in operand.quantised:
            if along_axis == axis:
                space.bind(name, 0, "carries", labels, self.name)


Rule = Callable[[Site, Labels], LabelArray]


def channel_axis(shape: Sequence[int]) -> int:
    """The channel axis: 1, or the last axis of a value with fewer."""
    return 1 if len(shape) in (2, 4) or len(shape) > 4 else len(shape) - 1


def produced_axis(op: str, shape: Sequence[int]) -> int:
    """The axis of the output channels of a weighted operator: the last for linear, else 1."""
    return len(shape) - 1 if op == "linear" else 1


def frozen_labels(space: Labels, shape: Sequence[int], reason: str) -> LabelArray:
    """New labels along the channels of a value that must be kept."""
    labels = space.fresh(shape, channel_axis(shape)) if len(shape) else space.fresh((1,), 0).reshape(())
    space.freeze(labels, reason)
    return labels


def varying(labels: LabelArray) -> list[int]:
    """The axes along which labels vary."""
    return [axis for axis, length in enumerate(labels.shape) if length > 1]


def along(labels: LabelArray, shape: Sequence[int], axis: int, space: Labels) -> LabelArray:
    """Labels as a vector along one axis; labels that vary along other axes are coupled across them."""
    full = np.broadcast_to(
        labels, [n if i == axis else m for i, (n, m) in enumerate(zip(shape, labels.shape, strict=True))]
    )
    moved = np.moveaxis(full, axis, 0).reshape(shape[axis], -1)
    for column in range(1, moved.shape[1]):
        space.union(moved[:, 0], moved[:, column])
    return np.ascontiguousarray(moved[:, 0])


def rectangular(labels: LabelArray, shape: Sequence[int], space: Labels) -> LabelArray:
    """Couple labels such that the kept ones always form a smaller array: they vary along one axis only.

    The axis is that of the channels in a map [N, C, H, W], else the longest one on which labels vary.
    """
    axes = varying(labels)
    if len(axes) <= 1:
        return labels
    axis = 1 if len(shape) == 4 and 1 in axes else max(axes, key=lambda i: labels.shape[i])
    vector = along(labels, shape, axis, space)
    return vector.reshape([shape[axis] if i == axis else 1 for i in range(len(shape))])
