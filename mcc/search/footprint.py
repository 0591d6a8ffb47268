"""What a network takes on a target before it is run there: its file to the byte, and its peak memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cost_models.memory import memory_facts, stored_models
from mcc.ir.graph import Graph
from mcc.lower.formats import get_format
from mcc.quant.regions import integer_nodes
from mcc.runtime.target import Target


@dataclass(frozen=True)
class Footprint:
    """Bytes of a network on a target.

    Attributes:
        file_bytes: exact: that of the lowered file, whatever the values of its weights.
        peak_bytes: predicted growth of the peak memory; None where no model of the target is kept.
        fitted_to: what the prediction rests on.
    """

    file_bytes: int
    peak_bytes: int | None
    fitted_to: str


def footprint(graph: Graph, target: Target, **options: Any) -> Footprint:
    """The footprint of a graph in deployment form, float or quantised.

    Args:
        options: of the writer of the target's format: labels, normalisation and so on, which take bytes, too.

    Raises:
        UsageError: the target's format cannot be written.
        UnsupportedError: an operator that the format lacks.
    """
    size = len(get_format(target.format).lower(graph, **options))
    model = stored_models().get(target.name)
    if model is None:
        return Footprint(size, None, "")
    facts = memory_facts(graph, size, [node.name for node in integer_nodes(graph)])
    return Footprint(size, model.peak_bytes(facts), model.fitted_to)
