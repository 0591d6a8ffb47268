"""drop-dead-code: remove operators that no output depends on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mcc.errors import VerificationError
from mcc.ir.graph import Graph, calls, live_nodes
from mcc.pass_api import Pass, PassContext


@dataclass(frozen=True)
class DropDeadCode(Pass):
    """Remove operators that no output depends on, and the constants that only they read.

    Before and after:

        %y = conv2d(%x, @w, @b)                %y = conv2d(%x, @w, @b)
        %u = conv2d(%x, @v, none)              return %y
        %z = relu(%u)
        return %y

    Inputs are kept, even unused ones: they are part of the graph's interface. The dead code of other passes
    is removed by the driver; this pass is for graphs captured with some, such as the head of a training loss.
    Frozen nodes are removed, too, if they are dead.

    Exact twin: the graph before the pass.
    """

    name: ClassVar[str] = "drop-dead-code"
    sees_dead_code: ClassVar[bool] = True

    def run(self, graph: Graph, ctx: PassContext) -> None:
        """Erase dead operators in reverse order, so that each has no reader when it is erased."""
        live = set(live_nodes(graph))
        for node in reversed(calls(graph)):
            if node not in live:
                graph.graph.erase_node(node)
                ctx.count("operators dropped")

    def ensures(self, graph: Graph) -> None:
        """Raise VerificationError unless every operator leads to an output."""
        live = set(live_nodes(graph))
        for node in calls(graph):
            if node not in live:
                raise VerificationError("no output depends on it", where=node.name)
