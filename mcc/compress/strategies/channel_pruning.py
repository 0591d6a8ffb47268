"""Strategy channel-pruning: fewer channels in each group of coupled layers, nothing else."""

from __future__ import annotations

from typing import ClassVar

from mcc.compress.strategy_api import PlannedStrategy
from mcc.search.space import Configuration, Space


class ChannelPruning(PlannedStrategy):
    """Channel pruning alone, in float."""

    name: ClassVar[str] = "channel-pruning"
    order: ClassVar[int] = 40

    def space(self, configurations: tuple[Configuration, ...]) -> Space:
        """Widths of channel groups alone."""
        return Space(widths=True)


STRATEGY = ChannelPruning()
