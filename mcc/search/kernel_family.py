"""A node's kernel as a function of the widths of channel groups.

Pruning shrinks every axis whose channels belong to a group, and the length of the axis is a sum over groups.
These axes are read from the channel labels, as in pruning itself, so that the kernels of a problem are
exactly those of the pruned network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import fx

from mcc.analysis.channel_groups import ChannelAnalysis, ChannelGroup
from mcc.cost_api import Kernel
from mcc.ir.channels import LabelArray
from mcc.ir.graph import is_constant
from mcc.ir.notes import shape_of


@dataclass(frozen=True)
class Width:
    """Number of channels along one axis: `fixed` + sum of share * width of group."""

    fixed: int
    shares: tuple[tuple[str, float], ...]

    def value(self, widths: Mapping[str, int]) -> int:
        """Number of channels at the given widths of groups."""
        return round(self.fixed + sum(share * widths[group] for group, share in self.shares))

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups it depends on."""
        return tuple(group for group, _ in self.shares)


Axes = Mapping[int, Width]


@dataclass(frozen=True)
class KernelFamily:
    """The kernel of a node as a function of widths.

    Attributes:
        whole: Kernel at full width.
        operands: For each operand, its axes that hold channels of groups.
        output: The same for the result.
        sides: Minimal set of widths that distinguishes all kernels of the family.
    """

    whole: Kernel
    operands: tuple[Axes, ...]
    output: Axes
    sides: tuple[Width, ...]

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups on which the kernel depends."""
        return tuple(dict.fromkeys(group for side in self.sides for group in side.groups))

    def key(self, widths: Mapping[str, int]) -> tuple[int, ...]:
        """Number of channels on each side."""
        return tuple(side.value(widths) for side in self.sides)

    def at(self, widths: Mapping[str, int]) -> Kernel:
        """The kernel at the given widths of groups."""
        pairs = zip(self.whole.operands, self.operands, strict=True)
        operands = [None if o is None else _shape(o.shape, axes, widths) for o, axes in pairs]
        return self.whole.reshaped(operands, _shape(self.whole.output, self.output, widths))


def _shape(shape: tuple[int, ...], axes: Axes, widths: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(axes[i].value(widths) if i in axes else length for i, length in enumerate(shape))


class Families:
    """Computes the kernel families of a graph's nodes.

    Args:
        analysis: Channel analysis of the graph.
        groups: Groups whose widths may change.
    """

    def __init__(self, analysis: ChannelAnalysis, groups: tuple[ChannelGroup, ...]) -> None:
        self.analysis = analysis
        self.groups = {group.name: group for group in groups}
        self.owner = np.full(analysis.count, -1, np.int64)
        self.names = tuple(self.groups)
        for index, group in enumerate(groups):
            self.owner[list(group.classes)] = index

    def family(self, node: fx.Node, whole: Kernel) -> KernelFamily:
        """The family of a node's kernel; `whole` is the kernel in the unchanged graph."""
        operands = tuple(self._operand(arg) if isinstance(arg, fx.Node) else {} for arg in node.args)
        output = self._value(node)
        return KernelFamily(whole, operands, output, _sides((*operands, output)))

    def axes(self, node: fx.Node) -> Axes:
        """The axes of a node's value that hold channels of groups."""
        return self._value(node)

    def shape(self, node: fx.Node, widths: Mapping[str, int]) -> tuple[int, ...]:
        """Shape of a node's value at the given widths of groups."""
        return _shape(shape_of(node), self._value(node), widths)

    def uneven(self) -> frozenset[str]:
        """Groups of which some channels occur more often in a value or constant than others.

        The length of such an axis depends on which channels are removed, not only on how many.
        """
        arrays = [*self.analysis.labels.values(), *(b.labels for b in self.analysis.bindings)]
        return frozenset(name for array in arrays for name in self._uneven(array))

    def _uneven(self, labels: LabelArray) -> set[str]:
        found: set[str] = set()
        for axis in _varying(labels):
            counts = np.bincount(_along(labels, axis), minlength=self.analysis.count)
            for name, group in self.groups.items():
                if len(set(counts[list(group.classes)].tolist())) > 1:
                    found.add(name)
        return found

    def _operand(self, node: fx.Node) -> Axes:
        if not is_constant(node):
            return self._value(node)
        bound = self.analysis.bound(str(node.target))
        return self._axes(dict(bound))

    def _value(self, node: fx.Node) -> Axes:
        labels = self.analysis.labels.get(node.name)
        if labels is None or labels.ndim != len(shape_of(node)):
            return {}
        return self._axes({axis: _along(labels, axis) for axis in _varying(labels)})

    def _axes(self, vectors: Mapping[int, LabelArray]) -> Axes:
        found = {axis: self._width(vector) for axis, vector in vectors.items()}
        return {axis: width for axis, width in found.items() if width.shares}

    def _width(self, vector: LabelArray) -> Width:
        owners = self.owner[vector]
        counts = np.bincount(owners[owners >= 0], minlength=len(self.names)).tolist()
        shares = tuple(
            (name, count / self.groups[name].width)
            for name, count in zip(self.names, counts, strict=True)
            if count
        )
        return Width(int((owners < 0).sum()), shares)


def _varying(labels: LabelArray) -> list[int]:
    return [axis for axis, length in enumerate(labels.shape) if length > 1]


def _along(labels: LabelArray, axis: int) -> LabelArray:
    """Labels as a vector along an axis; values vary along one axis only (see `mcc.ir.channels`)."""
    return np.moveaxis(labels, axis, 0).reshape(labels.shape[axis], -1)[:, 0]


def _sides(arrays: tuple[Axes, ...]) -> tuple[Width, ...]:
    """Those of the widths of all axes that are not functions of others: one for each set of groups."""
    found: dict[tuple[object, ...], Width] = {}
    for axes in arrays:
        for width in axes.values():
            single = len(width.shares) == 1
            found.setdefault(width.groups if single else width.shares, width)
    return tuple(found.values())
