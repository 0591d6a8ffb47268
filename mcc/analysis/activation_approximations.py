"""Activations that can stand in for others, and by how much they differ.

A stand-in is written twice: as the operators that take the place of the activation, and as its definition in
sums, products and absolute values, which the exact twin of a replacement is made of.
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
MISH_SCALE = 1.22  # the least largest error, 0.2013, of all scales on a grid of steps of 0.02
UNBOUNDED = ("relu6",)  # a relu goes on where a relu6 ends
# Beyond this grid the others and their stand-ins are flat or equal.
GRID = torch.linspace(-30.0, 30.0, 60_001, dtype=torch.float64)


@dataclass(frozen=True)
class Writer:
    """Adds operators before a node, in the place of an activation.

    Attributes:
        graph: the graph that is written to.
        node: the activation; what is written is named after it.
        before: where the operators go.
    """

    graph: Graph
    node: fx.Node
    before: fx.Node

    def call(self, op: str, *args: fx.Node, **attributes: object) -> fx.Node:
        """An operator; a fused activation is none."""
        if op in ("add", "sub", "mul", "div"):
            attributes = {"activation": "none", **attributes}
        return add_call(self.graph, self.before, op, *args, name=self.node.name, **attributes)

    def number(self, value: float) -> fx.Node:
        """A constant of one element, of the type of the value."""
        held = torch.tensor(value, dtype=DTYPES[type_of(self.node).dtype])
        return add_constant(self.graph, self.before, f"{self.node.name}_number", held, trains=False)


Write = Callable[[Writer, fx.Node], fx.Node]


@dataclass(frozen=True)
class StandIn:
    """What takes the place of an activation.

    Attributes:
        write: adds its operators; returns its value.
        spell: adds its definition in other operators; returns its value.
        default: whether it is used without being asked for by name.
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
    """The largest difference of an activation node and its stand-in over all numbers; may be infinite."""
    if op_name(node) in UNBOUNDED:
        return math.inf
    return float(_differ(_alone(node), GRID)[1].abs().max())


def _alone(node: fx.Node) -> Graph:
    """A graph of one float64 input that returns an activation and its stand-in."""
    b = GraphBuilder()
    x = b.input("x", (1, 1), "f64")
    attributes: dict[str, Any] = dict(node.kwargs)
    activation = b.call(op_name(node), x, **attributes)
    alone = b.finish(activation)
    end = output_node(alone)
    end.args = ((activation, STAND_INS[op_name(node)].write(Writer(alone, activation, end), x)),)
    return alone


def _differ(alone: Graph, x: Tensor) -> tuple[Tensor, Tensor]:
    """The activation on a tensor of any shape, and how far the stand-in is from it."""
    wanted, found = run(alone, x.double().reshape(-1, 1))
    return wanted, found - wanted


@dataclass
class DataError:
    """Difference on data: the largest one, and its root mean square as a share of that of the activation."""

    largest: float = 0.0
    squares: float = 0.0
    energy: float = 0.0

    @property
    def share(self) -> float:
        """Root mean square of the difference over that of the activation."""
        return math.sqrt(self.squares / self.energy) if self.energy > 0 else 0.0


class ErrorMeter:
    """Measures activations against their stand-ins on the values that they read.

    Attributes:
        watched: names of the nodes whose values are to be shown to `see`.
        found: the differences, by name of the activation.
    """

    def __init__(self, activations: Sequence[fx.Node]) -> None:
        self.found = {node.name: DataError() for node in activations}
        self._alone = {node.name: _alone(node) for node in activations}
        self._readers: dict[str, list[str]] = {}
        for node in activations:
            self._readers.setdefault(operand(node, 0).name, []).append(node.name)
        self.watched = set(self._readers)

    def see(self, source: fx.Node, value: Tensor) -> None:
        """Add one batch of what some activations read."""
        for name in self._readers[source.name]:
            wanted, error = _differ(self._alone[name], value)
            entry = self.found[name]
            entry.largest = max(entry.largest, float(error.abs().max()))
            entry.squares += float(error.square().sum())
            entry.energy += float(wanted.square().sum())
