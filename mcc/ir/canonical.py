"""Checks of the canonical form: known operators, plain attributes, correct shapes, any batch length."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from torch import fx

from mcc.errors import GraphError, VerificationError
from mcc.ir import table
from mcc.ir.graph import (
    Graph,
    constant,
    infer_call,
    infer_node,
    inputs,
    is_constant,
    op_name,
    operands,
    outputs,
)
from mcc.ir.notes import META_KEY, Note, TensorType, note, shape_of, type_of


def check_structure(graph: Graph) -> None:
    """Raise GraphError unless the graph is in canonical form: known operators with all their attributes."""
    try:
        graph.graph.lint()
    except RuntimeError as error:
        raise GraphError(f"is no well-formed graph: {str(error).splitlines()[0]}") from error
    for node in graph.graph.nodes:
        if node.op == "call_function":
            _check_call(node)
        elif is_constant(node):
            constant(graph, node)
        elif node.op not in ("placeholder", "output"):
            raise GraphError(f"node kind {node.op} is not in the canonical form", where=node.name)
        if not isinstance(node.meta.get(META_KEY, Note()), Note):
            raise GraphError("carries something that is no note", where=node.name)
    for value in outputs(graph):
        if is_constant(value):
            raise GraphError("returns a constant", where=value.name, hint="pass it through an identity")


def _check_call(node: fx.Node) -> None:
    row = table.row_of(node)
    if set(node.kwargs) != set(row.attributes):
        raise GraphError(f"{row.name} must name exactly {', '.join(row.attributes)}", where=node.name)
    if any(arg is not None and not isinstance(arg, fx.Node) for arg in node.args):
        raise GraphError(f"{row.name} has an operand that is no value", where=node.name)
    for key, value in node.kwargs.items():
        if not _is_plain(value):
            raise GraphError(f"{row.name} has a {key} that is no plain value: {value!r}", where=node.name)


def _is_plain(value: object) -> bool:
    if type(value) is tuple:
        return all(map(_is_plain, cast(tuple[object, ...], value)))
    return value is None or type(value) in (bool, int, str) or (type(value) is float and value == value)


def check_shapes(graph: Graph) -> None:
    """Check every declared type against the recomputed one, at the declared batch and at a longer one.

    Raises VerificationError where they differ, GraphError where a node does not work at another batch length.
    """
    batch = next((shape_of(node)[:1] for node in inputs(graph)), ())
    longer: dict[fx.Node, TensorType] = {}
    for node in graph.graph.nodes:
        if node.op == "output":
            continue
        declared = note(node).type
        if declared is None:
            raise VerificationError("declares no type", where=node.name)
        computed = infer_node(graph, node)
        if declared != computed:
            raise VerificationError(f"declares {declared}, but computes {computed}", where=node.name)
        constant_alone = all(longer[arg] == type_of(arg) for arg in operands(node))
        if node.op != "placeholder" and constant_alone:
            longer[node] = declared
        elif declared.shape[:1] != batch or not batch:
            raise GraphError(f"has no batch of {batch[0] if batch else 1} in {declared}", where=node.name)
        else:
            longer[node] = TensorType((batch[0] + 1, *declared.shape[1:]), declared.dtype)
            if node.op != "placeholder":
                _check_batch(node, longer)


def _check_batch(node: fx.Node, longer: Mapping[fx.Node, TensorType]) -> None:
    """Raise GraphError unless the batch length of a node's output follows its input, sample by sample."""
    try:
        found = infer_call(node, lambda arg: longer[arg])
    except GraphError as error:
        raise GraphError(f"works at one batch length only: {error.message}", where=node.name) from error
    if found != longer[node]:
        raise GraphError(f"gives {found} for a longer batch, not {longer[node]}", where=node.name)
    along = [node.kwargs.get("axis"), *cast(tuple[int, ...], node.kwargs.get("axes") or ())]
    if 0 in along:
        raise GraphError(f"{op_name(node)} works along the batch", where=node.name)
