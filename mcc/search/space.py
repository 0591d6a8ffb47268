"""What can be decided: widths, ranks, and one configuration (precision and sparsity) for a region."""

from __future__ import annotations

from dataclasses import dataclass

from mcc.analysis.channel_groups import ChannelGroup
from mcc.analysis.sparse_cluster import SparseCluster
from mcc.cost_api import Precision
from mcc.ir.notes import SparseNote

WIDTH_SHARES = (1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.1875, 0.125)
RANK_SHARES = (0.5, 0.375, 0.25)
SPARSITIES = (0.7, 0.8, 0.9)  # below 70 % the sparse path loses to the dense one (docs/method.md)
FINE_MULTIPLE = 4  # groups below 32 channels keep multiples of this: coarser steps leave too few choices


@dataclass(frozen=True)
class Configuration:
    """What holds for the whole network: its precision, and how the cluster's 1x1 convolutions are thinned.

    Within it, regions of an integer network may stay float, and single layers of a sparse cluster may have
    more zeros than `sparse` says. A cluster is sparse as a whole or not at all.

    Attributes:
        passes: pipeline of exact passes without which the sparse path would stay off; empty where none is
            needed.
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
        widths: whether channels may be removed.
        low_rank: whether 1x1 convolutions may become low-rank pairs.
        mixed: whether regions may differ in precision, and layers in their share of zeros.
        configurations: of which exactly one is chosen.
    """

    widths: bool = False
    low_rank: bool = False
    mixed: bool = False
    configurations: tuple[Configuration, ...] = (Configuration(),)

    @staticmethod
    def whole(configurations: tuple[Configuration, ...]) -> Space:
        """Everything that can be decided, in these configurations."""
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
        sparse_block: the block pattern that the target's sparse kernels like, None where zeros save nothing.
        passes: without which there would be no cluster, see `Configuration`.
    """
    found = [Configuration(precision) for precision in precisions]
    if sparse_block is not None and cluster.nodes:
        found.append(Configuration("float", SparseNote(sparse_block, SPARSITIES[0]), passes))
    return tuple(found)


def level_step(width: int, multiple: int) -> int:
    """Of which narrower widths of a group are multiples: what the target likes, less where that is coarse."""
    return multiple if width >= 4 * multiple else min(multiple, FINE_MULTIPLE)


def width_levels(group: ChannelGroup, multiple: int) -> tuple[int, ...]:
    """Widths a group may have, descending from its own: shares of it, rounded up to what the target likes."""
    step = level_step(group.width, multiple)
    found = {group.width}
    for share in WIDTH_SHARES:
        found.add(min(group.width, max(1, -(-int(group.width * share + 0.5) // step)) * step))
    return tuple(sorted(found, reverse=True))


def rank_levels(out: int, width: int) -> tuple[int, ...]:
    """Ranks worth trying for a 1x1 convolution of that shape: fewer operations than dense, multiples of 4."""
    least = min(out, width)
    found = {max(4, round(least * share / 4) * 4) for share in RANK_SHARES}
    return tuple(sorted((r for r in found if r * (out + width) < 0.9 * out * width), reverse=True))
