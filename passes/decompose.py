"""decompose: write operators that a runtime lacks in operators that it has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import fx

from mcc.analysis.recipes import RECIPES, Recipe
from mcc.errors import VerificationError
from mcc.ir.graph import Graph, calls, is_constant, op_name, operand
from mcc.ir.notes import annotate, note, shape_of
from mcc.pass_api import Pass, PassContext

SETS: dict[str, tuple[str, ...]] = {
    # Integer kernels exist for what these are made of, and none for themselves (mcc/quant/regions.py).
    "int8": ("silu", "hardsigmoid", "prelu", "batch_norm", "abs", "neg"),
    "norms": ("batch_norm", "layer_norm", "group_norm"),
    "all": tuple(RECIPES),
}


@dataclass(frozen=True)
class Decompose(Pass):
    """Write operators in simpler ones, exactly.

    Before and after:

        %y = silu(%x)                          %s = sigmoid(%x)
                                               %y = mul(%x, %s)

    | operator | becomes |
    | --- | --- |
    | hardsigmoid, hardswish | relu6(x + 3) / 6, and x times that |
    | silu | x sigmoid(x) |
    | softplus, mish | relu(x) + log(1 + exp(-abs(x))), and x tanh of that |
    | elu | relu(x) + alpha (exp(min(x, 0)) - 1) |
    | leaky_relu, prelu | relu(x) + slope min(x, 0) |
    | abs, neg | relu(x) + relu(-x), x (-1) |
    | batch_norm | x f + (shift - mean f) with f = gain / sqrt(var + eps) |
    | layer_norm, group_norm | (x - mean) / sqrt(mean((x - mean)^2) + eps), times weight, plus bias |
    | softmax | exp(x - max) over its sum |
    | pixel_shuffle | reshape, transpose, reshape |
    | conv2d with groups, not depthwise | a slice and a convolution for each group, concatenated |

    Exact twin: the graph as it was. Leaves alone, with the reason: frozen nodes, and operators whose
    constants are computed.

    Attributes:
        of: `int8` for those that have no integer kernel and are made of operators that have one, `norms`,
            `all`, or the name of one operator.
    """

    name: ClassVar[str] = "decompose"
    of: str = "int8"

    def __post_init__(self) -> None:
        if self.of not in SETS and self.of not in RECIPES:
            raise ValueError(f"of must be one of {', '.join((*SETS, *RECIPES))}, not {self.of!r}")

    def run(self, graph: Graph, ctx: PassContext) -> None:
        """Write each operator anew in its place."""
        for node in self._chosen(graph, ctx):
            made = RECIPES[op_name(node)](Recipe(graph, node), operand(node, 0))
            node.replace_all_uses_with(made)
            graph.graph.erase_node(node)
            annotate(made, origin=note(node).origin)
            ctx.count(f"{op_name(node)} decomposed")

    def ensures(self, graph: Graph) -> None:
        """None is left that could be decomposed."""
        for node in self._chosen(graph, PassContext()):
            raise VerificationError("was not decomposed", where=node.name)

    def _chosen(self, graph: Graph, ctx: PassContext) -> list[fx.Node]:
        found: list[fx.Node] = []
        for node in calls(graph, *SETS.get(self.of, (self.of,))):
            if op_name(node) == "conv2d" and not _is_grouped(node):
                continue
            reason = refusal(node)
            if reason is None:
                found.append(node)
            else:
                ctx.refuse(node, reason)
        return found


def refusal(node: fx.Node) -> str | None:
    """Why an operator is left whole, or None when it can be decomposed."""
    if note(node).frozen is not None:
        return note(node).frozen
    if any(isinstance(arg, fx.Node) and not is_constant(arg) for arg in node.args[1:]):
        return "one of its constants is computed"
    return None


def _is_grouped(node: fx.Node) -> bool:
    """Whether a convolution has several groups of several input channels each."""
    groups: Any = node.kwargs["groups"]
    return groups > 1 and shape_of(operand(node, 1))[1] > 1
