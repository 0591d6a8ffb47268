"""The sensitivity of each single decision, in divergence of the outputs; measured by `mcc.search.probes`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mcc.analysis.channel_groups import ChannelGroup, analyse_channels
from mcc.errors import DataError
from mcc.files import write_text
from mcc.ir.graph import Graph
from mcc.ir.notes import annotate
from mcc.search.importance import removal_costs

REFERENCE_SHARE = 0.5  # of a group's width, at which its loss is measured
NARROW_SHARE = 0.25  # of it, for a second measurement: there the scores alone are 1.5 to 4 times too low
LEAST = 1e-9  # minimum increase of the divergence from one width to the next
LEAST_STEP = 1e-3  # minimum relative increase of the loss from one width to the next


@dataclass(frozen=True)
class Sensitivities:
    """Losses of single decisions, in the divergence that the network's task defines (for classification,
    nats).

    Attributes:
        order: For each group, its channels from the least to the most important, as (producer, index) pairs.
        scores: For each group, the Taylor scores in that order.
        reference: For each group, the measured loss at `REFERENCE_SHARE` of its width.
        ranks: For each 1x1 convolution, the measured loss of each rank.
        narrow: For each group, the measured loss at `NARROW_SHARE` of its width, if measured.
        sparse: For each 1x1 convolution that may be sparse, the measured loss of each sparsity.
        noise: For each region, the measured loss of running it on integers; see `mcc.search.regions`.
        pairs: For two groups whose joint loss differs notably from the sum of both, the correlation of their
            changes; see `mcc.search.tables.interactions`.
        points: For each group, the measured losses of several widths, including full width; if present, they
            replace the curve.
    """

    order: dict[str, tuple[int, ...]]
    scores: dict[str, tuple[float, ...]]
    reference: dict[str, float]
    ranks: dict[str, dict[int, float]]
    narrow: dict[str, float] = field(default_factory=lambda: {})
    sparse: dict[str, dict[float, float]] = field(default_factory=lambda: {})
    noise: dict[str, float] = field(default_factory=lambda: {})
    pairs: dict[tuple[str, str], float] = field(default_factory=lambda: {})
    points: dict[str, dict[int, float]] = field(default_factory=lambda: {})

    def widths(self, group: str, levels: Sequence[int]) -> list[float]:
        """Loss of each width of a group: the Taylor curve, scaled to pass through the measured points."""
        if group in self.points:
            return self._between_points(group, levels)
        scores = dict(enumerate(self.scores[group]))
        width = len(scores)
        every = range(width, 0, -1)
        curve = dict(zip(every, removal_costs(tuple(scores), scores, tuple(every)), strict=True))
        half, quarter = kept(width, REFERENCE_SHARE), kept(width, NARROW_SHARE)
        first = self.reference[group] / curve[half] if curve[half] > 0 else 0.0
        second = self.narrow[group] / curve[quarter] if group in self.narrow and curve[quarter] > 0 else first
        costs: dict[int, float] = {}
        for keep in every:
            # Above half the width the first factor applies, below a quarter the second; in between, a blend.
            share = min(1.0, max(0.0, (half - keep) / max(1, half - quarter)))
            cost = curve[keep] * first ** (1 - share) * second**share
            costs[keep] = max(cost, costs.get(keep + 1, 0.0) * (1 + LEAST_STEP))
        return [costs[keep] for keep in levels]

    def _between_points(self, group: str, levels: Sequence[int]) -> list[float]:
        """Linear interpolation between measured widths, made monotonic; extrapolated below the smallest."""
        measured = self.points[group]
        widths = sorted(measured, reverse=True)
        costs: dict[int, float] = {}
        for keep in range(widths[0], 0, -1):
            upper = next((w for w in reversed(widths) if w >= keep and w > widths[-1]), widths[0])
            lower = next((w for w in widths if w < upper), upper)
            slope = (measured[lower] - measured[upper]) / (upper - lower) if upper > lower else 0.0
            cost = measured[upper] + slope * (upper - keep)
            before = costs.get(keep + 1)
            costs[keep] = 0.0 if before is None else max(cost, before * (1 + LEAST_STEP), before + LEAST)
        return [costs[keep] for keep in levels]

    def removed(self, group: ChannelGroup, keep: int) -> frozenset[int]:
        """Classes of a group that are removed when `keep` channels are kept."""
        return frozenset(group.classes[i] for i in self.order[group.name][: group.width - keep])

    def save(self, path: Path) -> None:
        """Write as JSON, atomically."""
        content = {
            "order": self.order,
            "scores": self.scores,
            "reference": self.reference,
            "narrow": self.narrow,
            "ranks": {n: {str(r): c for r, c in found.items()} for n, found in self.ranks.items()},
            "sparse": {n: {str(z): c for z, c in found.items()} for n, found in self.sparse.items()},
            "noise": self.noise,
            "points": {n: {str(w): c for w, c in found.items()} for n, found in self.points.items()},
            "pairs": [[one, other, value] for (one, other), value in self.pairs.items()],
        }
        text = json.dumps({"sha256": _sha256(content), **content})
        write_text(path, text)

    @staticmethod
    def load(path: Path) -> Sensitivities:
        """Read the result of `save`. Raises DataError for a damaged file."""
        try:
            raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if raw.pop("sha256") != _sha256(raw):
                raise ValueError("it has changed")
            return Sensitivities(
                {n: tuple(v) for n, v in raw["order"].items()},
                {n: tuple(v) for n, v in raw["scores"].items()},
                dict(raw["reference"]),
                {n: {int(r): c for r, c in found.items()} for n, found in raw["ranks"].items()},
                dict(raw["narrow"]),
                {n: {float(z): c for z, c in found.items()} for n, found in raw["sparse"].items()},
                dict(raw["noise"]),
                {(one, other): value for one, other, value in raw["pairs"]},
                {n: {int(w): c for w, c in found.items()} for n, found in raw["points"].items()},
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                "holds no sensitivities", where=str(path), hint="remove it; it is measured again"
            ) from error


def _sha256(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def kept(width: int, share: float) -> int:
    """Number of kept channels at a share of a group's width."""
    return max(1, round(width * share))


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
