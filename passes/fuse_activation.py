"""fuse-activation: fuse ReLU and ReLU6 into the preceding operator, as runtimes do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from mcc.ir import table
from mcc.ir.graph import Graph, op_name, operand
from mcc.ir.notes import absorb, note
from mcc.pass_api import NodeRewrite, PassContext


@dataclass(frozen=True)
class FuseActivation(NodeRewrite):
    """Fuse a clamp at zero (and six) into the preceding operator.

    Before and after:

        %y = conv2d(%x, @w, @b) {activation='none'}     %y = conv2d(%x, @w, @b) {activation='relu6'}
        %z = relu6(%y)

    Applies to relu, relu6, and clamp to [0, inf) or [0, 6], after every operator with the attribute
    `activation`: convolutions, linear, add, sub, mul, div. If the operator already has an activation, the
    tighter of both remains.

    Exact twin: the graph before the pass. Skips, with the reason: an activation whose operand has other
    readers, and frozen nodes.
    """

    name: ClassVar[str] = "fuse-activation"

    def matches(self, graph: Graph, node: fx.Node) -> bool:
        """An activation after an operator with the attribute."""
        return activation_of(node) is not None and _fuses(operand(node, 0))

    def refusal(self, graph: Graph, node: fx.Node) -> str | None:
        """Frozen nodes, and operands with other readers."""
        source = operand(node, 0)
        frozen = note(node).frozen or note(source).frozen
        if frozen is not None:
            return frozen
        return f"{source.name} is read elsewhere, too" if len(source.users) > 1 else None

    def rewrite(self, graph: Graph, node: fx.Node, ctx: PassContext) -> None:
        """Give the preceding operator the tighter of both activations."""
        source, kind = operand(node, 0), activation_of(node)
        present = source.kwargs["activation"]
        source.kwargs = {**source.kwargs, "activation": "relu6" if "relu6" in (present, kind) else "relu"}
        absorb(source, node)
        node.replace_all_uses_with(source)
        graph.graph.erase_node(node)
        ctx.count("activations fused")


def activation_of(node: fx.Node) -> str | None:
    """The fused activation that equals an operator node, or None."""
    name = op_name(node)
    if name in ("relu", "relu6"):
        return name
    if name == "clamp" and node.kwargs["min"] == 0.0:
        return {6.0: "relu6", float("inf"): "relu"}.get(float(str(node.kwargs["max"])))
    return None


def _fuses(node: fx.Node) -> bool:
    return node.op == "call_function" and table.row_of(node).fuses_activation
