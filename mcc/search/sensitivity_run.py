"""Measures all sensitivities of a network: chooses the probes, and builds the table from their results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from torch import Tensor

from mcc.analysis.channel_groups import ChannelAnalysis, ChannelGroup, analyse_channels
from mcc.analysis.pointwise import pointwise
from mcc.ir.feed import Feed, joined, tensors_of
from mcc.ir.graph import Graph, operand
from mcc.ir.notes import shape_of
from mcc.search.importance import LossFunction, taylor_scores
from mcc.search.probes import Divergence, Probe, ProbeFile, Runner, Subject, one_by_one
from mcc.search.sensitivity import NARROW_SHARE, REFERENCE_SHARE, Sensitivities, kept
from mcc.search.space import SPARSITIES, rank_levels

Progress = Callable[[str, float], None]
MOST_IMAGES, FEWEST_IMAGES = 128, 32
PIXELS = 128 * 64 * 64  # of all images of a probe: fewer images if they are large, to limit its time
MATTERS = 0.1  # relative difference between a pair's loss and the sum of both from which it is recorded
MOST_PAIRS = 16  # recorded pairs: each is a table of the solver


@dataclass(frozen=True)
class Wanted:
    """Sensitivities to measure besides the widths of groups.

    Attributes:
        low_rank: Whether to measure 1x1 convolutions as low-rank pairs.
        sparse: Names of the 1x1 convolutions that may have zeros.
        block: Number of output channels that share a pattern of zeros.
        integer: Nodes of the deployment form that can run on integers; empty: precision is not decided.
        pairs: Whether to measure pairs of groups that are coupled by a layer.
    """

    low_rank: bool = True
    sparse: tuple[str, ...] = ()
    block: int = 1
    integer: tuple[str, ...] = ()
    pairs: bool = True


def images_for(shape: tuple[int, ...]) -> int:
    """Number of images of a shape [N, C, H, W] in a probe."""
    return max(FEWEST_IMAGES, min(MOST_IMAGES, PIXELS // max(1, prod(shape[2:]))))


def measure_sensitivities(
    graph: Graph,
    batches: Sequence[tuple[Feed, Tensor]],
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
        graph: The network as captured, batch norms folded or not.
        batches: Inputs and targets from training data, for the Taylor scores.
        loss: Loss of outputs and targets.
        divergence: Divergence of outputs from those of the unchanged network.
        images: Number of images on which decisions are measured; None: chosen by the image size.
        known: File of earlier results for this network and these images; new results are appended.
        runner: Runs the probes.
        progress: Callback that receives the stage and the share done.
    """
    wanted = wanted or Wanted()
    analysis = analyse_channels(graph)
    scores = taylor_scores(graph, analysis, batches, loss)
    x = joined([batch for batch, _ in batches])
    groups = analysis.prunable()
    order = {g.name: _order(g, scores) for g in groups}
    few = x[: images or images_for(tuple(tensors_of(x)[0].shape))]
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
    """Pairs of groups of which a layer reads one and produces the other."""
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
    # Below -1 the joint loss would become negative.
    return {
        (one, other): max(-1.0, beyond[one, other] / (2 * (half[one] * half[other]) ** 0.5))
        for one, other in sorted(strongest)
    }
