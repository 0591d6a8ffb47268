"""Whether a model gives numbers at all: huge weights overflow in float32, and no later step is to blame."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, fx

from mcc.errors import UnsupportedError
from mcc.ir.graph import Graph, op_name, run
from mcc.ir.interpreter import observe
from mcc.verify import random_inputs


def finite_inputs(graph: Graph) -> list[Tensor]:
    """Random float32 inputs on which all outputs are finite. Raises UnsupportedError where there are none."""
    return in_domain(graph, [value.float() for value in random_inputs(graph, seed=0)])


def in_domain(graph: Graph, normal: Sequence[Tensor]) -> list[Tensor]:
    """Normal inputs, or their magnitudes, or these within 0..1: the first on which all outputs are finite.

    Logarithms and roots take no negative numbers, and a model may be made for small ones only.

    Raises:
        UnsupportedError: on none of them; names the operator in which it shows first.
    """
    positive = [value.abs() for value in normal]
    for values in (list(normal), positive, [value.clamp(max=1.0) for value in positive]):
        if all(bool(torch.isfinite(value).all()) for value in run(graph, *values)):
            return values
    raise not_finite(graph, normal, "random inputs")


def not_finite(graph: Graph, values: Sequence[Tensor], on: str) -> UnsupportedError:
    """The error of a model whose outputs are not finite on these inputs; says where that shows first."""
    found: list[tuple[fx.Node, str]] = []

    def see(node: fx.Node, value: Tensor) -> None:
        if node.op == "call_function" and not found and not bool(torch.isfinite(value).all()):
            found.append((node, "NaN" if bool(torch.isnan(value).any()) else "infinity"))

    observe(graph, values, see)
    node, what = found[0]
    place = f"first {what} in {op_name(node)} {node.name}"
    return UnsupportedError(
        f"the model itself gives values that are not finite on {on}, {place}",
        where="model",
        hint="look for weights that are far too large and divisions by zero, and train or export it again",
    )
