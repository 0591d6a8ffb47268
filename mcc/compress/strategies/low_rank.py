"""Strategy low-rank: low-rank factorisation of 1x1 convolutions, nothing else."""

from __future__ import annotations

from typing import ClassVar

from mcc.compress.planning import Planner
from mcc.compress.strategy_api import PlannedStrategy
from mcc.compress.workspace import Work
from mcc.ir.graph import calls
from mcc.search.space import Configuration, Space
from mcc.search.tables import Tables


class LowRank(PlannedStrategy):
    """Low-rank factorisation alone, in float."""

    name: ClassVar[str] = "low-rank"
    order: ClassVar[int] = 60

    def space(self, configurations: tuple[Configuration, ...]) -> Space:
        """Ranks of low-rank pairs alone."""
        return Space(low_rank=True)

    def notes(self, work: Work) -> tuple[str, ...]:
        """The number of layers for which a pair is faster."""
        return (low_rank_pays(work.planner),)


def low_rank_pays(planner: Planner) -> str:
    """The number of 1x1 convolutions for which a pair is faster than the layer, by the lookup table."""
    setting = planner.setting
    tables = Tables(setting, Configuration(), widths=False, low_rank=True)
    widths = {name: levels[0] for name, levels in tables.levels.items()}
    layers = faster = 0
    for node in calls(setting.graph):
        if node.name in tables.kernels:
            whole, *pairs = tables.options(node, widths)
            layers += bool(pairs)
            faster += any(pair.cost < whole.cost for pair in pairs)
    if not layers:
        return "The network has no 1x1 convolution that a low-rank pair could replace."
    if not faster:
        return f"Low-rank never pays here: of {layers} 1x1 convolutions, none is faster as a pair."
    return f"By the table, {faster} of {layers} 1x1 convolutions are faster as a pair."


STRATEGY = LowRank()
