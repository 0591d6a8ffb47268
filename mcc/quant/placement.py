"""Where quantisers belong: which operators run on integers, which values that concerns, which share a scale.

Decided before anything is edited. Precision is decided for each node: its note, else the default. Operators
without weights have no wish of their own: they follow their neighbours, so that no value is quantised for the
sake of a reshape between two float layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import fx

from mcc.ir import table
from mcc.ir.graph import Graph, is_constant, op_name, operands, optional_operand
from mcc.ir.notes import note, type_of
from mcc.quant.ranges import Range
from mcc.quant.regions import FIXED_OUTPUTS, INTEGER_KERNELS, MOVING, REQUANTISE_LIMITS, WEIGHTED

WIDEN_LIMIT = 2.0
"""Tying scales may widen no value's range beyond this; a requantise costs less than a lost bit."""

CLAMPS = frozenset({"relu", "relu6", "clamp"})
_EDGE = 1.01  # share of a dictated range by which a value tied to it may overhang


@dataclass(frozen=True)
class Placement:
    """What shall be quantised.

    Attributes:
        precision: `int8` or `int7` for each operator that shall run on integers, in graph order.
        values: the values to be quantised, in graph order: results of these operators, their other operands.
        refused: operators asked to run on integers that cannot, with the reason.
    """

    precision: Mapping[fx.Node, str]
    values: tuple[fx.Node, ...]
    refused: Mapping[fx.Node, str]


def activation_operands(node: fx.Node) -> list[fx.Node]:
    """The operands that an integer kernel takes as activations: all but weight and bias."""
    return operands(node)[:1] if op_name(node) in WEIGHTED else operands(node)


def place(graph: Graph, default: str) -> Placement:
    """Decide which operators run on integers.

    Args:
        default: `int8` or `int7`, for nodes whose note says nothing.
    """
    wanted: dict[fx.Node, str] = {}
    refused: dict[fx.Node, str] = {}
    for node in graph.graph.nodes:
        if node.op != "call_function":
            continue
        precision = note(node).precision or default
        reason = _float_reason(node)
        if precision != "float" and reason is None:
            wanted[node] = precision
        elif reason and (note(node).precision in ("int8", "int7") or op_name(node) in WEIGHTED):
            refused[node] = reason
    kept = _with_purpose(wanted)
    precision = {node: wanted[node] for node in wanted if node in kept}
    return Placement(precision, _values(graph, precision), refused)


def _float_reason(node: fx.Node) -> str | None:
    """Why an operator cannot run on integers, or None if it can."""
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
    """The operators in connected parts that hold a weighted one, or one whose note asks for integers."""
    kept: set[fx.Node] = set()
    seen: set[fx.Node] = set()
    for start in wanted:
        if start in seen:
            continue
        part, front = {start}, [start]
        while front:
            node = front.pop()
            near = [n for n in (*activation_operands(node), *node.users) if n in wanted and n not in part]
            part.update(near)
            front.extend(near)
        seen |= part
        if any(op_name(n) in WEIGHTED or note(n).precision in ("int8", "int7") for n in part):
            kept |= part
    return kept


def _values(graph: Graph, precision: Mapping[fx.Node, str]) -> tuple[fx.Node, ...]:
    read = {value for node in precision for value in activation_operands(node)}
    return tuple(node for node in graph.graph.nodes if node in precision or node in read)


@dataclass
class ScaleGroups:
    """Values that share one scale: union-find over the operators that cannot change it."""

    ranges: dict[fx.Node, Range]
    fixed: dict[fx.Node, tuple[float, int]] = field(default_factory=lambda: {})
    parents: dict[fx.Node, fx.Node] = field(default_factory=lambda: {})
    requantised: list[fx.Node] = field(default_factory=lambda: [])

    def root(self, value: fx.Node) -> fx.Node:
        """The value that stands for its group."""
        while (parent := self.parents.get(value, value)) is not value:
            value = parent
        return value

    def grid(self, value: fx.Node) -> tuple[float, int]:
        """Scale and zero point of a value."""
        root = self.root(value)
        return self.fixed.get(root) or self.ranges[root].grid()

    def tie(self, a: fx.Node, b: fx.Node) -> None:
        """Give two values one scale that covers both."""
        a, b = self.root(a), self.root(b)
        if a is b:
            return
        if b in self.fixed and a not in self.fixed:
            a, b = b, a
        self.parents[b] = a
        self.ranges[a] = self.ranges[a].join(self.ranges[b])

    def fits(self, a: fx.Node, b: fx.Node) -> bool:
        """Whether tying two values costs neither more than a bit, and keeps what the runtime dictates."""
        a, b = self.root(a), self.root(b)
        joint = self.ranges[a].join(self.ranges[b])
        for dictated in (a, b):
            if dictated in self.fixed and not _covers(self.ranges[dictated], joint):
                return False
        if a in self.fixed and b in self.fixed:
            return self.fixed[a] == self.fixed[b]
        return joint.width <= WIDEN_LIMIT * min(self.ranges[a].width, self.ranges[b].width)

    def convertible(self, a: fx.Node, b: fx.Node) -> bool:
        """Whether a requantise can lead from the scale of one to that of the other."""
        ratio = self.grid(a)[0] / self.grid(b)[0]
        return REQUANTISE_LIMITS[0] <= ratio <= REQUANTISE_LIMITS[1]


def _covers(outer: Range, inner: Range) -> bool:
    return outer.low * _EDGE <= inner.low and inner.high <= outer.high * _EDGE


def group_scales(placement: Placement, ranges: Mapping[fx.Node, Range]) -> ScaleGroups:
    """Tie the scales of operands and results where the integer kernel cannot change the scale.

    Args:
        ranges: the range of each value of the placement by itself.
    """
    groups = ScaleGroups({value: _needed(value, ranges) for value in placement.values})
    for node in placement.precision:
        if op_name(node) in FIXED_OUTPUTS:
            scale, zero = FIXED_OUTPUTS[op_name(node)]
            groups.fixed[node] = (scale, zero)
            groups.ranges[node] = Range((-128 - zero) * scale, (127 - zero) * scale)
    tied = [node for node in placement.precision if table.row_of(node).scales == "tied"]
    computing = [node for node in tied if not _moves(node)]
    for node in computing:
        groups.tie(operands(node)[0], node)
    for node in tied:
        if node not in computing:
            _tie_moving(groups, node)
    for node in placement.precision:
        if op_name(node) in ("add", "sub"):
            _lift_small_terms(groups, node)
    return groups


def _needed(value: fx.Node, ranges: Mapping[fx.Node, Range]) -> Range:
    """The range of a value; only the part that its reader lets through, where that is one clamp."""
    reader = next(iter(value.users), None)
    if reader is None or len(value.users) != 1 or reader not in ranges or is_constant(value):
        return ranges[value]
    return ranges[reader] if op_name(reader) in CLAMPS else ranges[value]


def _moves(node: fx.Node) -> bool:
    """Whether the kernel only moves or clamps codes, so that a requantise behind it is possible."""
    return op_name(node) in MOVING and node.kwargs.get("mode") != "bilinear"


def _tie_moving(groups: ScaleGroups, node: fx.Node) -> None:
    """Tie operands to the result, widest first; leave to a requantise those that would lose over a bit."""
    apart = False
    for value in sorted(set(operands(node)), key=lambda v: (-groups.ranges[groups.root(v)].width, v.name)):
        if groups.fits(value, node) or not groups.convertible(value, node):
            groups.tie(value, node)
        else:
            apart = True
    if apart:
        groups.requantised.append(node)


_SUM_LEAST_RATIO = 2.0**-9
"""Least scale of a term over that of the sum: XNNPACK's kernel takes 2**-10, and a scale may be rounded."""


def _lift_small_terms(groups: ScaleGroups, node: fx.Node) -> None:
    """Widen terms that are next to nothing beside the sum, which the integer kernel could not align."""
    least = groups.ranges[groups.root(node)].width * _SUM_LEAST_RATIO
    for value in operands(node):
        root = groups.root(value)
        if root not in groups.fixed and groups.ranges[root].width < least:
            groups.ranges[root] = groups.ranges[root].join(Range(0.0, least))
