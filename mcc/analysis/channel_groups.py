"""Groups of channels that must be kept or removed together, found by propagating labels through the graph.

The op table's channel rules (`mcc.ir.channels`) label every channel and record which axes of which constants
the labels index. Labels coupled with one another form a *class*: the smallest unit that can be removed.
Classes that index the same axes form a *group*: one width to decide. (The idea of coupled groups: Fang 2023,
DepGraph; found here by index arithmetic on labels instead of a trace through autograd.)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from torch import fx

from mcc.ir import table
from mcc.ir.graph import Graph, is_constant, op_name, outputs
from mcc.ir.labels import Binding, LabelArray, Labels, Operand, Role, Site, channel_axis
from mcc.ir.notes import note, shape_of

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that share one width.

    Attributes:
        name: Name of the first node that produces the channels.
        classes: Label classes, in channel order; each can be kept or removed.
        producers: Nodes with output channels in the group, in graph order.
        readers: Nodes that mix the channels through a weight.
        frozen: Reason why no channel of the group may be removed, or None.
    """

    name: str
    classes: tuple[int, ...]
    producers: tuple[str, ...]
    readers: tuple[str, ...]
    frozen: str | None

    @property
    def width(self) -> int:
        """Number of channels that can be kept or removed independently."""
        return len(self.classes)


@dataclass(frozen=True)
class ChannelAnalysis:
    """Channel labels of a whole graph.

    Attributes:
        labels: Label class of each element of each value, by node name (see `mcc.ir.labels`).
        bindings: Classes that index each axis of each constant.
        groups: All groups, in graph order.
        count: Number of labels; classes are numbers below it.
    """

    labels: dict[str, LabelArray]
    bindings: tuple[Binding, ...]
    groups: tuple[ChannelGroup, ...]
    count: int

    @cached_property
    def _by_name(self) -> dict[str, ChannelGroup]:
        return {group.name: group for group in self.groups}

    @cached_property
    def _by_constant(self) -> dict[str, dict[int, LabelArray]]:
        found: dict[str, dict[int, LabelArray]] = {}
        for binding in self.bindings:
            found.setdefault(binding.constant, {})[binding.axis] = binding.labels
        return found

    def group(self, name: str) -> ChannelGroup:
        """A group by name. Raises KeyError."""
        return self._by_name[name]

    def bound(self, constant: str) -> dict[int, LabelArray]:
        """Classes along each bound axis of a constant, by axis."""
        return self._by_constant.get(constant, {})

    def mask(self, classes: Collection[int]) -> Mask:
        """A mask over classes, to be indexed with label arrays: true for the given ones."""
        table = np.zeros(self.count, np.bool_)
        table[list(classes)] = True
        return table

    def prunable(self) -> tuple[ChannelGroup, ...]:
        """Groups that are not frozen."""
        return tuple(group for group in self.groups if group.frozen is None)


def analyse_channels(graph: Graph) -> ChannelAnalysis:
    """Label the channels of every value and group them. Outputs and frozen nodes are not pruned."""
    space = Labels()
    labels: dict[str, LabelArray] = {}
    readers: dict[str, set[str]] = defaultdict(set)
    held: dict[str, str] = {}
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            labels[node.name] = _frozen_value(space, node, "is an input of the network")
        elif node.op == "call_function":
            site = _site(node, labels)
            labels[node.name] = table.row_of(node).channels(site, space)
            if note(node).frozen is not None:
                _freeze_node(space, labels, node)
                # A frozen quantiser of a weight has no channels of its own: the weight's readers are frozen
                # instead.
                reason = f"{node.name} is frozen: {note(node).frozen}"
                held |= {read.constant: reason for read in site.operands if read and read.constant}
            for operand in site.operands:
                # A quantiser follows its readers: its constant is bound there.
                if operand is not None and operand.constant is not None and site.op != "fake_quantize":
                    readers[operand.constant].add(node.name)
    for value in outputs(graph):
        space.freeze(labels[value.name], "is an output of the network")
    for binding in space.bindings:
        if binding.constant in held:
            space.freeze(binding.labels, held[binding.constant])
    _freeze_half_bound(space, readers)
    roots = space.resolved()
    resolved = {name: np.asarray(roots[array]) for name, array in labels.items()}
    bindings = [Binding(b.constant, b.axis, b.role, roots[b.labels], b.node) for b in space.bindings]
    return ChannelAnalysis(resolved, _unique(bindings), _groups(space, bindings), len(space))


def _freeze_half_bound(space: Labels, readers: dict[str, set[str]]) -> None:
    """Freeze axes of shared constants that are not bound by every node that reads the constant."""
    through: dict[tuple[str, int], set[str]] = defaultdict(set)
    for binding in space.bindings:
        through[binding.constant, binding.axis].add(binding.node)
    for binding in space.bindings:
        missing = readers[binding.constant] - through[binding.constant, binding.axis]
        if missing:
            reason = f"{min(missing)} reads constant {binding.constant} in another way than {binding.node}"
            space.freeze(binding.labels, reason)


def _freeze_node(space: Labels, labels: dict[str, LabelArray], node: fx.Node) -> None:
    reason = f"{node.name} is frozen: {note(node).frozen}"
    for value in (node, *node.all_input_nodes):
        if value.name in labels:
            space.freeze(labels[value.name], reason)


def _frozen_value(space: Labels, node: fx.Node, reason: str) -> LabelArray:
    shape = shape_of(node)
    labels = space.fresh(shape, channel_axis(shape))
    space.freeze(labels, f"{node.name} {reason}")
    return labels


def _site(node: fx.Node, labels: dict[str, LabelArray]) -> Site:
    operands: list[Operand | None] = []
    for arg in node.args:
        if not isinstance(arg, fx.Node):
            operands.append(None)
            continue
        # A weight may be read through fake_quantize nodes: skip them to find the constant.
        source = arg
        while source.op == "call_function" and op_name(source) == "fake_quantize":
            inner = source.args[0]
            assert isinstance(inner, fx.Node)
            source = inner
        name = str(source.target) if is_constant(source) else None
        if name is None:
            operands.append(Operand(shape_of(arg), labels.get(arg.name), None))
        else:
            operands.append(Operand(shape_of(arg), None, name, tuple(_quantisers(arg))))
    return Site(node.name, op_name(node), tuple(operands), node.kwargs, shape_of(node))


def _quantisers(source: fx.Node) -> Iterator[tuple[str, int]]:
    """Per-axis scales and zero points between a weight and its reader: their names and that axis."""
    while source.op == "call_function":
        inner, axis = source.args[0], source.kwargs["axis"]
        for parameter in source.args[1:]:
            if isinstance(axis, int) and isinstance(parameter, fx.Node) and is_constant(parameter):
                yield str(parameter.target), axis
        assert isinstance(inner, fx.Node)
        source = inner


_ROLES: tuple[Role, ...] = ("reads", "produces", "carries")


def _unique(bindings: list[Binding]) -> tuple[Binding, ...]:
    """One binding for each axis of each constant; an axis that is read by any node has the role `reads`."""
    seen: dict[tuple[str, int], Binding] = {}
    for binding in bindings:
        found = seen.setdefault((binding.constant, binding.axis), binding)
        if _ROLES.index(binding.role) < _ROLES.index(found.role):
            seen[binding.constant, binding.axis] = binding
    return tuple(seen.values())


def _groups(space: Labels, bindings: list[Binding]) -> tuple[ChannelGroup, ...]:
    """Group classes with the same set of bound axes, in the order in which they are first produced."""
    places: dict[int, dict[int, None]] = defaultdict(dict)
    for index, binding in enumerate(bindings):
        for label in binding.labels.tolist():
            places[label][index] = None
    members: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for label, where in places.items():
        members[tuple(sorted(where))].append(label)
    found: list[ChannelGroup] = []
    taken: dict[str, int] = {}
    for where, classes in members.items():
        bound = [bindings[index] for index in where]
        producers = tuple(dict.fromkeys(b.node for b in bound if b.role == "produces"))
        if not producers:
            continue
        name = producers[0]
        taken[name] = taken.get(name, 0) + 1
        if taken[name] > 1:
            name = f"{name}.{taken[name]}"
        readers = tuple(dict.fromkeys(b.node for b in bound if b.role == "reads"))
        reason = next((r for r in map(space.reason, classes) if r is not None), None)
        if reason is None and not readers:
            reason = f"{producers[0]} is read by no weight"
        found.append(ChannelGroup(name, tuple(classes), producers, readers, reason))
    return tuple(found)


def kept(labels: LabelArray, gone: Mask) -> list[Mask]:
    """For each axis of a value, a mask of the indices kept when the classes marked in `gone` are removed."""
    stays: Mask = ~gone[labels]
    return [np.moveaxis(stays, axis, 0).reshape(stays.shape[axis], -1).max(1) for axis in range(labels.ndim)]
