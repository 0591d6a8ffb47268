"""Strategy sparse-1x1: sparse weights in 1x1 convolutions, nothing else."""

from __future__ import annotations

from typing import ClassVar

from mcc.compress.planning import Planner
from mcc.compress.strategy_api import PlannedStrategy
from mcc.compress.workspace import Work
from mcc.ir.notes import SparseNote
from mcc.runtime.facts import TargetFacts
from mcc.search.space import SPARSITIES, Configuration, Space


class Sparse1x1(PlannedStrategy):
    """Sparse weights alone, in float."""

    name: ClassVar[str] = "sparse-1x1"
    order: ClassVar[int] = 50

    def space(self, configurations: tuple[Configuration, ...]) -> Space:
        """The sparse configurations; if there is none, one sparsity, to show that zeros save no time here."""
        useless = (Configuration("float", SparseNote(1, SPARSITIES[1])),)
        return Space(mixed=True, configurations=tuple(r for r in configurations if r.sparse) or useless)

    def notes(self, work: Work) -> tuple[str, ...]:
        """The reason why zeros save no time; empty if they can."""
        said = why_not_sparse(work.planner, work.job.target.facts())
        return (said,) if said else ()


def why_not_sparse(planner: Planner, facts: TargetFacts) -> str:
    """The reason why zeros save no time; empty if they can."""
    if not facts.sparse_1x1:
        return f"Zeros save no time on this target: {facts.sparse_why}."
    cluster = planner.setting.cluster
    return "" if cluster.nodes else f"The sparse kernels do not switch on: {cluster.reason}."


STRATEGY = Sparse1x1()
