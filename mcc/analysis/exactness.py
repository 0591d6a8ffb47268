"""Check that float64 evaluates a graph on integers without rounding, so that results compare exactly."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, fx

from mcc.ir import ops, table
from mcc.ir.graph import Graph, calls, constants, inputs, is_constant
from mcc.ir.notes import shape_of

FLOAT64_INTEGERS = 2.0**53  # up to this, float64 represents every integer (IEEE 754-2019, binary64: p = 53)


class _Magnitudes(fx.Interpreter):
    """Evaluates a graph on magnitudes: every value bounds all partial sums of the true value."""

    largest = 0.0

    def run_node(self, n: fx.Node) -> Any:
        """Evaluate one node on magnitudes; constants are replaced by theirs."""
        value = super().run_node(n)
        if not isinstance(value, Tensor):
            return value
        magnitude = value.abs()
        if magnitude.numel():
            self.largest = max(self.largest, float(magnitude.max()))
        return magnitude if is_constant(n) else _widest(magnitude)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Bound differences by sums, and clamped values by the operand and the limits."""
        if "activation" in kwargs:
            kwargs = {**kwargs, "activation": "none"}
        if target is ops.relu6:
            return args[0]
        if target is ops.clamp:
            limits = [abs(limit) for limit in kwargs.values() if math.isfinite(limit)]
            return args[0].clamp_min(max(limits, default=0.0))
        return super().call_function(ops.add if target is ops.sub else target, args, kwargs)


def _widest(value: Tensor) -> Tensor:
    """The largest magnitude in every element: a bound for any sample."""
    return torch.full_like(value, float(value.max()))


def exact_on_integers(graph: Graph, magnitude: float) -> bool:
    """Whether evaluating the graph in float64 rounds nowhere.

    True when all constants and attributes are integers, all operators map integers to integers, and no sum
    can exceed the integers that float64 represents.

    Args:
        graph: Graph with float64 constants.
        magnitude: Bound on the inputs, which are integers.
    """
    nodes = calls(graph)
    if not all(table.row_of(node).integral for node in nodes):
        return False
    if not all(_whole(value) for node in nodes for value in node.kwargs.values()):
        return False
    if not all(bool((value == value.round()).all()) for value in constants(graph).values()):
        return False
    meter = _Magnitudes(graph)
    with torch.no_grad():
        meter.run(*(torch.full(shape_of(x), magnitude, dtype=torch.float64) for x in inputs(graph)))
    return meter.largest < FLOAT64_INTEGERS


def _whole(value: object) -> bool:
    """Whether an attribute has no fractional part; infinite ends of a clamp are allowed."""
    return not isinstance(value, float) or value.is_integer() or math.isinf(value)
