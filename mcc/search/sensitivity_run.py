"""All sensitivities of a network: which probes to make, and the table from their results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from mcc.analysis.channel_groups import ChannelAnalysis, ChannelGroup, analyse_channels
from mcc.analysis.pointwise import pointwise
from mcc.ir.graph import Graph, operand
from mcc.ir.notes import shape_of
from mcc.search.importance import LossFunction, taylor_scores
from mcc.search.probes import Divergence, Probe, ProbeFile, Runner, Subject, one_by_one
from mcc.search.sensitivity import NARROW_SHARE, REFERENCE_SHARE, Sensitivities, kept
from mcc.search.space import SPARSITIES, rank_levels

Progress = Callable[[str, float], None]
MOST_IMAGES, FEWEST_IMAGES = 128, 32
PIXELS = 128 * 64 * 64  # of all images of a probe: large images are fewer, or a probe would take minutes
MATTERS = 0.1  # of the sum of two losses, by which the loss of both must differ to be noted
MOST_PAIRS = 16  # noted: each is a table of the solver


@dataclass(frozen=True)
class Wanted:
    """What to measure besides the widths of groups.

    Attributes:
        low_rank: 1x1 convolutions as pairs.
        sparse: names of the 1x1 convolutions that may have zeros.
        block: output channels that share a pattern of zeros.
        integer: nodes of the deployment form that can run on integers; none: precision is not in question.
        pairs: groups that meet in a layer, two at a time.
    """

    low_rank: bool = True
    sparse: tuple[str, ...] = ()
    block: int = 1
    integer: tuple[str, ...] = ()
    pairs: bool = True


def images_for(shape: tuple[int, ...]) -> int:
    """How many images of a shape [N, C, H, W] a probe is made on."""
    return max(FEWEST_IMAGES, min(MOST_IMAGES, PIXELS // max(1, prod(shape[2:]))))


def measure_sensitivities(
    graph: Graph,
    batches: Sequence[tuple[Tensor, Tensor]],
    loss: LossFunction,
    divergence: Divergence,
    *,
    images: int | None = None,
    wanted: Wanted | None = None,
    known: Path | None = None,
    runner: Runner = one_by_one,
    progress: Progress = lambda stage, share: None,
) -> Sensitivities:
    """Measure every group and every candidate of a float network.

    Args:
        graph: the network as captured (batch norm in it or folded).
        batches: inputs and targets from training data, for the Taylor scores.
        loss: of outputs and targets.
        divergence: of outputs from those of the network as it is.
        images: number of images on which decisions are measured; by the size of an image if None.
        known: file of what was measured of this very network on these images; it grows as this goes on.
        runner: makes the probes.
        progress: called with the stage and the share done.
    """
    wanted = wanted or Wanted()
    analysis = analyse_channels(graph)
    scores = taylor_scores(graph, analysis, batches, loss)
    x = torch.cat([batch for batch, _ in batches])
    groups = analysis.prunable()
    order = {g.name: _order(g, scores) for g in groups}
    few = x[: images or images_for(tuple(x.shape))]
    subject = Subject(graph, few, order, divergence, wanted.block, wanted.integer)
    probes = probes_for(subject, analysis, wanted)
    file = ProbeFile(known)
    fresh = [probe for probe in probes if str(probe) not in file.known]
    done = len(probes) - len(fresh)

    def keep(probe: Probe, value: float) -> None:
        nonlocal done
        file.add(probe, value)
        done += 1
        progress("sensitivities", done / max(1, len(probes)))

    runner(subject, fresh, keep)
    found = {probe: file.known[str(probe)] for probe in probes}
    sorted_scores = {g.name: tuple(scores.get(g.classes[i], 0.0) for i in order[g.name]) for g in groups}
    return _assembled(order, sorted_scores, found)


def probes_for(subject: Subject, analysis: ChannelAnalysis, wanted: Wanted) -> list[Probe]:
    """All probes of a network, in a fixed order."""
    found: list[Probe] = []
    for group in analysis.prunable():
        steps = [kept(group.width, share) for share in (REFERENCE_SHARE, NARROW_SHARE)]
        found += [Probe("width", (group.name,), keep) for keep in dict.fromkeys(steps)]
    for node in pointwise(subject.graph):
        if wanted.low_rank:
            ranks = rank_levels(*shape_of(operand(node, 1))[:2])
            found += [Probe("rank", (node.name,), rank) for rank in ranks]
        if node.name in wanted.sparse:
            found += [Probe("sparse", (node.name,), share) for share in SPARSITIES]
    if wanted.integer:
        found += [Probe("noise", (region.name,)) for region in subject.regions]
    if wanted.pairs:
        found += [Probe("pair", names) for names in meeting(analysis)]
    return found


def meeting(analysis: ChannelAnalysis) -> list[tuple[str, str]]:
    """Groups of which one is read and the other made by the same layer."""
    groups = analysis.prunable()
    return [
        (one.name, other.name)
        for index, one in enumerate(groups)
        for other in groups[index + 1 :]
        if set(one.readers) & set(other.producers) or set(other.readers) & set(one.producers)
    ]


def _order(group: ChannelGroup, scores: Mapping[int, float]) -> tuple[int, ...]:
    classes = group.classes
    return tuple(sorted(range(len(classes)), key=lambda i: (scores.get(classes[i], 0.0), -classes[i])))


def _assembled(
    order: dict[str, tuple[int, ...]], scores: dict[str, tuple[float, ...]], found: Mapping[Probe, float]
) -> Sensitivities:
    half, quarter = (
        {n: found[Probe("width", (n,), kept(len(c), share))] for n, c in order.items()}
        for share in (REFERENCE_SHARE, NARROW_SHARE)
    )
    ranks: dict[str, dict[int, float]] = {}
    sparse: dict[str, dict[float, float]] = {}
    for probe, value in found.items():
        if probe.kind == "rank":
            ranks.setdefault(probe.names[0], {})[round(probe.level)] = value
        elif probe.kind == "sparse":
            sparse.setdefault(probe.names[0], {})[probe.level] = value
    noise = {probe.names[0]: value for probe, value in found.items() if probe.kind == "noise"}
    return Sensitivities(order, scores, half, ranks, quarter, sparse, noise, _correlations(half, found))


def _correlations(half: Mapping[str, float], found: Mapping[Probe, float]) -> dict[tuple[str, str], float]:
    """Correlations of the pairs whose loss differs most from the sum of both, see `Sensitivities.pairs`."""
    beyond: dict[tuple[str, str], float] = {}
    for probe, together in found.items():
        if probe.kind == "pair":
            one, other = probe.names
            extra = together - half[one] - half[other]
            if abs(extra) > MATTERS * (half[one] + half[other]):
                beyond[one, other] = extra
    strongest = sorted(beyond, key=lambda pair: (-abs(beyond[pair]), pair))[:MOST_PAIRS]
    # Below -1 the loss of both would be negative somewhere.
    return {
        (one, other): max(-1.0, beyond[one, other] / (2 * (half[one] * half[other]) ** 0.5))
        for one, other in sorted(strongest)
    }
