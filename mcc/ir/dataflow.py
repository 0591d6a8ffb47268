"""What depends on what, for the graph algorithms of networkx."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

from torch import fx


def dataflow(nodes: Iterable[fx.Node]) -> Any:
    """A `networkx.DiGraph` of nodes and all that they read: edges lead from operands to readers.

    Networks have some hundred nodes: it takes a few milliseconds, and is made again for each question.
    """
    from networkx import DiGraph  # takes most of a second to import, and not every command asks

    return DiGraph([(value, node) for node in nodes for value in node.all_input_nodes])


def ancestors(flow: Any, *values: Hashable) -> set[Any]:
    """Some values, and what they depend on, directly or not."""
    import networkx

    end = object()  # reads all of them, so that one search finds the ancestors of all
    flow.add_edges_from((value, end) for value in values)
    return set(networkx.ancestors(flow, end)) if values else set()


def descendants(flow: Any, value: Hashable) -> set[Any]:
    """What depends on a value, directly or not."""
    import networkx

    return set(networkx.descendants(flow, value))
