"""From a program of ATen operators to a canonical graph, operator by operator.

Programs keep convolutions, norms and activations whole, but hold operators that write in place. A written
value is renamed: later readers get the result.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import PurePath
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

# The tables of rules register themselves when they are imported.
from mcc.errors import UnsupportedError
from mcc.frontend import (
    aten_arithmetic,
    aten_compare,
    aten_products,
    aten_reduce,
    aten_resize,
    aten_rows,
    aten_shape,
    aten_weights,
    gather,
    recurrent,
)
from mcc.frontend.allowance import Allowance
from mcc.frontend.aten import Result, translate
from mcc.frontend.batch import Places
from mcc.frontend.cut import naming_cut
from mcc.frontend.emitter import MAX_ELEMENTS, Emitter
from mcc.frontend.operators import draws, is_aten, is_pure, operator_of, result_bytes, written
from mcc.frontend.program import Program, state_changes
from mcc.frontend.values import AnyValue, Const, Expanded, Row, Turned, canonical_name, graph_nodes
from mcc.ir.dataflow import ancestors, dataflow
from mcc.ir.graph import Graph

__all__ = [
    "aten_arithmetic",
    "aten_compare",
    "aten_products",
    "aten_reduce",
    "aten_resize",
    "aten_rows",
    "aten_shape",
    "aten_weights",
    "gather",
    "import_program",
    "places_of",
    "recurrent",
]

_ASSERTIONS = ("_assert", "sym_constrain")
_CREATION = ("zeros_like", "ones_like", "full_like", "empty_like", "new_")
_ON_NUMBERS = (
    *(operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod, operator.truediv),
    *(operator.neg, math.floor, math.ceil, math.trunc),
)
_SOURCE = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')
_TORCH_FOLDERS = frozenset({"torch"})


class Imported(NamedTuple):
    """A canonical graph, and where the model has the batch axis of each of its outputs."""

    graph: Graph
    places: Places


def import_program(program: Program) -> Imported:
    """Translate a program into a canonical graph of declared batch 1.

    Raises:
        UnsupportedError: an operator or construct outside the canonical form, with its place.
    """
    return _Importer(program).run()


def places_of(program: Program) -> dict[str, str]:
    """Where a program can be cut: the nodes of its canonical graph, each with the node of the program.

    They reach as far as mcc can read the program.
    """
    importer = _Importer(program)
    with suppress(UnsupportedError):
        importer.walk()
    found: dict[str, str] = {}
    for node, value in importer.values.items():
        for place in graph_nodes(value) if node.op == "call_function" else ():
            found.setdefault(place.name, node.name)
    return found


class _Importer:
    """Walks the nodes of a program; `values` maps them to canonical values, lists, or plain data."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.values: dict[fx.Node, Any] = {}
        self.tensors: dict[tuple[Any, ...], Const] = {}
        self.nodes = {node.name: node for node in program.graph.nodes}
        self.emitter = Emitter(self._batch())
        tensors = [stored.tensor for stored in program.stored.values()]
        self.allowance = Allowance(sum(tensor.nbytes for tensor in tensors if not tensor.is_meta))

    def _batch(self) -> int:
        """The common batch length of the inputs."""
        lengths: set[int] = set()
        for name in self.program.inputs:
            value = self.nodes[name].meta.get("val")
            if not isinstance(value, Tensor):
                raise UnsupportedError("is not a tensor", where=f"input {name}")
            if value.dtype != torch.float32:
                raise UnsupportedError(
                    f"is {value.dtype}, but mcc reads float32",
                    where=f"input {name}",
                    hint="give the model a float32 example input",
                )
            shape = static_shape(value)
            if not shape:
                raise UnsupportedError(
                    f"has the shape {tuple(value.shape)}, but only its batch axis may vary",
                    where=f"input {name}",
                    hint="export the model with a static shape",
                )
            if math.prod(shape) > MAX_ELEMENTS:
                raise UnsupportedError(f"of shape {shape} is beyond what mcc handles", where=f"input {name}")
            lengths.add(shape[0])
        if len(lengths) != 1:
            found = ", ".join(map(str, sorted(lengths))) or "none"
            raise UnsupportedError(
                f"the inputs do not share one batch length ({found})", hint="give each a batch axis 0"
            )
        return lengths.pop()

    def run(self) -> Imported:
        """Translate all nodes that the outputs need, and close the graph."""
        self.walk()
        outputs = [self.values[self.nodes[name]] for name in self.program.outputs]
        if not outputs:
            raise UnsupportedError("the model returns no tensor", hint="return what it computes")
        graph = self.emitter.finish(outputs)
        return Imported(graph, tuple(self.emitter.output_places))

    def walk(self) -> None:
        """Translate all nodes that the outputs need."""
        needed = self._needed()
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                self._placeholder(node)
            elif node.op == "get_attr":
                self.values[node] = self._attribute(node)
            elif node.op == "call_function" and node in needed:
                self._at(node)
                with naming_cut(lambda node=node: self._read_by(node)):
                    self._call(node)

    def _read_by(self, node: fx.Node) -> list[str]:
        """Names of the computed values that a node reads: places to cut."""
        values = [self.values.get(source) for source in node.all_input_nodes]
        return [place.name for value in values for place in graph_nodes(value)]

    def _needed(self) -> set[fx.Node]:
        """Nodes that outputs depend on, through operands or through writing into an operand."""
        flow = dataflow(self.program.graph.nodes)
        for node in self.program.graph.nodes:
            target = written(node)
            if target is not None and target.name in self.program.stored:
                raise state_changes(self.program.stored[target.name].name)
            if target is not None:
                flow.add_edge(node, target)
        return ancestors(flow, *(self.nodes[name] for name in self.program.outputs))

    # -- inputs and constants ------------------------------------------------------------------------------

    def _placeholder(self, node: fx.Node) -> None:
        if node.name in self.program.inputs:
            shape = static_shape(node.meta["val"])
            self.values[node] = self.emitter.builder.input(canonical_name(node.name), (1, *shape[1:]))
        elif node.name in self.program.stored:
            stored = self.program.stored[node.name]
            self.values[node] = self._constant(stored.tensor, stored.name, stored.trains)

    def _constant(self, tensor: Tensor, name: str, trains: bool) -> Const:
        """Parameters shared under several names are one constant."""
        place = tensor.data_ptr() or id(tensor)
        key = (place, tensor.dtype, tuple(tensor.shape), tuple(tensor.stride()))
        return self.tensors.setdefault(key, Const(tensor, canonical_name(name), trains))

    def _attribute(self, node: fx.Node) -> Any:
        value = self.program.attributes.get(str(node.target))
        return self._constant(value, str(node.target), False) if isinstance(value, Tensor) else value

    # -- operators -----------------------------------------------------------------------------------------

    def _at(self, node: fx.Node) -> None:
        """Tell the emitter where in the model we are."""
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        path, kind = (str(stack[-1][0]).split("@")[0], str(stack[-1][1])) if stack else ("", "")
        base = operator_of(node.target).packet.strip("_") if is_aten(node.target) else node.name
        leaf = kind.startswith("torch.nn.modules") and path
        self.emitter.hint = canonical_name(path if leaf else f"{path}.{base}" if path else base)
        self.emitter.path = path or base
        source = _source(node)
        self.emitter.place = f"{path or 'model'} ({source})" if source else path or "model"
        value = node.meta.get("val")
        first = value[0] if isinstance(value, tuple | list) and value else value
        self.emitter.out = static_shape(first) if isinstance(first, Tensor) else ()

    def _call(self, node: fx.Node) -> None:
        args = [self._argument(arg) for arg in node.args]
        kwargs = {key: self._argument(arg) for key, arg in node.kwargs.items()}
        target: Any = node.target
        if target is operator.getitem:
            self.values[node] = self._item(args[0], args[1])
        elif target in _ON_NUMBERS and all(isinstance(arg, int | float) for arg in args):
            self.values[node] = target(*args)
        elif not is_aten(target):
            name = getattr(target, "__name__", str(target))
            self.emitter.refuse(f"{name} is not supported", "remove the construct from the model's forward")
        elif operator_of(target).packet.startswith(_ASSERTIONS):
            return
        elif operator_of(target).packet == "sym_size":
            self.values[node] = self.emitter.captured_shape(args[0])[args[1]]
        else:
            self._operator(node, target, args, kwargs)

    def _operator(self, node: fx.Node, target: Any, args: list[Any], kwargs: dict[str, Any]) -> None:
        result = self._fold(target, args, kwargs)
        if result is None:
            result = translate(self.emitter, target, args, kwargs)
        self.values[node] = result
        overwritten = written(node)
        if overwritten is not None:
            self.values[overwritten] = result

    def _item(self, values: Any, index: int) -> AnyValue:
        if isinstance(values, list | tuple) and index < len(values):
            return values[index]
        if index == 0 and not isinstance(values, list | tuple):
            return values
        self.emitter.refuse("uses positions or other second results of an operator", "return values only")

    def _argument(self, arg: Any) -> Any:
        if isinstance(arg, fx.Node):
            if arg not in self.values:
                self.emitter.refuse(f"reads {arg.name}, which has no value")
            return self.values[arg]
        if isinstance(arg, list | tuple):
            return [self._argument(item) for item in arg]
        return arg

    def _fold(self, target: Any, args: list[Any], kwargs: dict[str, Any]) -> Result | None:
        """Evaluate an operator whose result does not depend on the input; None where it does."""
        flat = [value for item in (*args, *kwargs.values()) for value in _flatten(item)]
        shapes_only = operator_of(target).packet.startswith(_CREATION)
        if not shapes_only and any(isinstance(value, fx.Node | Expanded | Turned | Row) for value in flat):
            return None
        if draws(target):
            self.emitter.refuse("draws random numbers", "call .eval() on the model or remove the noise")
        if not is_pure(target):
            return None
        consts = [value for value in flat if isinstance(value, Const)]
        name = consts[0].name if consts and not shapes_only else self.emitter.hint
        trains = any(const.trains for const in consts) and not shapes_only
        private = operator_of(target).mutable
        raw = [self._evaluated(arg, private) for arg in args]
        options = {key: self._evaluated(arg, private) for key, arg in kwargs.items()}
        made_bytes = result_bytes(target, raw, options)
        if made_bytes > (_bytes(raw) if operator_of(target).view else 0):
            self.allowance.take(made_bytes, where=f"{self.emitter.place}: {operator_of(target).packet}")
        with torch.no_grad():
            result = target(*raw, **options)
        if isinstance(result, Tensor):
            return Const(result, name, trains)
        if isinstance(result, tuple | list):
            return [Const(item, name, trains) for item in result]
        self.emitter.refuse("reads a number out of a constant", "compute it when the model is built")

    def _evaluated(self, value: Any, private: bool) -> Any:
        """The tensor of a constant; for a value of the graph, one of its shape (for `zeros_like`)."""
        if isinstance(value, Const):
            return value.tensor.clone() if private else value.tensor
        if isinstance(value, fx.Node | Expanded | Turned | Row):
            return torch.zeros(self.emitter.captured_shape(value))
        return [self._evaluated(item, private) for item in value] if isinstance(value, list) else value


def _bytes(values: Sequence[Any]) -> int:
    """Of the tensors among them."""
    return sum(v.nbytes for value in values for v in _flatten(value) if isinstance(v, Tensor))


def _flatten(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else [value]


def static_shape(value: Tensor) -> tuple[int, ...]:
    """The shape of a value, a symbolic batch by its example length; empty where it depends on values."""
    shape: list[Any] = list(value.shape)
    if not all(isinstance(length, int) for length in shape[1:]):
        return ()
    if shape and not isinstance(shape[0], int):
        example = getattr(shape[0].node, "hint", None)
        return () if example is None else (int(example), *shape[1:])
    return tuple(shape)


def _source(node: fx.Node) -> str:
    """`file.py:12` of the innermost line of the model that is not torch's own."""
    for match in reversed(list(_SOURCE.finditer(node.meta.get("stack_trace") or ""))):
        path = PurePath(match["file"])
        if not _TORCH_FOLDERS & set(path.parts[:-1]):
            return f"{path.name}:{match['line']}"
    return ""
