"""fold-pad: fold explicit padding into the convolution or pool that reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import fx

from mcc.ir.graph import Graph, calls, op_name, operand
from mcc.ir.notes import absorb, note
from mcc.pass_api import NodeRewrite, PassContext

# Value with which an operator pads its input.
OWN_PADDING = {"conv2d": 0.0, "avg_pool2d": 0.0, "max_pool2d": -float("inf")}


@dataclass(frozen=True)
class FoldPad(NodeRewrite):
    """Fold a constant padding of height and width into the operator that reads it.

    Before and after:

        %p = pad(%x) {padding=((0, 0), (0, 0), (0, 1), (0, 1))}
        %y = conv2d(%p, @w) {padding=(0, 0, 0, 0)}          %y = conv2d(%x, @w) {padding=(0, 1, 0, 1)}

    Applies to zeros before a convolution or an average pool that includes its padding, and to minus infinity
    before a maximum pool; the operator's own padding is increased.

    Exact twin: the graph before the pass. Skips, with the reason: other values and modes, padded channels,
    and frozen nodes. Padding with other readers is kept for them.
    """

    name: ClassVar[str] = "fold-pad"

    def matches(self, graph: Graph, node: fx.Node) -> bool:
        """Operators with padding, after explicit padding."""
        if op_name(node) not in OWN_PADDING:
            return False
        source = operand(node, 0)
        return source.op == "call_function" and op_name(source) == "pad"

    def refusal(self, graph: Graph, node: fx.Node) -> str | None:
        """Frozen nodes, padded channels, and values or means that are not the operator's own."""
        source, kind = operand(node, 0), op_name(node)
        frozen = note(source).frozen or note(node).frozen
        if frozen is not None:
            return frozen
        if source.kwargs["mode"] != "constant" or source.kwargs["value"] != OWN_PADDING[kind]:
            return f"{kind} pads with {OWN_PADDING[kind]:g} only"
        if any(map(any, _amounts(source)[:2])):
            return "it pads channels"
        if kind == "avg_pool2d" and not node.kwargs["count_include_pad"]:
            return f"{node.name} leaves its own padding out of the mean"
        return None

    def run(self, graph: Graph, ctx: PassContext) -> None:
        """Fold each padding, and those before it, into each reader that allows it."""
        for node in calls(graph, *OWN_PADDING):
            while self.matches(graph, node):
                reason = self.refusal(graph, node)
                if reason is not None:
                    ctx.refuse(operand(node, 0), reason)
                    break
                self.rewrite(graph, node, ctx)

    def rewrite(self, graph: Graph, node: fx.Node, ctx: PassContext) -> None:
        """Add the amounts to the operator's own padding."""
        source = operand(node, 0)
        (top, bottom), (left, right) = _amounts(source)[2:]
        own: Any = node.kwargs["padding"]
        total = (own[0] + top, own[1] + bottom, own[2] + left, own[3] + right)
        node.kwargs = {**node.kwargs, "padding": total}
        node.args = (operand(source, 0), *node.args[1:])
        absorb(node, source)
        ctx.count("paddings folded")


def _amounts(source: fx.Node) -> tuple[tuple[int, int], ...]:
    amounts: Any = source.kwargs["padding"]
    return tuple(amounts)
