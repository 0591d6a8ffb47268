"""Lowering of a canonical graph in deployment form to a .tflite file."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import fx

from mcc.errors import UnsupportedError, UsageError
from mcc.files import write_bytes
from mcc.ir.graph import Graph, inputs, is_constant, live_nodes, op_name, operand, outputs
from mcc.ir.notes import shape_of, type_of
from mcc.lower.layout import image_or_plain
from mcc.lower.tflite import (
    emit_conv,
    emit_elementwise,
    emit_pool,
    emit_recurrent,
    emit_reduce,
    emit_shape,
    regions,
)
from mcc.lower.tflite.builder import FlatModel
from mcc.lower.tflite.lowering import EMITTERS, Lowering, Value
from mcc.lower.tflite.metadata import METADATA_NAME, MORE_NAME, Normalisation, append_labels, model_metadata
from mcc.lower.tflite.quantisation import Quantisation
from mcc.quant.params import is_fake_quantize
from mcc.quant.regions import integer_nodes

log = logging.getLogger(__name__)

# Importing an emit file registers its functions.
EMIT_FILES = (emit_conv, emit_elementwise, emit_pool, emit_recurrent, emit_reduce, emit_shape)

Weights = Literal["float32", "float16"]
Interface = Literal["float", "int8"]

SIGNATURE = "serving_default"
DESCRIPTION = "written by mcc"


def to_tflite(
    graph: Graph,
    *,
    name: str = "main",
    labels: Sequence[str] | None = None,
    normalisation: Normalisation | None = None,
    judged: int = 0,
    weights: Weights = "float32",
    io: Interface = "float",
) -> bytes:
    """Lower a graph and return the bytes of the .tflite file.

    Image inputs and outputs are NHWC, all others as in the graph. The file has the declared batch, but a
    runtime can resize it: only a transposed convolution fixes it.
    Each node's result is the tensor of its name; inner tensors of a node have a suffix after a slash.

    Args:
        graph: Canonical graph in deployment form, float or with fake quantisation.
        name: Name of the subgraph.
        labels: Class names in the order of the output `judged`, stored for the app.
        normalisation: Preprocessing of 0..255 pixels by the app before the first input, stored for the app.
        judged: Index of the output with the scores of the labels.
        weights: Storage type of float weights.
        io: `float`: inputs and outputs are float32 (required by LiteRT.js); `int8`: those that a fake
            quantisation reads or writes are int8.

    Raises:
        UnsupportedError: An operator or attribute has no form in TFLite; the message names it and its node.
    """
    if weights not in ("float32", "float16") or io not in ("float", "int8"):
        raise UsageError(f"weights={weights!r}, io={io!r}: not an option of the TFLite writer")
    nodes = live_nodes(graph)
    model = FlatModel(name, DESCRIPTION)
    low = Lowering(graph, model, integer_nodes(graph), half_weights=weights == "float16")
    emit_pool.plan_channel_orders(low, nodes)
    file_inputs = {node.name: _input(low, node, io) for node in inputs(graph)}
    with torch.no_grad():
        for node in nodes:
            if node.op == "call_function":
                _emit(low, node)
    file_outputs = _outputs(low, io)
    if labels is not None or normalisation is not None:
        described = model_metadata(name, list(file_inputs), list(file_outputs), labels, normalisation, judged)
        model.metadata(METADATA_NAME, described)
    if normalisation is not None and normalisation.more:
        model.metadata(MORE_NAME, json.dumps(normalisation.more).encode())
    raw = model.finish(file_inputs, file_outputs, SIGNATURE)
    return append_labels(raw, labels) if labels is not None else raw


def write_tflite(graph: Graph, path: Path | str, **options: Any) -> Path:
    """Lower a graph to a file, written atomically; options as in `to_tflite`.

    Raises:
        DataError: The file cannot be written.
        UnsupportedError: As in `to_tflite`.
    """
    path = Path(path)
    write_bytes(path, to_tflite(graph, **options))
    return path


def _emit(low: Lowering, node: fx.Node) -> None:
    if is_fake_quantize(node):
        if not low.is_constant(node):
            _quantise(low, node)
        return
    emit = EMITTERS.get(op_name(node))
    if emit is None:
        raise UnsupportedError(
            f"operator {op_name(node)} cannot be written as TFLite",
            where=node.name,
            hint="replace it in the model by operators that `mcc.lower.tflite` has emit functions for",
        )
    emit(low, node)


def _quantise(low: Lowering, node: fx.Node) -> None:
    """Lower a fake quantisation: the grid of its producer, or a QUANTIZE if that has another or is float."""
    source = operand(node, 0)
    if emit_shape.joined_reader(low.graph, source) is not None:
        return  # the following slice takes both steps at once
    wanted = regions.activation_quantisation(low.graph, node)
    low.bind(node, low.requantise(node, low.native(source), wanted))


def _input(low: Lowering, node: fx.Node, io: Interface) -> int:
    """The tensor of a graph input, int8 if requested and its only reader is one fake quantisation."""
    shape = shape_of(node)
    readers = list(node.users)
    alone = len(readers) == 1 and is_fake_quantize(readers[0])
    quantisation = regions.activation_quantisation(low.graph, readers[0]) if io == "int8" and alone else None
    dtype = {"f32": "float32", "i32": "int32", "i64": "int64", "bool": "bool"}.get(type_of(node).dtype)
    if dtype is None:
        raise UnsupportedError(f"an input of type {type_of(node).dtype} has no form here", where=node.name)
    value = Value(-1, shape, image_or_plain(len(shape)), quantisation)
    kind = dtype if quantisation is None else "int8"
    index = low.model.tensor(node.name, value.stored_shape, kind, quantisation)
    low.bind(node, Value(index, shape, value.layout, quantisation))
    return index


def _outputs(low: Lowering, io: Interface) -> dict[str, int]:
    """The tensors of the graph outputs by name; a value returned twice is returned under two names."""
    result: dict[str, int] = {}
    for node in outputs(low.graph):
        native = _native_quantisation(low, node)
        integer = io == "int8" and native is not None
        value = low.value(node, image_or_plain(len(shape_of(node))), integer=integer)
        result[_free_name(node.name, result)] = value.index
    return result


def _native_quantisation(low: Lowering, node: fx.Node) -> Quantisation | None:
    return None if is_constant(node) else low.native(node).quantisation


def _free_name(name: str, taken: Iterable[str]) -> str:
    unique, count = name, 1
    while unique in taken:
        unique, count = f"{name}_{count}", count + 1
    return unique
