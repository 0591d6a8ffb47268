"""What each single decision costs: distillation loss on calibration data.

Every group of channels is measured twice, at half and at a quarter of its width, and its Taylor scores give
the shape of the curve in between; every low-rank candidate is measured as its dense product. The unit is the
mean Kullback-Leibler divergence from the original network's outputs, in nats, before any repair.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mcc.analysis.channel_groups import ChannelAnalysis, ChannelGroup, analyse_channels
from mcc.analysis.pointwise import pointwise
from mcc.analysis.shrink import zero_readers
from mcc.errors import DataError
from mcc.ir.graph import Graph, constant, copy_graph, operand, run
from mcc.ir.notes import annotate, shape_of
from mcc.ir.storage import write_beside
from mcc.pass_api import PassContext
from mcc.search.importance import LossFunction, removal_costs, taylor_scores, weakest
from mcc.search.space import rank_levels

Progress = Callable[[str, float], None]
REFERENCE_SHARE = 0.5  # of a group's width at which its cost is measured
NARROW_SHARE = 0.25  # where it is measured again: there the scores alone are 1.5 to 4 times too low
LEAST_STEP = 1e-3  # by which a narrower group costs more, at least, whatever was measured


@dataclass(frozen=True)
class Sensitivities:
    """Costs of single decisions, in nats of distillation loss.

    Attributes:
        order: for each group, its channels from the least to the most important, as (producer, index) places.
        scores: for each group, the Taylor scores in that order.
        reference: for each group, the measured cost at `REFERENCE_SHARE` of its width.
        ranks: for each 1x1 convolution, the measured cost of each rank.
        narrow: for each group, the measured cost at `NARROW_SHARE` of its width; where it was measured.
    """

    order: dict[str, tuple[int, ...]]
    scores: dict[str, tuple[float, ...]]
    reference: dict[str, float]
    ranks: dict[str, dict[int, float]]
    narrow: dict[str, float] = field(default_factory=lambda: {})

    def widths(self, group: str, levels: Sequence[int]) -> list[float]:
        """Cost of each width of a group: the Taylor curve, bent to run through the measured points."""
        scores = dict(enumerate(self.scores[group]))
        width = len(scores)
        every = range(width, 0, -1)
        curve = dict(zip(every, removal_costs(tuple(scores), scores, tuple(every)), strict=True))
        half, quarter = _kept(width, REFERENCE_SHARE), _kept(width, NARROW_SHARE)
        first = self.reference[group] / curve[half] if curve[half] > 0 else 0.0
        second = self.narrow[group] / curve[quarter] if group in self.narrow and curve[quarter] > 0 else first
        costs: dict[int, float] = {}
        for keep in every:
            # Above half the width the first factor holds, below a quarter the second; in between their blend.
            share = min(1.0, max(0.0, (half - keep) / max(1, half - quarter)))
            cost = curve[keep] * first ** (1 - share) * second**share
            costs[keep] = max(cost, costs.get(keep + 1, 0.0) * (1 + LEAST_STEP))
        return [costs[keep] for keep in levels]

    def removed(self, group: ChannelGroup, keep: int) -> frozenset[int]:
        """Classes of a group that go when `keep` channels stay."""
        return frozenset(group.classes[i] for i in self.order[group.name][: group.width - keep])

    def save(self, path: Path) -> None:
        """Write as JSON, whole or not at all."""
        content = {
            "order": self.order,
            "scores": self.scores,
            "reference": self.reference,
            "narrow": self.narrow,
            "ranks": {n: {str(r): c for r, c in found.items()} for n, found in self.ranks.items()},
        }
        write_beside(path, lambda p: p.write_text(json.dumps(content), encoding="utf-8"))

    @staticmethod
    def load(path: Path) -> Sensitivities:
        """Read what `save` wrote. Raises DataError for a damaged file."""
        try:
            raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return Sensitivities(
                {n: tuple(v) for n, v in raw["order"].items()},
                {n: tuple(v) for n, v in raw["scores"].items()},
                dict(raw["reference"]),
                {n: {int(r): c for r, c in found.items()} for n, found in raw["ranks"].items()},
                dict(raw["narrow"]),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                "holds no sensitivities", where=str(path), hint="remove it; it is measured anew"
            ) from error


def divergence(outputs: Sequence[Tensor], reference: Sequence[Tensor]) -> float:
    """Mean KL(reference || outputs) of the softmax over axis 1, in nats, of the first output."""
    left, right = F.log_softmax(outputs[0].double(), 1), F.log_softmax(reference[0].double(), 1)
    return float(F.kl_div(left, right, log_target=True, reduction="batchmean"))


def measure_sensitivities(
    graph: Graph,
    batches: Sequence[tuple[Tensor, Tensor]],
    loss: LossFunction,
    *,
    images: int = 128,
    low_rank: bool = True,
    progress: Progress = lambda stage, share: None,
) -> Sensitivities:
    """Measure every group and every low-rank candidate of a float network.

    Args:
        graph: the network as captured (batch norm in it or folded).
        batches: inputs and targets from training data, for the Taylor scores.
        loss: of outputs and targets.
        images: number of images on which decisions are measured.
        low_rank: whether low-rank candidates are wanted.
        progress: called with the stage and the share done.
    """
    analysis = analyse_channels(graph)
    scores = taylor_scores(graph, analysis, batches, loss)
    x = torch.cat([batch for batch, _ in batches])[:images]
    reference = run(graph, x)
    groups = analysis.prunable()
    order = {g.name: _order(g, scores) for g in groups}
    sorted_scores = {g.name: tuple(scores.get(g.classes[i], 0.0) for i in order[g.name]) for g in groups}
    costs: dict[str, float] = {}
    narrow: dict[str, float] = {}
    for index, group in enumerate(groups):
        for found, share in ((costs, REFERENCE_SHARE), (narrow, NARROW_SHARE)):
            removed = weakest(group.classes, scores, _kept(group.width, share))
            found[group.name] = _removal_cost(graph, analysis, removed, x, reference)
        progress("sensitivities of channel groups", (index + 1) / len(groups))
    ranks = _rank_costs(graph, x, reference, progress) if low_rank else {}
    return Sensitivities(order, sorted_scores, costs, ranks, narrow)


def _kept(width: int, share: float) -> int:
    return max(1, round(width * share))


def _order(group: ChannelGroup, scores: dict[int, float]) -> tuple[int, ...]:
    classes = group.classes
    return tuple(sorted(range(len(classes)), key=lambda i: (scores.get(classes[i], 0.0), -classes[i])))


def _removal_cost(
    graph: Graph,
    analysis: ChannelAnalysis,
    removed: frozenset[int],
    x: Tensor,
    reference: Sequence[Tensor],
) -> float:
    private = copy_graph(graph)
    zero_readers(private, analysis, removed)
    return max(divergence(run(private, x), reference), 1e-9)


def _rank_costs(
    graph: Graph, x: Tensor, reference: Sequence[Tensor], progress: Progress
) -> dict[str, dict[int, float]]:
    from passes.factorize_1x1 import factors, input_moments

    nodes = [n for n in pointwise(graph) if rank_levels(*shape_of(operand(n, 1))[:2])]
    moments = input_moments(graph, nodes, PassContext((x,)).calibration)
    found: dict[str, dict[int, float]] = {}
    for index, node in enumerate(nodes):
        found[node.name] = {}
        for rank in rank_levels(*shape_of(operand(node, 1))[:2]):
            private = copy_graph(graph)
            weight = constant(private, operand(node, 1))
            u, v = factors(weight.detach(), moments.get(node.name), rank)
            with torch.no_grad():
                weight.copy_((u[:, :, 0, 0] @ v[:, :, 0, 0]).reshape(weight.shape))
            found[node.name][rank] = max(divergence(run(private, x), reference), 1e-9)
        progress("sensitivities of low-rank pairs", (index + 1) / len(nodes))
    return found


def note_widths(graph: Graph, sensitivities: Sensitivities, widths: dict[str, int]) -> None:
    """Write `keep` notes on the producers of each group, in place; groups at full width get none."""
    analysis = analyse_channels(graph)
    removed: set[int] = set()
    for group in analysis.prunable():
        if widths.get(group.name, group.width) < group.width:
            removed |= sensitivities.removed(group, widths[group.name])
    if not removed:
        return
    for node in graph.graph.nodes:
        labels = analysis.labels.get(node.name)
        if labels is None or not any(node.name in group.producers for group in analysis.groups):
            continue
        vector = labels.reshape(-1).tolist()
        stays = tuple(i for i, label in enumerate(vector) if label not in removed)
        if len(stays) < len(vector):
            annotate(node, keep=stays)
