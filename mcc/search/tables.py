"""Builds the solver's tables from a network, a cost model and the sensitivities; see `problem`."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod

from torch import fx

from mcc.analysis.channel_groups import analyse_channels
from mcc.analysis.pointwise import pointwise
from mcc.analysis.sparse_cluster import SparseCluster
from mcc.cost_api import CostModel, Kernel, Precision, graph_kernels
from mcc.ir.graph import Graph, calls
from mcc.ir.notes import SparseNote, shape_of
from mcc.lower.formats import Storage, get_format
from mcc.search.kernel_bytes import OPERATOR_BYTES, constant_bytes
from mcc.search.kernel_family import Families, KernelFamily, Width
from mcc.search.problem import FLOAT, INTEGER, Layer, Option, Problem
from mcc.search.regions import Region, precision_regions
from mcc.search.sensitivity import Sensitivities
from mcc.search.space import Configuration, rank_levels, width_levels


@dataclass(frozen=True)
class Setting:
    """Inputs of a problem.

    Attributes:
        graph: The network in deployment form, float, unpruned.
        integer: Nodes that run as integer kernels after quantisation.
        cluster: The sparse cluster; may be empty.
        model: Cost model of kernels.
        sensitivities: Sensitivities of the network as captured; groups have the same names.
        multiple: Preferred multiple of widths.
        format: Format of the output file.
        factors: Factor on the latencies of kernels by precision, for networks with regions of several: each
            precision's networks differ from the sum of their kernels by a factor of their own.
    """

    graph: Graph
    integer: frozenset[str]
    cluster: SparseCluster
    model: CostModel
    sensitivities: Sensitivities
    multiple: int
    storage: Storage = field(default_factory=lambda: get_format("tflite").storage)
    factors: Mapping[Precision, float] = field(default_factory=lambda: {})


def build_problem(
    setting: Setting, configuration: Configuration, *, widths: bool, low_rank: bool, mixed: bool = False
) -> Problem:
    """Build the tables of one configuration.

    Groups without sensitivities keep their width, and so do those whose channels occur unequally often in a
    value, since sizes then depend on which of them are removed.

    Args:
        widths: Whether channels may be removed; otherwise every group has one level.
        low_rank: Whether 1x1 convolutions may become low-rank pairs.
        mixed: Whether each region of an integer configuration may stay float, and each layer of a sparse one
            may have more zeros.
    """
    return Tables(setting, configuration, widths=widths, low_rank=low_rank, mixed=mixed).problem()


class Tables:
    """Builds the tables of one configuration; arguments as of `build_problem`."""

    def __init__(
        self,
        setting: Setting,
        configuration: Configuration,
        *,
        widths: bool,
        low_rank: bool,
        mixed: bool = False,
    ) -> None:
        self.setting = setting
        self.configuration = configuration
        self.mixed = mixed
        known = setting.sensitivities
        analysis = analyse_channels(setting.graph)
        groups = tuple(g for g in analysis.prunable() if g.name in known.order)
        uneven = Families(analysis, groups).uneven()
        self.families = Families(analysis, tuple(g for g in groups if g.name not in uneven))
        self.levels = {
            g.name: width_levels(g, setting.multiple) if widths else (g.width,)
            for g in self.families.groups.values()
        }
        self.losses = {name: tuple(known.widths(name, choice)) for name, choice in self.levels.items()}
        self.kernels = configuration_kernels(setting, configuration)
        self.thin = {node.name for node in pointwise(setting.graph)} if low_rank else set[str]()
        self.regions: tuple[Region, ...] = ()
        if mixed and configuration.precision != "float":
            self.regions = self._regions()
        self.region_of = {node: region.name for region in self.regions for node in region.nodes}

    def _regions(self) -> tuple[Region, ...]:
        """All regions, if the loss on integers is known for every one; else none."""
        found = precision_regions(self.setting.graph, self.setting.integer)
        return found if all(r.name in self.setting.sensitivities.noise for r in found) else ()

    def problem(self) -> Problem:
        """The problem for the solver."""
        model, precision = self.setting.model, self.configuration.precision
        layers = [self._layer(node) for node in calls(self.setting.graph) if node.name in self.kernels]
        levels, losses = dict(self.levels), dict(self.losses)
        for region in self.regions:
            levels[region.name] = (INTEGER, FLOAT)
            losses[region.name] = (self.setting.sensitivities.noise[region.name], 0.0)
        if self.regions:
            precision = "float"  # the conversion of the input has its own table
            layers += conversions(self)
        layers += interactions(self.setting.sensitivities, self.levels, self.losses)
        return Problem(
            levels, losses, tuple(layers), model.overhead(precision).cost, self.configuration,
            {region.name: region.nodes for region in self.regions}, base_loss=self._whole_noise(),
        )  # fmt: skip

    def _whole_noise(self) -> float:
        """Measured loss of running on integers, if no region may stay float."""
        if self.configuration.precision == "float" or self.regions:
            return 0.0
        whole = precision_regions(self.setting.graph, self.setting.integer)
        return sum(self.setting.sensitivities.noise.get(region.name, 0.0) for region in whole)

    def family(self, node: fx.Node) -> KernelFamily:
        """The kernel of a node as a function of widths, on integers if the configuration has them."""
        return self.families.family(node, self.kernels[node.name])

    def options(self, node: fx.Node, widths: Mapping[str, int]) -> tuple[Option, ...]:
        """All ways to run a node at given widths of the groups and, under its name, form of its region.

        The first is the unchanged kernel; dominated options are included.
        """
        family = self.family(node)
        return self._options(node.name, family.whole, self._formed(node.name, family.at(widths), widths))

    def _formed(self, node: str, kernel: Kernel, widths: Mapping[str, int]) -> Kernel:
        if widths.get(self.region_of.get(node, ""), INTEGER) == FLOAT:
            return dataclasses.replace(kernel, precision="float")
        return kernel

    def _layer(self, node: fx.Node) -> Layer:
        family = self.family(node)
        names, sides = family.groups, family.sides
        choices = [self.levels[name] for name in names]
        region = self.region_of.get(node.name)
        if region is not None and family.whole.precision != "float":
            names, sides = (*names, region), (*sides, Width(0, ((region, 1.0),)))
            choices.append((INTEGER, FLOAT))
        found: dict[tuple[int, ...], tuple[Option, ...]] = {}
        for combination in itertools.product(*choices):
            widths = dict(zip(names, combination, strict=True))
            key = tuple(side.value(widths) for side in sides)
            if key not in found:
                whole = self._formed(node.name, family.at(widths), widths)
                found[key] = _worthy(self._options(node.name, family.whole, whole))
        return Layer(node.name, sides, found)

    def _options(self, node: str, original: Kernel, whole: Kernel) -> tuple[Option, ...]:
        """The unchanged kernel, the kernel with more zeros, and low-rank pairs.

        Args:
            original: The kernel at full width, where losses were measured.
            whole: The kernel at the present width.
        """
        known = self.setting.sensitivities
        zeros, sparse = known.sparse.get(node, {}), whole.sparse
        loss = 0.0 if sparse is None else zeros.get(sparse.sparsity, 0.0)
        options = [_option(self.setting, (whole,), None, loss)]
        if sparse is not None and self.mixed:
            for share, loss in zeros.items():
                if share > sparse.sparsity:
                    thinner = dataclasses.replace(whole, sparse=SparseNote(sparse.block, share))
                    options.append(_option(self.setting, (thinner,), None, loss))
        ranks = known.ranks.get(node, {}) if node in self.thin else {}
        made, read = _weight_channels(whole) if ranks else (0, 0)
        for rank in rank_levels(made, read) if ranks else ():
            # Pruned layers keep the same share of their rank: their loss is that of the nearest measured.
            share, least = rank / min(read, made), min(_weight_channels(original))
            nearest = min(ranks, key=lambda r: abs(r / least - share))
            options.append(_option(self.setting, low_rank_pair(whole, rank), rank, ranks[nearest]))
        return tuple(options)


def conversions(tables: Tables) -> list[Layer]:
    """Tables of the cost of converting the input, and each value between regions of different precision.

    The cost per element is the overhead of the network's input on integers less that in float.
    """
    setting, regions = tables.setting, tables.regions
    nodes = {node.name: node for node in setting.graph.graph.nodes}
    whole, plain = (setting.model.overhead(p).cost for p in (tables.configuration.precision, "float"))
    first = shape_of(nodes[regions[0].entry])
    each_us = max(0.0, whole - plain) / prod(first)

    def option(elements: float) -> tuple[Option, ...]:
        return (Option(None, (), each_us * elements, 0.0, 0.0),)

    sides = (Width(0, ((regions[0].name, 1.0),)),)
    found = [
        Layer("input to " + regions[0].name, sides, {(INTEGER,): option(prod(first)), (FLOAT,): option(0)})
    ]
    for before, after in itertools.pairwise(regions):
        node = nodes[before.exit]
        widths = tuple(width for width in tables.families.axes(node).values())
        forms = tuple(Width(0, ((region.name, 1.0),)) for region in (before, after))
        names = tuple(dict.fromkeys(group for width in widths for group in width.groups))
        options: dict[tuple[int, ...], tuple[Option, ...]] = {}
        for combination in itertools.product(*(tables.levels[name] for name in names)):
            at = dict(zip(names, combination, strict=True))
            elements = prod(tables.families.shape(node, at))
            for one, other in itertools.product((INTEGER, FLOAT), repeat=2):
                key = (*(width.value(at) for width in widths), one, other)
                options[key] = option(elements if one != other else 0)
        found.append(Layer(f"{before.name} to {after.name}", (*widths, *forms), options))
    return found


def interactions(
    known: Sensitivities, levels: Mapping[str, tuple[int, ...]], losses: Mapping[str, tuple[float, ...]]
) -> list[Layer]:
    """Tables of the loss of two groups together beyond the sum of both.

    To second order in the change of the outputs, the loss of two changes is a + b + 2 r sqrt(a b), where r is
    the correlation of the two in the metric of the loss. It was measured at half of both widths.
    """
    found: list[Layer] = []
    for (one, other), correlation in known.pairs.items():
        if len(levels.get(one, ())) < 2 or len(levels.get(other, ())) < 2:
            continue
        sides = tuple(Width(0, ((name, 1.0),)) for name in (one, other))
        options: dict[tuple[int, ...], tuple[Option, ...]] = {}
        for (v, a), (w, b) in itertools.product(
            *(zip(levels[n], losses[n], strict=True) for n in (one, other))
        ):
            options[v, w] = (Option(None, (), 0.0, 0.0, 2 * correlation * (a * b) ** 0.5),)
        found.append(Layer(f"{one} with {other}", sides, options))
    return found


def configuration_kernels(setting: Setting, configuration: Configuration) -> dict[str, Kernel]:
    """Kernels of the unpruned network under a configuration, by node name."""
    integer = setting.integer if configuration.precision != "float" else frozenset[str]()
    cluster = setting.cluster.nodes if configuration.sparse else ()
    kernels = graph_kernels(setting.graph, integer, cluster)
    for name, kernel in kernels.items():
        if configuration.precision == "int7" and kernel.precision == "int8":
            kernels[name] = dataclasses.replace(kernel, precision="int7")
        if configuration.sparse and name in setting.cluster.pointwise:
            kernels[name] = dataclasses.replace(kernel, sparse=configuration.sparse)
    return kernels


def _worthy(options: tuple[Option, ...]) -> tuple[Option, ...]:
    """The first option, and of the others those that no earlier one dominates."""
    found = [options[0]]
    for option in options[1:]:
        if not any(_beats(other, option) for other in found):
            found.append(option)
    return tuple(found)


def _beats(one: Option, other: Option) -> bool:
    return one.cost <= other.cost and one.size_bytes <= other.size_bytes and one.loss <= other.loss


def _weight_channels(kernel: Kernel) -> tuple[int, int]:
    weight = kernel.operands[1]
    assert weight is not None
    return weight.shape[0], weight.shape[1]


def low_rank_pair(kernel: Kernel, rank: int) -> tuple[Kernel, Kernel]:
    """The two kernels of a pair that replaces a 1x1 convolution: no bias and no activation in between."""
    attributes = tuple((k, "none" if k == "activation" else v) for k, v in kernel.attributes)
    first = dataclasses.replace(kernel.resized(made=rank), attributes=attributes)
    first = dataclasses.replace(first, operands=(*first.operands[:2], None))
    return first, kernel.resized(read=rank)


def _option(setting: Setting, kernels: tuple[Kernel, ...], rank: int | None, loss: float) -> Option:
    latency = sum(
        setting.model.kernel(kernel).cost * setting.factors.get(kernel.precision, 1.0) for kernel in kernels
    )
    size = sum(constant_bytes(kernel, setting.storage) for kernel in kernels)
    size += OPERATOR_BYTES * (len(kernels) - 1)
    return Option(rank, kernels, latency, size, loss)
