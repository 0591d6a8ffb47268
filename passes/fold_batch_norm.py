"""fold-batch-norm: merge batch norms into the convolutions and linear layers before them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from mcc.errors import VerificationError
from mcc.ir.graph import (
    Graph,
    add_constant,
    calls,
    constant,
    is_constant,
    op_name,
    operand,
    optional_operand,
    set_constant,
)
from mcc.ir.notes import annotate, note, shape_of
from mcc.pass_api import Pass, PassContext

WEIGHTED = ("conv2d", "conv_transpose2d", "linear")


@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """Merge a batch norm backwards into the weighted operator before it (Jacob 2018, section 3.2).

    Before and after:

        %y = conv2d(%x, @w, @b)                     %y = conv2d(%x, @w', @b')
        %n = batch_norm(%y, @gain, @shift, @mean, @var)

    With f = gain / sqrt(var + eps), per output channel: w' = w f and b' = (b - mean) f + shift, computed in
    float64 and rounded once.

    Exact twin: the graph as it was. Layers that share weights and batch norm go on sharing.

    Leaves alone, with the reason: a batch norm before the convolution that reads it (behind zero padding its
    shift would be missing), one after a value that is read elsewhere, too, and frozen nodes.
    """

    name: ClassVar[str] = "fold-batch-norm"

    def run(self, graph: Graph, ctx: PassContext) -> None:
        """Fold each batch norm that can be folded."""
        folded: dict[tuple[object, ...], tuple[fx.Node, fx.Node]] = {}
        readers = _readers(graph)
        for norm in calls(graph, "batch_norm"):
            reason = refusal(norm)
            if reason is not None:
                ctx.refuse(norm, reason)
                continue
            layer = operand(norm, 0)
            weight, bias = operand(layer, 1), optional_operand(layer, 2)
            key = (op_name(layer), layer.kwargs.get("groups"), norm.kwargs["eps"], weight.target,
                   bias and bias.target, *(operand(norm, i).target for i in range(1, 5)))  # fmt: skip
            if key not in folded:
                folded[key] = _store(graph, layer, readers, *fold(graph, layer, norm))
            layer.args = (operand(layer, 0), *folded[key])
            annotate(layer, origin=tuple(dict.fromkeys((*note(layer).origin, *note(norm).origin))))
            norm.replace_all_uses_with(layer)
            graph.graph.erase_node(norm)
            ctx.count("batch norms folded")

    def ensures(self, graph: Graph) -> None:
        """No foldable batch norm is left."""
        for norm in calls(graph, "batch_norm"):
            if refusal(norm) is None:
                raise VerificationError("was not folded", where=norm.name)


def refusal(norm: fx.Node) -> str | None:
    """Why a batch norm cannot be folded, or None when it can."""
    layer = operand(norm, 0)
    frozen = note(norm).frozen or note(layer).frozen
    if frozen is not None:
        return frozen
    if layer.op != "call_function" or op_name(layer) not in WEIGHTED:
        if any(_is_padded_convolution(user) for user in norm.users):
            return "it stands before a zero-padded convolution, and its shift would be missing in the padding"
        return "no convolution or linear layer stands before it"
    if layer.kwargs["activation"] != "none":
        return f"an activation stands between it and {layer.name}"
    if len(layer.users) > 1:
        return f"{layer.name} is read elsewhere, too"
    if op_name(layer) == "linear" and len(shape_of(layer)) != 2:
        return f"it normalises another axis than the one {layer.name} writes"
    constants = [*layer.args[1:], *norm.args[1:]]
    if any(isinstance(arg, fx.Node) and not is_constant(arg) for arg in constants):
        return "a weight or a statistic is computed"
    return None


def _is_padded_convolution(node: fx.Node) -> bool:
    if node.op != "call_function" or op_name(node) != "conv2d":
        return False
    padding: Any = node.kwargs["padding"]
    return any(padding)


def fold(graph: Graph, layer: fx.Node, norm: fx.Node) -> tuple[Tensor, Tensor]:
    """Weight and bias of the layer with the batch norm merged into them."""
    gain, shift, mean, var = (constant(graph, operand(norm, i)).detach().double() for i in range(1, 5))
    eps = norm.kwargs["eps"]
    assert isinstance(eps, float)
    factor = gain / torch.sqrt(var + eps)
    weight = constant(graph, operand(layer, 1)).detach()
    bias = optional_operand(layer, 2)
    old = constant(graph, bias).detach().double() if bias is not None else torch.zeros_like(mean)
    if op_name(layer) == "conv_transpose2d":  # weight axes I O/groups H W
        groups = layer.kwargs["groups"]
        assert isinstance(groups, int)
        grouped = weight.double().reshape(groups, -1, *weight.shape[1:])
        scaled = (grouped * factor.reshape(groups, 1, -1, 1, 1)).reshape(weight.shape)
    else:
        scaled = weight.double() * factor.reshape(-1, *(1,) * (weight.dim() - 1))
    return scaled.to(weight.dtype), ((old - mean) * factor + shift).to(weight.dtype)


def _store(
    graph: Graph, layer: fx.Node, readers: Counter[str], weight: Tensor, bias: Tensor
) -> tuple[fx.Node, fx.Node]:
    """Constants for a folded layer: its own where nobody else reads them, else new ones."""
    stored: list[fx.Node] = []
    for node, value, suffix in (
        (operand(layer, 1), weight, "weight"),
        (optional_operand(layer, 2), bias, "bias"),
    ):
        if node is not None and readers[str(node.target)] == 1:
            set_constant(graph, str(node.target), value)
            stored.append(node)
        else:
            stored.append(add_constant(graph, layer, f"{layer.name}_{suffix}", value))
    return stored[0], stored[1]


def _readers(graph: Graph) -> Counter[str]:
    """How many operators read each constant."""
    found: Counter[str] = Counter()
    for node in graph.graph.nodes:
        if is_constant(node):
            found[str(node.target)] += len(node.users)
    return found
