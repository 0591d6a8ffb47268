"""linear-head: turn 1x1 convolutions after the global pool into linear layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from mcc.analysis.pointwise import is_pointwise
from mcc.ir import table
from mcc.ir.graph import (
    Graph,
    add_call,
    add_constant,
    constant,
    is_constant,
    op_name,
    operand,
    outputs,
)
from mcc.ir.notes import annotate, note, shape_of
from mcc.pass_api import NodeRewrite, PassContext


@dataclass(frozen=True)
class LinearHead(NodeRewrite):
    """Compute the head after the global pool on vectors instead of maps of one pixel.

    Before and after:

        %p = mean(%x) {axes=(2, 3), keepdim=True} : [1, C, 1, 1]       %p = mean(...) {keepdim=False} : [1, C]
        %y = conv2d(%p, @w[O,C,1,1], @b) : [1, O, 1, 1]                %y = linear(%p, @w[O,C], @b)   : [1, O]
        %z = reshape(%y) {shape=(O,)}                                  (drop-identity removes the reshape)

    XNNPACK's sparse path ends in the pool, and a 1x1 convolution after it disables the path.

    Exact twin: the graph before the pass: a 1x1 convolution of one pixel is a matrix-vector product. Several
    convolutions in a row with element-wise functions between them (the head of MobileNetV3) are rewritten
    together; after the last of them a reshape restores the map if a reader needs it.

    Skips, with the reason: frozen nodes, and gates of squeeze-and-excitation, whose pool is multiplied with
    a map. Pools that no 1x1 convolution reads are not considered.
    """

    name: ClassVar[str] = "linear-head"

    def matches(self, graph: Graph, node: fx.Node) -> bool:
        """Global pools that keep their axes and whose only reader is a plain 1x1 convolution."""
        if op_name(node) != "mean" or node.kwargs["axes"] != (2, 3) or not node.kwargs["keepdim"]:
            return False
        return len(_chain(node)) > 0

    def refusal(self, graph: Graph, node: fx.Node) -> str | None:
        """Frozen nodes, and gates for a map."""
        chain = _chain(node)
        frozen = next((note(n).frozen for n in (node, *chain) if note(n).frozen is not None), None)
        if frozen is not None:
            return frozen
        last = chain[-1]
        while len(last.users) == 1 and last not in outputs(graph):
            reader = next(iter(last.users))
            if reader.op != "call_function" or not table.row_of(reader).unary:
                break
            last = reader
        if any(_is_map(arg) for reader in last.users for arg in reader.all_input_nodes):
            return "its result is a gate for a map"
        return None

    def rewrite(self, graph: Graph, node: fx.Node, ctx: PassContext) -> None:
        """Rewrite a head, starting at its pool."""
        chain = _chain(node)
        value = add_call(
            graph, node, "mean", operand(node, 0), name=f"{node.name}_flat", axes=(2, 3), keepdim=False
        )
        _take_over(value, node)
        for link in chain:
            value = _on_vectors(graph, link, value)
            ctx.count("operators moved to vectors")
        last = chain[-1]
        map_again = add_call(graph, last, "reshape", value, shape=shape_of(last)[1:])
        annotate(map_again, origin=note(last).origin)
        last.replace_all_uses_with(map_again)


def _chain(pool: fx.Node) -> list[fx.Node]:
    """The 1x1 convolutions and element-wise functions after a pool, each the only reader of the one before.

    It ends in a convolution; functions after the last one work on a map as well.
    """
    chain: list[fx.Node] = []
    node = pool
    while len(node.users) == 1:
        node = next(iter(node.users))
        if node.op != "call_function":
            break
        convolution = op_name(node) == "conv2d" and is_pointwise(node)
        if not convolution and not table.row_of(node).unary:
            break
        chain.append(node)
    while chain and op_name(chain[-1]) != "conv2d":
        chain.pop()
    return chain


def _on_vectors(graph: Graph, node: fx.Node, value: fx.Node) -> fx.Node:
    """The same operator on a vector [N, C]."""
    name = f"{node.name}_flat"
    if op_name(node) != "conv2d":
        moved = add_call(graph, node, op_name(node), value, name=name, **node.kwargs)
    else:
        weight = operand(node, 1)
        matrix = constant(graph, weight).detach().flatten(1)
        held = add_constant(graph, node, f"{weight.target}_matrix", matrix)
        bias = node.args[2]
        assert bias is None or isinstance(bias, fx.Node)
        activation = node.kwargs["activation"]
        moved = add_call(graph, node, "linear", value, held, bias, name=name, activation=activation)
    _take_over(moved, node)
    return moved


def _take_over(node: fx.Node, old: fx.Node) -> None:
    """Copy origin and decisions from the replaced node; patterns of 1x1 weights do not apply here."""
    annotate(node, origin=note(old).origin, keep=note(old).keep, pruned_from=note(old).pruned_from)


def _is_map(node: fx.Node) -> bool:
    """Whether a non-constant value has more than one pixel."""
    return not is_constant(node) and len(shape_of(node)) == 4 and shape_of(node)[2:] != (1, 1)
