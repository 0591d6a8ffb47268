"""Predicts a network's file size, to the byte, and its peak memory on a target, without running it."""

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
        file_bytes: Exact size of the lowered file, which does not depend on the values of its weights.
        peak_bytes: Predicted growth of the peak memory; None without a memory model of the target.
        fitted_to: Measurements that the prediction is based on.
    """

    file_bytes: int
    peak_bytes: int | None
    fitted_to: str


def footprint(graph: Graph, target: Target, **options: Any) -> Footprint:
    """The footprint of a graph in deployment form, float or quantised.

    Args:
        options: Options of the format's writer: labels, normalisation and so on, which take bytes, too.

    Raises:
        UsageError: The target's format cannot be written.
        UnsupportedError: The format lacks an operator.
    """
    size = len(get_format(target.format).lower(graph, **options))
    model = stored_models().get(target.name)
    if model is None:
        return Footprint(size, None, "")
    facts = memory_facts(graph, size, [node.name for node in integer_nodes(graph)])
    return Footprint(size, model.peak_bytes(facts), model.fitted_to)
