"""prune-channels: remove channels, and all that produces, carries or reads them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mcc.analysis.channel_groups import ChannelAnalysis, ChannelGroup, analyse_channels
from mcc.analysis.shrink import refill_producers, shrink, zero_readers
from mcc.errors import Refusal
from mcc.ir.channels import channel_axis
from mcc.ir.graph import Graph, constant, copy_graph
from mcc.ir.notes import note
from mcc.pass_api import Pass, PassContext


@dataclass(frozen=True)
class PruneChannels(Pass):
    """Remove channels physically, through everything they are coupled with.

    Before, with two of eight channels to go, and after:

        %a = conv2d(%x, @w[8,3,3,3], ...)         %a = conv2d(%x, @w[6,3,3,3], ...)
        %b = relu(%a)                             %b = relu(%a)
        %c = conv2d(%b, @v[4,8,1,1], ...)         %c = conv2d(%b, @v[4,6,1,1], ...)

    A channel c of weight W goes together with every channel it is added to, multiplied with or reshaped into.
    Which ones stay is taken from the notes (`keep`: indices of a producer's output channels) or else from the
    option `keep`: the share of each group to keep, by the L2 norm of the weights that make and read the
    channels (Li 2017, "Pruning Filters for Efficient ConvNets"). Where notes disagree about coupled channels,
    those that any note keeps stay.

    Exact twin: the same graph with the weights through which removed channels are read set to zero.

    Skips groups that reach an input, an output, a frozen node or an operator that mixes channels without
    weights; groups pruned before are left alone unless a note asks. Raises Refusal where a note names a
    channel that is not there, or leaves a value without channels.

    Attributes:
        keep: share of channels to keep in each group without a note, 0 < keep <= 1.
        round: widths are rounded up to a multiple of this.
    """

    name: ClassVar[str] = "prune-channels"
    keep: float = 1.0
    round: int = 1

    def __post_init__(self) -> None:
        if not 0.0 < self.keep <= 1.0:
            raise ValueError(f"keep must lie in 0..1, not {self.keep}")
        if self.round < 1:
            raise ValueError(f"round must be at least 1, not {self.round}")

    def requires(self, graph: Graph) -> None:
        """Every `keep` note must name channels that its node has."""
        noted = [node for node in graph.graph.nodes if note(node).keep is not None]
        labels = analyse_channels(graph).labels if noted else {}
        for node in noted:
            last = max(note(node).keep or (), default=0)
            width = labels[node.name].size if node.name in labels else 0  # wherever its channels lie
            if last >= width:
                raise Refusal(f"notes channel {last} as kept, but has {width}", where=node.name)

    def run(self, graph: Graph, ctx: PassContext) -> None:
        """Shrink the graph by the channels that go."""
        analysis = analyse_channels(graph)
        for group in analysis.groups:
            if group.frozen is not None:
                ctx.refuse(group.name, group.frozen)
        removed = self._removed(graph, analysis)
        ctx.count("channels removed", len(removed))
        shrink(graph, analysis, removed)

    def reference(self, before: Graph, ctx: PassContext) -> Graph:
        """The graph with the reading weights of removed channels zero."""
        analysis = analyse_channels(before)
        zero_readers(before, analysis, self._removed(before, analysis))
        return before

    def variants(self, twin: Graph, before: Graph, ctx: PassContext) -> Iterator[Graph]:
        """The twin with the removed channels filled at random, twice: nobody reads them."""
        analysis = analyse_channels(before)
        removed = self._removed(before, analysis)
        for _ in range(2):
            filled = copy_graph(twin)
            refill_producers(filled, analysis, removed, ctx.generator)
            yield filled

    def _removed(self, graph: Graph, analysis: ChannelAnalysis) -> frozenset[int]:
        removed = _noted(graph, analysis)
        if self.keep < 1.0:
            norms = channel_norms(graph, analysis)
            notes = {node.name: note(node) for node in graph.graph.nodes}
            weakest: set[int] = set()
            for group in analysis.prunable():
                decided = [notes[name].keep or notes[name].pruned_from for name in group.producers]
                if not any(decided):
                    weakest |= self._weakest(group, norms)
            removed |= weakest - _last_ones(analysis, removed | weakest, norms)
        return frozenset(removed)

    def _weakest(self, group: ChannelGroup, norms: dict[int, float]) -> set[int]:
        count = -(-max(1, round(group.width * self.keep)) // self.round) * self.round
        order = sorted(group.classes, key=lambda label: (-norms[label], label))
        return set(order[count:])


def _noted(graph: Graph, analysis: ChannelAnalysis) -> set[int]:
    """Classes that a `keep` note leaves out; not those that are frozen or that any note keeps."""
    prunable = {label for group in analysis.prunable() for label in group.classes}
    kept: set[int] = set()
    left_out: set[int] = set()
    for node in graph.graph.nodes:
        keep = note(node).keep
        if keep is not None and node.name in analysis.labels:
            labels = analysis.labels[node.name]
            vector = labels.reshape(-1)
            if labels.shape[channel_axis(labels.shape)] == vector.size > keep[-1]:
                kept.update(vector[list(keep)].tolist())
                left_out.update(np.delete(vector, list(keep)).tolist())
    return (left_out - kept) & prunable


def _last_ones(analysis: ChannelAnalysis, removed: set[int], norms: dict[int, float]) -> set[int]:
    """The strongest class of each value that would lose all: a slice of a group, where others keep some."""
    gone = analysis.mask(removed)
    spared: set[int] = set()
    for labels in analysis.labels.values():
        if gone[labels].all():
            best = max(sorted(set(labels.reshape(-1).tolist())), key=lambda label: norms.get(label, 0.0))
            gone[best] = False
            spared.add(best)
    return spared


def channel_norms(graph: Graph, analysis: ChannelAnalysis) -> dict[int, float]:
    """L2 norm of all weights that make or read each class of channels, each axis scaled by its mean."""
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
