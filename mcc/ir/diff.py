"""Differences of two graphs: nodes added, removed, reshaped, requantised, other attributes, other weights.

Nodes are matched by name, then by origin (the nodes of the captured graph that both come from), so that a
graph can be compared with the output of passes. Graphs are compared as *views*, plain data to which other
formats can be converted, too. Quantisation is shown as a property of the quantised value, not as separate
nodes.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import fx

from mcc.ir import ops, table
from mcc.ir.graph import Graph, constant, is_constant, op_name, operand
from mcc.ir.notes import note, type_of

Kind = Literal["rewritten", "reshaped", "requantised", "attributes", "weights", "rewired"]
Status = Literal["same", "changed", "added", "removed"]

FAKE_QUANTIZE = "fake_quantize"
INT7_LARGEST = 63  # weights limited to 7 bits run from -63 to 63


@dataclass(frozen=True)
class ConstantView:
    """A constant that a node reads.

    Attributes:
        role: Name of the operand, e.g. `weight`.
        shape: Shape in elements.
        zeros: Share of zeros.
        digest: Hash of the values; empty where they cannot be compared.
        quantised: Precision in words, or None for float.
    """

    role: str
    shape: tuple[int, ...]
    zeros: float
    digest: str
    quantised: str | None = None


@dataclass(frozen=True)
class NodeView:
    """A node as plain data.

    Attributes:
        name, op: Name and operator of the node.
        type: Shape and dtype of its value, as in the text form.
        operands: Names of its operands, in order, with quantisers skipped.
        attributes: Attributes, as in the text form.
        constants: Constants that it reads.
        quantised: Scale and zero point of its value in words, or None for a float value.
        origin: Names of its nodes of origin in the captured graph.
    """

    name: str
    op: str
    type: str
    operands: tuple[str, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=lambda: {})
    constants: tuple[ConstantView, ...] = ()
    quantised: str | None = None
    origin: tuple[str, ...] = ()


@dataclass(frozen=True)
class Change:
    """A difference between two matched nodes: its kind, and the values before and after."""

    kind: Kind
    what: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.what} {self.before} -> {self.after}"


@dataclass(frozen=True)
class Entry:
    """Two matched nodes, or one node without a match."""

    a: NodeView | None
    b: NodeView | None
    changes: tuple[Change, ...] = ()

    @property
    def status(self) -> Status:
        """Status of the node: added, removed, changed, or equal."""
        if self.a is None:
            return "added"
        if self.b is None:
            return "removed"
        return "changed" if self.changes else "same"


@dataclass(frozen=True)
class GraphDiff:
    """All nodes of two graphs, matched, in the common order of both where they agree."""

    entries: tuple[Entry, ...]

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        return all(entry.status == "same" for entry in self.entries)

    def counts(self) -> dict[str, int]:
        """Numbers of nodes added, removed, with each kind of change, and equal."""
        found = {"added": 0, "removed": 0}
        for entry in self.entries:
            keys = {change.kind for change in entry.changes} if entry.status == "changed" else {entry.status}
            for key in sorted(keys):
                found[key] = found.get(key, 0) + 1
        return {key: number for key, number in found.items() if number or key in ("added", "removed")}

    def to_text(self, *, all_nodes: bool = False) -> str:
        """One line for each node that differs: `+` added, `-` removed, `~` changed; `=` with `all_nodes`."""
        signs: dict[Status, str] = {"added": "+", "removed": "-", "changed": "~", "same": "="}
        lines = [self.summary()]
        for entry in self.entries:
            shown = entry.b or entry.a
            if shown is None or (entry.status == "same" and not all_nodes):
                continue
            line = f"{signs[entry.status]} {shown.name}  {shown.op} {shown.type}"
            if entry.changes:
                line += "  " + "; ".join(str(change) for change in entry.changes)
            elif entry.status == "added" and shown.origin and shown.origin != (shown.name,):
                line += f"  from {', '.join(shown.origin)}"
            lines.append(line)
        return "\n".join(lines) + "\n"

    def summary(self) -> str:
        """The counts in one line."""
        if self.equal:
            return f"no difference in {len(self.entries)} nodes"
        words = {"attributes": "with other attributes", "weights": "with other weights", "same": "unchanged"}
        return ", ".join(f"{number} {words.get(key, key)}" for key, number in self.counts().items())


def view_graph(graph: Graph) -> list[NodeView]:
    """The inputs and operators of a canonical graph as views, in order."""
    return [
        _view(graph, node)
        for node in graph.graph.nodes
        if node.op == "placeholder" or (node.op == "call_function" and op_name(node) != FAKE_QUANTIZE)
    ]


def diff_graphs(a: Graph, b: Graph) -> GraphDiff:
    """The differences of two canonical graphs."""
    return diff_views(view_graph(a), view_graph(b))


def diff_views(a: Sequence[NodeView], b: Sequence[NodeView], *, attributes: bool = True) -> GraphDiff:
    """The differences of two graphs given as views.

    Args:
        attributes: Whether attributes are compared; False for two formats, which name them differently.
    """
    matched = _match(a, b)  # index in b -> index in a
    renamed = _renamed(a, {a[i].name: b[j].name for j, i in matched.items()})
    taken = set(matched.values())
    entries: list[Entry] = []
    done = 0
    for j, after in enumerate(b):
        i = matched.get(j)
        # Removed nodes keep their place, before the nodes that were added in their place.
        end = next((k for k in range(done, len(a)) if k in taken), len(a)) if i is None else i
        entries += [Entry(a[k], None) for k in range(done, end) if k not in taken]
        done = max(done, end if i is None else i + 1)
        if i is None:
            entries.append(Entry(None, after))
            continue
        changes = _changes(a[i], after, renamed)
        kept = [change for change in changes if attributes or change.kind != "attributes"]
        entries.append(Entry(a[i], after, tuple(kept)))
    entries += [Entry(a[k], None) for k in range(done, len(a)) if k not in taken]
    return GraphDiff(tuple(entries))


def _match(a: Sequence[NodeView], b: Sequence[NodeView]) -> dict[int, int]:
    """Index in b -> index in a: equal names first, then equal origin and operator, each node once."""
    by_name = {view.name: index for index, view in enumerate(a)}
    matched = {j: by_name[view.name] for j, view in enumerate(b) if view.name in by_name}
    free: dict[tuple[str, str], list[int]] = {}
    taken = set(matched.values())
    for index, view in enumerate(a):
        if index not in taken:
            for key in _origins(view):
                free.setdefault((view.op, key), []).append(index)
    for j, view in enumerate(b):
        if j in matched:
            continue
        candidates = (i for key in _origins(view) for i in free.get((view.op, key), ()) if i not in taken)
        found = next(candidates, None)
        if found is not None:
            matched[j] = found
            taken.add(found)
    return matched


def _renamed(a: Sequence[NodeView], matched: Mapping[str, str]) -> dict[str, str]:
    """The name in b of each value of a; a removed node with one operand has the name of that operand.

    Thus a reader does not count as rewired because a batch norm before it was folded.
    """
    renamed = dict(matched)
    for view in a:
        if view.name not in renamed and len(view.operands) == 1:
            renamed[view.name] = renamed.get(view.operands[0], view.operands[0])
    return renamed


def _origins(view: NodeView) -> Iterable[str]:
    return dict.fromkeys((view.name, *view.origin))


def _changes(a: NodeView, b: NodeView, renamed: Mapping[str, str]) -> Iterable[Change]:
    if a.op != b.op:
        yield Change("rewritten", "operator", a.op, b.op)
    if a.type != b.type:
        yield Change("reshaped", "value", a.type, b.type)
    if a.quantised != b.quantised:
        yield Change("requantised", "value", a.quantised or "float", b.quantised or "float")
    for key in dict.fromkeys((*a.attributes, *b.attributes)):
        before, after = a.attributes.get(key), b.attributes.get(key)
        if before != after:
            yield Change("attributes", key, _word(before), _word(after))
    yield from _constant_changes(a, b)
    before_names = tuple(renamed.get(name, name) for name in a.operands)
    if before_names != b.operands:
        yield Change(
            "rewired", "reads", ", ".join(a.operands) or "nothing", ", ".join(b.operands) or "nothing"
        )


def _constant_changes(a: NodeView, b: NodeView) -> Iterable[Change]:
    old, new = {c.role: c for c in a.constants}, {c.role: c for c in b.constants}
    for role in dict.fromkeys((*old, *new)):
        before, after = old.get(role), new.get(role)
        if before is None or after is None:
            present = before or after
            assert present is not None
            words = [_shape(view.shape) if view else "none" for view in (before, after)]
            yield Change("weights", role, words[0], words[1])
            continue
        if before.shape != after.shape:
            yield Change("reshaped", role, _shape(before.shape), _shape(after.shape))
        if before.quantised != after.quantised:
            yield Change("requantised", role, before.quantised or "float", after.quantised or "float")
        known = before.digest and after.digest
        if known and before.shape == after.shape and before.digest != after.digest:
            yield Change(
                "weights", role, f"{before.zeros:.0%} zeros", f"{after.zeros:.0%} zeros, other values"
            )


def _word(value: object) -> str:
    return "none" if value is None else str(value).replace(" ", "")


def _shape(shape: tuple[int, ...]) -> str:
    return f"[{','.join(map(str, shape))}]"


# -- views of canonical graphs -------------------------------------------------------------------------------


def _view(graph: Graph, node: fx.Node) -> NodeView:
    operands: list[str] = []
    constants: list[ConstantView] = []
    roles = _roles(node)
    for role, arg in zip(roles, node.args, strict=False):
        if not isinstance(arg, fx.Node):
            continue
        source = _source(arg)
        if is_constant(source):
            constants.append(_constant_view(graph, role, source, arg))
        else:
            operands.append(source.name)
    quantiser = next((user for user in node.users if _quantises(user, node)), None)
    return NodeView(
        node.name,
        "input" if node.op == "placeholder" else op_name(node),
        str(type_of(node)),
        tuple(operands),
        dict(node.kwargs),
        tuple(constants),
        None if quantiser is None else _quantisation(graph, quantiser),
        note(node).origin,
    )


def _roles(node: fx.Node) -> list[str]:
    """Names of the operands, from the signature of the operator's function."""
    if node.op != "call_function":
        return []
    names: list[str] = []
    for parameter in inspect.signature(table.row_of(node).function).parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            names += [f"{parameter.name}{index}" for index in range(len(node.args))]
        elif parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            names.append(parameter.name)
    return names


def _source(node: fx.Node) -> fx.Node:
    """The value before its quantisers."""
    while node.op == "call_function" and op_name(node) == FAKE_QUANTIZE:
        node = operand(node, 0)
    return node


def _quantises(user: fx.Node, node: fx.Node) -> bool:
    return user.op == "call_function" and op_name(user) == FAKE_QUANTIZE and user.args[0] is node


def _constant_view(graph: Graph, role: str, source: fx.Node, arg: fx.Node) -> ConstantView:
    value = constant(graph, source).detach().cpu()
    if arg is not source and arg.args[0] is source:  # the quantised value that the operator reads
        parameters = [constant(graph, operand(arg, index)).detach().cpu() for index in (1, 2)]
        value = ops.fake_quantize(value, *parameters, **arg.kwargs)
    value = value.contiguous()
    zeros = float((value == 0).double().mean()) if value.numel() else 0.0
    digest = hashlib.blake2b(value.numpy().tobytes(), digest_size=8).hexdigest()
    quantised = None if arg is source else _quantisation(graph, arg)
    return ConstantView(role, tuple(value.shape), zeros, digest, quantised)


def _quantisation(graph: Graph, quantiser: fx.Node) -> str:
    """Precision, scale and zero point of a `fake_quantize`; the scales of a vector as their range."""
    largest = int(str(quantiser.kwargs["qmax"]))
    precision = "int7" if largest <= INT7_LARGEST else "int8"
    scale = constant(graph, operand(quantiser, 1)).detach()
    zero_point = constant(graph, operand(quantiser, 2)).detach()
    if scale.numel() == 1:
        return f"{precision} scale {float(scale.reshape(())):.6g} zero {int(zero_point.reshape(()))}"
    return f"{precision} {scale.numel()} scales {float(scale.min()):.4g} to {float(scale.max()):.4g}"
