"""Lowering of a canonical graph with TensorFlow's converter."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import fx

from mcc.distribution import how_to_install
from mcc.errors import TargetError, UnsupportedError
from mcc.ir.graph import constant, first_line, inputs, is_constant, live_nodes, op_name, operand, outputs
from mcc.ir.notes import shape_of
from mcc.lower.tensorflow.functions import functions, refuse_quantised
from mcc.lower.tensorflow.quantised import quantiser, weight_grids
from mcc.quant.params import is_fake_quantize, quant_params

HOW_TO_GET = how_to_install("tensorflow")


def convert(graph: fx.GraphModule, *, quantised: bool = False, **described: Any) -> bytes:
    """The bytes of a `.tflite` file created by TensorFlow's converter.

    Images are NHWC, as in the files of `mcc.lower.tflite`. The batch is that of the graph.

    Args:
        graph: Canonical graph in deployment form.
        quantised: Whether fake quantisation is accepted: scales are those of the graph except for their last
            digits.
        described: Labels and normalisation, which are not stored here.

    Raises:
        TargetError: TensorFlow is not installed.
        UnsupportedError: The graph is quantised without `quantised`, has several inputs or outputs, or is
            rejected by TensorFlow.
    """
    for node in live_nodes(graph):
        if node.op == "call_function" and not quantised:
            refuse_quantised(op_name(node), node.name)
    for what, found in (("inputs", inputs(graph)), ("outputs", outputs(graph))):
        if len(found) != 1:
            raise UnsupportedError(
                f"TensorFlow's converter does not keep the order of {len(found)} {what}",
                where=found[0].name,
                hint="write the graph without --via tensorflow",
            )
    try:
        import tensorflow as tf  # pyright: ignore
    except ImportError as error:
        raise TargetError("TensorFlow is not installed", hint=HOW_TO_GET) from error
    try:
        return _converted(tf, graph)
    except Exception as error:  # TensorFlow's exceptions have no common base
        raise UnsupportedError(f"TensorFlow does not take the graph: {first_line(error)}") from error


def _converted(tf: Any, graph: fx.GraphModule) -> bytes:
    known, grids = functions(tf), weight_grids(graph)
    images = [len(shape_of(node)) == 4 for node in inputs(graph)]
    signature = [
        tf.TensorSpec(_stored(shape_of(node)) if image else shape_of(node), tf.float32, name=node.name)
        for node, image in zip(inputs(graph), images, strict=True)
    ]

    @tf.function(input_signature=signature, autograph=False)
    def forward(*given: Any) -> tuple[Any, ...]:
        values: dict[fx.Node, Any] = {}
        for node, value, image in zip(inputs(graph), given, images, strict=True):
            values[node] = tf.transpose(value, (0, 3, 1, 2)) if image else value
        for node in live_nodes(graph):
            if is_constant(node):
                values[node] = tf.constant(constant(graph, node).detach().numpy().astype(np.float32))
            elif node in grids.values():  # where channels are last: in the operator that reads the weight
                values[node] = values[operand(node, 0)]
            elif is_fake_quantize(node):
                values[node] = quantiser(tf, quant_params(graph, node), node.name)(values[operand(node, 0)])
            elif node.op == "call_function":
                operands = [values[arg] if isinstance(arg, fx.Node) else None for arg in node.args]
                more: dict[str, Any] = dict(node.kwargs)
                if node in grids:
                    more["taps"] = quantiser(tf, quant_params(graph, grids[node]), node.name)
                values[node] = known[op_name(node)](*operands, **more)
        made = [values[node] for node in outputs(graph)]
        return tuple(tf.transpose(v, (0, 2, 3, 1)) if len(v.shape) == 4 else tf.identity(v) for v in made)

    module = tf.Module()
    module.forward = forward
    concrete = forward.get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], module)
    if any(is_fake_quantize(node) for node in live_nodes(graph)):
        converter.optimizations = [tf.lite.Optimize.DEFAULT]  # integers where the grids allow them
    return bytes(converter.convert())


def _stored(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[0], *shape[2:], shape[1])
