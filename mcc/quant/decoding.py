"""Decoding operators after the last layers with weights, which stay in float.

After the last weights, operators convert feature maps to results: offsets to boxes, distributions to
distances, residuals to an enlarged image. Their errors are not averaged: each number of the outputs is used
by itself. Each integer operator would add a rounding to 1/255 of the range and clip values beyond it, and
saves hardly any time compared with the layers with weights. `insert-qdq` leaves in float, as in manual
quantisation:

* sums, differences and products whose results reach no operator with weights,
* a softmax, sigmoid or tanh that these read; one that is only moved to an output stays integer, since the
  step of its fixed scale is 1/256 of its possible range,
* a layer with fixed weights that takes the mean of a softmax (distances of YOLOv8, heat maps of joints).
"""

from __future__ import annotations

from torch import fx

from mcc.ir.graph import Graph, calls, is_constant, op_name, operands, optional_operand
from mcc.ir.notes import shape_of
from mcc.ir.table import MOVING, WEIGHTED
from mcc.quant.regions import FIXED_OUTPUTS

ARITHMETIC = frozenset({"add", "sub", "mul"})

DECODES = "no weights follow: it computes what is read, in float"


def decoding(graph: Graph) -> set[fx.Node]:
    """The decoding operators that have an integer kernel; see the module."""
    followed = followed_by_weights(graph)
    found: set[fx.Node] = set()
    for node in reversed(calls(graph)):
        if node in followed:
            continue
        name = op_name(node)
        computes = name in ARITHMETIC or _takes_mean_of_softmax(node)
        dictated = name in FIXED_OUTPUTS and any(_computed_on(user, found) for user in node.users)
        if computes or dictated:
            found.add(node)
    return found


def followed_by_weights(graph: Graph) -> set[fx.Node]:
    """The values that operators with weights depend on; means of a softmax do not count as such."""
    found: set[fx.Node] = set()
    for node in reversed(calls(graph)):
        weighted = op_name(node) in WEIGHTED and not (_takes_mean_of_softmax(node) and node not in found)
        if weighted or node in found:
            found.update(value for value in operands(node) if not is_constant(value))
    return found


def _computed_on(user: fx.Node, found: set[fx.Node]) -> bool:
    """Whether a reader computes with a value, directly or after operators that only move it."""
    if user.op == "output":
        return False
    if user in found or op_name(user) not in MOVING:
        return True
    return any(_computed_on(reader, found) for reader in user.users)


def _takes_mean_of_softmax(node: fx.Node) -> bool:
    """Whether an operator has constant weights with one output channel, and reads a softmax."""
    if op_name(node) not in WEIGHTED:
        return False
    weight = optional_operand(node, 1)
    if weight is None or not is_constant(weight) or shape_of(weight)[0] != 1:
        return False
    value = operands(node)[0]
    while value.op == "call_function" and op_name(value) in MOVING and op_name(value) != "concat":
        value = operands(value)[0]
    return value.op == "call_function" and op_name(value) == "softmax"
