"""The space of decisions: widths, ranks, and one configuration (precision and sparsity) of the network."""

from __future__ import annotations

from dataclasses import dataclass

from mcc.analysis.channel_groups import ChannelGroup
from mcc.analysis.sparse_cluster import SparseCluster
from mcc.cost_api import Precision
from mcc.ir.notes import SparseNote

WIDTH_SHARES = (1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.1875, 0.125)
RANK_SHARES = (0.5, 0.375, 0.25)
SPARSITIES = (0.7, 0.8, 0.9)  # below 70 % the sparse path loses to the dense one (docs/method.md)
FINE_MULTIPLE = 4  # multiple of widths below 32 channels: coarser steps leave too few choices


@dataclass(frozen=True)
class Configuration:
    """Settings of the whole network: its precision, and the sparsity of the cluster's 1x1 convolutions.

    Within it, regions of an integer network may stay float, and single layers of a sparse cluster may have
    more zeros than `sparse` says. A cluster is sparse as a whole or not at all.

    Attributes:
        passes: Pipeline of exact passes that enables the sparse path; empty if none is needed.
    """

    precision: Precision = "float"
    sparse: SparseNote | None = None
    passes: str = ""

    def __post_init__(self) -> None:
        if self.sparse is not None and self.precision != "float":
            raise ValueError("no runtime combines sparse weights with integer kernels in one region")
        if self.passes and self.sparse is None:
            raise ValueError("passes towards the sparse path belong to sparse weights")

    def __str__(self) -> str:
        if self.sparse is None:
            return self.precision
        blocks = f" in blocks of {self.sparse.block}" if self.sparse.block > 1 else ""
        return f"{self.precision}, 1x1 at {self.sparse.sparsity:.0%} zeros or more{blocks}"


@dataclass(frozen=True)
class Space:
    """The choices open to one strategy.

    Attributes:
        widths: Whether channels may be removed.
        low_rank: Whether 1x1 convolutions may become low-rank pairs.
        mixed: Whether regions may differ in precision, and layers in sparsity.
        configurations: Configurations, of which exactly one is chosen.
    """

    widths: bool = False
    low_rank: bool = False
    mixed: bool = False
    configurations: tuple[Configuration, ...] = (Configuration(),)

    @staticmethod
    def whole(configurations: tuple[Configuration, ...]) -> Space:
        """The space with every kind of decision, in these configurations."""
        return Space(widths=True, low_rank=True, mixed=True, configurations=configurations)


def configurations(
    cluster: SparseCluster,
    *,
    sparse_block: int | None,
    precisions: tuple[Precision, ...],
    passes: str = "",
) -> tuple[Configuration, ...]:
    """All configurations that a target and a network allow together.

    Args:
        sparse_block: Block pattern of the target's sparse kernels; None if zeros save no time.
        passes: Passes without which there is no cluster, see `Configuration`.
    """
    found = [Configuration(precision) for precision in precisions]
    if sparse_block is not None and cluster.nodes:
        found.append(Configuration("float", SparseNote(sparse_block, SPARSITIES[0]), passes))
    return tuple(found)


def level_step(width: int, multiple: int) -> int:
    """Step between the widths of a group: the target's multiple, or less where that is too coarse."""
    return multiple if width >= 4 * multiple else min(multiple, FINE_MULTIPLE)


def width_levels(group: ChannelGroup, multiple: int) -> tuple[int, ...]:
    """Possible widths of a group, descending: shares of its own, rounded up to the target's multiple."""
    step = level_step(group.width, multiple)
    found = {group.width}
    for share in WIDTH_SHARES:
        found.add(min(group.width, max(1, -(-int(group.width * share + 0.5) // step)) * step))
    return tuple(sorted(found, reverse=True))


def rank_levels(out: int, width: int) -> tuple[int, ...]:
    """Candidate ranks of a 1x1 convolution of that shape: fewer operations than dense, multiples of 4."""
    least = min(out, width)
    found = {max(4, round(least * share / 4) * 4) for share in RANK_SHARES}
    return tuple(sorted((r for r in found if r * (out + width) < 0.9 * out * width), reverse=True))
