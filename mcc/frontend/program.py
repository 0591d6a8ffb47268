"""A captured program as the importer takes it, whatever it was read from."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, OutputKind

from mcc.errors import UnsupportedError
from mcc.frontend.cut import unknown_place
from mcc.frontend.operators import is_view, written
from mcc.frontend.torch_warnings import quiet


@dataclass(frozen=True)
class Stored:
    """A tensor that the program carries: its dotted name, its value, whether it is a parameter."""

    name: str
    tensor: Tensor
    trains: bool


@dataclass(frozen=True)
class Program:
    """A graph of ATen operators and what its placeholders and outputs are.

    Attributes:
        graph: placeholders, ATen calls, one output; `meta["val"]` holds tensors without storage.
        stored: tensors by the name of their placeholder.
        inputs: names of the placeholders that the user feeds.
        outputs: names of the nodes that the user gets, in order.
        attributes: what `get_attr` nodes read.
        open_batch: whether it was exported for batches of any length.
    """

    graph: fx.Graph
    stored: Mapping[str, Stored]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=lambda: {})
    open_batch: bool = False


def from_export(exported: ExportedProgram) -> Program:
    """The program of `torch.export.export`, brought into functional form where views are written through.

    A parameter of several names goes by the first of them.

    Raises:
        UnsupportedError: the model changes its own state, carries what is no tensor, or returns nothing.
    """
    if writes_through_views(exported.graph):
        with quiet():
            exported = exported.run_decompositions({})
    first: dict[tuple[int, torch.Size], str] = {}
    for name, tensor in exported.state_dict.items():
        first.setdefault((tensor.data_ptr(), tensor.shape), name)
    graph, moved = _inlined(exported.graph_module)
    renamed = {node.name: copy.name for node, copy in moved.items()}
    stored: dict[str, Stored] = {}
    fed: list[str] = []
    for spec in exported.graph_signature.input_specs:
        place = renamed[spec.arg.name]
        if spec.kind == InputKind.USER_INPUT:
            fed.append(place)
        elif spec.target is not None:
            found = _stored(exported, spec)
            name = first.get((found.tensor.data_ptr(), found.tensor.shape), found.name)
            stored[place] = replace(found, name=name)
    results = next(node for node in exported.graph.nodes if node.op == "output").args[0]
    returned: list[str] = []
    for output, value in zip(
        exported.graph_signature.output_specs, cast(Sequence[Any], results), strict=True
    ):
        if output.kind == OutputKind.BUFFER_MUTATION:
            raise state_changes(str(output.target))
        if output.kind == OutputKind.USER_OUTPUT and isinstance(value, fx.Node):
            returned.append(moved[value].name)
    attributes = {
        str(node.target): getattr(exported.graph_module, str(node.target), None)
        for node in graph.nodes
        if node.op == "get_attr"
    }
    return Program(graph, stored, tuple(fed), tuple(returned), attributes)


def _inlined(module: fx.GraphModule) -> tuple[fx.Graph, dict[fx.Node, fx.Node]]:
    """The graph with blocks that switch autocast off put in place; and where its nodes went.

    Raises:
        UnsupportedError: a block that switches autocast on.
    """
    graph = fx.Graph()
    moved: dict[fx.Node, fx.Node] = {}
    blocks: dict[fx.Node, list[fx.Node]] = {}
    for node in module.graph.nodes:
        source = node.args[0] if node.target is operator.getitem else None
        if isinstance(source, fx.Node) and source in blocks:
            moved[node] = blocks[source][cast(int, node.args[1])]
        elif getattr(node.target, "__name__", "") == "wrap_with_autocast":
            _, _, enabled, _, block, *given = node.args
            if enabled:
                raise UnsupportedError(
                    "the model switches autocast on",
                    where=f"{node.name}",
                    hint="remove torch.autocast: mcc chooses precisions itself",
                )
            inner = getattr(module, str(cast(fx.Node, block).target))
            blocks[node] = _copied(inner.graph, graph, [moved[cast(fx.Node, arg)] for arg in given])
        else:
            moved[node] = graph.node_copy(node, lambda old: moved[old])
    return graph, moved


def _copied(block: fx.Graph, graph: fx.Graph, given: Sequence[fx.Node]) -> list[fx.Node]:
    """Copy the nodes of a block behind those of a graph; its results there."""
    places = [node for node in block.nodes if node.op == "placeholder"]
    moved = dict(zip(places, given, strict=True))
    results: list[fx.Node] = []
    for node in block.nodes:
        if node.op == "output":
            results = [moved[cast(fx.Node, value)] for value in cast(Sequence[Any], node.args[0])]
        elif node.op != "placeholder":
            moved[node] = graph.node_copy(node, lambda old: moved[old])
    return results


def as_double(program: Program) -> Program:
    """The same program with its tensors in float64."""
    stored = {
        name: replace(
            entry, tensor=entry.tensor.double() if entry.tensor.is_floating_point() else entry.tensor
        )
        for name, entry in program.stored.items()
    }
    return replace(program, stored=stored)


def interpret(program: Program, values: Sequence[Tensor]) -> list[Tensor]:
    """Run a program as it is on a batch of the captured length; its outputs."""
    root = nn.Module()
    for name, value in program.attributes.items():
        setattr(root, name, value)
    runner = fx.Interpreter(fx.GraphModule(root, program.graph))
    fed = dict(zip(program.inputs, values, strict=True))
    placeholders = [node.name for node in program.graph.nodes if node.op == "placeholder"]
    stored = {name: entry.tensor.clone() for name, entry in program.stored.items()}
    return list(runner.run(*(fed[name] if name in fed else stored[name] for name in placeholders)))


def cut_program(program: Program, cut: Sequence[str]) -> Program:
    """The program up to the named nodes, whose values it returns; its graph is changed in place.

    Raises:
        UsageError: no such node.
    """
    nodes = {node.name: node for node in program.graph.nodes if node.op == "call_function"}
    for name in cut:
        if name not in nodes:
            raise unknown_place(name, nodes, "node")
    end = next(node for node in program.graph.nodes if node.op == "output")
    end.args = (tuple(nodes[name] for name in cut),)
    program.graph.eliminate_dead_code()
    return replace(program, outputs=tuple(cut))


def state_changes(buffer: str) -> UnsupportedError:
    """The refusal of a model that keeps state."""
    return UnsupportedError(
        "is changed by every call of the model",
        where=f"buffer {buffer}",
        hint="a deployed model keeps no state: remove the update in eval mode",
    )


def _stored(exported: ExportedProgram, spec: InputSpec) -> Stored:
    name = str(spec.target)
    tensor: Any = exported.state_dict.get(name)
    if tensor is None:
        tensor = exported.constants.get(name)
    if not isinstance(tensor, Tensor):
        raise UnsupportedError("is no tensor", where=f"constant {name}", hint="mcc reads tensors only")
    return Stored(name, tensor.detach(), isinstance(tensor, nn.Parameter))


def writes_through_views(graph: fx.Graph) -> bool:
    """Whether a value is overwritten of which another view is read later."""
    root: dict[fx.Node, fx.Node] = {}
    order = {node: index for index, node in enumerate(graph.nodes)}
    family: dict[fx.Node, list[fx.Node]] = {}
    for node in graph.nodes:
        base = node.args[0] if node.args and isinstance(node.args[0], fx.Node) else None
        shares = base is not None and (is_view(node) or written(node) is not None)
        root[node] = root[base] if shares and base is not None else node
        family.setdefault(root[node], []).append(node)
    for node in graph.nodes:
        target = written(node)
        for other in family[root[target]] if target is not None else ():
            later = any(order[user] > order[node] for user in other.users)
            if other not in (target, node) and order[other] < order[node] and later:
                return True
    return False
