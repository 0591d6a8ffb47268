"""strip-qdq: take all quantisers out again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mcc.errors import VerificationError
from mcc.ir.graph import Graph, calls, operand
from mcc.ir.notes import note
from mcc.pass_api import Pass, PassContext


@dataclass(frozen=True)
class StripQdq(Pass):
    """Remove every `fake_quantize`; its readers read the float value.

    Before and after:

        %xq = fake_quantize(%x, @x_scale, @x_zero_point)
        %wq = fake_quantize(@w, @w_scale, @w_zero_point)          %y = conv2d(%x, @w, @b)
        %y = conv2d(%xq, %wq, @b)

    Weights keep the float values that they were trained to. Notes keep the precision that was decided, so
    that `insert-qdq` can place the quantisers anew. Quantisers that are frozen, or that a frozen node reads,
    stay. There is no twin: the numbers change by what rounding did.
    """

    name: ClassVar[str] = "strip-qdq"

    def run(self, graph: Graph, ctx: PassContext) -> None:
        """Let each reader of a quantiser read what it quantises."""
        for node in calls(graph, "fake_quantize"):
            if note(node).frozen is not None or any(note(user).frozen is not None for user in node.users):
                ctx.refuse(node, "it is frozen, or a frozen node reads it")
                continue
            node.replace_all_uses_with(operand(node, 0))
            graph.graph.erase_node(node)
            ctx.count("quantisers removed")

    def ensures(self, graph: Graph) -> None:
        """Only quantisers that are frozen or read by a frozen node are left."""
        for node in calls(graph, "fake_quantize"):
            if note(node).frozen is None and all(note(user).frozen is None for user in node.users):
                raise VerificationError("a quantiser is left", where=node.name)

    def reference(self, before: Graph, ctx: PassContext) -> None:
        """None: the numbers change by intent."""
        return None
