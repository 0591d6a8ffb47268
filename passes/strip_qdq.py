"""strip-qdq: remove all quantisers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from mcc.ir.graph import Graph, op_name, operand
from mcc.ir.notes import note
from mcc.pass_api import NodeRewrite, PassContext


@dataclass(frozen=True)
class StripQdq(NodeRewrite):
    """Remove every `fake_quantize`; its readers read the float value.

    Before and after:

        %xq = fake_quantize(%x, @x_scale, @x_zero_point)
        %wq = fake_quantize(@w, @w_scale, @w_zero_point)          %y = conv2d(%x, @w, @b)
        %y = conv2d(%xq, %wq, @b)

    Weights keep their trained float values. Notes keep the decided precision, so that `insert-qdq` can place
    the quantisers again. Quantisers that are frozen, or that a frozen node reads, are kept. There is no exact
    twin: the numbers change by the removed rounding.
    """

    name: ClassVar[str] = "strip-qdq"

    def matches(self, graph: Graph, node: fx.Node) -> bool:
        """Quantisers."""
        return op_name(node) == "fake_quantize"

    def refusal(self, graph: Graph, node: fx.Node) -> str | None:
        """Frozen nodes and their operands."""
        frozen = any(note(kept).frozen is not None for kept in (node, *node.users))
        return "it is frozen, or a frozen node reads it" if frozen else None

    def rewrite(self, graph: Graph, node: fx.Node, ctx: PassContext) -> None:
        """Let each reader of a quantiser read the quantiser's operand."""
        node.replace_all_uses_with(operand(node, 0))
        graph.graph.erase_node(node)
        ctx.count("quantisers removed")

    def reference(self, before: Graph, ctx: PassContext) -> None:
        """None: the numbers change by intent."""
        return None
