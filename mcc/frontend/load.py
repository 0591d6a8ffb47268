"""Reading a MODEL as people name it: a factory, a `.pt2`, `.onnx` or `.mcc` file."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from mcc.errors import MccError, UsageError
from mcc.frontend.batch import Original
from mcc.frontend.cut import cut_graph, is_module_cut
from mcc.frontend.emitter import MAX_ELEMENTS
from mcc.frontend.finite import finite_inputs
from mcc.frontend.torch_module import (
    capture,
    capture_program,
    keys_of,
    run_original,
    up_to_nodes,
)
from mcc.frontend.torch_precision import in_float32
from mcc.frontend.weights import load_weights
from mcc.ir.first_look import check_model_file
from mcc.ir.graph import Graph, inputs, output_node, outputs
from mcc.ir.interface import Interface, Port
from mcc.ir.notes import annotate, note
from mcc.ir.storage import load_graph
from mcc.user_code import load_object, neighbours_importable, reason_of

Shape = tuple[int, ...]

FORMS = "package.module:factory, path/to/file.py:factory, or a .tflite, .onnx, .pt2 or .mcc file"


@runtime_checkable
class PreprocessingLike(Protocol):
    """What a factory may say of its input: `mcc.data.Preprocessing`, which stands on this floor and is not
    imported here."""

    mean: Any
    std: Any
    size: Any
    crop: Any


@dataclass(frozen=True)
class LoadedModel:
    """A model in canonical form and what came with it.

    Attributes:
        graph: the canonical graph, at declared batch 1.
        preprocessing: what the factory says about its input, or None.
        name: a short name for files and tables.
        module: the PyTorch module, where there is one.
        output_names: what its author calls the outputs, one for each output of the graph: keys, names of an
            ONNX file, or names of nodes.
        original: the model as its user has it, run by torch or onnxruntime and not by way of the graph; None
            where the graph is all there is (`.mcc`), or was cut at a node that the original does not show.
        remarks: sentences on what was assumed where the files left a choice.
    """

    graph: Graph
    preprocessing: Any
    name: str
    module: nn.Module | None
    output_names: tuple[str, ...] = ()
    original: Original | None = None
    remarks: tuple[str, ...] = ()


def load_model(
    spec: str,
    *,
    input_shape: tuple[int, ...] | None = None,
    weights: Path | None = None,
    cut: Sequence[str] = (),
) -> LoadedModel:
    """Read a model and bring it into canonical form.

    Args:
        spec: one of the forms of `FORMS`. A factory returns a module; a module and its example input or
            inputs; or these two and its preprocessing.
        input_shape: shape of the only input, batch included, where the model does not say.
        weights: safetensors or a checkpoint of `torch.save`, loaded into the module of a factory;
            `FILE#KEY` names one of several sets of weights in it.
        cut: where the model ends, for a tail that stays with the application: paths of modules inside a
            factory's module, or names of nodes (of an ONNX file also of values).

    Raises:
        UsageError: no such model or place to cut, or it does not say its input shape.
        DataError: weights that do not fit.
        UnsupportedError: a model outside the canonical form, or whose outputs are not finite.
    """
    loaded = _load(spec, input_shape, weights, cut)
    finite_inputs(loaded.graph)
    return loaded


def _load(spec: str, input_shape: Shape | None, weights: Path | None, cut: Sequence[str]) -> LoadedModel:
    path = Path(spec)
    if path.suffix in (*_READERS, ".tflite"):
        if weights is not None:
            raise UsageError(
                "weights can only be loaded into a model that a factory makes", where="--weights",
                hint=f"{path.name} holds its own",
            )  # fmt: skip
        check_model_file(path, raising=UsageError)
        if path.suffix == ".tflite":
            return _from_tflite(path, input_shape, cut)
        graph, original = _READERS[path.suffix](path, input_shape, cut)
        if path.suffix == ".onnx" and not cut:
            keep_names(graph, *_onnx_names(path))
        return LoadedModel(graph, None, path.stem, None, output_names(graph, ()), original)
    if ":" not in spec:
        raise UsageError(f"{spec!r} is no model", hint=f"give {FORMS}")
    return _from_factory(spec, input_shape, weights, cut)


def _read_mcc(path: Path, input_shape: Shape | None, cut: Sequence[str]) -> tuple[Graph, None]:
    graph = load_graph(path)
    return cut_graph(graph, cut) if cut else graph, None


def _read_pt2(path: Path, input_shape: Shape | None, cut: Sequence[str]) -> tuple[Graph, Original]:
    from mcc.frontend.node_cut import cut_at_nodes
    from mcc.frontend.program import cut_program, interpret
    from mcc.frontend.pt2 import read_pt2

    program = read_pt2(path)
    if cut:
        program = cut_at_nodes(program, cut) or cut_program(program, cut)
    return capture_program(program), functools.partial(interpret, program)


def _read_onnx(path: Path, input_shape: Shape | None, cut: Sequence[str]) -> tuple[Graph, Original]:
    from mcc.frontend.onnx_file import original_of, read_onnx

    def original(values: Sequence[Tensor]) -> list[Tensor]:
        return original_of(path, cut)(values)

    return read_onnx(path, input_shape, cut), original


def _onnx_names(path: Path) -> tuple[list[str], list[str]]:
    """Names of the inputs that are no weights, and of the outputs."""
    import onnx

    held = onnx.load(str(path), load_external_data=False).graph
    weights = {weight.name for weight in held.initializer}
    return [value.name for value in held.input if value.name not in weights], [v.name for v in held.output]


def keep_names(graph: Graph, taken: Sequence[str], given: Sequence[str]) -> None:
    """Note what the author of a model calls its inputs and outputs, where there are as many names.

    Files that are lowered from the graph have these names, see `mcc.ir.interface`.
    """
    nodes = inputs(graph)
    if len(given) != len(outputs(graph)) or not all(given) or len(set(given)) < len(given):
        return
    named = taken if len(taken) == len(nodes) and len(set(taken)) == len(taken) else [n.name for n in nodes]
    into, out = (tuple(Port(name, name) for name in names) for names in (named, given))
    annotate(output_node(graph), interface=Interface(into, out))


def _from_tflite(path: Path, input_shape: Shape | None, cut: Sequence[str]) -> LoadedModel:
    from mcc.frontend.tflite_file import read_tflite_graph

    read = read_tflite_graph(path, input_shape, cut)
    names = output_names(read.graph, read.output_names)
    return LoadedModel(read.graph, None, path.stem, None, names, read.original, read.remarks)


def output_names(graph: Graph, named: Sequence[str]) -> tuple[str, ...]:
    """A name for each output of the graph: the one given, where there are as many, else the one that the
    graph keeps, else its node's."""
    nodes = outputs(graph)
    kept = note(output_node(graph)).interface
    if not named and kept is not None:
        named = [port.key or port.name for port in kept.outputs]
    given = named if len(named) == len(nodes) else [""] * len(nodes)
    return tuple(name or node.name for name, node in zip(given, nodes, strict=True))


_READERS: dict[str, Callable[[Path, Shape | None, Sequence[str]], tuple[Graph, Original | None]]] = {
    ".mcc": _read_mcc,
    ".pt2": _read_pt2,
    ".onnx": _read_onnx,
}


# -- factories ---------------------------------------------------------------------------------------------


def _from_factory(
    spec: str, input_shape: Shape | None, weights: Path | None, cut: Sequence[str]
) -> LoadedModel:
    attribute = spec.rpartition(":")[2]
    with neighbours_importable(spec):
        made = _call(load_object(spec, FORMS), spec, attribute)
        network, examples, preprocessing = _parts(made, spec)
        remarks = load_weights(network, weights) if weights is not None else ()
        network, inputs = in_float32(network, _example_inputs(examples, input_shape, spec))
        graph = capture(network, inputs, cut)
        named = keys_of(network, inputs) if len(outputs(graph)) > 1 and not cut else cut
    original = _original(network, [tuple(value.shape) for value in inputs], cut)
    if named and not cut:
        keep_names(graph, (), named)
    names = output_names(graph, named)
    return LoadedModel(graph, preprocessing, attribute, network, names, original, remarks)


def _original(network: nn.Module, shapes: Sequence[Shape], cut: Sequence[str]) -> Original | None:
    """What computes the outputs of the network itself; None where it does not show the places of a cut."""
    if not cut or is_module_cut(network, cut):
        return functools.partial(_in_module, network, tuple(cut))
    original = up_to_nodes(network, cut)
    return original if original.shows(shapes) else None


def _in_module(network: nn.Module, cut: tuple[str, ...], values: Sequence[Tensor]) -> list[Tensor]:
    return run_original(network, values, cut)


def _call(factory: object, spec: str, attribute: str) -> object:
    if isinstance(factory, nn.Module):
        return factory
    if not callable(factory):
        raise UsageError(f"{attribute} is no function", where=spec, hint="name one that returns a module")
    try:
        return factory()
    except MccError:
        raise
    except (Exception, SystemExit) as error:  # a user's factory may raise anything
        raise UsageError(f"cannot be built: {reason_of(error)}", where=spec) from error


def _parts(made: object, spec: str) -> tuple[nn.Module, object, object]:
    """Module, example inputs (None where not given) and preprocessing (None likewise)."""
    values: list[object] = list(made) if isinstance(made, tuple) else [made]
    if not values or not isinstance(values[0], nn.Module) or len(values) > 3:
        raise UsageError(
            f"returns {type(made).__name__}, not a module", where=spec,
            hint="return a module, (module, inputs) or (module, inputs, preprocessing)",
        )  # fmt: skip
    examples = values[1] if len(values) > 1 else None
    preprocessing = values[2] if len(values) > 2 else None
    if not isinstance(preprocessing, NoneType | PreprocessingLike):
        raise UsageError(
            f"returns {type(preprocessing).__name__} as its third value, not a Preprocessing", where=spec,
            hint="return (module, inputs, mcc.data.Preprocessing(mean=..., std=...)), or leave it out",
        )  # fmt: skip
    return values[0], examples, preprocessing


def _example_inputs(examples: object, input_shape: tuple[int, ...] | None, spec: str) -> tuple[Tensor, ...]:
    given: tuple[Any, ...] = ()
    if isinstance(examples, Tensor):
        given = (examples,)
    elif isinstance(examples, tuple | list):
        given = tuple(examples)
    elif examples is not None:
        raise UsageError("its example inputs are no tensors", where=spec, hint="return tensors")
    if input_shape is None:
        if not given:
            raise UsageError(
                "does not say the shape of its input", where=spec, hint="give --input-shape 1,3,224,224"
            )
        return given
    if len(given) > 1:
        raise UsageError(
            f"the model has {len(given)} inputs and says their shapes itself", where="--input-shape",
            hint="leave it out",
        )  # fmt: skip
    if math.prod(input_shape) > MAX_ELEMENTS:
        raise UsageError(f"{input_shape} is beyond what mcc handles", where="--input-shape")
    return (torch.zeros(input_shape),)
