"""Lowering of a canonical graph in deployment form to a .tflite file."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import fx

from mcc.errors import UnsupportedError, UsageError
from mcc.files import write_bytes
from mcc.ir.graph import Graph, live_nodes, op_name, operand
from mcc.lower.tflite import (
    emit_conv,
    emit_elementwise,
    emit_pool,
    emit_recurrent,
    emit_reduce,
    emit_shape,
    ports,
    regions,
)
from mcc.lower.tflite.builder import FlatModel
from mcc.lower.tflite.lowering import EMITTERS, Lowering
from mcc.lower.tflite.metadata import METADATA_NAME, MORE_NAME, Normalisation, append_labels, model_metadata
from mcc.quant.params import is_fake_quantize
from mcc.quant.regions import integer_nodes

log = logging.getLogger(__name__)

# Importing an emit file registers its functions.
EMIT_FILES = (emit_conv, emit_elementwise, emit_pool, emit_recurrent, emit_reduce, emit_shape)

Weights = Literal["float32", "float16", "kept"]
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
    io: Interface | None = None,
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
        weights: Storage type of float weights; `kept`: float32, and float16 for those that it holds exactly
            if the file that the graph was read from has weights of float16.
        io: `float`: inputs and outputs are float32 (required by LiteRT.js); `int8`: those that a fake
            quantisation reads or writes are int8; None: as in the file that the graph was read from, else
            float32.

    Raises:
        UnsupportedError: An operator or attribute has no form in TFLite; the message names it and its node.
    """
    if weights not in ("float32", "float16", "kept") or io not in (None, "float", "int8"):
        raise UsageError(f"weights={weights!r}, io={io!r}: not an option of the TFLite writer")
    nodes = live_nodes(graph)
    model = FlatModel(name, DESCRIPTION)
    exact = weights == "kept" and ports.half_weights(graph)
    half = "exact" if exact else "all" if weights == "float16" else "none"
    low = Lowering(graph, model, integer_nodes(graph), half_weights=half)
    emit_pool.plan_channel_orders(low, nodes)
    file_inputs = ports.file_inputs(low, io)
    with torch.no_grad():
        for node in nodes:
            if node.op == "call_function":
                _emit(low, node)
    file_outputs = ports.file_outputs(low, io)
    if labels is not None or normalisation is not None:
        described = model_metadata(name, list(file_inputs), list(file_outputs), labels, normalisation, judged)
        model.metadata(METADATA_NAME, described)
    if normalisation is not None and normalisation.more:
        model.metadata(MORE_NAME, json.dumps(normalisation.more).encode())
    raw = model.finish(file_inputs, file_outputs, ports.signature(graph) or SIGNATURE)
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
