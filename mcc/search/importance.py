"""What removing a channel costs: Taylor scores on training data.

The loss change when a class of channels goes is estimated to first order by (sum of weight * gradient)^2 over
the weights that make it (Molchanov 2019, "Importance Estimation for Neural Network Pruning"), averaged over
batches. Scores of classes removed together add up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from mcc.analysis.channel_groups import ChannelAnalysis
from mcc.ir.graph import Graph, constant, copy_graph

LossFunction = Callable[[tuple[Tensor, ...], Tensor], Tensor]


def taylor_scores(
    graph: Graph,
    analysis: ChannelAnalysis,
    batches: Iterable[tuple[Tensor, Tensor]],
    loss: LossFunction,
) -> dict[int, float]:
    """Score of every label class, in squared units of the loss.

    Args:
        graph: the float network, batch norm in it or folded; not changed.
        analysis: of this graph.
        batches: inputs and targets.
        loss: of the outputs and the targets, a scalar.
    """
    private = copy_graph(graph)
    names = {b.constant for b in analysis.bindings if b.role == "produces"}
    parameters = {name: p for name, p in private.named_parameters() if name in names}
    totals: dict[int, float] = {}
    count = 0
    for x, target in batches:
        value = loss(private(x), target)
        gradients = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
        found = {n: g for n, g in zip(parameters, gradients, strict=True) if g is not None}  # pyright: ignore[reportUnnecessaryComparison] - allow_unused gives None
        for label, score in _batch_scores(private, analysis, found).items():
            totals[label] = totals.get(label, 0.0) + score**2
        count += 1
    return {label: total / max(1, count) for label, total in totals.items()}


def _batch_scores(graph: Graph, analysis: ChannelAnalysis, gradients: dict[str, Tensor]) -> dict[int, float]:
    scores: dict[int, float] = {}
    for binding in analysis.bindings:
        if binding.role != "produces" or binding.constant not in gradients:
            continue
        product = (constant(graph, binding.constant).detach() * gradients[binding.constant]).double()
        share = product.sum(tuple(i for i in range(product.dim()) if i != binding.axis))
        for label, value in zip(binding.labels.tolist(), share.tolist(), strict=True):
            scores[label] = scores.get(label, 0.0) + value
    return scores


def removal_costs(classes: tuple[int, ...], scores: dict[int, float], levels: tuple[int, ...]) -> list[float]:
    """Cost of keeping each number of channels of a group: the sum of the smallest scores, one per level.

    Equal scores (dead channels) still cost a little, so that a plan never removes for nothing.
    """
    ordered = sorted(scores.get(label, 0.0) for label in classes)
    floor = 1e-3 * (sum(ordered) / max(1, len(ordered))) + 1e-12
    return [sum(score + floor for score in ordered[: len(classes) - keep]) for keep in levels]


def weakest(classes: tuple[int, ...], scores: dict[int, float], keep: int) -> frozenset[int]:
    """The classes to remove so that `keep` stay: those with the smallest scores, ties by label."""
    order = sorted(classes, key=lambda label: (-scores.get(label, 0.0), label))
    return frozenset(order[keep:])
