"""decompose: replace operators that a runtime lacks by simpler ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import fx

from mcc.analysis.decompositions import RECIPES, Recipe
from mcc.ir.graph import Graph, is_constant, op_name, operand
from mcc.ir.notes import annotate, note, shape_of
from mcc.pass_api import NodeRewrite, PassContext

SETS: dict[str, tuple[str, ...]] = {
    # These have no integer kernels, but their components have (mcc/quant/regions.py).
    "int8": ("silu", "hardsigmoid", "prelu", "batch_norm", "abs", "neg"),
    "norms": ("batch_norm", "layer_norm", "group_norm", "global_response_norm"),
    "all": tuple(RECIPES),
}


@dataclass(frozen=True)
class Decompose(NodeRewrite):
    """Replace operators by simpler ones, exactly.

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
    | global_response_norm | x + weight x g / (mean(g) + eps) + bias, with g = sqrt(sum(x^2)) |
    | softmax | exp(x - max) over its sum |
    | pixel_shuffle | reshape, transpose, reshape |
    | conv2d with groups, not depthwise | a slice and a convolution for each group, concatenated |

    Exact twin: the graph before the pass. Skips, with the reason: frozen nodes, and operators with computed
    constants.

    Attributes:
        of: `int8` for operators without integer kernel whose components have one, `norms`, `all`, or the name
            of one operator.
    """

    name: ClassVar[str] = "decompose"
    of: str = "int8"

    def __post_init__(self) -> None:
        if self.of not in SETS and self.of not in RECIPES:
            raise ValueError(f"of must be one of {', '.join((*SETS, *RECIPES))}, not {self.of!r}")

    def matches(self, graph: Graph, node: fx.Node) -> bool:
        """The operators selected by `of`; only grouped convolutions."""
        name = op_name(node)
        return name in SETS.get(self.of, (self.of,)) and (name != "conv2d" or _is_grouped(node))

    def refusal(self, graph: Graph, node: fx.Node) -> str | None:
        """Frozen nodes, and operators with computed constants."""
        if note(node).frozen is not None:
            return note(node).frozen
        if any(isinstance(arg, fx.Node) and not is_constant(arg) for arg in node.args[1:]):
            return "one of its constants is computed"
        return None

    def rewrite(self, graph: Graph, node: fx.Node, ctx: PassContext) -> None:
        """Replace an operator by its decomposition."""
        made = RECIPES[op_name(node)](Recipe(graph, node), operand(node, 0))
        node.replace_all_uses_with(made)
        graph.graph.erase_node(node)
        annotate(made, origin=note(node).origin)
        ctx.count(f"{op_name(node)} decomposed")


def _is_grouped(node: fx.Node) -> bool:
    """Whether a convolution has several groups of several input channels each."""
    groups: Any = node.kwargs["groups"]
    return groups > 1 and shape_of(operand(node, 1))[1] > 1
