"""The joint decision as tables: for every layer, what each combination of widths and ranks costs.

A layer's cost depends on the channels it reads and makes, and these on the widths of one or more groups (see
`mcc.search.family`). The tables hold latency and file size for every combination, so that the solver needs no
formula.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from mcc.analysis.channel_groups import analyse_channels
from mcc.analysis.pointwise import pointwise
from mcc.analysis.sparse_cluster import SparseCluster
from mcc.cost_api import CostModel, Kernel, graph_kernels
from mcc.ir.graph import Graph, calls
from mcc.search.family import Families, KernelFamily, Width
from mcc.search.sensitivity import Sensitivities
from mcc.search.size import OPERATOR_BYTES, Format, constant_bytes
from mcc.search.space import Regime, rank_levels, width_levels


@dataclass(frozen=True)
class Option:
    """One way to run a layer at given widths.

    Attributes:
        rank: inner channels of a low-rank pair, None for the layer as it is.
        kernels: what the runtime runs.
        latency_us, size_bytes: predicted.
        loss: distillation loss that it adds, in nats.
    """

    rank: int | None
    kernels: tuple[Kernel, ...]
    latency_us: float
    size_bytes: float
    loss: float


@dataclass(frozen=True)
class Layer:
    """A node and its options for each combination of channels.

    Attributes:
        node: its name.
        sides: the widths on which its kernel depends, those that it reads first; none of a fixed layer.
        options: by the number of channels on each side.
    """

    node: str
    sides: tuple[Width, ...]
    options: Mapping[tuple[int, ...], tuple[Option, ...]]


@dataclass(frozen=True)
class Problem:
    """Everything the solver needs.

    Attributes:
        levels: widths that each group may have, descending.
        losses: cost of each width, same order.
        layers: with their tables.
        overhead_us: latency that belongs to no layer.
        regime: that holds for the whole network.
    """

    levels: Mapping[str, tuple[int, ...]]
    losses: Mapping[str, tuple[float, ...]]
    layers: tuple[Layer, ...]
    overhead_us: float
    regime: Regime


@dataclass(frozen=True)
class Setting:
    """What a problem is built from.

    Attributes:
        graph: the network in deployment form, float, unpruned.
        integer: nodes that run as integer kernels once quantised.
        cluster: the sparse cluster, empty where there is none.
        model: predicts kernels.
        sensitivities: of the network as captured; groups have the same names.
        multiple: of which widths should be multiples.
        format: of the file that is to be written.
    """

    graph: Graph
    integer: frozenset[str]
    cluster: SparseCluster
    model: CostModel
    sensitivities: Sensitivities
    multiple: int
    format: Format = "tflite"


def build_problem(setting: Setting, regime: Regime, *, widths: bool, low_rank: bool) -> Problem:
    """Tables of one regime.

    Groups that the sensitivities do not know keep their width, and so do those whose channels lie unequally
    often in a value, since sizes then depend on which of them go.

    Args:
        widths: whether channels may be removed; otherwise every group has one level.
        low_rank: whether 1x1 convolutions may become pairs.
    """
    analysis = analyse_channels(setting.graph)
    groups = tuple(g for g in analysis.prunable() if g.name in setting.sensitivities.order)
    uneven = Families(analysis, groups).uneven()
    families = Families(analysis, tuple(g for g in groups if g.name not in uneven))
    levels = {
        g.name: width_levels(g, setting.multiple) if widths else (g.width,) for g in families.groups.values()
    }
    losses = {name: tuple(setting.sensitivities.widths(name, choice)) for name, choice in levels.items()}
    kernels = regime_kernels(setting, regime)
    thin = {node.name for node in pointwise(setting.graph)} if low_rank else set[str]()
    layers: list[Layer] = []
    for node in calls(setting.graph):
        if node.name in kernels:
            family = families.family(node, kernels[node.name])
            ranks = setting.sensitivities.ranks.get(node.name, {}) if node.name in thin else {}
            layers.append(Layer(node.name, family.sides, _table(setting, family, levels, ranks)))
    overhead = setting.model.overhead(regime.precision).latency_us
    return Problem(levels, losses, tuple(layers), overhead, regime)


def regime_kernels(setting: Setting, regime: Regime) -> dict[str, Kernel]:
    """Kernels of the unpruned network under a regime, by node name."""
    integer = setting.integer if regime.precision != "float" else frozenset[str]()
    cluster = setting.cluster.nodes if regime.sparse else ()
    kernels = graph_kernels(setting.graph, integer, cluster)
    for name, kernel in kernels.items():
        if regime.precision == "int7" and kernel.precision == "int8":
            kernels[name] = dataclasses.replace(kernel, precision="int7")
        if regime.sparse and name in setting.cluster.pointwise:
            kernels[name] = dataclasses.replace(kernel, sparse=regime.sparse)
    return kernels


def _table(
    setting: Setting,
    family: KernelFamily,
    levels: Mapping[str, tuple[int, ...]],
    ranks: Mapping[int, float],
) -> dict[tuple[int, ...], tuple[Option, ...]]:
    names = family.groups
    found: dict[tuple[int, ...], tuple[Option, ...]] = {}
    for combination in itertools.product(*(levels[name] for name in names)):
        widths = dict(zip(names, combination, strict=True))
        key = family.key(widths)
        if key not in found:
            found[key] = _options(setting, family.whole, family.at(widths), ranks)
    return found


def _options(
    setting: Setting, original: Kernel, whole: Kernel, ranks: Mapping[int, float]
) -> tuple[Option, ...]:
    """The kernel as it is, and pairs where they cost less.

    Args:
        original: at full width, where the ranks were measured.
        whole: at the width in question.
    """
    options = [_option(setting, (whole,), None, 0.0)]
    made, read = _weight_channels(whole) if ranks else (0, 0)
    for rank in rank_levels(made, read) if ranks else ():
        pair = low_rank_pair(whole, rank)
        # Narrower layers keep the same share of their rank: their cost is that of the nearest measured share.
        share, least = rank / min(read, made), min(_weight_channels(original))
        nearest = min(ranks, key=lambda r: abs(r / least - share))
        option = _option(setting, pair, rank, ranks[nearest])
        if not any(_beats(other, option) for other in options):
            options.append(option)
    return tuple(options)


def _beats(one: Option, other: Option) -> bool:
    return (
        one.latency_us <= other.latency_us and one.size_bytes <= other.size_bytes and one.loss <= other.loss
    )


def _weight_channels(kernel: Kernel) -> tuple[int, int]:
    weight = kernel.operands[1]
    assert weight is not None
    return weight.shape[0], weight.shape[1]


def low_rank_pair(kernel: Kernel, rank: int) -> tuple[Kernel, Kernel]:
    """The two kernels of a pair in place of a 1x1 convolution: no bias and no activation in between."""
    attributes = tuple((k, "none" if k == "activation" else v) for k, v in kernel.attributes)
    first = dataclasses.replace(kernel.resized(made=rank), attributes=attributes)
    first = dataclasses.replace(first, operands=(*first.operands[:2], None))
    return first, kernel.resized(read=rank)


def _option(setting: Setting, kernels: tuple[Kernel, ...], rank: int | None, loss: float) -> Option:
    latency = sum(setting.model.kernel(kernel).latency_us for kernel in kernels)
    size = sum(constant_bytes(kernel, setting.format) for kernel in kernels)
    size += OPERATOR_BYTES * (len(kernels) - 1)
    return Option(rank, kernels, latency, size, loss)
