"""prune-channels: remove channels, with all weights that produce, carry or read them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Set
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mcc.analysis.channel_groups import ChannelAnalysis, ChannelGroup, analyse_channels
from mcc.analysis.remove_channels import mask_out, refill_producers, shrink, zero_readers
from mcc.errors import Refusal
from mcc.ir.graph import Graph, constant, copy_graph, op_name
from mcc.ir.notes import annotate, note, shape_of
from mcc.pass_api import Pass, PassContext


@dataclass(frozen=True)
class PruneChannels(Pass):
    """Remove channels physically, in all layers that are coupled by them.

    Before and after, with two of eight channels removed:

        %a = conv2d(%x, @w[8,3,3,3], ...)         %a = conv2d(%x, @w[6,3,3,3], ...)
        %b = relu(%a)                             %b = relu(%a)
        %c = conv2d(%b, @v[4,8,1,1], ...)         %c = conv2d(%b, @v[4,6,1,1], ...)

    A channel c of weight W is removed together with every channel it is added to, multiplied with or reshaped
    into. The channels to keep are those of the notes (`keep`: indices of a producer's output channels), or
    else a share of each group given by the option `keep`, by the L2 norm of the weights that produce and read
    the channels (Li 2017, "Pruning Filters for Efficient ConvNets"). If notes disagree about coupled
    channels, those that any note keeps are kept.

    Exact twin: the same graph with the weights that read removed channels set to zero, and means over
    channels taken over the kept ones.

    Skips groups that reach an input, an output, a frozen node or an operator that mixes channels without
    weights; groups pruned before are skipped unless a note requests it. Raises Refusal if a note names a
    channel that does not exist, or leaves a value without channels.

    Attributes:
        keep: Share of channels to keep in each group without a note, 0 < keep <= 1.
        round: Multiple to which widths are rounded up.
    """

    name: ClassVar[str] = "prune-channels"
    keep: float = 1.0
    round: int = 1

    def __post_init__(self) -> None:
        if not 0.0 < self.keep <= 1.0:
            raise ValueError(f"keep must lie in 0..1, not {self.keep}")
        if self.round < 1:
            raise ValueError(f"round must be at least 1, not {self.round}")

    def run(self, graph: Graph, ctx: PassContext) -> None:
        """Remove the channels from the graph."""
        analysis = analyse_channels(graph)
        for group in analysis.groups:
            if group.frozen is not None:
                ctx.refuse(group.name, group.frozen)
            elif group.width == 1:
                ctx.refuse(group.name, _inseparable(graph, analysis, group))
        removed = self._removed(graph, analysis)
        ctx.count("channels removed", _channels(analysis, removed))
        free = {c for group in analysis.groups if group.frozen is None for c in group.classes}
        ctx.count("of channels", _channels(analysis, free))
        decided = [name for group in _noted(graph, analysis).groups for name in group.producers]
        widths = {name: max(analysis.labels[name].shape) for name in decided}
        shrink(graph, analysis, removed)
        for node in graph.graph.nodes:  # decisions of notes are final, even if all channels are kept
            if node.name in widths and note(node).pruned_from is None:
                annotate(node, pruned_from=widths[node.name])

    def reference(self, before: Graph, ctx: PassContext) -> Graph:
        """The graph without dependences on the removed channels."""
        analysis = analyse_channels(before)
        mask_out(before, analysis, self._removed(before, analysis))
        return before

    def variants(self, twin: Graph, before: Graph, ctx: PassContext) -> Iterator[Graph]:
        """The twin with the removed channels filled at random, twice, since they are not read."""
        analysis = analyse_channels(before)
        removed = self._removed(before, analysis)
        for _ in range(2):
            filled = copy_graph(twin)
            refill_producers(filled, analysis, removed, ctx.generator)
            # Values of removed channels that read one another would grow from layer to layer, beyond float64.
            zero_readers(filled, analysis, removed)
            yield filled

    def _removed(self, graph: Graph, analysis: ChannelAnalysis) -> frozenset[int]:
        noted = _noted(graph, analysis)
        if self.keep == 1.0:
            return noted.removed
        norms = channel_norms(graph, analysis)
        notes = {node.name: note(node) for node in graph.graph.nodes}
        weakest: set[int] = set()
        for group in analysis.prunable():
            pruned = any(notes[name].pruned_from for name in group.producers)
            if not pruned and group not in noted.groups:
                weakest |= self._weakest(group, norms)
        return noted.removed | (weakest - _last_ones(analysis, noted.removed, weakest, norms))

    def _weakest(self, group: ChannelGroup, norms: dict[int, float]) -> set[int]:
        count = -(-max(1, round(group.width * self.keep)) // self.round) * self.round
        order = sorted(group.classes, key=lambda label: (-norms[label], label))
        return set(order[count:])


def _channels(analysis: ChannelAnalysis, classes: Set[int]) -> int:
    """How many channels classes stand for, by the producer that has most of each: norms tie several."""
    most: Counter[int] = Counter()
    for group in analysis.groups:
        for name in group.producers:
            most |= Counter(int(label) for label in analysis.labels[name].flatten() if label in classes)
    return most.total()


def _inseparable(graph: Graph, analysis: ChannelAnalysis, group: ChannelGroup) -> str:
    """The reason why the only class of a group cannot be removed, with the operator that couples it."""
    (label,) = group.classes
    channels = max(max(analysis.labels[name].shape) for name in group.producers)
    if channels == 1:
        return "has one channel"
    tying = next(
        (
            node.name
            for node in graph.graph.nodes
            if node.op == "call_function"
            and node.name not in group.producers
            and (analysis.labels[node.name] == label).any()
            and len(shape_of(node)) > 1
            and op_name(node) in ("reshape", "transpose", "matmul", "group_norm", "layer_norm")
        ),
        None,
    )
    where = f" by {tying}" if tying else ""
    return f"its {channels} channels are tied together{where}: all of them would have to go"


@dataclass(frozen=True)
class _Noted:
    """Decisions of `keep` notes: classes to remove, and the groups concerned."""

    removed: frozenset[int]
    groups: frozenset[ChannelGroup]


def _noted(graph: Graph, analysis: ChannelAnalysis) -> _Noted:
    """Classes excluded by a `keep` note are removed, except frozen ones and those that any note keeps."""
    kept: set[int] = set()
    left_out: set[int] = set()
    for node in graph.graph.nodes:
        keep, labels = note(node).keep, analysis.labels.get(node.name)
        if keep is None or labels is None or labels.size != max(labels.shape, default=1):
            continue
        if keep[-1] >= labels.size:
            raise Refusal(f"notes channel {keep[-1]} as kept, but has {labels.size}", where=node.name)
        vector = labels.reshape(-1)
        kept.update(vector[list(keep)].tolist())
        left_out.update(np.delete(vector, list(keep)).tolist())
    touched = kept | left_out
    groups = [group for group in analysis.prunable() if not touched.isdisjoint(group.classes)]
    prunable = {label for group in groups for label in group.classes}
    return _Noted(frozenset((left_out - kept) & prunable), frozenset(groups))


def _last_ones(
    analysis: ChannelAnalysis, noted: frozenset[int], weakest: set[int], norms: dict[int, float]
) -> set[int]:
    """The strongest class of each value that would lose all channels, e.g. a slice of a group."""
    gone = analysis.mask(noted | weakest)
    spared: set[int] = set()
    for labels in analysis.labels.values():
        if gone[labels].all():
            candidates = sorted(weakest.intersection(labels.reshape(-1).tolist()))
            best = max(candidates, key=lambda label: norms[label], default=None)
            if best is not None:
                gone[best] = False
                spared.add(best)
    return spared


def channel_norms(graph: Graph, analysis: ChannelAnalysis) -> dict[int, float]:
    """L2 norm of all weights that produce or read each class of channels, each axis scaled by its mean."""
    squares: dict[int, float] = {}
    for binding in analysis.bindings:
        if binding.role == "carries":
            continue
        value = constant(graph, binding.constant).detach().double()
        energy = value.square().sum(tuple(i for i in range(value.dim()) if i != binding.axis))
        energy = energy / energy.mean().clamp_min(1e-30)
        for label, share in zip(binding.labels.tolist(), energy.tolist(), strict=True):
            squares[label] = squares.get(label, 0.0) + share
    return {label: total**0.5 for label, total in squares.items()}
