"""Importance of channels: Taylor scores on training data.

A removed class of channels has no readers any more. To first order the loss of one image then changes by the
sum, over all values x in which the class is read, of x * dL/dx along the reading edge; its square, averaged
over images, is the score (Molchanov 2019, "Importance Estimation for Neural Network Pruning", with the gate
on the reading side, so that biases, batch norms and clamps in between are included). The scores of classes
that are removed together add up.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, fx

from mcc.analysis.channel_groups import ChannelAnalysis
from mcc.ir.feed import Feed, tensors_of
from mcc.ir.graph import Graph, copy_graph, operand

LossFunction = Callable[[tuple[Tensor, ...], Tensor], Tensor]


def taylor_scores(
    graph: Graph,
    analysis: ChannelAnalysis,
    batches: Iterable[tuple[Feed, Tensor]],
    loss: LossFunction,
) -> dict[int, float]:
    """Score of every label class that a weight reads, in squared units of the loss.

    Args:
        graph: The float network, batch norms folded or not; not changed.
        analysis: Channel analysis of this graph.
        batches: Inputs and targets.
        loss: Loss of outputs and targets, averaged over the images of a batch.
    """
    private = copy_graph(graph).requires_grad_(False)
    readers = {name for group in analysis.groups for name in group.readers}
    totals = torch.zeros(analysis.count, dtype=torch.float64)
    images = 0
    for x, target in batches:
        taps = _Taps(private, readers)
        given = [value.detach().clone().requires_grad_() for value in tensors_of(x)]
        value = loss(taps.run(*given), target)
        gradients = torch.autograd.grad(value, [tap for _, tap in taps.found], allow_unused=True)
        changes = torch.zeros(len(x), analysis.count, dtype=torch.float64)
        for (node, tap), gradient in zip(taps.found, gradients, strict=True):
            if gradient is not None:  # pyright: ignore[reportUnnecessaryComparison] - allow_unused gives None
                _add_changes(changes, analysis, operand(node, 0).name, tap.detach() * gradient * len(x))
        totals += changes.square().sum(0)
        images += len(x)
    return dict(enumerate((totals / max(1, images)).tolist()))


class _Taps(fx.Interpreter):
    """Runs the graph and records the value on each edge into a reader, apart from the value's other uses."""

    def __init__(self, graph: Graph, readers: Collection[str]) -> None:
        super().__init__(graph)
        self.readers = readers
        self.found: list[tuple[fx.Node, Tensor]] = []

    def run_node(self, n: fx.Node) -> Any:
        """Evaluate one node; a reader reads an alias of its input, which has its own gradient."""
        if n.name not in self.readers:
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        alias = args[0].view_as(args[0])
        self.found.append((n, alias))
        return self.call_function(n.target, (alias, *args[1:]), kwargs)


def _add_changes(changes: Tensor, analysis: ChannelAnalysis, source: str, product: Tensor) -> None:
    """Add x * dL/dx [N, ...] to the changes [N, labels], summed over all but the axis of the channels."""
    labels = analysis.labels[source]
    axis = max(range(1, labels.ndim), key=lambda i: labels.shape[i])
    share = product.movedim(axis, 1).reshape(len(product), labels.size, -1).sum(2)
    changes.index_add_(1, torch.from_numpy(labels.reshape(-1)), share.double())


def removal_costs(classes: tuple[int, ...], scores: dict[int, float], levels: tuple[int, ...]) -> list[float]:
    """Loss of keeping each number of channels of a group: the sum of the smallest scores, one per level.

    Equal scores (dead channels) still have a small loss, so that a plan never removes channels without gain.
    """
    ordered = sorted(scores.get(label, 0.0) for label in classes)
    floor = 1e-3 * (sum(ordered) / max(1, len(ordered))) + 1e-12
    sums = list(accumulate((score + floor for score in ordered), initial=0.0))
    return [sums[len(classes) - keep] for keep in levels]


def weakest(classes: tuple[int, ...], scores: dict[int, float], keep: int) -> frozenset[int]:
    """The classes to remove so that `keep` stay: those with the smallest scores, ties by label."""
    order = sorted(classes, key=lambda label: (-scores.get(label, 0.0), label))
    return frozenset(order[keep:])
