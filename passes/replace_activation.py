"""replace-activation: replace activations without integer kernels by approximations that have them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from mcc.analysis.activation_approximations import STAND_INS, ErrorMeter, Writer, largest_error
from mcc.errors import VerificationError
from mcc.ir.feed import tensors_of
from mcc.ir.graph import Graph, add_call, calls, copy_graph, op_name, operand
from mcc.ir.interpreter import observe
from mcc.ir.notes import annotate, note
from mcc.pass_api import Pass, PassContext

INTEGER = "int8"


@dataclass(frozen=True)
class ReplaceActivation(Pass):
    """Replace activations by approximations that have integer kernels, and report the error of each.

    Before and after:

        %y = silu(%x)                          %y = hardswish(%x)

    silu(x) becomes hardswish(x) (Howard 2019, "Searching for MobileNetV3"); gelu(x) and mish(x) become
    hardswish(c x) / c with c = 1.702 and 1.22; elu(x) becomes max(x, -alpha); softplus(x) becomes relu(x).
    On request, by name: relu6 becomes relu, also if it is fused (`equalise-cross-layer` can cross a relu),
    and hardswish becomes relu.

    The error of each node is reported: the largest |f(x) - g(x)| over all x, and with calibration data the
    largest one there and its root mean square relative to that of f(x). Fine-tuning recovers the loss.

    Exact twin: the graph with each replacement expressed by its definition in sums, products and absolute
    values. Skips frozen nodes. `decompose` is exact for activations composed of others.

    Attributes:
        of: `int8` for all without integer kernel, or the name of one activation.
    """

    name: ClassVar[str] = "replace-activation"
    of: str = INTEGER

    def __post_init__(self) -> None:
        if self.of != INTEGER and self.of not in STAND_INS:
            raise ValueError(f"of must be {INTEGER} or one of {', '.join(STAND_INS)}, not {self.of!r}")

    def run(self, graph: Graph, ctx: PassContext) -> None:
        """Report the errors, then replace."""
        self._state_errors(graph, ctx)
        for node in self._chosen(graph, ctx):
            if op_name(node) in STAND_INS:
                _put(graph, node, spelt=False)
            else:
                node.kwargs = {**node.kwargs, "activation": "relu"}
            ctx.count("activations replaced")

    def reference(self, before: Graph, ctx: PassContext) -> Graph:
        """The graph with the definitions of the replacements."""
        self._unfuse(before)
        for node in self._chosen(before, PassContext()):
            _put(before, node, spelt=True)
        return before

    def ensures(self, graph: Graph) -> None:
        """Raise VerificationError if one of the activations is left that is not frozen."""
        for node in self._chosen(graph, PassContext()):
            raise VerificationError("was not replaced", where=node.name)

    def _chosen(self, graph: Graph, ctx: PassContext) -> list[fx.Node]:
        wanted = {name for name, stand_in in STAND_INS.items() if stand_in.default or name == self.of}
        wanted &= {self.of} if self.of != INTEGER else wanted
        found = [n for n in calls(graph) if op_name(n) in wanted or n.kwargs.get("activation") in wanted]
        for node in found:
            if note(node).frozen is not None:
                ctx.refuse(node, str(note(node).frozen))
        return [node for node in found if note(node).frozen is None]

    def _unfuse(self, graph: Graph) -> None:
        """Turn each fused activation to be replaced into a separate operator."""
        for node in self._chosen(graph, PassContext()):
            if op_name(node) in STAND_INS:
                continue
            users = list(node.users)
            made = add_call(graph, node.next, str(node.kwargs["activation"]), node, name=node.name)
            node.kwargs = {**node.kwargs, "activation": "none"}
            for user in users:
                user.replace_input_with(node, made)

    def _state_errors(self, graph: Graph, ctx: PassContext) -> None:
        apart = copy_graph(graph)
        self._unfuse(apart)
        chosen = self._chosen(apart, PassContext())
        batches = ctx.calibration
        meter = ErrorMeter(chosen)
        for batch in batches if chosen else ():
            observe(apart, tensors_of(batch), meter.see, meter.watched)
        for node in chosen:
            ctx.measure(node, f"largest error of the replacement of {op_name(node)}", largest_error(node))
            if batches:
                ctx.measure(node, "largest error on the data", meter.found[node.name].largest)
                ctx.measure(node, "error on the data as a share", meter.found[node.name].share)


def _put(graph: Graph, node: fx.Node, *, spelt: bool) -> None:
    """Replace an activation by its approximation."""
    stand_in = STAND_INS[op_name(node)]
    made = (stand_in.spell if spelt else stand_in.write)(Writer(graph, node, node), operand(node, 0))
    node.replace_all_uses_with(made)
    graph.graph.erase_node(node)
    annotate(made, origin=note(node).origin, precision=note(node).precision)
