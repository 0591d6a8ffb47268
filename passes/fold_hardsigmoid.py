"""fold-hardsigmoid: replace the hardsigmoid of a gate by relu6, with its constants folded into neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from mcc.ir.graph import (
    Graph,
    add_constant,
    constant,
    is_constant,
    op_name,
    operand,
    optional_operand,
    outputs,
)
from mcc.ir.notes import absorb, note, shape_of
from mcc.pass_api import NodeRewrite, PassContext


@dataclass(frozen=True)
class FoldHardsigmoid(NodeRewrite):
    """Remove the constants of hardsigmoid gates in squeeze-and-excitation (MobileNetV3, Howard 2019).

    hardsigmoid(s) = relu6(s + 3) / 6. Before and after:

        %s = conv2d(%p, @w, @b)                        %s = conv2d(%p, @w, @b+3) {activation='relu6'}
        %g = hardsigmoid(%s)
        %m = mul(%x, %g)                               %m = mul(%x, %s)
        %y = conv2d(%m, @v, @c)                        %y = conv2d(%m, @v/6, @c)

    XNNPACK's sparse path supports relu6, but not the constants to which hardsigmoid is lowered in TFLite.

    Exact twin: the graph before the pass (to 1e-9, since division by six rounds). Skips, with the reason:
    frozen nodes, a gate that is not computed by one convolution or read by one product, a product with an
    activation or with readers other than convolutions and linear layers, and computed weights.
    """

    name: ClassVar[str] = "fold-hardsigmoid"

    def matches(self, graph: Graph, node: fx.Node) -> bool:
        """Every hardsigmoid."""
        return op_name(node) == "hardsigmoid"

    def refusal(self, graph: Graph, node: fx.Node) -> str | None:
        """Producers, products and readers that cannot absorb the constants, and frozen nodes."""
        source = operand(node, 0)
        if source.op != "call_function" or op_name(source) not in ("conv2d", "linear"):
            return "it is not computed by a convolution"
        if source.kwargs["activation"] != "none" or len(source.users) > 1 or source in outputs(graph):
            return f"{source.name} is activated or read elsewhere, too"
        bias = optional_operand(source, 2)
        if not is_constant(operand(source, 1)) or (bias is not None and not is_constant(bias)):
            return f"weight or bias of {source.name} is no constant"
        products = list(node.users)
        if len(products) != 1 or op_name(products[0]) != "mul" or node in outputs(graph):
            return "it is not read by one product alone"
        return _frozen(source, node, products[0]) or _unfit_reader(graph, node, products[0])

    def rewrite(self, graph: Graph, node: fx.Node, ctx: PassContext) -> None:
        """Fold three into the bias of the producer, and a sixth into the weights of the readers."""
        source, product = operand(node, 0), next(iter(node.users))
        _raise_bias(graph, source)
        source.kwargs = {**source.kwargs, "activation": "relu6"}
        absorb(source, node)
        for reader in list(product.users):
            weight = operand(reader, 1)
            sixth = constant(graph, weight).detach() / 6
            held = add_constant(graph, reader, f"{weight.target}_sixth", sixth)
            reader.args = (reader.args[0], held, *reader.args[2:])
        node.replace_all_uses_with(source)
        ctx.count("gates respelled")


def _raise_bias(graph: Graph, source: fx.Node) -> None:
    """Add three to the bias of a convolution or linear layer, which is created if absent."""
    weight, bias = operand(source, 1), optional_operand(source, 2)
    width = shape_of(weight)[0]
    kernel = constant(graph, weight)
    old = torch.zeros(width, dtype=kernel.dtype) if bias is None else constant(graph, bias).detach()
    name = f"{weight.target}_bias" if bias is None else f"{bias.target}_raised"
    source.args = (source.args[0], weight, add_constant(graph, source, name, old + 3))


def _frozen(*nodes: fx.Node) -> str | None:
    return next((note(node).frozen for node in nodes if note(node).frozen is not None), None)


def _unfit_reader(graph: Graph, node: fx.Node, product: fx.Node) -> str | None:
    """The reason why the sixth cannot be folded into a reader of the product, or None."""
    if product.kwargs["activation"] != "none" or product in outputs(graph):
        return f"{product.name} is activated, or an output"
    if product.args[0] is product.args[1]:
        return f"{product.name} reads it twice"
    for reader in product.users:
        if reader.op != "call_function" or op_name(reader) not in ("conv2d", "linear"):
            return f"{product.name} is read by {reader.name}, which is neither convolution nor linear"
        if not is_constant(operand(reader, 1)) or product in reader.args[1:]:
            return f"the weight of {reader.name} is no constant"
        if note(reader).frozen is not None:
            return note(reader).frozen
    return None
