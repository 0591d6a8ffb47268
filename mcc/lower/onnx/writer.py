"""Lowering of a canonical graph in deployment form to an ONNX model."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import fx

from mcc.errors import UnsupportedError, VerificationError
from mcc.files import write_bytes
from mcc.ir.graph import inputs, live_nodes, op_name, output_node, outputs
from mcc.ir.notes import note, type_of
from mcc.lower.onnx import emit_elementwise, emit_products, emit_recurrent, emit_shape
from mcc.lower.onnx.builder import ELEMENT_TYPES, OnnxGraph, value_info
from mcc.lower.onnx.lowering import EMITTERS, Lowering, is_only_weight
from mcc.lower.tflite.metadata import Normalisation

if TYPE_CHECKING:
    import onnx

log = logging.getLogger(__name__)

# Importing an emit file registers its functions.
EMIT_FILES = (emit_elementwise, emit_products, emit_recurrent, emit_shape)

DEFAULT_OPSET = 17
"""The newest opset supported by all onnxruntime releases of the last four years."""

_MERGING = ("eliminate_duplicate_initializer", "eliminate_common_subexpression")
"""Passes of onnxsim that would share the integers or zero points of two weights; see `Lowering.weight`."""


def to_onnx(
    graph: fx.GraphModule,
    *,
    opset: int = DEFAULT_OPSET,
    name: str = "main",
    labels: Sequence[str] | None = None,
    normalisation: Normalisation | None = None,
    judged: int = 0,
    simplify: bool = True,
) -> bytes:
    """Lower a graph and return the bytes of the ONNX model.

    Inputs and outputs are float32 with the names and the static shapes of the graph (NCHW). Quantised values
    become QuantizeLinear and DequantizeLinear with the trained scales, in the form that onnxruntime runs on
    integers; see `mcc.lower.onnx.lowering`.

    Args:
        graph: Canonical graph in deployment form, float or with fake quantisation.
        opset: Version of the default operator set, 13 to 23.
        name: Name of the ONNX graph.
        labels: Class names in the order of the output `judged`, stored for the app as JSON under `labels`.
        normalisation: Preprocessing of 0..255 pixels by the app before the first input, stored under
            `normalisation`.
        judged: Index of the output with the scores of the labels; its name is stored under `labelled_output`
            unless it is the first.
        simplify: Whether the model is simplified by onnxsim.

    Raises:
        UnsupportedError: An operator or attribute has no form in ONNX; the message names it and its node.
        UsageError: The opset is not supported.
        VerificationError: The model returned by onnxsim is not equivalent.
    """
    model = OnnxGraph(opset)
    low = Lowering(graph, model)
    for node in inputs(graph):
        low.bind(node, model.fresh(node.name))
    for node in live_nodes(graph):
        if node.op == "call_function" and not is_only_weight(node):
            low.bind(node, _emit(low, node))
    declared = [_declared(node, node.name) for node in inputs(graph)]
    proto = model.finish(name, declared, _outputs(low))
    _rename(proto, graph)
    if simplify:
        proto = _simplified(proto)
    _describe(proto, labels, normalisation, judged)
    return proto.SerializeToString()


def write_onnx(graph: fx.GraphModule, path: Path | str, **options: Any) -> Path:
    """Lower a graph to a file, written atomically; options as in `to_onnx`.

    Raises:
        DataError: The file cannot be written.
        UnsupportedError, UsageError, VerificationError: As in `to_onnx`.
    """
    path = Path(path)
    write_bytes(path, to_onnx(graph, **options))
    return path


def _emit(low: Lowering, node: fx.Node) -> str:
    emit = EMITTERS.get(op_name(node))
    if emit is None:
        raise UnsupportedError(f"operator {op_name(node)} cannot be written as ONNX", where=node.name)
    return emit(low, node)


def _declared(node: fx.Node, name: str) -> onnx.ValueInfoProto:
    declared = type_of(node)
    if declared.dtype not in ELEMENT_TYPES:
        raise UnsupportedError(f"a value of type {declared.dtype} has no form in ONNX", where=node.name)
    return value_info(name, declared.dtype, declared.shape)


def _outputs(low: Lowering) -> list[onnx.ValueInfoProto]:
    """Name the returned values after their nodes; a value returned twice gets a second name."""
    found: list[onnx.ValueInfoProto] = []
    given: set[str] = set()
    for node in outputs(low.graph):
        name = low.value(node)
        if node.op == "placeholder" or name in given or node.op == "get_attr":
            name = low.model.node("Identity", [name], f"{node.name}/output")
        given.add(name)
        found.append(_declared(node, name))
    return found


def _rename(proto: onnx.ModelProto, graph: fx.GraphModule) -> None:
    """Give inputs and outputs the names that the graph keeps of its author's, see `mcc.ir.interface`."""
    interface = note(output_node(graph)).interface
    if interface is None:
        return
    held = proto.graph
    new: dict[str, str] = {}
    for values, ports in ((held.input, interface.inputs), (held.output, interface.outputs)):
        wanted = [port.key or port.name for port in ports]
        if len(wanted) == len(values) and all(wanted):
            new |= {value.name: name for value, name in zip(values, wanted, strict=True)}
    if len(set(new.values())) < len(new):  # an input and an output of one name
        return
    used = {name for node in held.node for name in (*node.input, *node.output)}
    used |= {value.name for value in (*held.initializer, *held.input, *held.output)}
    for name in set(new.values()) & used - set(new):  # of values inside
        free = next(f"{name}_{n}" for n in itertools.count() if f"{name}_{n}" not in used)
        new[name] = free
        used.add(free)
    for node in held.node:
        for names in (node.input, node.output):
            names[:] = [new.get(name, name) for name in names]
    for value in (*held.initializer, *held.input, *held.output, *held.value_info):
        value.name = new.get(value.name, value.name)


def _simplified(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model simplified by onnxsim. Raises VerificationError where onnxsim's own comparison fails."""
    import onnxsim

    simpler, same = onnxsim.simplify(proto, skipped_optimizers=list(_MERGING))
    if not same:
        raise VerificationError(
            "onnxsim returned a model that does not compute the same", hint="lower with simplify=False"
        )
    log.debug("onnxsim: %d nodes became %d", len(proto.graph.node), len(simpler.graph.node))
    del simpler.metadata_props[:]  # onnxsim's own report
    return simpler


def _describe(
    proto: onnx.ModelProto,
    labels: Sequence[str] | None,
    normalisation: Normalisation | None,
    judged: int,
) -> None:
    """Store labels and preprocessing as metadata properties in JSON."""
    described: dict[str, Any] = {}
    if labels is not None:
        described["labels"] = list(labels)
    if normalisation is not None:
        described["normalisation"] = {
            "input": "(pixel - mean) / deviation, pixel in 0..255",
            "mean": list(normalisation.mean),
            "deviation": list(normalisation.deviation),
            **normalisation.more,
        }
    if judged:
        described["labelled_output"] = proto.graph.output[judged].name
    for key, value in described.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, json.dumps(value, ensure_ascii=False)
