"""fold-constants: constant folding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn

from mcc.ir.graph import Graph, add_constant, constant, constants, is_constant, op_name, operands, outputs
from mcc.ir.notes import DTYPES, annotate, note, type_of
from mcc.pass_api import NodeRewrite, PassContext

ONE_BYTES = 32 << 20  # as for constants that are folded while a model is read
ALL_BYTES = 1 << 30  # twice the weights of VGG-16, the largest of the public classifiers


@dataclass(frozen=True)
class FoldConstants(NodeRewrite):
    """Replace operators whose operands are all constants by their value.

    Before and after:

        %s = mul(@w, @gain)                    %y = conv2d(%x, @s, none)
        %y = conv2d(%x, %s, none)

    Weights that are standardised or rescaled before each use become plain weights, which every other pass and
    every runtime supports. Values are computed in float64 and rounded once.

    Exact twin: the graph before the pass. Skips, with the reason: quantisers of weights, which define the
    storage of the weight; values that would take more than `growth` times the bytes of their operands (e.g. a
    resized constant), or, if they grow, 32 MiB, or with all other constants 1 GiB; outputs; frozen nodes.

    Attributes:
        growth: Maximum size of a folded value relative to the bytes of its operands.
    """

    name: ClassVar[str] = "fold-constants"
    growth: float = 4.0

    def __post_init__(self) -> None:
        if not self.growth > 0:
            raise ValueError(f"growth must be positive, not {self.growth}")

    def matches(self, graph: Graph, node: fx.Node) -> bool:
        """Operators on constants; readers of a folded value match after it."""
        found = operands(node)
        return bool(found) and all(map(is_constant, found))

    def refusal(self, graph: Graph, node: fx.Node) -> str | None:
        """Frozen nodes and their operands, quantisers, outputs, and values that would take too many bytes."""
        for held in (node, *node.users):
            if note(held).frozen is not None:
                return note(held).frozen
        if op_name(node) == "fake_quantize":
            return "it defines how the weight is stored"
        if node in outputs(graph):
            return "it is an output"
        size = sum(type_of(arg).size_bytes for arg in operands(node))
        if type_of(node).size_bytes > self.growth * size:
            return f"its value takes {type_of(node).size_bytes} bytes, what it is made from {size}"
        if type_of(node).size_bytes > size:
            return _too_large(graph, type_of(node).size_bytes)
        return None

    def rewrite(self, graph: Graph, node: fx.Node, ctx: PassContext) -> None:
        """Replace the operator by its value."""
        trains = any(isinstance(constant(graph, arg), nn.Parameter) for arg in operands(node))
        made = add_constant(graph, node, node.name, evaluate(graph, node), trains=trains)
        annotate(made, origin=note(node).origin)
        node.replace_all_uses_with(made)
        graph.graph.erase_node(node)
        ctx.count("operators folded")


def _too_large(graph: Graph, size_bytes: int) -> str | None:
    """The reason why a value exceeds the absolute limits, which bound repeated growth, or None."""
    held = sum(value.nbytes for value in constants(graph).values())
    if size_bytes > ONE_BYTES:
        return f"its value takes {size_bytes} bytes, more than the {ONE_BYTES} that a constant may grow to"
    if held + size_bytes > ALL_BYTES:
        return f"all constants would take {held + size_bytes} bytes, more than the {ALL_BYTES} allowed"
    return None


def evaluate(graph: Graph, node: fx.Node) -> Tensor:
    """The value of an operator on constants, computed in float64."""

    def read(arg: Any) -> Tensor | None:
        if arg is None:
            return None
        value = constant(graph, arg).detach()
        return value.double() if value.is_floating_point() else value

    function: Any = node.target
    with torch.no_grad():
        value: Tensor = function(*map(read, node.args), **node.kwargs)
    # A view of a weight, reshaped or sliced, becomes a tensor of its own.
    return value.to(DTYPES[type_of(node).dtype]).clone(memory_format=torch.contiguous_format)
