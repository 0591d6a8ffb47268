"""Evaluation of a graph node by node, with access to intermediate values."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from mcc.ir.graph import Graph


class _Observer(fx.Interpreter):
    """Runs the graph and passes every wanted value to a callback; values are freed after their last use."""

    def __init__(
        self, graph: Graph, wanted: Collection[str] | None, see: Callable[[fx.Node, Tensor], None]
    ) -> None:
        super().__init__(graph)
        self.wanted = wanted
        self.see = see

    def run_node(self, n: fx.Node) -> Any:
        """Evaluate one node and pass its value to the callback."""
        value = super().run_node(n)
        if isinstance(value, Tensor) and (self.wanted is None or n.name in self.wanted):
            self.see(n, value)
        return value


def observe(
    graph: Graph,
    values: Sequence[Tensor],
    see: Callable[[fx.Node, Tensor], None],
    wanted: Collection[str] | None = None,
) -> tuple[Tensor, ...]:
    """Evaluate the graph and call `see(node, value)` for each wanted node, in order.

    Args:
        values: One tensor for each input of the graph, of any batch length.
        see: Callback for a node and its value.
        wanted: Names of the nodes to observe; all if None.

    Returns:
        The outputs of the graph.
    """
    with torch.no_grad():
        return tuple(_Observer(graph, wanted, see).run(*values))


def values_of(graph: Graph, values: Sequence[Tensor], wanted: Collection[str]) -> dict[str, Tensor]:
    """The values of the named nodes for one batch."""
    found: dict[str, Tensor] = {}
    observe(graph, values, lambda node, value: found.__setitem__(node.name, value), wanted)
    return found
