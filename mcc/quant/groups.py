"""Sharing of scales between values, and exclusion of operators whose shared or fixed scales are too coarse.

Integer kernels that move numbers, pool or resize cannot change a scale: their operands and results share one,
or a requantise is between them. Softmax, sigmoid and tanh have output scales fixed by the runtime. Either can
be far too coarse for one of the values: boxes of -253..316 beside scores of 0..1. This is measured, not
derived from the operator: on its final grids, each value

* that passes a concat or a slice, or whose scale is tied or fixed, must have an SQNR of `JOIN_DB`,
* that reaches an output must have it in each group of channels with similar ranges,

unless a grid of its own would hardly be better (`HARDLY_DB`). Operators that fail stay in float, and the
placement is decided again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor, fx

from mcc.ir import table
from mcc.ir.dataflow import dataflow, descendants
from mcc.ir.graph import Graph, is_constant, op_name, operands
from mcc.ir.table import MOVING, WEIGHTED
from mcc.quant.fidelity import Grid
from mcc.quant.placement import Kept, Placement, activation_operands, place
from mcc.quant.ranges import GREATEST, Observed, Range
from mcc.quant.regions import FIXED_OUTPUTS, REQUANTISE_LIMITS

JOIN_DB = 20.0
"""Minimum SQNR of a value that passes a concat: noise of a tenth of the signal, in amplitude."""
HARDLY_DB = 3.0
"""Half a bit: a smaller loss is accepted. Numbers that are rarely non-zero have a low SQNR in int8 at any
scale."""
WIDEN_LIMIT = 2.0
"""Maximum widening of a range by tying scales; a requantise costs less than a lost bit."""

_EDGE = 1.01  # largest ratio of the range of a tied value to a fixed range
_DEAD_RATIO = 2.0**-21
"""A term smaller than the sum by this has less than `JOIN_DB` in float32, with steps of 2**-24 of the sum."""
_SUM_LEAST_RATIO = 2.0**-9
"""Minimum scale of a term over that of the sum: XNNPACK's kernel allows 2**-10, and scales may be rounded."""


@dataclass
class ScaleGroups:
    """Values that share one scale: union-find over the operators that cannot change it.

    Attributes:
        observed: Range and sample of each value by itself.
        stand_ins: Values that are evaluated in place of others: the result of a clamp for its operand.
        ranges: Ranges of the groups, by root.
        fixed: Grids fixed by the runtime, by root.
        requantised: Operators with operands or results that have a scale of their own.
        kept: Operators and values that must stay in float because of their numbers.
    """

    observed: Mapping[fx.Node, Observed]
    stand_ins: dict[fx.Node, fx.Node]
    ranges: dict[fx.Node, Range]
    fixed: dict[fx.Node, Grid] = field(default_factory=lambda: {})
    parents: dict[fx.Node, fx.Node] = field(default_factory=lambda: {})
    members: dict[fx.Node, list[fx.Node]] = field(default_factory=lambda: {})
    requantised: list[fx.Node] = field(default_factory=lambda: [])
    kept: Kept = field(default_factory=Kept)

    def root(self, value: fx.Node) -> fx.Node:
        """The representative of the group of a value."""
        while (parent := self.parents.get(value, value)) is not value:
            value = parent
        return value

    def grid(self, value: fx.Node) -> Grid:
        """Scale and zero point of a value."""
        root = self.root(value)
        return self.fixed.get(root) or self.ranges[root].grid()

    def tie(self, a: fx.Node, b: fx.Node) -> None:
        """Tie two values to one scale that covers both."""
        a, b = self.root(a), self.root(b)
        if a is b:
            return
        if b in self.fixed and a not in self.fixed:
            a, b = b, a
        self.members[a] = [*self.members.pop(a, [a]), *self.members.pop(b, [b])]
        self.parents[b] = a
        self.ranges[a] = self.ranges[a].join(self.ranges[b])

    def fits(self, a: fx.Node, b: fx.Node) -> bool:
        """Whether tying two values costs neither of them more than a bit, and respects fixed grids."""
        a, b = self.root(a), self.root(b)
        joint = self.ranges[a].join(self.ranges[b])
        for dictated in (a, b):
            if dictated in self.fixed and not _covers(self.ranges[dictated], joint):
                return False
        if a in self.fixed and b in self.fixed:
            return self.fixed[a] == self.fixed[b]
        return joint.width <= WIDEN_LIMIT * min(self.ranges[a].width, self.ranges[b].width)

    def suffering(self, a: fx.Node, b: fx.Node) -> str | None:
        """The value that would lose too much SQNR if two were tied, in words; None if none would."""
        a, b = self.root(a), self.root(b)
        if a is b:
            return None
        if a in self.fixed and b in self.fixed and self.fixed[a] != self.fixed[b]:
            return f"the runtime dictates unlike scales for {a.name} and {b.name}"
        joint = self.fixed.get(a) or self.fixed.get(b) or self.ranges[a].join(self.ranges[b]).grid()
        for value in (*self.members.get(a, [a]), *self.members.get(b, [b])):
            found = self.lost(value, joint)
            if found is not None:
                other = b if self.root(value) is a else a
                return f"{value.name} would keep {found} on one scale with {other.name}"
        return None

    def convertible(self, a: fx.Node, b: fx.Node) -> bool:
        """Whether a requantise can convert from the scale of one value to that of the other."""
        ratio = self.grid(a)[0] / self.grid(b)[0]
        return REQUANTISE_LIMITS[0] <= ratio <= REQUANTISE_LIMITS[1]

    def lost(self, value: fx.Node, *grids: Grid, of: Tensor | None = None) -> str | None:
        """The SQNR of a value after these grids, in words, if it is too low; None if it is sufficient."""
        sample = self.observed[self.stand_ins.get(value, value)].sample
        kept = sample.sqnr_db(*grids, of=of)
        if kept >= JOIN_DB or sample.best_db(of) < kept + HARDLY_DB:
            return None
        return f"{kept:.0f} dB of signal to noise, {JOIN_DB:.0f} are needed,"


def _covers(outer: Range, inner: Range) -> bool:
    return outer.low * _EDGE <= inner.low and inner.high <= outer.high * _EDGE


def decide(
    graph: Graph,
    default: str,
    observed: Mapping[fx.Node, Observed],
    reasons: Mapping[fx.Node, str] | None = None,
) -> tuple[Placement, ScaleGroups]:
    """Place quantisers and tie scales; `Placement.refused` has the operators excluded for their numbers.

    Args:
        default: `int8` or `int7`, for nodes whose note has no precision.
        observed: Range and sample of each value of `place(graph, default)`.
        reasons: Operators that stay in float regardless of their numbers, with the reason.
    """
    wide = {value: seen.range.width for value, seen in observed.items() if seen.range.width > GREATEST}
    kept = Kept(reasons or {}, {value: f"its values reach {width:.2g}" for value, width in wide.items()})
    while True:  # each round excludes at least one more operator or value, or is the last
        placement = place(graph, default, kept)
        groups = group_scales(placement, observed)
        if not (groups.kept.nodes or groups.kept.values):
            return placement, groups
        kept = Kept({**groups.kept.nodes, **kept.nodes}, {**groups.kept.values, **kept.values})


def depends_on_numbers(node: fx.Node) -> bool:
    """Whether an operator with an integer kernel may stay in float for its numbers or its operands'."""
    own = op_name(node) in (*FIXED_OUTPUTS, "add", "sub") or table.row_of(node).scales == "tied"
    reads = any(op_name(v) == "concat" for v in activation_operands(node) if v.op == "call_function")
    return own or reads or _shown(node)


def group_scales(placement: Placement, observed: Mapping[fx.Node, Observed]) -> ScaleGroups:
    """Tie the scales of operands and results where the integer kernel cannot change the scale.

    Args:
        observed: Range and sample of each value of the placement by itself.
    """
    stand_ins = {value: reader for value in placement.values if (reader := _clamp(value, placement))}
    ranges = {value: observed[stand_ins.get(value, value)].range for value in placement.values}
    groups = ScaleGroups(observed, stand_ins, ranges)
    nodes: dict[fx.Node, str] = {}
    values: dict[fx.Node, str] = {}
    groups.kept = Kept(nodes, values)
    for node in placement.precision:
        if op_name(node) in FIXED_OUTPUTS:
            scale, zero = FIXED_OUTPUTS[op_name(node)]
            if found := groups.lost(node, (scale, zero)):
                nodes[node] = f"it would keep {found} on the scale that the runtime dictates"
            groups.fixed[node] = (scale, zero)
            groups.ranges[node] = Range((-128 - zero) * scale, (127 - zero) * scale)
    tied = [node for node in placement.precision if table.row_of(node).scales == "tied"]
    for node in (n for n in tied if not _moves(n)):
        if found := groups.suffering(operands(node)[0], node):
            nodes[node] = found
        else:
            groups.tie(operands(node)[0], node)
    for node in (n for n in tied if _moves(n)):
        _tie_moving(groups, node, nodes)
    for node in placement.precision:
        if op_name(node) in ("add", "sub"):
            _lift_small_terms(groups, node, nodes)
    for node in placement.precision:
        _judge(groups, node, placement, nodes, values)
    return groups


def _clamp(value: fx.Node, placement: Placement) -> fx.Node | None:
    """The clamp that is the only reader of a value; its range then suffices for the value."""
    reader = next(iter(value.users), None)
    if reader is None or len(value.users) != 1 or reader not in placement.precision or is_constant(value):
        return None
    return reader if table.row_of(reader).clamps else None


def _moves(node: fx.Node) -> bool:
    """Whether the kernel only moves or clamps codes, so that a requantise after it is possible."""
    return op_name(node) in MOVING and node.kwargs.get("mode") != "bilinear"


def _tie_moving(groups: ScaleGroups, node: fx.Node, nodes: dict[fx.Node, str]) -> None:
    """Tie operands to the result, widest first; those that would lose more than a bit are requantised."""
    apart = False
    for value in sorted(set(operands(node)), key=lambda v: (-groups.ranges[groups.root(v)].width, v.name)):
        suffers = groups.suffering(value, node)
        if groups.fits(value, node) and not suffers:
            groups.tie(value, node)
        elif groups.convertible(value, node):
            apart = True
        elif suffers:
            nodes[node] = suffers
        else:
            groups.tie(value, node)
    if apart:
        groups.requantised.append(node)


def _lift_small_terms(groups: ScaleGroups, node: fx.Node, nodes: dict[fx.Node, str]) -> None:
    """Widen the scales of terms that are tiny compared with the sum, which the integer kernel cannot align.

    Where a term, or a value that shares its scale, would be lost on the wider one, the sum runs in float,
    except for a term that a float32 sum would lose as well, such as a branch switched off by training.
    """
    width = groups.ranges[groups.root(node)].width
    least = width * _SUM_LEAST_RATIO
    for value in operands(node):
        root = groups.root(value)
        if root in groups.fixed or groups.ranges[root].width >= least:
            continue
        lifted = groups.ranges[root].join(Range(0.0, least))
        dead = groups.ranges[root].width < width * _DEAD_RATIO
        for member in groups.members.get(root, [root]):
            others = any(u is not node and u.op != "output" for u in member.users)
            if dead and not others:
                continue
            if found := groups.lost(member, lifted.grid()):
                nodes[node] = f"{member.name} would keep {found} on the least scale that {node.name} takes"
                return
        groups.ranges[root] = lifted


def _judge(
    groups: ScaleGroups,
    node: fx.Node,
    placement: Placement,
    nodes: dict[fx.Node, str],
    values: dict[fx.Node, str],
) -> None:
    """Record the operator, or others, to be kept in float where numbers are lost in it."""
    if node in nodes and op_name(node) != "concat":
        return
    grids, way = path(groups, node, placement)
    if op_name(node) == "concat":
        # Parts that could not be tied may still be lost where the whole is read on its own integer grid.
        whole = groups.observed[node].range.grid() if node in nodes else groups.grid(node)
        for value in operands(node):
            before = path(groups, value, placement)[0]
            if found := groups.lost(value, *before, whole):
                reason = f"{value.name} would keep {found} on the scale that the parts share"
                values[node] = nodes.setdefault(node, reason)
                return
        if node in nodes:
            return
        if node in groups.requantised and not _meets_weights(node):
            nodes[node] = "its parts have unlike scales: they are joined behind the dequantisation"
            return
    elif len(way) > 1 and (found := groups.lost(node, *grids)):
        source = way[0]
        if groups.lost(node, grids[0]):  # lost at its source, a wide value of which it is a part
            nodes.update(dict.fromkeys(way, f"{node.name} would keep {found} on the scale of {source.name}"))
        else:
            nodes[node] = f"it would keep {found} on the scales that it passes"
        return
    if _shown(node):
        sample = groups.observed[groups.stand_ins.get(node, node)].sample
        for group in sample.groups if len(sample.groups) > 1 else ():
            if found := groups.lost(node, *grids, of=group):
                share = float(group.float().mean())
                reason = f"{share:.0%} of its channels would keep {found} beside the others on one scale"
                nodes.update({n: reason for n in (*way, *_behind(node)) if n in placement.precision})
                return


def path(
    groups: ScaleGroups, value: fx.Node, placement: Placement
) -> tuple[tuple[Grid, ...], tuple[fx.Node, ...]]:
    """The grids that the numbers of a value pass, from the operator that computed them, with the values."""
    way = [value]
    while way[0] in placement.precision and _moves(way[0]) and op_name(way[0]) != "concat":
        way.insert(0, activation_operands(way[0])[0])
    return tuple(groups.grid(v) for v in way), tuple(way)


def _meets_weights(node: fx.Node) -> bool:
    """Whether an operator with weights depends on a value; otherwise integers save hardly any time."""
    behind = descendants(dataflow(node.graph.nodes), node)
    return any(user.op != "output" and op_name(user) in WEIGHTED for user in behind)


def _shown(node: fx.Node) -> bool:
    """Whether a value reaches an output, directly or through operators that move it."""
    return any(u.op == "output" or (op_name(u) in MOVING and _shown(u)) for u in node.users)


def _behind(node: fx.Node) -> Iterable[fx.Node]:
    """The operators that move a value to an output."""
    for user in node.users:
        if user.op != "output" and op_name(user) in MOVING and _shown(user):
            yield user
            yield from _behind(user)
