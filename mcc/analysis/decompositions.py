"""Exact decompositions of operators into simpler ones, for the pass `decompose`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from mcc.ir.graph import Graph, add_call, add_constant, constant, operand, optional_operand
from mcc.ir.notes import DTYPES, shape_of, type_of


@dataclass(frozen=True)
class Recipe:
    """Inserts operators before a node that compute its value, named after it.

    Attributes:
        graph: Graph that is changed.
        node: Operator that is decomposed.
    """

    graph: Graph
    node: fx.Node

    def call(self, op: str, *args: fx.Node | None, **attributes: object) -> fx.Node:
        """Insert an operator, without fused activation unless given."""
        if op in ("add", "sub", "mul", "div"):
            attributes = {"activation": "none", **attributes}
        return add_call(self.graph, self.node, op, *args, name=self.node.name, **attributes)

    def held(self, value: Tensor | float) -> fx.Node:
        """Insert a constant that is not trainable, of the type of the node."""
        tensor = torch.as_tensor(value, dtype=torch.float64).to(DTYPES[type_of(self.node).dtype])
        return add_constant(self.graph, self.node, f"{self.node.name}_constant", tensor, trains=False)

    def attribute(self, name: str) -> Any:
        """An attribute of the node."""
        return self.node.kwargs[name]

    def weight(self, index: int) -> Tensor:
        """A constant operand in float64."""
        return constant(self.graph, operand(self.node, index)).detach().double()

    def along_channels(self, value: Tensor) -> fx.Node:
        """Insert a constant [C], reshaped to broadcast over axis 1 of the node."""
        rank = len(shape_of(self.node))
        return self.held(value.reshape(1, -1, *(1,) * (rank - 2)))


def _hardsigmoid(r: Recipe, x: fx.Node) -> fx.Node:
    return r.call("mul", r.call("add", x, r.held(3.0), activation="relu6"), r.held(1 / 6))


def _hardswish(r: Recipe, x: fx.Node) -> fx.Node:
    return r.call("mul", x, _hardsigmoid(r, x))


def _silu(r: Recipe, x: fx.Node) -> fx.Node:
    return r.call("mul", x, r.call("sigmoid", x))


def _softplus(r: Recipe, x: fx.Node) -> fx.Node:
    """log(1 + exp(x)) as relu(x) + log(1 + exp(-|x|)), which never overflows; -|x| = min(x, 0) - relu(x)."""
    above = r.call("relu", x)
    small = r.call("exp", r.call("sub", r.call("clamp", x, min=-float("inf"), max=0.0), above))
    return r.call("add", above, r.call("log", r.call("add", small, r.held(1.0))))


def _mish(r: Recipe, x: fx.Node) -> fx.Node:
    return r.call("mul", x, r.call("tanh", _softplus(r, x)))


def _elu(r: Recipe, x: fx.Node) -> fx.Node:
    below = r.call("exp", r.call("clamp", x, min=-float("inf"), max=0.0))
    bent = r.call("mul", r.call("sub", below, r.held(1.0)), r.held(r.attribute("alpha")))
    return r.call("add", r.call("relu", x), bent)


def _abs(r: Recipe, x: fx.Node) -> fx.Node:
    return r.call("add", r.call("relu", x), r.call("relu", _neg(r, x)))


def _neg(r: Recipe, x: fx.Node) -> fx.Node:
    return r.call("mul", x, r.held(-1.0))


def _leaky_relu(r: Recipe, x: fx.Node) -> fx.Node:
    below = r.call("clamp", x, min=-float("inf"), max=0.0)
    return r.call("add", r.call("relu", x), r.call("mul", below, r.held(r.attribute("slope"))))


def _prelu(r: Recipe, x: fx.Node) -> fx.Node:
    below = r.call("clamp", x, min=-float("inf"), max=0.0)
    return r.call("add", r.call("relu", x), r.call("mul", below, r.along_channels(r.weight(1))))


def _batch_norm(r: Recipe, x: fx.Node) -> fx.Node:
    gain, shift, mean, var = (r.weight(index) for index in range(1, 5))
    factor = gain / torch.sqrt(var + r.attribute("eps"))
    scaled = r.call("mul", x, r.along_channels(factor))
    return r.call("add", scaled, r.along_channels(shift - mean * factor))


def _normalised(r: Recipe, x: fx.Node, axes: tuple[int, ...]) -> fx.Node:
    """(x - mean) / sqrt(variance + eps) over some axes."""
    centred = r.call("sub", x, r.call("mean", x, axes=axes, keepdim=True))
    variance = r.call("mean", r.call("mul", centred, centred), axes=axes, keepdim=True)
    return r.call("div", centred, r.call("sqrt", r.call("add", variance, r.held(r.attribute("eps")))))


def _layer_norm(r: Recipe, x: fx.Node) -> fx.Node:
    axes: tuple[int, ...] = r.attribute("axes")
    shape = [n if axis in axes else 1 for axis, n in enumerate(shape_of(x))]
    return _affine(r, _normalised(r, x, axes), lambda value: r.held(value.reshape(shape)))


def _group_norm(r: Recipe, x: fx.Node) -> fx.Node:
    shape, groups = shape_of(x), r.attribute("groups")
    apart = r.call("reshape", x, shape=(groups, shape[1] // groups, *shape[2:]))
    flat = r.call("reshape", apart, shape=(groups, torch.Size(shape[1:]).numel() // groups))
    together = r.call("reshape", _normalised(r, flat, (2,)), shape=shape[1:])
    return _affine(r, together, r.along_channels)


def _global_response_norm(r: Recipe, x: fx.Node) -> fx.Node:
    rank, axis = len(shape_of(x)), r.attribute("axis") % len(shape_of(x))
    others = tuple(other for other in range(1, rank) if other != axis)
    shape = [-1 if other == axis else 1 for other in range(rank)]
    norms = r.call("sqrt", r.call("sum", r.call("mul", x, x), axes=others, keepdim=True))
    mean = r.call("mean", norms, axes=(axis,), keepdim=True)
    response = r.call("div", norms, r.call("add", mean, r.held(r.attribute("eps"))))
    scaled = _affine(r, r.call("mul", x, response), lambda value: r.held(value.reshape(shape)))
    return r.call("add", x, scaled)


def _affine(r: Recipe, x: fx.Node, hold: Callable[[Tensor], fx.Node]) -> fx.Node:
    if optional_operand(r.node, 1) is not None:
        x = r.call("mul", x, hold(r.weight(1)))
    return r.call("add", x, hold(r.weight(2))) if optional_operand(r.node, 2) is not None else x


def _softmax(r: Recipe, x: fx.Node) -> fx.Node:
    axes = (r.attribute("axis"),)
    powers = r.call("exp", r.call("sub", x, r.call("amax", x, axes=axes, keepdim=True)))
    return r.call("div", powers, r.call("sum", powers, axes=axes, keepdim=True))


def _pixel_shuffle(r: Recipe, x: fx.Node) -> fx.Node:
    """[C f f, H, W] to [C, f, f, H, W] to [C, H, f, W, f] to [C, H f, W f]."""
    factor = r.attribute("factor")
    _, width, height, length = shape_of(x)
    apart = r.call("reshape", x, shape=(width // factor**2, factor, factor, height, length))
    woven = r.call("transpose", apart, perm=(0, 1, 4, 2, 5, 3))
    return r.call("reshape", woven, shape=shape_of(r.node)[1:])


def _conv2d(r: Recipe, x: fx.Node) -> fx.Node:
    """A grouped convolution as one per group; not a depthwise one, which has kernels of its own."""
    groups: int = r.attribute("groups")
    weight, bias = constant(r.graph, operand(r.node, 1)).detach(), optional_operand(r.node, 2)
    out, width = weight.shape[0] // groups, weight.shape[1]
    parts: list[fx.Node] = []
    for group in range(groups):
        rows = slice(group * out, (group + 1) * out)
        part = r.call("slice", x, axis=1, start=group * width, stop=(group + 1) * width, step=1)
        held = [add_constant(r.graph, r.node, f"{r.node.name}_w", weight[rows].clone()), None]
        if bias is not None:
            own = constant(r.graph, bias).detach()[rows].clone()
            held[1] = add_constant(r.graph, r.node, f"{r.node.name}_b", own)
        parts.append(r.call("conv2d", part, *held, **{**r.node.kwargs, "groups": 1}))
    return r.call("concat", *parts, axis=1)


RECIPES: dict[str, Callable[[Recipe, fx.Node], fx.Node]] = {
    "hardsigmoid": _hardsigmoid,
    "hardswish": _hardswish,
    "silu": _silu,
    "softplus": _softplus,
    "mish": _mish,
    "elu": _elu,
    "abs": _abs,
    "neg": _neg,
    "leaky_relu": _leaky_relu,
    "prelu": _prelu,
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "global_response_norm": _global_response_norm,
    "softmax": _softmax,
    "pixel_shuffle": _pixel_shuffle,
    "conv2d": _conv2d,
}
"""Decompositions by operator: functions of a `Recipe` and the first operand that return the same value."""
