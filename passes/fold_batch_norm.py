"""fold-batch-norm: fold batch norms into the preceding convolutions and linear layers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, fx

from mcc.analysis.batch_norms import cannot_be_folded
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
from mcc.ir.notes import absorb
from mcc.pass_api import NodeRewrite, PassContext


@dataclass(frozen=True)
class FoldBatchNorm(NodeRewrite):
    """Fold a batch norm into the preceding weighted operator (Jacob 2018, section 3.2).

    Before and after:

        %y = conv2d(%x, @w, @b)                     %y = conv2d(%x, @w', @b')
        %n = batch_norm(%y, @gain, @shift, @mean, @var)

    With f = gain / sqrt(var + eps), per output channel: w' = w f and b' = (b - mean) f + shift, computed in
    float64 and rounded once.

    Exact twin: the graph before the pass. Layers that share weights and batch norm continue to share.

    Skips, with the reason: a batch norm before the convolution that reads it (its shift would be missing in
    zero padding), one whose operand has other readers, and frozen nodes.
    """

    name: ClassVar[str] = "fold-batch-norm"

    def matches(self, graph: Graph, node: fx.Node) -> bool:
        """Every batch norm."""
        return op_name(node) == "batch_norm"

    def refusal(self, graph: Graph, node: fx.Node) -> str | None:
        """The reason given by `mcc.analysis.batch_norms`."""
        return cannot_be_folded(node)

    def run(self, graph: Graph, ctx: PassContext) -> None:
        """Fold each batch norm that can be folded; layers that share their constants continue to share."""
        folded: dict[tuple[object, ...], tuple[fx.Node, fx.Node]] = {}
        readers = _readers(graph)
        for norm in calls(graph, "batch_norm"):
            reason = self.refusal(graph, norm)
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
            absorb(layer, norm)
            norm.replace_all_uses_with(layer)
            graph.graph.erase_node(norm)
            ctx.count("batch norms folded")


def fold(graph: Graph, layer: fx.Node, norm: fx.Node) -> tuple[Tensor, Tensor]:
    """Weight and bias of the layer with the batch norm folded into them."""
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
    """Store constants of a folded layer: in its own if they have no other reader, else in new ones."""
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
    """Number of readers of each constant."""
    found: Counter[str] = Counter()
    for node in graph.graph.nodes:
        if is_constant(node):
            found[str(node.target)] += len(node.users)
    return found
