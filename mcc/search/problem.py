"""The joint decision as an integer program has it: what each combination of widths and forms costs.

A layer's cost depends on the channels it reads and makes, and these on the widths of one or more groups
(see `mcc.search.kernel_family`). The tables hold latency and file size for every combination, so that the
solver needs no formula; `mcc.search.tables` builds them. Whether a region runs on integers is one more
variable with two values, and one more side of the tables of its layers; a conversion between two regions,
and the loss of two groups together beyond the sum of both, are tables without a layer.
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
        rank: inner channels of a low-rank pair, None for the layer as it is.
        kernels: what the runtime runs; none of a conversion, or of what two groups lose together.
        latency_us, size_bytes: predicted.
        loss: divergence that it adds (of classes, nats).
        more_us: latency on further targets, see `mcc.search.multi_target`.
    """

    rank: int | None
    kernels: tuple[Kernel, ...]
    latency_us: float
    size_bytes: float
    loss: float
    more_us: tuple[float, ...] = ()

    @property
    def sparsity(self) -> float | None:
        """Share of zeros of its weight, None of a dense one."""
        sparse = self.kernels[0].sparse if self.kernels else None
        return None if sparse is None else sparse.sparsity


@dataclass(frozen=True)
class Layer:
    """A node and its options for each combination of channels.

    Attributes:
        node: its name.
        sides: the widths on which its kernel depends, those that it reads first; none of a fixed layer. That
            of a region stands last, its "channels" being `INTEGER` or `FLOAT`.
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
        configuration: that holds for the whole network, or for all regions that run on integers.
        more_overhead_us: `overhead_us` of further targets.
        base_loss: what the configuration itself costs, whatever else is decided.
        regions: nodes of each region whose precision is open; `levels` and `losses` hold it like a group.
    """

    levels: Mapping[str, tuple[int, ...]]
    losses: Mapping[str, tuple[float, ...]]
    layers: tuple[Layer, ...]
    overhead_us: float
    configuration: Configuration
    regions: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {})
    more_overhead_us: tuple[float, ...] = ()
    base_loss: float = 0.0
