"""drop-dead-code: remove what no output depends on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mcc.errors import VerificationError
from mcc.ir.graph import Graph, calls, live_nodes
from mcc.pass_api import Pass, PassContext


@dataclass(frozen=True)
class DropDeadCode(Pass):
    """Remove operators whose values no output depends on, and the constants that only they read.

    Before and after:

        %y = conv2d(%x, @w, @b)                %y = conv2d(%x, @w, @b)
        %u = conv2d(%x, @v, none)              return %y
        %z = relu(%u)
        return %y

    Inputs stay, also those that nothing reads: they belong to the graph's interface. Every pass sheds the
    dead nodes that it leaves behind; this one is for graphs that come with some, such as the head of a
    training loss. A frozen note keeps a node as it is, but no node that leads nowhere.

    Exact twin: the graph as it was.
    """

    name: ClassVar[str] = "drop-dead-code"
    sees_dead_code: ClassVar[bool] = True

    def run(self, graph: Graph, ctx: PassContext) -> None:
        """Erase dead operators, the last one first, so that none is read by one that is left."""
        live = set(live_nodes(graph))
        for node in reversed(calls(graph)):
            if node not in live:
                graph.graph.erase_node(node)
                ctx.count("operators dropped")

    def ensures(self, graph: Graph) -> None:
        """Every operator leads to an output."""
        live = set(live_nodes(graph))
        for node in calls(graph):
            if node not in live:
                raise VerificationError("no output depends on it", where=node.name)
