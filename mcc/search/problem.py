"""The joint decision as an integer program: the cost of each combination of widths and forms.

A layer's cost depends on its input and output channels, and these on the widths of one or more groups (see
`mcc.search.kernel_family`). The tables hold latency and file size for every combination, so that the solver
needs no formula; `mcc.search.tables` builds them. The precision of a region is one more variable with two
values, and one more side of the tables of its layers; a conversion between two regions, and the loss of two
groups together beyond the sum of both, are tables without a layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mcc.cost_api import Kernel
from mcc.search.kernel_family import Width
from mcc.search.space import Configuration

INTEGER, FLOAT = 1, 0
"""Values of a region's variable."""


@dataclass(frozen=True)
class Option:
    """One way to run a layer at given widths.

    Attributes:
        rank: Inner channels of a low-rank pair; None for the unchanged layer.
        kernels: Kernels that the runtime runs; empty for a conversion, or the joint loss of two groups.
        cost, size_bytes: Predicted cost in the target's unit, and size.
        loss: Added divergence (for classification, in nats).
        more_costs: Cost on further targets, see `mcc.search.multi_target`.
    """

    rank: int | None
    kernels: tuple[Kernel, ...]
    cost: float
    size_bytes: float
    loss: float
    more_costs: tuple[float, ...] = ()

    @property
    def sparsity(self) -> float | None:
        """Share of zeros of its weight; None if dense."""
        sparse = self.kernels[0].sparse if self.kernels else None
        return None if sparse is None else sparse.sparsity


@dataclass(frozen=True)
class Layer:
    """A node and its options for each combination of channels.

    Attributes:
        node: Name of the node.
        sides: Widths on which its kernel depends, inputs first; empty for a fixed layer. That of a region is
            last, its "channels" being `INTEGER` or `FLOAT`.
        options: Options by the number of channels on each side.
    """

    node: str
    sides: tuple[Width, ...]
    options: Mapping[tuple[int, ...], tuple[Option, ...]]


@dataclass(frozen=True)
class Problem:
    """All inputs of the solver.

    Attributes:
        levels: Possible widths of each group, descending.
        losses: Loss of each width, in the same order.
        layers: Layers with their tables.
        overhead_cost: Cost outside of layers.
        configuration: Configuration of the whole network, or of all regions that run on integers.
        more_overhead_costs: `overhead_cost` of further targets.
        base_loss: Loss of the configuration itself, independent of other decisions.
        regions: Nodes of each region whose precision is open; `levels` and `losses` hold it like a group.
    """

    levels: Mapping[str, tuple[int, ...]]
    losses: Mapping[str, tuple[float, ...]]
    layers: tuple[Layer, ...]
    overhead_cost: float
    configuration: Configuration
    regions: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {})
    more_overhead_costs: tuple[float, ...] = ()
    base_loss: float = 0.0
