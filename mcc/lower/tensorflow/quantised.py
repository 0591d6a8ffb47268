"""Fake quantisation of the canonical form as TensorFlow functions, which its converter lowers to integers.

TensorFlow defines a grid by the real numbers at its ends and recomputes the scale in float32: trained scales
are preserved to a few units in the last place, not bit for bit. This is sufficient for a test oracle; files
for apps are written by `mcc.lower.tflite`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import fx

from mcc.errors import UnsupportedError
from mcc.ir.graph import Graph, calls, op_name, operand
from mcc.ir.table import WEIGHTED
from mcc.quant.params import INT8_MAX, INT8_MIN, QuantParams, is_fake_quantize, quant_params

Value = Any  # a tf.Tensor: TensorFlow has no types that pyright could read
BITS = 8


def quantiser(tf: Any, params: QuantParams, where: str) -> Callable[[Value], Value]:
    """A function that quantises a value to a grid; channels are the last axis for per-channel scales.

    Raises:
        UnsupportedError: TensorFlow does not have the grid.
    """
    narrow = (params.qmin, params.qmax) == (-INT8_MAX, INT8_MAX)
    if not narrow and (params.qmin, params.qmax) != (INT8_MIN, INT8_MAX):
        raise UnsupportedError(f"TensorFlow has no grid of {params.qmin} to {params.qmax}", where=where)
    zeros = np.asarray(params.zero_points, np.float64)
    scales = np.asarray(params.scales, np.float64)
    low, high = ((scales * (end - zeros)).astype(np.float32) for end in (params.qmin, params.qmax))
    if params.axis is None:
        return lambda value: tf.quantization.fake_quant_with_min_max_args(
            value, float(low[0]), float(high[0]), BITS, narrow_range=narrow
        )
    return lambda value: tf.quantization.fake_quant_with_min_max_vars_per_channel(
        value, low, high, BITS, narrow_range=narrow
    )


def weight_grids(graph: Graph) -> dict[fx.Node, fx.Node]:
    """The fake quantisation nodes of weights with per-channel scales, by the operator that reads them."""
    found: dict[fx.Node, fx.Node] = {}
    for node in calls(graph):
        if op_name(node) not in WEIGHTED:
            continue
        grid = operand(node, 1)
        if is_fake_quantize(grid) and quant_params(graph, grid).axis is not None:
            found[node] = grid
    return found
