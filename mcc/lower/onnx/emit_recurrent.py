"""Emit functions: recurrent layers, which onnxruntime has as operators."""

from __future__ import annotations

import numpy as np
from torch import fx

from mcc.ir.graph import operand, optional_operand
from mcc.lower.onnx.builder import Array
from mcc.lower.onnx.lowering import Lowering, attributes, emits
from mcc.quant.scales import real_constant

_GATES = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2)}
"""ONNX's order of gates in ours: input, output, forget, cell; update, reset, new."""

_TIME_FIRST = [1, 0, 2]  # onnxruntime has no kernel for layout 1


@emits("lstm")
def lstm(low: Lowering, node: fx.Node) -> str:
    """LSTM."""
    return _recurrent(low, node, "LSTM")


@emits("gru")
def gru(low: Lowering, node: fx.Node) -> str:
    """GRU."""
    return _recurrent(low, node, "GRU", linear_before_reset=int(attributes(node)["reset_after"]))


def _recurrent(low: Lowering, node: fx.Node, op: str, **options: int) -> str:
    """The operator of one direction on [T, N, I], with a transpose on each side."""
    hidden = low.shape(node)[2]
    rows = hidden * len(_GATES[op])
    names = {1: "weight", 2: "recurrent_weight"}
    held = [
        low.model.constant(_gates(low, node, index, op)[None], f"{node.name}/{name}", owner=node.name)
        for index, name in names.items()
    ]
    if any(optional_operand(node, index) is not None for index in (3, 4)):
        both = np.concatenate([_bias(low, node, index, op, rows) for index in (3, 4)])
        held.append(low.model.constant(both[None], f"{node.name}/bias", owner=node.name))
    steps = low.add(node, "Transpose", [low.value(operand(node, 0))], "steps", perm=_TIME_FIRST)
    y = low.add(
        node, op, [steps, *held], "state", hidden_size=hidden,
        direction="reverse" if attributes(node)["reverse"] else "forward", **options,
    )  # fmt: skip
    single = low.add(node, "Squeeze", [y, low.model.integers([1], "axes")], "single")
    return low.add(node, "Transpose", [single], perm=_TIME_FIRST)


def _gates(low: Lowering, node: fx.Node, index: int, op: str) -> Array:
    """A constant operand with its blocks of gates in ONNX's order."""
    blocks = np.split(real_constant(low.graph, operand(node, index)), len(_GATES[op]))
    return np.concatenate([blocks[gate] for gate in _GATES[op]])


def _bias(low: Lowering, node: fx.Node, index: int, op: str, rows: int) -> Array:
    """A bias, zeros where it is absent."""
    if optional_operand(node, index) is None:
        return np.zeros(rows, np.float32)
    return _gates(low, node, index, op)
