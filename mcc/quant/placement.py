"""Placement of quantisers: selection of the operators that run on integers, and of the values to quantise.

The placement is decided before the graph is changed. The precision of each node is that of its note, else the
default. Operators without weights follow their neighbours, so that no value is quantised only for a reshape
between two float layers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from torch import fx

from mcc.ir import table
from mcc.ir.graph import Graph, is_constant, op_name, operands, optional_operand
from mcc.ir.notes import note, type_of
from mcc.ir.table import MOVING, WEIGHTED
from mcc.quant.decoding import DECODES, decoding
from mcc.quant.regions import INTEGER_KERNELS


@dataclass(frozen=True)
class Placement:
    """Operators and values to quantise.

    Attributes:
        precision: `int8` or `int7` for each operator to run on integers, in graph order.
        values: Values to quantise, in graph order: the results and the other operands of these operators.
        refused: Operators requested to run on integers that cannot, with the reason.
    """

    precision: Mapping[fx.Node, str]
    values: tuple[fx.Node, ...]
    refused: Mapping[fx.Node, str]


def activation_operands(node: fx.Node) -> list[fx.Node]:
    """The activation operands of an integer kernel: all except weight and bias."""
    return operands(node)[:1] if op_name(node) in WEIGHTED else operands(node)


@dataclass(frozen=True)
class Kept:
    """Operators and values that must stay in float because of their numbers on calibration data.

    Attributes:
        nodes: Operators, with the reason.
        values: Values that no int8 grid can represent; their readers run in float, too.
    """

    nodes: Mapping[fx.Node, str] = field(default_factory=lambda: {})
    values: Mapping[fx.Node, str] = field(default_factory=lambda: {})


NOTHING_KEPT = Kept()


def place(graph: Graph, default: str, kept: Kept = NOTHING_KEPT) -> Placement:
    """Decide which operators run on integers.

    Args:
        default: `int8` or `int7`, for nodes whose note has no precision.
        kept: Operators and values that must stay in float because of their numbers.
    """
    wanted: dict[fx.Node, str] = {}
    refused: dict[fx.Node, str] = {}
    unfit, decodes = _and_moved(graph, kept.values), decoding(graph)
    for node in graph.graph.nodes:
        if node.op != "call_function":
            continue
        precision = note(node).precision or default
        reason = _float_reason(node)
        if reason is None and node in decodes and note(node).precision is None:
            refused[node] = DECODES
            continue
        numbers = None if reason or precision == "float" else _reason_of_numbers(node, kept, unfit)
        if precision != "float" and reason is None and numbers is None:
            wanted[node] = precision
        elif numbers:
            refused[node] = numbers
        elif reason and (note(node).precision in ("int8", "int7") or op_name(node) in WEIGHTED):
            refused[node] = reason
    useful = _with_purpose(wanted)
    precision = {node: wanted[node] for node in wanted if node in useful}
    return Placement(precision, _values(graph, precision), refused)


def _and_moved(graph: Graph, values: Collection[fx.Node]) -> set[fx.Node]:
    """These values, and the results of operators that only move all of their numbers."""
    found = set(values)
    for node in graph.graph.nodes:
        whole = node.op == "call_function" and op_name(node) in MOVING and op_name(node) != "slice"
        if whole and any(value in found for value in operands(node)):
            found.add(node)
    return found


def _reason_of_numbers(node: fx.Node, kept: Kept, unfit: Collection[fx.Node]) -> str | None:
    """The reason why an operator cannot run on integers because of its numbers, or None."""
    if node in kept.nodes:
        return kept.nodes[node]
    if node in kept.values:
        return kept.values[node]
    read = next((value for value in activation_operands(node) if value in unfit), None)
    return None if read is None else f"no grid of int8 holds what it reads from {read.name}"


def _float_reason(node: fx.Node) -> str | None:
    """The reason why an operator cannot run on integers, or None if it can."""
    name = op_name(node)
    found = note(node)
    if found.frozen is not None:
        return found.frozen
    if any(note(user).frozen is not None for user in node.users):
        return "a frozen node reads its value as it is"
    if table.row_of(node).scales == "float" or name not in INTEGER_KERNELS:
        return f"there is no integer kernel for {name}"
    if any(type_of(value).dtype not in ("f32", "f64") for value in operands(node)):
        return "an operand is no real number"
    if name in WEIGHTED:
        weight, bias = optional_operand(node, 1), optional_operand(node, 2)
        if weight is None or not is_constant(weight) or (bias is not None and not is_constant(bias)):
            return "its weight or bias is computed, not a constant"
    if name == "avg_pool2d" and any(_quad(node)) and not node.kwargs["count_include_pad"]:
        return "the integer kernel counts padding in the mean"
    if name == "pad" and not abs(float(str(node.kwargs["value"]))) < float("inf"):
        return "it pads with a value that no integer stands for"
    return None


def _quad(node: fx.Node) -> tuple[int, ...]:
    padding = node.kwargs["padding"]
    assert isinstance(padding, tuple)
    return tuple(int(str(amount)) for amount in padding)


def _with_purpose(wanted: Mapping[fx.Node, str]) -> set[fx.Node]:
    """The operators in connected components with a weighted one, or one whose note requests integers."""
    import networkx

    flow = networkx.Graph(
        [(value, node) for node in wanted for value in (node, *activation_operands(node)) if value in wanted]
    )
    return {
        node
        for part in networkx.connected_components(flow)
        if any(op_name(n) in WEIGHTED or note(n).precision in ("int8", "int7") for n in part)
        for node in part
    }


def _values(graph: Graph, precision: Mapping[fx.Node, str]) -> tuple[fx.Node, ...]:
    read = {value for node in precision for value in activation_operands(node)}
    return tuple(node for node in graph.graph.nodes if node in precision or node in read)
