"""The text form of graphs: one format for logs, golden files, diffs, reproducers and bug reports.

    mcc 1
    const @w : f32[8,3,3,3]
    const @mean : f32[8] fixed
    %x = input() {} : f32[1,3,32,32]
    %y = conv2d(%x, @w, none) {stride=(2, 2), padding=(1, 1, 1, 1), ...} : f32[1,8,16,16] !{origin=('stem',)}
    return %y

`%` names a value, `@` a constant, `!{}` holds the note. `fixed` marks a constant that is not trainable. A
constant may have a generator, `= seed(3)` (normal), `= integers(3)` (-3..3) or `= full(0.5)`; otherwise its
tensor is stored beside the text. `print_graph` and `parse_graph` are inverse to each other.
"""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, fx

from mcc.errors import GraphError, MccError
from mcc.ir.graph import (
    CanonicalGraph,
    Graph,
    GraphBuilder,
    constant,
    first_line,
    inputs,
    is_constant,
    op_name,
    output_node,
    outputs,
)
from mcc.ir.interface import Interface, interface_from
from mcc.ir.labels import channel_axis, produced_axis
from mcc.ir.notes import DTYPES, Note, SparseNote, TensorType, annotate, note, shape_of, type_of
from mcc.ir.table import MISFITS, row_of

HEADER = "mcc 1"

_TYPE = r"(?P<dtype>\w+)\[(?P<shape>[\d,]*)\]"
_NOTE = r"(?:\s*!\{(?P<note>.*)\})?"
_CONST = re.compile(
    rf"const @(?P<name>\w+) : {_TYPE}(?P<fixed> fixed)?(?: = (?P<make>\w+)\((?P<seed>[-\w.+]*)\))?$", re.ASCII
)
_NODE = re.compile(
    rf"%(?P<name>\w+) = (?P<op>\w+)\((?P<args>[^)]*)\) \{{(?P<attrs>.*?)\}} : {_TYPE}{_NOTE}$", re.ASCII
)
_RETURN = re.compile(
    rf"return (?P<values>%[A-Za-z0-9_]+(?:, %[A-Za-z0-9_]+)*){_NOTE}$"
)  # with names of a file
_DEFINED = re.compile(r"^\s*%(\w+) =", re.ASCII | re.MULTILINE)
# 1 GiB of float32: more than all constants of any CNN, small enough to refuse typing errors.
_MAX_ELEMENTS = 1 << 28
# Constants that a line of text generates; larger ones are stored beside it.
_MAX_MADE_ELEMENTS = 1 << 26
# The longest lines are concatenations of hundreds of values; a longer line is not part of a graph.
_MAX_LINE = 1 << 18


_NOTED = {field.name: field.default for field in dataclasses.fields(Note) if field.name != "type"}


def _literal(value: object) -> str:
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return "1e999" if value > 0 else "-1e999"
    return repr(value)


def print_note(node: fx.Node) -> str:
    """The note of a node without its type: ` !{...}`, or an empty string."""
    found = note(node)
    parts: list[str] = []
    for name, default in _NOTED.items():
        value = getattr(found, name)
        if value == default:
            continue
        if isinstance(value, SparseNote):
            value = (value.block, value.sparsity)
        if isinstance(value, Interface):
            value = value.plain()
        parts.append(f"{name}={value!r}")
    return f" !{{{', '.join(parts)}}}" if parts else ""


def _reference(arg: object) -> str:
    if arg is None:
        return "none"
    assert isinstance(arg, fx.Node)
    return f"@{arg.target}" if is_constant(arg) else f"%{arg.name}"


def print_node(node: fx.Node) -> str:
    """One line for a placeholder or an operator node."""
    if node.op == "placeholder":
        return f"%{node.name} = input() {{}} : {type_of(node)}{print_note(node)}"
    args = ", ".join(_reference(arg) for arg in node.args)
    attrs = ", ".join(f"{key}={_literal(value)}" for key, value in node.kwargs.items())
    return f"%{node.name} = {op_name(node)}({args}) {{{attrs}}} : {type_of(node)}{print_note(node)}"


def print_graph(graph: Graph, makers: Mapping[str, str] | None = None) -> str:
    """The text form of a canonical graph.

    Args:
        makers: Generators of constants, by name, e.g. {"w": "seed(3)"}; others are stored beside the text.
    """
    lines = [HEADER]
    trains = dict(graph.named_parameters(recurse=False, remove_duplicate=False))
    seen: set[str] = set()
    for node in graph.graph.nodes:
        for arg in node.args if node.op == "call_function" else ():
            if isinstance(arg, fx.Node) and is_constant(arg) and str(arg.target) not in seen:
                name = str(arg.target)
                seen.add(name)
                fixed = "" if name in trains else " fixed"
                made = f" = {makers[name]}" if makers and name in makers else ""
                lines.append(f"const @{name} : {type_of(arg)}{fixed}{made}")
    lines += [print_node(node) for node in inputs(graph)]
    lines += [print_node(node) for node in graph.graph.nodes if node.op == "call_function"]
    returned = ", ".join(_reference(value) for value in outputs(graph))
    lines.append(f"return {returned}{print_note(output_node(graph))}")
    return "\n".join(lines) + "\n"


def make_constant(kind: str, argument: str, declared: TensorType) -> Tensor:
    """A constant from its generator: `seed(n)`, `integers(n)` or `full(v)`. Raises GraphError."""
    dtype = DTYPES[declared.dtype]
    try:
        if kind == "full":
            return torch.full(declared.shape, float(argument)).to(dtype)
        generator = torch.Generator().manual_seed(int(argument))
    except (ValueError, RuntimeError, OverflowError) as error:
        raise GraphError(f"cannot make a constant from {kind}({argument})") from error
    if kind == "seed":
        return torch.randn(declared.shape, generator=generator).to(dtype)
    if kind == "integers":
        return torch.randint(-3, 4, declared.shape, generator=generator).to(dtype)
    raise GraphError(f"unknown constant maker {kind!r}", hint="use seed, integers or full")


class _Parser:
    """Parses line by line into a builder; every error names its line."""

    def __init__(self, given: Mapping[str, Tensor], names: frozenset[str]) -> None:
        self.given = given
        self.names = names  # of the values: constants must not use them
        self.made_elements = 0
        self.builder = GraphBuilder()
        self.values: dict[str, fx.Node] = {}
        self.declared: dict[str, tuple[Tensor, bool]] = {}
        self.returned: list[fx.Node] | None = None
        self.noted: dict[str, object] = {}  # of the output node

    def line(self, text: str) -> None:
        """Parse one line. Raises MccError, ValueError, KeyError or TypeError for a malformed one."""
        if self.returned is not None:
            raise GraphError("text after the return line")
        # Without this check every `!{` on the line would be matched to the end of the line.
        if len(text) > _MAX_LINE or ("!{" in text and not text.endswith("}")):
            raise GraphError(f"cannot be read: {text[:80]!r}")
        if match := _CONST.match(text):
            self._constant(match)
        elif match := _NODE.match(text):
            self._node(match)
        elif match := _RETURN.match(text):
            self.returned = [self._value(name.strip()) for name in match["values"].split(",")]
            self.noted = {"origin": (), **_parse_note(match["note"] or "")}
        else:
            raise GraphError(f"cannot be read: {text[:80]!r}")

    def _constant(self, match: re.Match[str]) -> None:
        name, declared = match["name"], _parse_type(match)
        if name in self.declared:
            raise GraphError(f"constant @{name} is declared twice")
        if match["make"]:
            self.made_elements += declared.elements
            if self.made_elements > _MAX_MADE_ELEMENTS:
                raise GraphError("makes more constants than mcc handles")
            value = make_constant(match["make"], match["seed"], declared)
        elif name in self.given:
            value = self.given[name]
        else:
            raise GraphError(f"constant @{name} is not in the file of constants beside the graph")
        if (
            TensorType(tuple(value.shape), declared.dtype) != declared
            or value.dtype != DTYPES[declared.dtype]
        ):
            raise GraphError(f"constant @{name} is {tuple(value.shape)} {value.dtype}, declared {declared}")
        self.declared[name] = (value, match["fixed"] is None)

    def _value(self, text: str) -> fx.Node:
        if text.startswith("@") and text[1:] in self.declared:
            value, trains = self.declared[text[1:]]
            unique = text[1:]
            while unique in self.names:
                unique = f"{unique}_constant"
            return self.builder.constant(text[1:], value, trains=trains, node_name=unique)
        if text.startswith("%") and text[1:] in self.values:
            return self.values[text[1:]]
        raise GraphError(f"{text[:80]!r} is not defined before it is used")

    def _node(self, match: re.Match[str]) -> None:
        name, declared = match["name"], _parse_type(match)
        if name in self.values:
            raise GraphError(f"%{name} is defined twice")
        attributes = _parse_attributes(match["attrs"])
        if match["op"] == "input":
            node = self.builder.input(name, declared.shape, declared.dtype)
        else:
            words = [word.strip() for word in match["args"].split(",")] if match["args"].strip() else []
            args = [None if word == "none" else self._value(word) for word in words]
            node = self.builder.call(match["op"], *args, name=name, **attributes)
        if node.name != name:
            raise GraphError(f"%{name} is not a usable name", hint=f"for example %{node.name} would be")
        if type_of(node) != declared:
            raise GraphError(f"declares {declared}, but computes {type_of(node)}", where=name)
        annotate(node, **{"origin": (), **_parse_note(match["note"] or "")})
        _check_note(node)
        self.values[name] = node


def _parse_type(match: re.Match[str]) -> TensorType:
    shape = tuple(int(word) for word in match["shape"].split(",")) if match["shape"] else ()
    declared = TensorType(shape, match["dtype"])
    if declared.elements > _MAX_ELEMENTS:
        raise GraphError(f"a value of type {declared} is beyond what mcc handles")
    return declared


def _parse_attributes(text: str) -> dict[str, Any]:
    tree = ast.parse(f"f({text})", mode="eval").body
    if not isinstance(tree, ast.Call) or tree.args:
        raise GraphError(f"attributes cannot be read: {text[:80]!r}")
    found = {str(word.arg): ast.literal_eval(word.value) for word in tree.keywords}
    if len(found) != len(tree.keywords):
        raise GraphError(f"an attribute is given twice: {text[:80]!r}")
    return found


def _parse_note(text: str) -> dict[str, object]:
    fields = _parse_attributes(text)
    if isinstance(fields.get("sparse"), tuple):
        block, sparsity = cast(tuple[object, object], fields["sparse"])
        if type(block) is not int or type(sparsity) not in (int, float):
            raise GraphError(f"sparse must be a block and a sparsity, not {fields['sparse']!r:.80}")
        fields["sparse"] = SparseNote(block, float(cast(float, sparsity)))
    if "interface" in fields:
        fields["interface"] = interface_from(fields["interface"])
    unknown = set(fields) - {field.name for field in dataclasses.fields(Note)}
    if unknown or "type" in fields:
        raise GraphError(f"unknown note field {', '.join(sorted(unknown))}")
    return fields


def _check_note(node: fx.Node) -> None:
    """Raise GraphError unless a note is valid for its node: the graph may have been edited."""
    noted, shape = note(node), shape_of(node)
    decided = [name for name in ("keep", "rank", "sparse") if getattr(noted, name) is not None]
    if noted.keep is not None:
        makes = node.op == "call_function" and row_of(node).scales == "weighted"
        axis = produced_axis(op_name(node), shape) if makes else channel_axis(shape)
        width = shape[axis] if shape else 1
        if noted.keep[-1] >= width:
            raise GraphError(f"keep must name channels 0..{width - 1}, not {noted.keep[-1]}")
    if not {"rank", "sparse"} & set(decided):
        return
    weight = node.args[1] if len(node.args) > 1 else None
    if node.op != "call_function" or not isinstance(weight, fx.Node) or len(shape_of(weight)) < 2:
        raise GraphError(f"{decided[-1]} is noted, but the node has no weight of output and input channels")
    least = min(shape_of(weight)[:2])
    if noted.rank is not None and noted.rank > least:
        raise GraphError(f"rank must lie in 1..{least}, not {noted.rank}")


_MALFORMED = (*MISFITS, KeyError, SyntaxError, MemoryError)


def parse_graph(text: str, given: Mapping[str, Tensor] | None = None, *, where: str = "graph") -> Graph:
    """Parse the text form.

    Args:
        text: Output of `print_graph`.
        given: Tensors of the constants without a generator.
        where: Name of the file, for messages.

    Raises:
        GraphError: The text is malformed; the message names the line.
    """
    lines = text.splitlines()
    if not lines or lines[0].strip() != HEADER:
        raise GraphError(f"is no mcc graph: the first line must be {HEADER!r}", where=where)
    parser = _Parser(given or {}, frozenset(_DEFINED.findall(text)))
    for number, line in enumerate(lines[1:], start=2):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        try:
            parser.line(stripped)
        except MccError as error:
            raise GraphError(error.message, where=f"{where}:{number}", hint=error.hint) from error
        except _MALFORMED as error:
            reason = first_line(error)[:200]
            raise GraphError(f"malformed line: {reason}", where=f"{where}:{number}") from error
    if parser.returned is None:
        raise GraphError("has no return line", where=where)
    try:
        graph = parser.builder.finish(*parser.returned)
        annotate(output_node(graph), **parser.noted)
        return graph
    except _MALFORMED as error:  # a name that Python cannot hold as an attribute
        raise GraphError(f"cannot be built: {first_line(error)[:200]}", where=where) from error


def text_constants(graph: Graph) -> dict[str, Tensor]:
    """The constants that the text form of a graph refers to."""
    return {
        str(arg.target): constant(graph, arg)
        for node in graph.graph.nodes
        if node.op == "call_function"
        for arg in node.args
        if isinstance(arg, fx.Node) and is_constant(arg)
    }


def _reduced(graph: Graph) -> tuple[Any, ...]:
    """Reduced form of a graph for `pickle`: its text and constants."""
    held = {name: (value.detach(), value.requires_grad) for name, value in text_constants(graph).items()}
    return _from_text, (print_graph(graph), held, graph.training)


def _from_text(text: str, held: dict[str, tuple[Tensor, bool]], training: bool) -> Graph:
    graph = parse_graph(text, {name: value for name, (value, _) in held.items()})
    for name, (_, requires_grad) in held.items():
        constant(graph, name).requires_grad_(requires_grad)
    graph.train(training)
    return graph


CanonicalGraph.reduced = staticmethod(_reduced)
