"""Lowering of micro-networks to a target's format."""

from __future__ import annotations

from pathlib import Path

from mcc.ir.graph import Graph
from mcc.lower.formats import get_format
from mcc.runtime.target import Target


def write_graph(graph: Graph, target: Target, stem: Path) -> Path:
    """Lower a graph to the file `stem` with a suffix, with integer inputs and outputs if the target allows.

    Raises:
        UnsupportedError: The format lacks an operator.
        UsageError: The format cannot be written.
    """
    form = get_format(target.format)
    path = stem.with_name(stem.name + form.suffix)
    path.write_bytes(form.kernels(graph, target.facts().int8_io))
    return path
