"""Batch norms that can be folded into the preceding layer."""

from __future__ import annotations

from typing import Any

from torch import fx

from mcc.ir.graph import is_constant, op_name, operand
from mcc.ir.notes import note, shape_of
from mcc.ir.table import WEIGHTED


def cannot_be_folded(norm: fx.Node) -> str | None:
    """The reason why a batch norm cannot be folded, or None if it can."""
    layer = operand(norm, 0)
    frozen = note(norm).frozen or note(layer).frozen
    if frozen is not None:
        return frozen
    if layer.op != "call_function" or op_name(layer) not in WEIGHTED:
        if any(_is_padded_convolution(user) for user in norm.users):
            return "it stands before a zero-padded convolution, and its shift would be missing in the padding"
        return "no convolution or linear layer stands before it"
    if layer.kwargs["activation"] != "none":
        return f"an activation stands between it and {layer.name}"
    if len(layer.users) > 1:
        return f"{layer.name} is read elsewhere, too"
    if op_name(layer) == "linear" and len(shape_of(layer)) != 2:
        return f"it normalises another axis than the one {layer.name} writes"
    constants = [*layer.args[1:], *norm.args[1:]]
    if any(isinstance(arg, fx.Node) and not is_constant(arg) for arg in constants):
        return "a weight or a statistic is computed"
    return None


def _is_padded_convolution(node: fx.Node) -> bool:
    if node.op != "call_function" or op_name(node) != "conv2d":
        return False
    padding: Any = node.kwargs["padding"]
    return any(padding)
