"""fold-pad: merge explicit padding into the convolution or pool that reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import fx

from mcc.errors import VerificationError
from mcc.ir.graph import Graph, calls, op_name, operand
from mcc.ir.notes import annotate, note
from mcc.pass_api import Pass, PassContext

# With which value an operator pads its own input.
OWN_PADDING = {"conv2d": 0.0, "avg_pool2d": 0.0, "max_pool2d": -float("inf")}


@dataclass(frozen=True)
class FoldPad(Pass):
    """Merge a constant padding of height and width into the operator that reads it.

    Before and after:

        %p = pad(%x) {padding=((0, 0), (0, 0), (0, 1), (0, 1))}
        %y = conv2d(%p, @w) {padding=(0, 0, 0, 0)}          %y = conv2d(%x, @w) {padding=(0, 1, 0, 1)}

    Works on zeros before a convolution or an average pool that counts its padding, and on minus infinity
    before a maximum pool; what the operator pads itself is added to.

    Exact twin: the graph as it was. Leaves alone, with the reason: other values and modes, padded channels,
    and frozen nodes. Padding that something else reads, too, stays for that reader.
    """

    name: ClassVar[str] = "fold-pad"

    def run(self, graph: Graph, ctx: PassContext) -> None:
        """Fold each padding into those of its readers that can take it."""
        for node in calls(graph, *OWN_PADDING):
            while (source := _padding_before(node)) is not None:
                reason = refusal(source, node)
                if reason is not None:
                    ctx.refuse(source, reason)
                    break
                (top, bottom), (left, right) = _amounts(source)[2:]
                own: Any = node.kwargs["padding"]
                total = (own[0] + top, own[1] + bottom, own[2] + left, own[3] + right)
                node.kwargs = {**node.kwargs, "padding": total}
                node.args = (operand(source, 0), *node.args[1:])
                annotate(node, origin=tuple(dict.fromkeys((*note(source).origin, *note(node).origin))))
                ctx.count("paddings folded")

    def ensures(self, graph: Graph) -> None:
        """No padding is left that could be folded."""
        for node in calls(graph, *OWN_PADDING):
            source = _padding_before(node)
            if source is not None and refusal(source, node) is None:
                raise VerificationError("reads padding that was not folded", where=node.name)


def _padding_before(node: fx.Node) -> fx.Node | None:
    source = operand(node, 0)
    return source if source.op == "call_function" and op_name(source) == "pad" else None


def _amounts(source: fx.Node) -> tuple[tuple[int, int], ...]:
    amounts: Any = source.kwargs["padding"]
    return tuple(amounts)


def refusal(source: fx.Node, node: fx.Node) -> str | None:
    """Why a padding cannot be folded into its reader, or None when it can."""
    frozen = note(source).frozen or note(node).frozen
    if frozen is not None:
        return frozen
    kind = op_name(node)
    if source.kwargs["mode"] != "constant" or source.kwargs["value"] != OWN_PADDING[kind]:
        return f"{kind} pads with {OWN_PADDING[kind]:g} only"
    if any(map(any, _amounts(source)[:2])):
        return "it pads channels"
    if kind == "avg_pool2d" and not node.kwargs["count_include_pad"]:
        return f"{node.name} leaves its own padding out of the mean"
    return None
