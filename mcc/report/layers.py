"""The layers of a model: operators, sizes, and the possible compression of each, with reasons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import fx

from mcc.analysis.channel_groups import ChannelGroup, analyse_channels
from mcc.analysis.pointwise import is_pointwise
from mcc.analysis.sparse_cluster import SparseCluster, find_sparse_cluster
from mcc.ir import table
from mcc.ir.feed import Feed
from mcc.ir.graph import Graph, calls, constant, is_constant, op_name, operand
from mcc.ir.notes import note, shape_of, type_of
from mcc.quant.groups import decide, depends_on_numbers
from mcc.quant.placement import place
from mcc.quant.ranges import observe_values
from mcc.report.schema import Count, Frozen
from mcc.runtime.facts import TargetFacts

FAKE_QUANTIZE = "fake_quantize"
CALIBRATION = "calibration data"


class Move(Frozen):
    """Whether a kind of compression is possible for a layer, with the reason if not.

    Attributes:
        possible: Whether it is possible, as far as is known.
        why_not: The reason, if it is not possible.
        depends_on: The missing input that decides it.
    """

    possible: bool
    why_not: str | None = None
    depends_on: str | None = None


class Layer(Frozen):
    """One operator of a graph.

    Attributes:
        node, kind: Name of the node; description of its operator and kernel.
        shape: Shape of its value, batch first.
        macs: Multiply-accumulates of one inference.
        params: Number of weights that this layer reads alone, or first.
        weight_bytes: Size of those weights as float32.
        activation_bytes: Size of its value as float32.
        prune, sparse, low_rank, int8: Possible compression; absent for operators without weights, except
            int8.
        group: Name of the channel group of its output.
    """

    node: str
    kind: str
    shape: tuple[int, ...]
    macs: Count
    params: Count
    weight_bytes: Count
    activation_bytes: Count
    prune: Move | None = None
    sparse: Move | None = None
    low_rank: Move | None = None
    int8: Move
    group: str | None = None


@dataclass(frozen=True)
class _SparseRules:
    """A target's rules for sparse 1x1 convolutions, and the cluster that has to run sparse as a whole."""

    facts: TargetFacts
    cluster: SparseCluster

    def why_not(self, node: fx.Node) -> str | None:
        """The reason why zeros in a plain 1x1 convolution save no time there; None if they do."""
        if not self.facts.sparse_1x1:
            return self.facts.sparse_why
        if node.name in self.cluster.pointwise:
            return None
        return self.cluster.reason or "lies outside the cluster that runs sparse"


def inspect_layers(
    graph: Graph, facts: TargetFacts | None = None, calibration: Sequence[Feed] = ()
) -> tuple[Layer, ...]:
    """The operators of a canonical graph in order, without quantisers.

    Args:
        facts: Facts of the target; None: only the graph's own restrictions are stated.
        calibration: Calibration batches that decide whether int8 can hold a layer; without, that is left
            open.
    """
    integers = _integers(graph, calibration)
    groups = {producer: group for group in analyse_channels(graph).groups for producer in group.producers}
    seen: set[str] = set()
    sparse = None if facts is None else _SparseRules(facts, find_sparse_cluster(graph))
    return tuple(
        _layer(graph, node, groups, sparse, seen, integers)
        for node in graph.graph.nodes
        if node.op == "call_function" and op_name(node) != FAKE_QUANTIZE
    )


def kind_words(node: fx.Node) -> str:
    """Description of operator and kernel: `conv2d 1x1`, `depthwise 3x3`, `linear`."""
    name = op_name(node)
    if name not in ("conv2d", "conv_transpose2d"):
        return name
    weight = shape_of(operand(node, 1))
    groups = int(str(node.kwargs["groups"]))
    depthwise = name == "conv2d" and groups == weight[0] > 1 and weight[1] == 1
    kind = "depthwise" if depthwise else name
    words = f"{kind} {weight[2]}x{weight[3]}"
    return f"{words} in {groups} groups" if groups > 1 and not depthwise else words


def _layer(
    graph: Graph,
    node: fx.Node,
    groups: Mapping[str, ChannelGroup],
    rules: _SparseRules | None,
    seen: set[str],
    integers: Mapping[fx.Node, Move],
) -> Layer:
    row = table.row_of(node)
    types = [type_of(arg) if isinstance(arg, fx.Node) else None for arg in node.args]
    params = _new_params(graph, node, seen)
    weighted = row.scales == "weighted"
    group = groups.get(node.name)
    return Layer(
        node=node.name,
        kind=kind_words(node),
        shape=shape_of(node),
        macs=row.macs(types, dict(node.kwargs), type_of(node)),
        params=params,
        weight_bytes=4 * params,
        activation_bytes=type_of(node).size_bytes,
        prune=_prune(node, group) if weighted else None,
        sparse=_sparse(node, rules) if weighted else None,
        low_rank=_low_rank(node) if weighted else None,
        int8=integers.get(node) or _int8(node),
        group=None if group is None else group.name,
    )


def _new_params(graph: Graph, node: fx.Node, seen: set[str]) -> int:
    """Number of elements of the constants that no earlier layer reads."""
    total = 0
    for arg in node.args:
        source = arg
        while (
            isinstance(source, fx.Node) and source.op == "call_function" and op_name(source) == FAKE_QUANTIZE
        ):
            source = operand(source, 0)
        if isinstance(source, fx.Node) and is_constant(source) and str(source.target) not in seen:
            seen.add(str(source.target))
            total += constant(graph, source).numel()
    return total


def _prune(node: fx.Node, group: ChannelGroup | None) -> Move:
    if note(node).frozen is not None:
        return Move(possible=False, why_not=note(node).frozen)
    if not is_constant(operand(node, 1)):
        return Move(possible=False, why_not="has a weight that is quantised already")
    if group is None:
        return Move(possible=False, why_not="its output channels belong to no group")
    return Move(possible=group.frozen is None, why_not=group.frozen)


def _sparse(node: fx.Node, rules: _SparseRules | None) -> Move:
    reason = note(node).frozen or _not_pointwise(node)
    if reason is None and rules is not None:
        reason = rules.why_not(node)
    return Move(possible=reason is None, why_not=reason)


def _low_rank(node: fx.Node) -> Move:
    reason = note(node).frozen or _not_pointwise(node)
    if reason is None and note(node).rank is not None:
        reason = "is half of a low-rank pair already"
    return Move(possible=reason is None, why_not=reason)


def _not_pointwise(node: fx.Node) -> str | None:
    """The reason why a layer is no plain 1x1 convolution; None if it is one."""
    if op_name(node) != "conv2d":
        return f"is no convolution but {op_name(node)}"
    kernel = shape_of(operand(node, 1))[2:]
    if kernel != (1, 1):
        return f"is {kernel[0]}x{kernel[1]}, not 1x1"
    if is_pointwise(node):
        return None
    if not is_constant(operand(node, 1)):
        return "has a weight that is quantised already"
    if node.kwargs["groups"] != 1:
        return "is grouped"
    return "has a stride" if node.kwargs["stride"] != (1, 1) else "is padded, or shares its weight"


def _integers(graph: Graph, calibration: Sequence[Feed]) -> dict[fx.Node, Move]:
    """Decision of `insert-qdq` for each operator that it considers; empty for a quantised graph."""
    if calls(graph, FAKE_QUANTIZE):
        return {}
    placement = place(graph, "int8")
    if calibration and placement.values:
        observed = observe_values(graph, placement.values, calibration, "mse")
        placement, _ = decide(graph, "int8", observed)
    found = {node: Move(possible=False, why_not=reason) for node, reason in placement.refused.items()}
    if not calibration:
        open_ = Move(possible=True, depends_on=CALIBRATION)
        found |= {node: open_ for node in placement.precision if depends_on_numbers(node)}
    return found


def _int8(node: fx.Node) -> Move:
    if note(node).frozen is not None:
        return Move(possible=False, why_not=note(node).frozen)
    if table.row_of(node).scales == "float":
        return Move(possible=False, why_not="has no integer kernel: it runs in float")
    return Move(possible=True)
