"""Conversion of fake quantisation nodes to quantisation parameters of TFLite tensors.

`mcc.quant.regions.integer_nodes` decides which operators run on integers; every other operator runs in float
between DEQUANTIZE and QUANTIZE, as in the graph.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from torch import fx

from mcc.errors import UnsupportedError
from mcc.ir.graph import Graph, constant
from mcc.lower.tflite.quantisation import Quantisation, per_tensor
from mcc.quant.params import QuantParams, is_fake_quantize, quant_params


def array_of(graph: Graph, node: fx.Node) -> npt.NDArray[Any]:
    """A constant of the graph as a numpy array."""
    return constant(graph, node).detach().cpu().numpy()


def per_channel(scales: npt.NDArray[np.float32], axis: int = 0) -> Quantisation:
    """Symmetric parameters with one scale per index of an axis."""
    return Quantisation(scales, np.zeros(scales.size, np.int64), axis)


def tensor_quantisation(params: QuantParams) -> Quantisation:
    """Parameters of a value with one scale, as stored in the file."""
    return per_tensor(params.scale, params.zero_point)


def activation_quantisation(graph: Graph, node: fx.Node) -> Quantisation:
    """int8 parameters of a fake quantisation of an activation; uint8 is shifted by 128.

    Raises UnsupportedError for per-channel parameters and for ranges other than 8 bits, where an int8 tensor
    would not saturate.
    """
    params = quant_params(graph, node)
    if not params.is_int8_activation:
        kind = "per channel" if params.axis is not None else f"to {params.qmin}..{params.qmax}"
        raise UnsupportedError(
            f"an activation quantised {kind} has no form in TFLite",
            where=node.name,
            hint="quantise activations to 8 bits, per tensor",
        )
    return tensor_quantisation(params)


def changes_nothing(graph: Graph, node: fx.Node) -> bool:
    """Whether the node only repeats the grid before an operator that moves values.

    The pattern: fake_quantize, operator, fake_quantize with the same parameters (this node).
    """
    source = node.args[0]
    if not is_fake_quantize(node) or not isinstance(source, fx.Node) or not source.args:
        return False
    before = source.args[0]
    if not isinstance(before, fx.Node) or not is_fake_quantize(before):
        return False
    return quant_params(graph, before) == quant_params(graph, node)
