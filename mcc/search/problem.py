"""The joint decision as tables: for every layer, what each combination of widths and ranks costs.

A layer's cost depends on the channels it reads and makes, and these on the widths of one or more groups. The
tables hold latency and file size for every combination, so that the solver needs no formula.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mcc.analysis.channel_groups import ChannelAnalysis, ChannelGroup, analyse_channels
from mcc.analysis.pointwise import pointwise
from mcc.analysis.sparse_cluster import SparseCluster
from mcc.cost_api import CostModel, Kernel, graph_kernels
from mcc.ir.channels import channel_axis
from mcc.ir.graph import Graph, calls, operand
from mcc.ir.notes import shape_of
from mcc.search.sensitivity import Sensitivities
from mcc.search.space import Regime, rank_levels, width_levels

WEIGHT_BYTES = {"float": 4.0, "int8": 1.0, "int7": 1.0}
SPARSE_BYTES = 6.0  # of a non-zero value in TFLite's sparse encoding: the value and its 16-bit index


@dataclass(frozen=True)
class Width:
    """Channels of one value as a sum over groups: `fixed` + sum of share * width of group."""

    fixed: int
    shares: tuple[tuple[str, float], ...]

    def value(self, widths: Mapping[str, int]) -> int:
        """Number of channels at the given widths of groups."""
        return round(self.fixed + sum(share * widths[group] for group, share in self.shares))

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups it depends on."""
        return tuple(group for group, _ in self.shares)


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
    """A node and its options for each combination of channels read and made."""

    node: str
    read: Width
    made: Width
    options: Mapping[tuple[int, int], tuple[Option, ...]]


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
    """

    graph: Graph
    integer: frozenset[str]
    cluster: SparseCluster
    model: CostModel
    sensitivities: Sensitivities
    multiple: int


def build_problem(setting: Setting, regime: Regime, *, widths: bool, low_rank: bool) -> Problem:
    """Tables of one regime.

    Args:
        widths: whether channels may be removed; otherwise every group has one level.
        low_rank: whether 1x1 convolutions may become pairs.
    """
    analysis = analyse_channels(setting.graph)
    groups = analysis.prunable()
    levels = {g.name: width_levels(g, setting.multiple) if widths else (g.width,) for g in groups}
    known = {name: choice for name, choice in levels.items() if name in setting.sensitivities.order}
    losses = {name: tuple(setting.sensitivities.widths(name, choice)) for name, choice in known.items()}
    kernels = regime_kernels(setting, regime)
    thin = {node.name for node in pointwise(setting.graph)} if low_rank else set[str]()
    layers: list[Layer] = []
    for node in calls(setting.graph):
        if node.name not in kernels:
            continue
        read = _width(analysis, operand(node, 0).name, shape_of(operand(node, 0)), groups, known)
        made = _width(analysis, node.name, shape_of(node), groups, known)
        ranks = setting.sensitivities.ranks.get(node.name, {}) if node.name in thin else {}
        layers.append(
            Layer(node.name, read, made, _table(setting, kernels[node.name], read, made, known, ranks))
        )
    overhead = setting.model.overhead(regime.precision).latency_us
    return Problem(known, losses, tuple(layers), overhead, regime)


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


def _width(
    analysis: ChannelAnalysis,
    name: str,
    shape: tuple[int, ...],
    groups: tuple[ChannelGroup, ...],
    known: Mapping[str, tuple[int, ...]],
) -> Width:
    axis = channel_axis(shape)
    if name not in analysis.labels:
        return Width(shape[axis], ())
    labels = analysis.labels[name]
    vector = np.moveaxis(labels, axis, 0).reshape(labels.shape[axis], -1)[:, 0]
    if vector.size == 1:
        return Width(shape[axis], ())
    fixed, shares = vector.size, list[tuple[str, float]]()
    for group in groups:
        count = int(np.isin(vector, group.classes).sum())
        if count and group.name in known:
            fixed -= count
            shares.append((group.name, count / group.width))
    return Width(fixed, tuple(shares))


def _table(
    setting: Setting,
    kernel: Kernel,
    read: Width,
    made: Width,
    levels: Mapping[str, tuple[int, ...]],
    ranks: Mapping[int, float],
) -> dict[tuple[int, int], tuple[Option, ...]]:
    names = tuple(dict.fromkeys(read.groups + made.groups))
    found: dict[tuple[int, int], tuple[Option, ...]] = {}
    for combination in itertools.product(*(levels[name] for name in names)):
        widths = dict(zip(names, combination, strict=True))
        key = (read.value(widths), made.value(widths))
        if key not in found:
            found[key] = _options(setting.model, kernel, key, ranks)
    return found


def _options(
    model: CostModel, kernel: Kernel, key: tuple[int, int], ranks: Mapping[int, float]
) -> tuple[Option, ...]:
    read, made = key
    whole = kernel.resized(read=read, made=made)
    options = [_option(model, (whole,), None, 0.0)]
    for rank in rank_levels(made, read) if ranks else ():
        pair = low_rank_pair(whole, rank)
        # Narrower layers keep the same share of their rank: their cost is that of the nearest measured share.
        share = rank / min(read, made)
        out, width = kernel.output[1], _read_channels(kernel)
        nearest = min(ranks, key=lambda r: abs(r / min(out, width) - share))
        option = _option(model, pair, rank, ranks[nearest])
        if option.latency_us < options[0].latency_us or option.size_bytes < options[0].size_bytes:
            options.append(option)
    return tuple(options)


def _read_channels(kernel: Kernel) -> int:
    x = kernel.operands[0]
    assert x is not None
    return x.shape[channel_axis(x.shape)]


def low_rank_pair(kernel: Kernel, rank: int) -> tuple[Kernel, Kernel]:
    """The two kernels of a pair in place of a 1x1 convolution: no bias and no activation in between."""
    attributes = tuple((k, "none" if k == "activation" else v) for k, v in kernel.attributes)
    first = dataclasses.replace(kernel.resized(made=rank), attributes=attributes)
    first = dataclasses.replace(first, operands=(*first.operands[:2], None))
    return first, kernel.resized(read=rank)


def _option(model: CostModel, kernels: tuple[Kernel, ...], rank: int | None, loss: float) -> Option:
    latency = sum(model.kernel(kernel).latency_us for kernel in kernels)
    return Option(rank, kernels, latency, sum(map(constant_bytes, kernels)), loss)


def constant_bytes(kernel: Kernel) -> float:
    """Bytes that the constants of a kernel take in the file; int8 biases are int32."""
    total = 0.0
    for index, shaped in enumerate(kernel.operands):
        if shaped is None or not shaped.constant:
            continue
        elements = float(np.prod(shaped.shape))
        if index == 1 and kernel.sparse is not None:
            total += elements * (1 - kernel.sparse.sparsity) * SPARSE_BYTES
        elif index == 1:
            total += elements * WEIGHT_BYTES[kernel.precision]
        else:
            total += elements * 4
    return total
