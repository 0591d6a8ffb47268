"""From an ONNX file to a canonical graph, operator by operator.

What does not depend on the input (shapes, constants) is evaluated with ONNX's own reference evaluator.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import networkx
import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper, version_converter
from torch import Tensor

from mcc.errors import DataError, MccError, UnsupportedError, UsageError, VerificationError
from mcc.files import readable_file

# The tables of rules register themselves when they are imported.
from mcc.frontend import (
    onnx_arithmetic,
    onnx_masks,
    onnx_quantised,
    onnx_resize,
    onnx_shape,
    onnx_windows,
    recurrent,
)
from mcc.frontend.batch import (
    CAPTURE_BATCH,
    DEPLOYED_BATCH,
    BatchLengthError,
    Original,
    check_one_sample,
    in_front,
    warn_of_moved,
)
from mcc.frontend.cut import naming_cut, unknown_place
from mcc.frontend.emitter import MAX_ELEMENTS, Emitter
from mcc.frontend.onnx_compare import Comparison
from mcc.frontend.onnx_fold import Folder
from mcc.frontend.onnx_patterns import restore_gelu
from mcc.frontend.onnx_precision import in_float32
from mcc.frontend.onnx_quantised import Quantised
from mcc.frontend.onnx_table import RULES, Site
from mcc.frontend.values import Const, Expanded, canonical_name, graph_nodes
from mcc.ir.dataflow import ancestors
from mcc.ir.graph import Graph
from mcc.ir.limits import TooLargeError, check_count

__all__ = [
    "onnx_arithmetic",
    "onnx_masks",
    "onnx_quantised",
    "onnx_resize",
    "onnx_shape",
    "onnx_windows",
    "read_onnx",
    "recurrent",
]

log = logging.getLogger(__name__)

OLDEST_OPSET = 13
DEFAULT_DOMAINS = ("", "ai.onnx")

_HINTS = {
    "DynamicQuantizeLinear": "give the float file; mcc inspect, diff and bench take this one",
    "QLinearConv": "give the float file, or one in the QDQ format; mcc inspect, diff and bench take this one",
    "ConvInteger": "give the float file, or one in the QDQ format; mcc inspect, diff and bench take this one",
    "RNN": "end before it: --cut PLACE",
    "NonMaxSuppression": "leave post-processing out of the model, or end before it: --cut PLACE",
    "TopK": "leave post-processing out of the model, or end before it: --cut PLACE",
    "ArgMax": "positions are found outside the model: end before it: --cut PLACE",
    "If": "mcc needs one way through the model; export it with fixed options",
    "Loop": "mcc needs one way through the model; export it without loops",
}


def read_onnx(path: Path, input_shape: tuple[int, ...] | None = None, cut: Sequence[str] = ()) -> Graph:
    """Read an ONNX file into a canonical graph of declared batch 1, and compare it with onnxruntime.

    Args:
        input_shape: shape of the only input, batch included, where the file leaves lengths open.
        cut: names of values, or of nodes for their first result, that become the outputs; none: the file's.

    Raises:
        DataError: the file is damaged.
        UsageError: a length is open and no input shape is given, or there is no such place to cut.
        UnsupportedError: an operator outside the canonical form, with its place, or an output that depends on
            the length of the batch.
        VerificationError: the graph computes other numbers than onnxruntime.
    """
    with _named(path):
        model = _load(path, cut)
        try:
            return _Importer(model, input_shape).run()
        except (BatchLengthError, TooLargeError):
            raise
        except UnsupportedError as first:  # some reshape to a batch of 1 that they declare open
            first.with_traceback(None)  # which holds the constants of that attempt
            try:
                return _Importer(model, input_shape, open_batch=DEPLOYED_BATCH).run()
            except MccError:
                raise first from first.__cause__


def original_of(path: Path, cut: Sequence[str] = ()) -> Original:
    """A file's own outputs, by onnxruntime, for inputs of any batch length that its operators take.

    Raises:
        DataError: the file is damaged, or onnxruntime does not take it.
    """
    with _named(path):
        model = _load(path, cut)
        return _runner(model, _fed(model.graph))


def _load(path: Path, cut: Sequence[str]) -> onnx.ModelProto:
    model = onnx.load(readable_file(path))
    check_count(len(model.graph.node))
    onnx.checker.check_model(model)
    return _cut(_recent(in_float32(model)), cut)


@contextmanager
def _named(path: Path) -> Generator[None]:
    """Name the file in every error, and make a sentence of what is raised about a damaged one."""
    try:
        yield
    except MccError as error:
        error.where = f"{path.name}: {error.where}" if error.where else path.name
        raise
    except Exception as error:  # a damaged file may raise anything
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else "no reason given"
        raise DataError(
            f"is no readable ONNX model: {type(error).__name__}: {reason}",
            where=str(path),
            hint="export it again",
        ) from error


def _recent(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in an opset that the rules are written for."""
    versions = {entry.domain: entry.version for entry in model.opset_import}
    opset = next((versions[domain] for domain in DEFAULT_DOMAINS if domain in versions), OLDEST_OPSET)
    return version_converter.convert_version(model, OLDEST_OPSET) if opset < OLDEST_OPSET else model


def _cut(model: onnx.ModelProto, cut: Sequence[str]) -> onnx.ModelProto:
    """The model with other outputs; nodes that they do not need stay, and are not looked at."""
    if not cut:
        return model
    values = {name: name for node in model.graph.node for name in node.output if name}
    places = {node.name: node.output[0] for node in model.graph.node if node.name} | values
    for name in cut:
        if name not in places:
            raise unknown_place(name, places, "node or value")
    wanted = [helper.make_tensor_value_info(places[name], onnx.TensorProto.FLOAT, None) for name in cut]
    model.graph.ClearField("output")
    model.graph.output.extend(wanted)
    needed = _needed(model.graph)
    kept = [node for index, node in enumerate(model.graph.node) if index in needed]
    model.graph.ClearField("node")
    model.graph.node.extend(kept)
    return model


def _needed(graph: onnx.GraphProto) -> set[int]:
    """Positions of the nodes that outputs depend on."""
    flow = networkx.DiGraph()
    for index, node in enumerate(graph.node):
        flow.add_edges_from((name, index) for name in node.input)
        flow.add_edges_from((index, name) for name in node.output)
    return {found for found in ancestors(flow, *(v.name for v in graph.output)) if isinstance(found, int)}


class _Importer:
    """Walks the nodes of a model; `values` maps names to canonical values."""

    def __init__(
        self,
        model: onnx.ModelProto,
        input_shape: tuple[int, ...] | None,
        open_batch: int = CAPTURE_BATCH,
    ) -> None:
        self.model = model
        self.open_batch = open_batch
        self.graph = onnx.GraphProto()
        self.graph.CopyFrom(model.graph)
        restore_gelu(self.graph)
        self.opset = next(entry.version for entry in model.opset_import if entry.domain in DEFAULT_DOMAINS)
        self.inputs = _fed(self.graph)
        self.folder = Folder(self.opset, sum(tensor.ByteSize() for tensor in self.graph.initializer))
        self.shapes = [self._shape(value, input_shape) for value in self.inputs]
        lengths = {shape[0] for shape in self.shapes}
        if len(lengths) != 1:
            raise UnsupportedError(
                "the inputs do not share one batch length", hint="give each a batch axis 0"
            )
        self.emitter = Emitter(lengths.pop())
        self.values: dict[str, Any] = {"": None}

    def _shape(self, value: onnx.ValueInfoProto, given: tuple[int, ...] | None) -> tuple[int, ...]:
        """The shape of an input at the captured batch."""
        kind = value.type.tensor_type
        where = f"input {value.name}"
        if kind.elem_type != onnx.TensorProto.FLOAT:
            raise UnsupportedError("is not float32", where=where, hint="mcc reads float32 inputs")
        # Paddle writes -1, and others 0, for lengths that are open.
        declared = [dim.dim_value if dim.dim_value > 0 else None for dim in kind.shape.dim]
        if given is not None and len(self.inputs) == 1:
            if len(given) != len(declared) or any(
                d not in (None, g) for d, g in zip(declared[1:], given[1:], strict=False)
            ):
                raise UsageError(f"declares the shape {declared}, not {list(given)}", where=where)
            declared = [declared[0], *given[1:]]
        if not declared or any(length is None for length in declared[1:]):
            known = ",".join("N" if length is None else str(length) for length in declared[1:])
            hint = f"give --input-shape 1,{known}, with a number in the place of each N"
            if not declared or len(self.inputs) > 1:
                hint = "export the model with a static shape"
            raise UsageError("leaves lengths of its shape open", where=where, hint=hint)
        shape = (declared[0] or self.open_batch, *(int(length or 0) for length in declared[1:]))
        if not 0 < math.prod(shape) <= MAX_ELEMENTS:
            raise UnsupportedError(f"of shape {shape} is not what mcc handles", where=where)
        return shape

    def run(self) -> Graph:
        """Translate all nodes that the outputs need, and check the numbers."""
        for value, shape in zip(self.inputs, self.shapes, strict=True):
            self.values[value.name] = self.emitter.builder.input(canonical_name(value.name), (1, *shape[1:]))
        for tensor in self.graph.initializer:
            self.values[tensor.name] = self._initializer(tensor)
        needed = _needed(self.graph)
        for index, node in enumerate(self.graph.node):
            if index in needed:
                self._node(node)
        self.emitter.place = "outputs"
        graph = self.emitter.finish([self._output(value.name) for value in self.graph.output])
        self._verify(graph)
        return graph

    def _read(self, name: str) -> Any:
        """A value by its name. Refuses second results that no rule makes."""
        if name not in self.values:
            self.emitter.refuse(f"reads {name}, a second result that mcc does not compute")
        return self.values[name]

    def _output(self, name: str) -> Any:
        value = self._read(name)
        if isinstance(value, Quantised):
            self.emitter.refuse(
                f"returns the integers of {name}", "return real numbers: end with DequantizeLinear"
            )
        return value

    def _initializer(self, tensor: onnx.TensorProto) -> Const:
        if math.prod(tensor.dims) > MAX_ELEMENTS:
            raise UnsupportedError("is beyond what mcc handles", where=f"constant {tensor.name}")
        value = _tensor(numpy_helper.to_array(tensor))
        trains = value.is_floating_point() and value.dim() > 0
        return Const(value, canonical_name(tensor.name.strip("/")), trains)

    # -- nodes ---------------------------------------------------------------------------------------------

    def _node(self, node: onnx.NodeProto) -> None:
        e = self.emitter
        name = (node.name or node.output[0]).strip("/")
        e.hint, e.path, e.place = (
            canonical_name(name.replace("/", ".")),
            name,
            f"node {name} ({node.op_type})",
        )
        if node.domain not in DEFAULT_DOMAINS:
            e.refuse(f"operator {node.domain}.{node.op_type} is not supported", "use standard ONNX operators")
        given = [self._read(key) for key in node.input]
        attributes = {entry.name: _plain(entry) for entry in node.attribute}
        present = [value for value in given if value is not None]
        integers = node.op_type == "DequantizeLinear"
        if not integers and node.op_type != "QuantizeLinear" and all(isinstance(v, Const) for v in present):
            results = self._evaluate(node, given)
        else:
            with naming_cut(lambda: [key for key in node.input if graph_nodes(self.values.get(key))]):
                results = self._translate(node, given, attributes)
        for key, result in zip(node.output, results, strict=False):
            self.values[key] = result

    def _translate(self, node: onnx.NodeProto, given: list[Any], attributes: dict[str, Any]) -> Sequence[Any]:
        e = self.emitter
        rule = RULES.get(node.op_type)
        if rule is None:
            e.refuse(
                f"operator {node.op_type} is not supported", _HINTS.get(node.op_type, "rewrite that part")
            )
        if node.op_type != "DequantizeLinear" and any(isinstance(value, Quantised) for value in given):
            e.refuse(f"{node.op_type} works on integers", "use the QDQ format, not operators on integers")
        e.out = ()
        result = rule(Site(e, node.op_type, given, attributes, len(node.output), self.opset))
        if isinstance(result, Expanded) or not isinstance(result, list):
            return [result]
        return result

    def _evaluate(self, node: onnx.NodeProto, given: list[Any]) -> list[Const]:
        """Evaluate a node of constants."""
        e = self.emitter
        arrays = {key: value.tensor.numpy() for key, value in zip(node.input, given, strict=True) if key}
        results = self.folder.evaluate(node, arrays, e.refuse)
        consts = [value for value in given if value is not None]
        name = consts[0].name if consts else e.hint
        trains = any(const.trains for const in consts)
        return [Const(_tensor(np.asarray(result)), name, trains) for result in results]

    # -- numbers -------------------------------------------------------------------------------------------

    def _verify(self, graph: Graph) -> None:
        """Compare with onnxruntime on a random batch, and on one sample."""
        generator = torch.Generator().manual_seed(0)
        values = [torch.randn(shape, generator=generator) for shape in self.shapes]
        places = tuple(self.emitter.output_places)
        try:
            original = in_front(_runner(self.model, self.inputs), places)
            expected = original(values)
        except Exception as error:  # onnxruntime raises kinds of its own
            log.warning("not compared with onnxruntime, which does not run the model: %s", error)
            return
        comparison = Comparison(graph, original, values)
        for index, difference in enumerate(comparison.own_differences(expected)):
            if not difference <= comparison.tolerance:
                raise VerificationError(
                    f"output {index} differs from onnxruntime by {difference:.2g} of its range",
                    hint="please report it",
                )

        shapes = [shape[1:] for shape in self.shapes]
        fixed = any(value.type.tensor_type.shape.dim[0].dim_value > 0 for value in self.inputs)
        check_one_sample(
            graph, original, shapes, comparison.disagreement, captured=self.emitter.batch, fixed=fixed
        )
        warn_of_moved(places, [value.name for value in self.graph.output])


def _fed(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """The inputs that are fed: old files list their constants as inputs, too."""
    stored = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in stored]


def _runner(model: onnx.ModelProto, fed: Sequence[onnx.ValueInfoProto]) -> Original:
    """A model in onnxruntime, its batch axis open whatever it declares. Raises what onnxruntime raises."""
    import onnxruntime

    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    opened.graph.ClearField("value_info")
    names = [value.name for value in fed]
    for value in (*(entry for entry in opened.graph.input if entry.name in names), *opened.graph.output):
        shape = value.type.tensor_type.shape
        if len(shape.dim):
            shape.dim[0].ClearField("value")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        opened.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )

    def original(values: Sequence[Tensor]) -> list[Tensor]:
        feed = {name: value.numpy() for name, value in zip(names, values, strict=True)}
        return [torch.from_numpy(np.asarray(result)) for result in session.run(None, feed)]

    return original


def _tensor(array: np.ndarray[Any, Any]) -> Tensor:
    """A tensor of its own from an array. Raises UnsupportedError for types torch does not have."""
    try:
        return torch.from_numpy(np.array(array))
    except TypeError as error:
        raise UnsupportedError(
            f"a constant is of the type {array.dtype}", hint="use float32 or int8"
        ) from error


def _plain(attribute: onnx.AttributeProto) -> Any:
    """An attribute as plain data."""
    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, onnx.TensorProto):
        return _tensor(numpy_helper.to_array(value))
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
