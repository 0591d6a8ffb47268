"""From an exported program (`torch.export`) to a canonical graph, operator by operator.

Export keeps convolutions, norms and activations whole, but leaves operators that write in place. A written
value is renamed: later readers get the result. Where a view of the written value is read later, too, the
program is brought into functional form first.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, OutputKind

# The tables of rules register themselves when they are imported.
from mcc.errors import UnsupportedError
from mcc.frontend import aten_arithmetic, aten_reduce, aten_shape, aten_weights
from mcc.frontend.aten import Result, translate
from mcc.frontend.emitter import Emitter, declared
from mcc.frontend.quiet import quiet
from mcc.frontend.values import AnyValue, Const, Expanded, canonical_name
from mcc.ir.graph import Graph, clean

__all__ = ["aten_arithmetic", "aten_reduce", "aten_shape", "aten_weights", "from_exported"]

_SIDE_EFFECTS = ("_assert", "sym_constrain", "_assert_tensor_metadata")
_SOURCE = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')


def from_exported(program: ExportedProgram) -> Graph:
    """Translate an exported program into a canonical graph at declared batch 1.

    Raises:
        UnsupportedError: an operator or construct outside the canonical form, with its place.
    """
    if _needs_functional_form(program.graph):
        with quiet():
            program = program.run_decompositions({})
    return _Importer(program).run()


def _is_view(node: fx.Node) -> bool:
    """Whether the result of a node shares storage with its first operand (by schema; dropout in eval does)."""
    target = node.target
    if target is operator.getitem:
        return True
    if not isinstance(target, torch._ops.OpOverload):
        return False
    if "dropout" in target._schema.name or target._schema.name in ("aten::contiguous", "aten::reshape"):
        return True
    returned = target._schema.returns
    return bool(returned) and returned[0].alias_info is not None and not returned[0].alias_info.is_write


def _written(node: fx.Node) -> fx.Node | None:
    """The value that a node overwrites, if any."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable and node.args:
        first = node.args[0]
        return first if isinstance(first, fx.Node) else None
    return None


def _needs_functional_form(graph: fx.Graph) -> bool:
    """Whether a written value is read later through another view, or twice written through one."""
    root: dict[fx.Node, fx.Node] = {}
    order = {node: index for index, node in enumerate(graph.nodes)}
    family: dict[fx.Node, list[fx.Node]] = {}
    for node in graph.nodes:
        base = node.args[0] if node.args and isinstance(node.args[0], fx.Node) else None
        shares = base is not None and (_is_view(node) or _written(node) is not None)
        root[node] = root[base] if shares and base is not None else node
        family.setdefault(root[node], []).append(node)
    for node in graph.nodes:
        written = _written(node)
        if written is None:
            continue
        for other in family[root[written]]:
            later = any(order[user] > order[node] for user in other.users)
            if other not in (written, node) and order[other] < order[node] and later:
                return True
    return False


class _Importer:
    """Walks the nodes of a program; `values` maps them to canonical values, lists, or plain data."""

    def __init__(self, program: ExportedProgram) -> None:
        self.program = program
        self.values: dict[fx.Node, Any] = {}
        self.specs = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
        self.tensors: dict[tuple[int, ...], Const] = {}
        users = {spec.arg.name for spec in self.specs.values() if spec.kind == InputKind.USER_INPUT}
        self.inputs = [n for n in program.graph.nodes if n.op == "placeholder" and n.name in users]
        self.emitter = Emitter(self._batch())

    def _batch(self) -> int:
        lengths: set[int] = set()
        for node in self.inputs:
            value = node.meta.get("val")
            if not isinstance(value, Tensor):
                raise UnsupportedError("is not a tensor", where=f"input {node.name}")
            if value.dim() == 0 or any(not isinstance(n, int) for n in value.shape[1:]):
                raise UnsupportedError(
                    f"has the shape {tuple(value.shape)}, but only its batch axis may vary",
                    where=f"input {node.name}",
                    hint="export the model with a static shape",
                )
            length: Any = value.shape[0]
            lengths.add(length if isinstance(length, int) else _hint_of(length))
        if len(lengths) != 1:
            raise UnsupportedError(
                f"the inputs have different batch lengths {sorted(lengths)}", hint="give each a batch axis 0"
            )
        return lengths.pop()

    def run(self) -> Graph:
        """Translate all nodes that the outputs need."""
        needed = self._needed()
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                self._placeholder(node)
            elif node.op == "call_function" and node in needed:
                self._at(node)
                self._call(node)
            elif node.op == "get_attr":
                self.values[node] = getattr(self.program.graph_module, str(node.target), None)
        return clean(self.emitter.finish(self._outputs()))

    def _needed(self) -> set[fx.Node]:
        """Nodes that outputs depend on, through operands or through writing into an operand."""
        needed: set[fx.Node] = set()
        writers: dict[fx.Node, list[fx.Node]] = {}
        for node in self.program.graph.nodes:
            written = _written(node)
            if written is not None:
                writers.setdefault(written, []).append(node)
        output = next(node for node in self.program.graph.nodes if node.op == "output")
        stack = list(output.all_input_nodes)
        while stack:
            node = stack.pop()
            if node not in needed:
                needed.add(node)
                stack += [*node.all_input_nodes, *writers.get(node, ())]
        return needed

    # -- inputs and constants ------------------------------------------------------------------------------

    def _placeholder(self, node: fx.Node) -> None:
        spec = self.specs[node.name]
        if spec.kind != InputKind.USER_INPUT:
            self.values[node] = self._constant(spec)
            return
        value = cast(Tensor, node.meta["val"])
        if value.dtype != torch.float32:
            raise UnsupportedError(
                f"is {value.dtype}, but mcc reads float32", where=f"input {node.name}",
                hint="give the model a float32 example input",
            )  # fmt: skip
        shape = declared([self.emitter.batch, *map(int, value.shape[1:])]).shape
        self.values[node] = self.emitter.builder.input(canonical_name(node.name), shape)

    def _constant(self, spec: InputSpec) -> object:
        target = spec.target
        if target is None:
            return None
        tensor = self.program.state_dict.get(target)
        if tensor is None:
            tensor = cast(dict[str, Any], self.program.constants).get(target)
        if not isinstance(tensor, Tensor):
            raise UnsupportedError("is no tensor", where=f"constant {target}", hint="mcc reads tensors only")
        # Parameters shared under several names are one constant.
        key = (tensor.data_ptr() or id(tensor), tensor.storage_offset(), *tensor.shape, -1, *tensor.stride())
        if key not in self.tensors:
            trains = isinstance(tensor, nn.Parameter)
            self.tensors[key] = Const(tensor.detach(), canonical_name(target), trains)
        return self.tensors[key]

    # -- operators -----------------------------------------------------------------------------------------

    def _at(self, node: fx.Node) -> None:
        """Tell the emitter where in the model we are."""
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        path, kind = (str(stack[-1][0]).split("@")[0], str(stack[-1][1])) if stack else ("", "")
        base = _base_name(node)
        leaf = kind.startswith("torch.nn.modules") and path
        self.emitter.hint = canonical_name(path if leaf else f"{path}.{base}" if path else base)
        self.emitter.path = path or base
        source = _source(node)
        self.emitter.place = f"{path or 'model'} ({source})" if source else path or "model"
        value = node.meta.get("val")
        first = value[0] if isinstance(value, tuple | list) and value else value
        self.emitter.out = _static(first.shape) if isinstance(first, Tensor) else ()

    def _call(self, node: fx.Node) -> None:
        if node.target is operator.getitem:
            source, index = cast(tuple[fx.Node, int], node.args)
            self.values[node] = self._item(self.values[source], index)
            return
        if not isinstance(node.target, torch._ops.OpOverload):
            self._other_call(node)
            return
        if node.target._schema.name.split("::")[1].startswith(_SIDE_EFFECTS):
            return
        if "wrap_with" in str(node.target):
            self._other_call(node)
            return
        args = [self._argument(arg) for arg in node.args]
        kwargs = {key: self._argument(arg) for key, arg in node.kwargs.items()}
        result = self._fold(node, args, kwargs)
        if result is None:
            result = translate(self.emitter, node.target, args, kwargs)
        self.values[node] = result
        written = _written(node)
        if written is not None:
            self.values[written] = result

    def _item(self, values: Any, index: int) -> AnyValue:
        if isinstance(values, list | tuple):
            if index < len(values):
                return values[index]
            self.emitter.refuse("uses positions or indices of a maximum", "return values only")
        if index == 0:
            return values
        self.emitter.refuse("uses a second result that the canonical form does not have")

    def _other_call(self, node: fx.Node) -> None:
        name = getattr(node.target, "__name__", str(node.target))
        self.emitter.refuse(f"{name} is not supported", "remove the construct from the model's forward")

    def _argument(self, arg: Any) -> Any:
        if isinstance(arg, fx.Node):
            return self.values.get(arg)
        if isinstance(arg, list | tuple):
            return [self._argument(item) for item in arg]
        return arg

    def _fold(self, node: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Result | None:
        """Evaluate an operator whose result does not depend on the input; None where it does."""
        target = cast(torch._ops.OpOverload, node.target)
        flat = [value for item in (*args, *kwargs.values()) for value in _flatten(item)]
        shapes_only = target._schema.name.removeprefix("aten::").startswith(_CREATION)
        if not shapes_only and any(isinstance(value, fx.Node | Expanded) for value in flat):
            return None
        if torch.Tag.nondeterministic_seeded in target.tags:
            self.emitter.refuse("draws random numbers", "call .eval() on the model or remove the noise")
        consts = [value for value in flat if isinstance(value, Const)]
        name = consts[0].name if consts else self.emitter.hint
        trains = any(const.trains for const in consts) and not shapes_only
        private = target._schema.is_mutable
        raw = [self._evaluated(arg, private) for arg in args]
        options = {key: self._evaluated(arg, private) for key, arg in kwargs.items()}
        with torch.no_grad():
            result = target(*raw, **options)
        if isinstance(result, Tensor):
            return Const(result, name, trains)
        return [Const(item, name, trains) for item in result]

    def _evaluated(self, value: Any, private: bool) -> Any:
        """The tensor of a constant; for a value of the graph, one of its shape (for `zeros_like`)."""
        if isinstance(value, Const):
            return value.tensor.clone() if private else value.tensor
        if isinstance(value, fx.Node | Expanded):
            return torch.zeros((self.emitter.batch, *self.emitter.shape(value)[1:]))
        return [self._evaluated(item, private) for item in value] if isinstance(value, list) else value

    # -- outputs -------------------------------------------------------------------------------------------

    def _outputs(self) -> list[AnyValue]:
        found: list[AnyValue] = []
        by_name = {node.name: node for node in self.program.graph.nodes}
        for spec in self.program.graph_signature.output_specs:
            name = getattr(spec.arg, "name", None)
            if spec.kind == OutputKind.USER_OUTPUT and name in by_name:
                found.append(self.values[by_name[name]])
            elif spec.kind == OutputKind.BUFFER_MUTATION:
                raise UnsupportedError(
                    "is changed by every call of the model", where=f"buffer {spec.target}",
                    hint="a deployed model keeps no state: remove the update in eval mode",
                )  # fmt: skip
        if not found:
            raise UnsupportedError("the model returns no tensor", hint="return what it computes")
        return found


_CREATION = (
    "zeros_like",
    "ones_like",
    "full_like",
    "empty_like",
    "new_zeros",
    "new_ones",
    "new_full",
    "new_empty",
)


def _flatten(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else [value]


def _hint_of(length: Any) -> int:
    """The example length of a symbolic axis."""
    return int(length.node.hint)


def _static(shape: Sequence[Any]) -> tuple[int, ...]:
    """A shape as numbers; empty where it depends on values."""
    if all(isinstance(n, int) for n in shape):
        return tuple(shape)
    rest = shape[1:]
    if all(isinstance(n, int) for n in rest) and getattr(shape[0].node, "hint", None) is not None:
        return (_hint_of(shape[0]), *rest)
    return ()


def _base_name(node: fx.Node) -> str:
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.split("::")[1].strip("_")
    return node.name


def _source(node: fx.Node) -> str:
    """`file.py:12` of the innermost line of the model that is not torch's own."""
    for match in reversed(list(_SOURCE.finditer(node.meta.get("stack_trace") or ""))):
        if "/torch/" not in match["file"]:
            return f"{match['file'].rsplit('/', 1)[-1]}:{match['line']}"
    return ""
