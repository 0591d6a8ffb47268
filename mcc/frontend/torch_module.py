"""From an `nn.Module` to a canonical graph, by `torch.export`.

Export was chosen over symbolic tracing after trying both: it takes 0.2 to 0.4 s for the CIFAR networks, sees
through functional style, in-place operators, reused modules and loops over shapes, and names the line where
the way through a model depends on values. The model runs at a batch of 2, so that an axis of length 2 in
front is the batch and not one the model squeezes; where it insists on a batch of 1, it is captured at 1. What
was captured at 2 is compared with the model at 1, too (see `mcc.frontend.batch`).
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_flatten_with_path

from mcc.errors import MccError, UnsupportedError, UsageError, VerificationError
from mcc.frontend.batch import (
    CAPTURE_BATCH,
    DEPLOYED_BATCH,
    Original,
    Places,
    check_one_sample,
    in_both_precisions,
    in_front,
    relative_difference,
    warn_of_moved,
)
from mcc.frontend.cut import cut_graph, is_module_cut, stopped_at
from mcc.frontend.importer import Imported, import_program, static_shape
from mcc.frontend.node_cut import UpToNodes
from mcc.frontend.program import Program, as_double, from_export, interpret
from mcc.frontend.torch_warnings import quiet
from mcc.ir.graph import Graph, run
from mcc.ir.limits import MAX_NODES, check_count
from mcc.user_code import user_place

log = logging.getLogger(__name__)

# As they are dispatched: views and copies that become no node are among them.
MAX_OPERATORS = 4 * MAX_NODES

# float32 has 24 bits; sums of some thousand terms in another order differ by some units of 2**-24, and only a
# graph that spells an operator differently (layer norm, say) sums in another order at all.
TOLERANCE_FLOAT32 = 1e-6
# Beyond that the comparison is repeated in float64: 2**-53 times the depth of a network is below this.
TOLERANCE_FLOAT64 = 1e-9
# What float32 may lose against another order of sums over the depth of a network; more is another function.
LARGEST_FLOAT32 = 1e-3


def capture(module: nn.Module, example_inputs: Sequence[Tensor], cut: Sequence[str] = ()) -> Graph:
    """Capture a module in eval mode as a canonical graph of declared batch 1, and check its numbers.

    Args:
        module: any module on float32 tensors whose axis 0 is the batch; it is left as it was.
        example_inputs: one tensor for each positional input, of any batch length; only the shapes matter.
        cut: where the captured part ends, behind which nothing need be readable: paths of modules, or names
            of nodes of the graph; what is there becomes the outputs. None: the whole module.

    Raises:
        UsageError: the module does not run on such inputs, or there is no such place to cut.
        UnsupportedError: control flow that depends on values, an operator outside the canonical form, or an
            output that depends on the length of the batch.
        VerificationError: the captured graph computes other numbers than the module.
    """
    _check_kind(module)
    shapes = [_checked(index, value) for index, value in enumerate(example_inputs)]
    if cut and not is_module_cut(module, cut):
        found = _capture_to_nodes(module, shapes, cut)
        return cut_graph(capture(module, example_inputs), cut) if found is None else found
    with _eval_mode(module), torch.no_grad():
        try:
            graph, places = _capture_at(module, shapes, CAPTURE_BATCH, cut)
        except MccError as first:
            if isinstance(first, VerificationError):
                raise
            try:
                graph, places = _capture_at(module, shapes, DEPLOYED_BATCH, cut)
            except MccError as second:
                told = first
                if isinstance(first, UsageError) and isinstance(second, UsageError):
                    told = _without_batch_axis(module, example_inputs, cut) or second
                raise told from told.__cause__
        else:
            _check_one_sample(module, graph, places, shapes, cut)
    warn_of_moved(places)
    return graph


def _capture_to_nodes(
    module: nn.Module, shapes: Sequence[tuple[int, ...]], cut: Sequence[str]
) -> Graph | None:
    """The part up to nodes of the graph; None where they cannot be told apart in an exported program."""
    original = up_to_nodes(module, cut)
    with _eval_mode(module), torch.no_grad():
        try:
            graph, places = _capture_nodes_at(original, shapes, CAPTURE_BATCH)
        except VerificationError:
            raise
        except MccError:
            try:
                graph, places = _capture_nodes_at(original, shapes, DEPLOYED_BATCH)
            except MccError:
                return None
        else:
            reference = in_front(original.in_double, places)
            disagreement = in_both_precisions(TOLERANCE_FLOAT32, TOLERANCE_FLOAT64, reference)
            single = in_front(original, places)
            check_one_sample(graph, single, shapes, disagreement, captured=CAPTURE_BATCH)
    warn_of_moved(places)
    return graph


def _capture_nodes_at(original: UpToNodes, shapes: Sequence[tuple[int, ...]], batch: int) -> Imported:
    values = _random_batch(shapes, batch)
    imported = import_program(original.program(tuple(tuple(value.shape) for value in values)))
    expected = in_front(original, imported.places)(values)
    _verify(imported.graph, values, expected, in_front(original.in_double, imported.places))
    return imported


def up_to_nodes(module: nn.Module, cut: Sequence[str]) -> UpToNodes:
    """What a module computes up to nodes of its canonical graph."""

    def export(shapes: tuple[tuple[int, ...], ...]) -> Program:
        with _eval_mode(module), torch.no_grad():
            return _exported(module, [torch.zeros(shape) for shape in shapes])

    return UpToNodes(export, cut)


def _check_one_sample(
    module: nn.Module, graph: Graph, places: Places, shapes: Sequence[tuple[int, ...]], cut: Sequence[str]
) -> None:
    original, reference = _originals(module, cut, places)
    disagreement = in_both_precisions(TOLERANCE_FLOAT32, TOLERANCE_FLOAT64, reference)
    check_one_sample(graph, original, shapes, disagreement, captured=CAPTURE_BATCH)


def _originals(module: nn.Module, cut: Sequence[str], places: Places) -> tuple[Original, Original]:
    """The module itself in float32 and in float64, the batch axes of its outputs in front."""
    single = in_front(lambda values: _run_module(module, values, cut), places)
    return single, in_front(lambda values: _run_module(copy.deepcopy(module).double(), values, cut), places)


def run_original(module: nn.Module, values: Sequence[Tensor], cut: Sequence[str] = ()) -> list[Tensor]:
    """What the module itself returns in eval mode, flattened, or what modules inside it return.

    Raises UsageError where it does not run.
    """
    with _eval_mode(module), torch.no_grad():
        return _run_module(module, values, cut)


def capture_program(program: Program) -> Graph:
    """Translate a program that was read from a file, and check that the graph computes the same.

    Raises:
        UnsupportedError: an operator or construct outside the canonical form, or an output that depends on
            the length of the batch.
        VerificationError: the graph computes other numbers than the program.
    """
    graph, places = import_program(program)
    generator = torch.Generator().manual_seed(0)
    by_name = {node.name: node for node in program.graph.nodes}
    shapes = [static_shape(by_name[name].meta["val"]) for name in program.inputs]
    values = [torch.randn(shape, generator=generator) for shape in shapes]
    original = in_front(lambda given: interpret(program, given), places)
    reference = in_front(lambda given: interpret(as_double(program), given), places)
    with torch.no_grad():
        expected = original([value.clone() for value in values])
    _verify(graph, values, expected, reference)
    with torch.no_grad():
        check_one_sample(
            graph,
            original,
            [shape[1:] for shape in shapes],
            in_both_precisions(TOLERANCE_FLOAT32, TOLERANCE_FLOAT64, reference),
            captured=shapes[0][0],
            fixed=not program.open_batch,
        )
    warn_of_moved(places)
    return graph


def _check_kind(module: nn.Module) -> None:
    """Raise UnsupportedError for modules that torch.export cannot read, or whose weights are integers."""
    if isinstance(module, torch.jit.ScriptModule):
        raise UnsupportedError(
            "the model is a TorchScript module, which cannot be captured",
            hint="give the nn.Module that it was made from, or export it to ONNX",
        )
    for name, part in module.named_modules():
        home = type(part).__module__ + "."
        if home.startswith("torch.") and ".quantized." in home:
            raise UnsupportedError(
                f"the model is quantised already: {name or 'it'} is a {type(part).__module__}."
                f"{type(part).__name__}",
                hint="give the float model; mcc quantises it",
            )
    for name, value in (*module.named_parameters(), *module.named_buffers()):
        if value.is_inference():
            raise UnsupportedError(
                f"{name} was made under torch.inference_mode(), and cannot be captured",
                hint="build the model outside of it, or under torch.no_grad()",
            )


def _checked(index: int, value: object) -> tuple[int, ...]:
    """Shape of an example input, without the batch axis."""
    where = f"input {index}"
    if not isinstance(value, Tensor):
        raise UsageError(f"the example is a {type(value).__name__}, not a tensor", where=where)
    if value.dtype != torch.float32:
        raise UnsupportedError(
            f"is {value.dtype}, but mcc reads float32", where=where, hint="give a float32 example input"
        )
    if value.dim() < 2:
        raise UsageError(f"has the shape {tuple(value.shape)}, without a batch axis", where=where)
    return tuple(value.shape[1:])


def _without_batch_axis(
    module: nn.Module, example_inputs: Sequence[Tensor], cut: Sequence[str]
) -> UsageError | None:
    """The error of examples to which one axis has to be added before the module runs; None for others."""
    try:
        _run_module(module, [value[None] for value in example_inputs], cut)
    except UsageError:
        return None
    shape = tuple(example_inputs[0].shape)
    return UsageError(
        f"has the shape {shape}, of which the first axis was taken for the batch: the model does not run so",
        where="input 0",
        hint=f"give it a batch axis: {(1, *shape)}",
    )


def _capture_at(
    module: nn.Module, shapes: Sequence[tuple[int, ...]], batch: int, cut: Sequence[str]
) -> Imported:
    values = _random_batch(shapes, batch)
    with _Counted():
        expected_raw = _run_module(module, values, cut)
    with stopped_at(module, cut):
        program = _exported(module, values)
    imported = import_program(program)
    _, reference = _originals(module, cut, imported.places)
    expected = in_front(lambda _: expected_raw, imported.places)(values)
    _verify(imported.graph, values, expected, reference)
    return imported


def _random_batch(shapes: Sequence[tuple[int, ...]], batch: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn((batch, *shape), generator=generator) for shape in shapes]


def _exported(module: nn.Module, values: Sequence[Tensor]) -> Program:
    """The module as a program for inputs of these shapes. Raises UnsupportedError where it cannot be."""
    with quiet():
        try:
            return from_export(torch.export.export(module, tuple(values), strict=False))
        except MccError:
            raise
        except Exception as error:  # torch.export raises whatever the model raises, and many kinds of its own
            raise _not_exportable(error) from error


class _Counted(TorchDispatchMode):
    """Counts the operators that a model runs, and stops at too many: export takes 1 ms for each."""

    def __init__(self) -> None:
        super().__init__()
        self.operators = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.operators += 1
        if self.operators > MAX_OPERATORS:
            check_count(self.operators, "operators or more")
        return func(*args, **(kwargs or {}))


def _run_module(module: nn.Module, values: Sequence[Tensor], cut: Sequence[str]) -> list[Tensor]:
    """The module's own outputs, flattened; inputs are copied since a module may write into them."""
    try:
        with stopped_at(module, cut):
            result = module(*(value.clone() for value in values))
    except MccError:
        raise
    except Exception as error:  # a user's forward may raise anything
        shapes = ", ".join(str(tuple(value.shape)) for value in values)
        place = user_place(error.__traceback__)
        raise UsageError(
            f"the model does not run on inputs of shape {shapes}: {_first_line(error)}",
            where=place[0] if place else None,
            hint="check --input-shape or the example inputs",
        ) from error
    flat: list[Any] = tree_flatten(result)[0]
    return [value for value in flat if isinstance(value, Tensor)]


def keys_of(module: nn.Module, example_inputs: Sequence[Tensor]) -> tuple[str, ...]:
    """What a module calls its outputs: keys of a dictionary or fields of a named tuple, "" where neither is.

    One for each tensor, in the order of the captured graph's outputs.
    """
    try:
        with _eval_mode(module), torch.no_grad():
            result = module(*(value.clone() for value in example_inputs))
    except Exception:  # it ran when it was captured, but perhaps at that length of the batch only
        return ()
    pairs, _ = tree_flatten_with_path(result)
    return tuple(_key(path) for path, value in pairs if isinstance(value, Tensor))


def _key(path: Sequence[Any]) -> str:
    """`logits`, or `heads.main` of nested ones; numbers of a list only behind a name."""
    parts = [str(getattr(step, "key", getattr(step, "name", getattr(step, "idx", "")))) for step in path]
    return "" if all(part.isdecimal() for part in parts) else ".".join(parts)


def _verify(
    graph: Graph,
    values: Sequence[Tensor],
    expected: Sequence[Tensor],
    reference: Callable[[Sequence[Tensor]], list[Tensor]],
) -> None:
    """Raise VerificationError unless a graph computes what the model does.

    Args:
        values: a random batch.
        expected: the model's outputs for it.
        reference: the model in float64, for the case that float32 does not decide.
    """
    difference, tolerance = relative_difference(run(graph, *values), expected), TOLERANCE_FLOAT32
    if tolerance < difference <= LARGEST_FLOAT32:
        try:
            doubles = [value.double() for value in values]
            difference = relative_difference(run(copy.deepcopy(graph).double(), *doubles), reference(doubles))
            tolerance = TOLERANCE_FLOAT64
        except (MccError, RuntimeError, TypeError) as error:
            tolerance *= 10
            log.info("compared in float32 only, since the model does not run in float64: %s", error)
    if not difference <= tolerance:
        raise VerificationError(
            f"the captured graph differs from the model by {difference:.2g} of its output range",
            hint="does the model draw random numbers in eval mode? Else please report it",
        )


@contextmanager
def _eval_mode(module: nn.Module) -> Generator[None]:
    """Put a module into eval mode and every part of it back as it was."""
    before = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in before:
            part.training = training


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def _not_exportable(error: Exception) -> UnsupportedError:
    """One sentence for what torch.export says on many lines."""
    place = user_place(error.__traceback__)
    kind = type(error).__name__
    if "DataDependent" in kind or "data-dependent" in str(error):
        line = f" (`{place[1]}`)" if place else ""
        return UnsupportedError(
            f"the way through the model depends on the values of its input{line}",
            where=place[0] if place else None,
            hint="compute both branches, or give mcc a module with one of them",
        )
    return UnsupportedError(
        f"the model cannot be captured: {_first_line(error)}",
        where=place[0] if place else None,
        hint="rewrite that line with plain tensor operators",
    )
