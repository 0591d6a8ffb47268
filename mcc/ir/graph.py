"""Building, reading and copying canonical graphs.

A canonical graph is a `torch.fx.GraphModule` whose nodes are placeholders, `get_attr` constants registered
on the root, calls of `mcc.ir.ops` functions with all attributes given, and one output: a tuple of values.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import keyword
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, fx, nn
from torch.fx._lazy_graph_module import _LazyGraphModule  # pyright: ignore[reportPrivateUsage]

from mcc.errors import GraphError
from mcc.ir import table
from mcc.ir.dataflow import ancestors, dataflow
from mcc.ir.feed import Feed, Taken, tensors_of
from mcc.ir.notes import DTYPE_NAMES, META_KEY, TensorType, annotate, note, type_of

Graph = fx.GraphModule


def op_name(node: fx.Node) -> str:
    """Name of the operator of a `call_function` node; the node kind for other nodes."""
    if node.op != "call_function":
        return node.op
    return table.row_of(node).name


def is_constant(node: fx.Node) -> bool:
    """Whether the node reads a constant (parameter or buffer)."""
    return node.op == "get_attr"


def constant(graph: Graph, node: fx.Node | str) -> Tensor:
    """The tensor of a `get_attr` node or constant name. Raises GraphError when it is missing."""
    name = node if isinstance(node, str) else str(node.target)
    value = getattr(graph, name, None)
    if not isinstance(value, Tensor):
        raise GraphError("no such constant in the graph", where=name)
    return value


def set_constant(graph: Graph, name: str, value: Tensor) -> None:
    """Register or replace a constant: a floating-point one as a trainable parameter, others as buffers.

    Optimisers must not update running statistics and quantisation parameters: names that were registered
    as buffers stay buffers.
    """
    was_buffer = False
    if hasattr(graph, name):
        was_buffer = not isinstance(getattr(graph, name), nn.Parameter)
        delattr(graph, name)
    if was_buffer or not value.is_floating_point():
        graph.register_buffer(name, value.detach())
    else:
        graph.register_parameter(name, nn.Parameter(value.detach()))


def set_buffer(graph: Graph, name: str, value: Tensor) -> None:
    """Register or replace a constant that is not trainable (statistics, scales, zero points)."""
    if hasattr(graph, name):
        delattr(graph, name)
    graph.register_buffer(name, value.detach())


def constants(graph: Graph) -> dict[str, Tensor]:
    """All constants read by nodes of the graph, by name, in the order of first use."""
    return {str(node.target): constant(graph, node) for node in graph.graph.nodes if is_constant(node)}


def inputs(graph: Graph) -> list[fx.Node]:
    """The placeholders, in order."""
    return [node for node in graph.graph.nodes if node.op == "placeholder"]


def output_node(graph: Graph) -> fx.Node:
    """The output node."""
    return next(node for node in reversed(list(graph.graph.nodes)) if node.op == "output")


def outputs(graph: Graph) -> list[fx.Node]:
    """The values that the graph returns, in order."""
    return list(_returned(graph))


def _returned(graph: Graph) -> Iterator[fx.Node]:
    returned = output_node(graph).args[0]
    values: Iterable[Any] = returned if isinstance(returned, tuple | list) else (returned,)
    for value in values:
        if not isinstance(value, fx.Node):
            raise GraphError(f"the graph returns {value!r}, which is no value", where="output")
        yield value


def weights_of(graph: Graph) -> dict[str, Tensor]:
    """The trainable constants, by name."""
    return dict(graph.named_parameters(recurse=False, remove_duplicate=False))


def calls(graph: Graph, *names: str) -> list[fx.Node]:
    """The operator nodes in order; only those of the named operators, if any are named."""
    found = [node for node in graph.graph.nodes if node.op == "call_function"]
    return [node for node in found if op_name(node) in names] if names else found


def live_nodes(graph: Graph) -> list[fx.Node]:
    """The nodes that an output depends on, in order."""
    needed = ancestors(dataflow(graph.graph.nodes), *outputs(graph))
    return [node for node in graph.graph.nodes if node in needed]


def operand(node: fx.Node, index: int) -> fx.Node:
    """Tensor operand `index` of a node. Raises GraphError when it is absent."""
    value = node.args[index] if index < len(node.args) else None
    if not isinstance(value, fx.Node):
        raise GraphError(f"operand {index} of {op_name(node)} is missing", where=node.name)
    return value


def optional_operand(node: fx.Node, index: int) -> fx.Node | None:
    """Tensor operand `index` of a node, or None when it is absent (a convolution without bias)."""
    value = node.args[index] if index < len(node.args) else None
    return value if isinstance(value, fx.Node) else None


def operands(node: fx.Node) -> list[fx.Node]:
    """All tensor operands that are present, in order, repeated where a value is used twice."""
    return [arg for arg in node.args if isinstance(arg, fx.Node)]


def infer_node(graph: Graph, node: fx.Node) -> TensorType:
    """Compute the type of one node from those of its operands. Raises GraphError when shapes do not fit."""
    if is_constant(node):
        return tensor_type(constant(graph, node), node.name)
    if node.op == "placeholder":
        return type_of(node)
    return infer_call(node, type_of)


def infer_call(node: fx.Node, known: Callable[[fx.Node], TensorType]) -> TensorType:
    """The type of an operator node from the types of its operands. Raises GraphError when they do not fit."""
    row = table.row_of(node)
    try:
        types = [known(arg) if isinstance(arg, fx.Node) else None for arg in node.args]
        return row.infer(types, dict(node.kwargs))
    except table.MISFITS as error:
        raise GraphError(
            f"{row.name} does not fit its operands: {first_line(error)}", where=node.name
        ) from error


def tensor_type(value: Tensor, name: str) -> TensorType:
    """The type of a tensor. Raises GraphError for an element type outside the canonical form."""
    if value.dtype not in DTYPE_NAMES:
        raise GraphError(f"has elements of {value.dtype}, which mcc does not know", where=name)
    try:
        return TensorType(tuple(value.shape), DTYPE_NAMES[value.dtype])
    except ValueError as error:
        raise GraphError(str(error), where=name) from error


def first_line(error: Exception) -> str:
    """The first line of an error's message, or the error's type where it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def infer(graph: Graph) -> Graph:
    """Recompute and note the type of every node, in place. Raises GraphError when shapes do not fit."""
    for node in graph.graph.nodes:
        if node.op != "output" and note(node).type != (found := infer_node(graph, node)):
            annotate(node, type=found)
    return graph


def copy_graph(graph: Graph) -> Graph:
    """A deep copy with its own nodes, notes and constants.

    Constants are copied on write: a verification holds up to six copies of a network.
    """
    twin = GraphBuilder().finish_empty()
    # A tensor under two names is two constants here: each name has its own copy.
    for name, value in graph.named_buffers(recurse=False, remove_duplicate=False):
        twin.register_buffer(name, _copied_on_write(value))
    for name, value in graph.named_parameters(recurse=False, remove_duplicate=False):
        copied = nn.Parameter(_copied_on_write(value), requires_grad=value.requires_grad)
        twin.register_parameter(name, copied)
    new = fx.Graph()
    mapping: dict[fx.Node, fx.Node] = {}
    for node in graph.graph.nodes:
        mapping[node] = _copy_node(node, new, mapping)
    new.set_codegen(copy.deepcopy(graph.graph._codegen))  # pyright: ignore[reportPrivateUsage]
    twin.graph = new
    twin.train(graph.training)
    return twin


def _copy_node(node: fx.Node, into: fx.Graph, mapping: Mapping[fx.Node, fx.Node]) -> fx.Node:
    """Copy a node of a canonical graph to the end of another.

    `fx.Graph.node_copy` and `create_node` traverse all arguments as nested containers, which took two
    thirds of the time of a copy; canonical operands are flat, and attributes plain.
    """
    copied = into.create_node(node.op, node.target, name=node.name)
    if node.op == "call_function":
        copied.args = tuple([mapping[arg] if isinstance(arg, fx.Node) else arg for arg in node.args])
        copied.kwargs = node.kwargs
    else:
        copied.args = fx.map_arg(node.args, lambda arg: mapping[arg])
    copied.meta[META_KEY] = note(node)
    return copied


def _copied_on_write(value: Tensor) -> Tensor:
    """A copy on write: it takes memory only when it or the original is written to.

    Views, and memory not owned by torch (numpy's, a mapped file's), are copied immediately.
    """
    if value.untyped_storage().nbytes() == value.numel() * value.element_size():
        with contextlib.suppress(RuntimeError):
            return torch._lazy_clone(value.detach())  # pyright: ignore
    return value.detach().clone()


def clean(graph: Graph) -> Graph:
    """Remove operator and constant nodes without readers and unused constants, in place; recompile."""
    for node in reversed(list(graph.graph.nodes)):
        if node.op in ("call_function", "get_attr") and not node.users:
            graph.graph.erase_node(node)
    used = {str(node.target) for node in graph.graph.nodes if is_constant(node)}
    stored = [name for name, _ in graph.named_parameters(recurse=False, remove_duplicate=False)]
    stored += [name for name, _ in graph.named_buffers(recurse=False, remove_duplicate=False)]
    for name in stored:
        if name not in used:
            delattr(graph, name)
    graph.recompile()
    return graph


def add_constant(graph: Graph, before: fx.Node, name: str, value: Tensor, *, trains: bool = True) -> fx.Node:
    """Insert a `get_attr` node for a new constant before a node.

    Args:
        name: Requested name; made unique by a numbered suffix.
        trains: Whether it is trainable; False for statistics, scales and zero points.
    """
    unique, count = name, 1
    while hasattr(graph, unique):
        unique, count = f"{name}_{count}", count + 1
    (set_constant if trains else set_buffer)(graph, unique, value)
    with graph.graph.inserting_before(before):
        node = graph.graph.get_attr(unique)
    node.meta[META_KEY] = note(node)
    annotate(node, type=tensor_type(value, unique))
    return node


def add_call(
    graph: Graph, before: fx.Node, op: str, *args: fx.Node | None, name: str | None = None, **attributes: Any
) -> fx.Node:
    """Insert an operator node before a node and infer its type. Raises GraphError when it does not fit."""
    row = table.row(op)
    with graph.graph.inserting_before(before):
        node = graph.graph.create_node("call_function", row.function, args, attributes, name=name)
    annotate(node, type=infer_node(graph, node))
    return node


class CanonicalGraph(_LazyGraphModule):
    """A graph module that pickles as its text form and constants, and generates its code when first run.

    FX would pickle the generated code and trace it again: into the operators, and without the notes. Most
    graphs of a pipeline are never run; generating code for each took a tenth of the time of a verification.
    """

    @property
    def code(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The Python code. Raises RuntimeError before there is a graph: no constant may have this name."""
        if "_graph" not in self.__dict__:
            raise RuntimeError("code is a reserved name of FX")
        return super().code

    reduced: ClassVar[Callable[[Graph], tuple[Any, ...]] | None] = None
    """Function that pickles a graph, set by `mcc.ir.text`, which imports this file."""

    def __reduce__(self) -> tuple[Any, ...]:
        reduced = CanonicalGraph.reduced
        if reduced is None:
            raise TypeError("a graph is pickled as its text: import mcc.ir.text first")
        return reduced(self)


class GraphBuilder:
    """Builds a canonical graph step by step; used by frontends, the parser, micro-models and tests.

    Example:
        b = GraphBuilder()
        x = b.input("x", (1, 3, 32, 32))
        w = b.constant("w", torch.randn(8, 3, 3, 3))
        y = b.conv2d(x, w, None, stride=(2, 2), padding=(1, 1, 1, 1))
        graph = b.finish(y)
    """

    def __init__(self) -> None:
        self.module = nn.Module()
        self.graph = fx.Graph()
        self.constants: dict[str, fx.Node] = {}

    def input(self, name: str, shape: tuple[int, ...], dtype: str = "f32") -> fx.Node:
        """A placeholder of the given shape (axis 0 is the batch)."""
        node = self.graph.placeholder(name)
        annotate(node, type=TensorType(tuple(shape), dtype), origin=(node.name,))
        return node

    def constant(
        self, name: str, value: Tensor, *, trains: bool = True, node_name: str | None = None
    ) -> fx.Node:
        """A constant; the same name returns the same node (a shared weight), which `node_name` may name."""
        if name in self.constants:
            return self.constants[name]
        if not name.isidentifier() or keyword.iskeyword(name) or hasattr(self.module, name):
            raise GraphError(
                f"@{name} is not a usable name", hint="it becomes an attribute of a torch module"
            )
        if trains and value.is_floating_point():
            self.module.register_parameter(name, nn.Parameter(value.detach()))
        else:
            self.module.register_buffer(name, value.detach())
        node = self.graph.create_node("get_attr", name, name=node_name or name)
        annotate(node, type=tensor_type(value, name), origin=(name,))
        self.constants[name] = node
        return node

    def call(self, op: str, *args: fx.Node | None, name: str | None = None, **attributes: Any) -> fx.Node:
        """An operator; attributes left out take the defaults of the op table. Raises GraphError."""
        row = table.row(op)
        node = self.graph.create_node(
            "call_function", row.function, args, row.complete(attributes), name=name
        )
        try:
            annotate(node, type=infer_call(node, type_of), origin=(node.name,))
        except GraphError:
            self.graph.erase_node(node)  # the builder is left unchanged
            raise
        return node

    def __getattr__(self, op: str) -> Any:
        if op.startswith("_") or op not in table.TABLE:
            raise AttributeError(op)
        return functools.partial(self.call, op)

    def finish(self, *values: fx.Node) -> Graph:
        """Close the graph with its outputs and return it as a module."""
        node = self.graph.output(tuple(values))
        node.meta[META_KEY] = note(node)
        return self.finish_empty()

    def finish_empty(self) -> Graph:
        """The module in its present state, possibly without output."""
        graph = CanonicalGraph(self.module, self.graph, class_name="CanonicalGraph")
        graph.eval()
        return graph


def taken_by(graph: Graph) -> Taken:
    """Shape of the only input, or shapes of several by name; with the batch."""
    shapes = {node.name: type_of(node).shape for node in inputs(graph)}
    return shapes if len(shapes) > 1 else next(iter(shapes.values()))


def run(graph: Graph, *values: Feed) -> tuple[Tensor, ...]:
    """Evaluate the graph on a batch, without gradients, and return the outputs as a tuple.

    The evaluation is node by node, each value freed after its last use: most graphs of a verification are
    run two or three times, and generating and compiling their code took longer.
    """
    given = [tensor for value in values for tensor in tensors_of(value)]
    known: dict[fx.Node, Tensor] = dict(zip(inputs(graph), given, strict=True))
    last_reader = {arg: node for node in graph.graph.nodes for arg in node.all_input_nodes}
    with torch.no_grad():
        for node in graph.graph.nodes:
            if is_constant(node):
                known[node] = constant(graph, node)
            elif node.op == "call_function":
                function = cast(Callable[..., Tensor], node.target)
                read = [known[arg] if isinstance(arg, fx.Node) else arg for arg in node.args]
                value = function(*read, **node.kwargs)
                if node.users:
                    known[node] = value
                for arg in node.all_input_nodes:
                    if last_reader[arg] is node:
                        del known[arg]
    return tuple(known[value] for value in outputs(graph))
