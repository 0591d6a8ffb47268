"""Approximations of activations by cheaper ones, and their errors.

An approximation is defined twice: by the operators that replace the activation, and by its definition in
sums, products and absolute values, from which the exact twin of a replacement is built.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from mcc.ir.graph import (
    Graph,
    GraphBuilder,
    add_call,
    add_constant,
    op_name,
    operand,
    output_node,
    run,
)
from mcc.ir.notes import DTYPES, type_of

GELU_SCALE = 1.702  # Hendrycks 2016, "Gaussian Error Linear Units", section 2: close to x sigmoid(1.702 x)
MISH_SCALE = 1.22  # minimises the largest error (0.2013) over a grid of scales in steps of 0.02
UNBOUNDED = ("relu6",)  # a relu has no upper bound, a relu6 has
# Beyond this grid the other activations and their approximations are constant or equal.
GRID = torch.linspace(-30.0, 30.0, 60_001, dtype=torch.float64)


@dataclass(frozen=True)
class Writer:
    """Inserts operators before a node, in place of an activation.

    Attributes:
        graph: Graph that is changed.
        node: The activation; new nodes are named after it.
        before: Node before which the operators are inserted.
    """

    graph: Graph
    node: fx.Node
    before: fx.Node

    def call(self, op: str, *args: fx.Node, **attributes: object) -> fx.Node:
        """Insert an operator, without fused activation."""
        if op in ("add", "sub", "mul", "div"):
            attributes = {"activation": "none", **attributes}
        return add_call(self.graph, self.before, op, *args, name=self.node.name, **attributes)

    def number(self, value: float) -> fx.Node:
        """Insert a constant of one element, of the type of the activation's value."""
        held = torch.tensor(value, dtype=DTYPES[type_of(self.node).dtype])
        return add_constant(self.graph, self.before, f"{self.node.name}_number", held, trains=False)


Write = Callable[[Writer, fx.Node], fx.Node]


@dataclass(frozen=True)
class StandIn:
    """Approximation of an activation.

    Attributes:
        write: Function that inserts its operators and returns its value.
        spell: Function that inserts its definition in other operators and returns its value.
        default: Whether it is used without being requested by name.
    """

    write: Write
    spell: Write
    default: bool = True


def _scaled_hardswish(c: float) -> StandIn:
    """hardswish(c x) / c, which is x clamp(c x / 6 + 1/2, 0, 1)."""

    def write(w: Writer, x: fx.Node) -> fx.Node:
        if c == 1.0:
            return w.call("hardswish", x)
        return w.call("mul", w.call("hardswish", w.call("mul", x, w.number(c))), w.number(1 / c))

    def spell(w: Writer, x: fx.Node) -> fx.Node:
        line = w.call("add", w.call("mul", x, w.number(c / 6)), w.number(0.5))
        return w.call("mul", x, w.call("clamp", line, min=0.0, max=1.0))

    return StandIn(write, spell)


def _relu(*, default: bool) -> StandIn:
    """max(x, 0), which is (x + |x|) / 2."""

    def spell(w: Writer, x: fx.Node) -> fx.Node:
        return w.call("mul", w.call("add", x, w.call("abs", x)), w.number(0.5))

    return StandIn(lambda w, x: w.call("relu", x), spell, default)


def _floor() -> StandIn:
    """max(x, -alpha), which is relu(x + alpha) - alpha."""

    def write(w: Writer, x: fx.Node) -> fx.Node:
        return w.call("clamp", x, min=-_alpha(w.node), max=math.inf)

    def spell(w: Writer, x: fx.Node) -> fx.Node:
        lifted = w.call("relu", w.call("add", x, w.number(_alpha(w.node))))
        return w.call("sub", lifted, w.number(_alpha(w.node)))

    return StandIn(write, spell)


def _alpha(node: fx.Node) -> float:
    return float(str(node.kwargs["alpha"]))


STAND_INS: dict[str, StandIn] = {
    "silu": _scaled_hardswish(1.0),
    "gelu": _scaled_hardswish(GELU_SCALE),
    "mish": _scaled_hardswish(MISH_SCALE),
    "elu": _floor(),
    "softplus": _relu(default=True),
    "hardswish": _relu(default=False),
    "relu6": _relu(default=False),
}


def largest_error(node: fx.Node) -> float:
    """The largest difference of an activation and its approximation over all numbers; may be infinite."""
    if op_name(node) in UNBOUNDED:
        return math.inf
    return float(_differ(_alone(node), GRID)[1].abs().max())


def _alone(node: fx.Node) -> Graph:
    """A graph of one float64 input that returns an activation and its approximation."""
    b = GraphBuilder()
    x = b.input("x", (1, 1), "f64")
    attributes: dict[str, Any] = dict(node.kwargs)
    activation = b.call(op_name(node), x, **attributes)
    alone = b.finish(activation)
    end = output_node(alone)
    end.args = ((activation, STAND_INS[op_name(node)].write(Writer(alone, activation, end), x)),)
    return alone


def _differ(alone: Graph, x: Tensor) -> tuple[Tensor, Tensor]:
    """The activation of a tensor of any shape, and the error of the approximation."""
    wanted, found = run(alone, x.double().reshape(-1, 1))
    return wanted, found - wanted


@dataclass
class DataError:
    """Error on data: the largest one, and the root mean squares of the error and of the activation."""

    largest: float = 0.0
    squares: float = 0.0
    energy: float = 0.0

    @property
    def share(self) -> float:
        """Root mean square of the difference over that of the activation."""
        return math.sqrt(self.squares / self.energy) if self.energy > 0 else 0.0


class ErrorMeter:
    """Measures the errors of approximations on the inputs of their activations.

    Attributes:
        watched: Names of the nodes whose values must be passed to `see`.
        found: Errors, by name of the activation.
    """

    def __init__(self, activations: Sequence[fx.Node]) -> None:
        self.found = {node.name: DataError() for node in activations}
        self._alone = {node.name: _alone(node) for node in activations}
        self._readers: dict[str, list[str]] = {}
        for node in activations:
            self._readers.setdefault(operand(node, 0).name, []).append(node.name)
        self.watched = set(self._readers)

    def see(self, source: fx.Node, value: Tensor) -> None:
        """Add one batch of an input of activations."""
        for name in self._readers[source.name]:
            wanted, error = _differ(self._alone[name], value)
            entry = self.found[name]
            entry.largest = max(entry.largest, float(error.abs().max()))
            entry.squares += float(error.square().sum())
            entry.energy += float(wanted.square().sum())
