"""drop-identity: remove operators without effect."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import fx

from mcc.errors import VerificationError
from mcc.ir.graph import Graph, calls, op_name, operand, outputs
from mcc.ir.notes import note, shape_of
from mcc.pass_api import Pass, PassContext


@dataclass(frozen=True)
class DropIdentity(Pass):
    """Remove operators whose output equals their input, and merge chains of reshapes and transposes.

    Before and after:

        %a = identity(%x)                                %c = reshape(%x) {shape=(8,)}
        %b = reshape(%a) {shape=(4, 2)}
        %c = reshape(%b) {shape=(8,)}

    Removes identity, reshape to the same shape, transpose without effect, whole slices, empty padding, concat
    of one value, resize to the same size, clamp without bounds, 1x1 pooling, relu after relu or relu6.

    Exact twin: the graph before the pass. Keeps an operator that is an output if its operand is an input or
    another output of the graph (runtimes require distinct outputs), and frozen nodes.
    """

    name: ClassVar[str] = "drop-identity"

    def run(self, graph: Graph, ctx: PassContext) -> None:
        """Remove and merge in one sweep: the operands of an operator are handled before it."""
        returned = set(outputs(graph))
        for node in calls(graph):
            if note(node).frozen is not None:
                continue
            while _merge(node):
                ctx.count("chains shortened")
            if is_identity(node) and _may_go(node, returned):
                if node in returned:
                    returned.add(operand(node, 0))
                node.replace_all_uses_with(operand(node, 0))
                graph.graph.erase_node(node)
                ctx.count("operators dropped")

    def ensures(self, graph: Graph) -> None:
        """Raise VerificationError if an identity is left."""
        returned = set(outputs(graph))
        for node in calls(graph):
            if note(node).frozen is None and is_identity(node) and _may_go(node, returned):
                raise VerificationError("was not dropped", where=node.name)


_SAME: dict[str, Callable[[fx.Node, tuple[int, ...]], bool]] = {
    "identity": lambda node, shape: True,
    "reshape": lambda node, shape: node.kwargs["shape"] == shape[1:],
    "transpose": lambda node, shape: node.kwargs["perm"] == tuple(range(len(shape))),
    "slice": lambda node, shape: shape_of(node) == shape,
    "pad": lambda node, shape: shape_of(node) == shape,
    "concat": lambda node, shape: len(node.args) == 1,
    "resize": lambda node, shape: node.kwargs["size"] == shape[2:],
    "clamp": lambda node, shape: (node.kwargs["min"], node.kwargs["max"]) == (-float("inf"), float("inf")),
    "max_pool2d": lambda node, shape: _is_single(node),
    "avg_pool2d": lambda node, shape: _is_single(node),
    "relu": lambda node, shape: _clamps(operand(node, 0), "relu", "relu6"),
    "relu6": lambda node, shape: _clamps(operand(node, 0), "relu6"),
}


def is_identity(node: fx.Node) -> bool:
    """Whether an operator returns its first operand unchanged."""
    test = _SAME.get(op_name(node))
    return test is not None and test(node, shape_of(operand(node, 0)))


def _is_single(node: fx.Node) -> bool:
    kwargs: dict[str, Any] = dict(node.kwargs)
    return kwargs["kernel"] == kwargs["stride"] == (1, 1) and kwargs["padding"] == (0, 0, 0, 0)


def _clamps(node: fx.Node, *names: str) -> bool:
    """Whether a value has already passed one of these activations."""
    return node.op == "call_function" and (op_name(node) in names or node.kwargs.get("activation") in names)


def _may_go(node: fx.Node, returned: set[fx.Node]) -> bool:
    source = operand(node, 0)
    return node not in returned or (source.op == "call_function" and source not in returned)


def _merge(node: fx.Node) -> bool:
    """Let a reshape or transpose read through the same operator before it."""
    name = op_name(node)
    if name not in ("reshape", "transpose"):
        return False
    source = operand(node, 0)
    if source.op != "call_function" or op_name(source) != name or note(source).frozen is not None:
        return False
    if name == "transpose":
        first: Any = source.kwargs["perm"]
        second: Any = node.kwargs["perm"]
        node.kwargs = {"perm": tuple(first[axis] for axis in second)}
    node.args = (operand(source, 0),)
    return True
