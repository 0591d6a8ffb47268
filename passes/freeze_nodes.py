"""freeze-nodes: exclude nodes from all later passes."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar

from torch import fx

from mcc.errors import Refusal, VerificationError
from mcc.ir.graph import Graph, calls
from mcc.ir.notes import annotate, note
from mcc.pass_api import Pass, PassContext


@dataclass(frozen=True)
class FreezeNodes(Pass):
    """Mark nodes as frozen, with a reason that every later pass reports when it skips them.

    Before and after, with `match=head*`:

        %head = linear(%x, @w, @b)             %head = linear(%x, @w, @b) !{frozen='kept by wish'}

    Exact twin: the graph before the pass. A node that is already frozen keeps its reason. Raises Refusal if
    no node has such a name.

    Attributes:
        match: Pattern with * and ? of names of nodes, or of their origin in the captured model
            (`features.0.*`).
        because: Reason.
    """

    name: ClassVar[str] = "freeze-nodes"
    match: str = "*"
    because: str = "kept by wish"

    def __post_init__(self) -> None:
        if not self.match or not self.because.strip():
            raise ValueError("match and because must not be empty")

    def requires(self, graph: Graph) -> None:
        """Raise Refusal unless a node matches."""
        if not self._found(graph):
            raise Refusal(f"no node is called {self.match!r}", where=self.name, hint="mcc inspect lists them")

    def run(self, graph: Graph, ctx: PassContext) -> None:
        """Mark each node."""
        for node in self._found(graph):
            if note(node).frozen is None:
                annotate(node, frozen=self.because)
                ctx.count("nodes frozen")

    def ensures(self, graph: Graph) -> None:
        """Raise VerificationError unless every matching node is frozen."""
        for node in self._found(graph):
            if note(node).frozen is None:
                raise VerificationError("is not frozen", where=node.name)

    def _found(self, graph: Graph) -> list[fx.Node]:
        return [n for n in calls(graph) if any(fnmatchcase(x, self.match) for x in (n.name, *note(n).origin))]
