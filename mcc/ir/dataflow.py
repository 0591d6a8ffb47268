"""Data dependences of a graph as a networkx graph."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

from torch import fx


def dataflow(nodes: Iterable[fx.Node]) -> Any:
    """A `networkx.DiGraph` of nodes and all their operands: edges lead from operands to readers.

    Networks have a few hundred nodes: building it takes a few milliseconds, and is repeated for each query.
    """
    from networkx import DiGraph  # takes most of a second to import, and not every command needs it

    return DiGraph([(value, node) for node in nodes for value in node.all_input_nodes])


def ancestors(flow: Any, *values: Hashable) -> set[Any]:
    """The given values and everything they depend on, directly or indirectly."""
    import networkx

    end = object()  # reads all of them, so that one search finds the ancestors of all
    flow.add_edges_from((value, end) for value in values)
    return set(networkx.ancestors(flow, end)) if values else set()


def descendants(flow: Any, value: Hashable) -> set[Any]:
    """Everything that depends on a value, directly or indirectly."""
    import networkx

    return set(networkx.descendants(flow, value))
