"""Pairs of layers whose intermediate channels can be rescaled without changing the result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, fx

from mcc.ir.graph import Graph, calls, is_constant, op_name, operand, optional_operand, outputs
from mcc.ir.notes import note, shape_of
from mcc.ir.table import WEIGHTED

Side = Literal["written", "read"]


@dataclass(frozen=True)
class ScalingPair:
    """Two layers with only operators between them that commute with a positive factor per channel.

    Attributes:
        writer: Layer that produces the channels, with a constant weight of its own.
        value: Operand of the reader: the writer's value, possibly after activations and pools.
        reader: Layer that reads the channels, with a constant weight of its own.
    """

    writer: fx.Node
    value: fx.Node
    reader: fx.Node


def scaling_pairs(graph: Graph, refuse: Callable[[fx.Node, str], None]) -> list[ScalingPair]:
    """The pairs of a graph, in order.

    Args:
        refuse: Callback for each layer whose channels are in no pair, with the reason.
    """
    uses: Counter[str] = Counter()
    for node in graph.graph.nodes:
        if is_constant(node):
            uses[str(node.target)] += len(node.users)
    returned = set(outputs(graph))
    found: list[ScalingPair] = []
    for writer in calls(graph, *WEIGHTED):
        reason = _own_constants(writer, uses) or _rank_reason(writer, writer)
        if reason is None:
            pair = _follow(writer, returned, uses)
            if isinstance(pair, ScalingPair):
                found.append(pair)
                continue
            reason = pair
        refuse(writer, reason)
    return found


def _follow(writer: fx.Node, returned: set[fx.Node], uses: Counter[str]) -> ScalingPair | str:
    """The pair that begins with a layer, or the reason why there is none."""
    value = writer
    while True:
        if note(value).frozen is not None:
            return str(note(value).frozen)
        if value.kwargs.get("activation", "none") not in ("none", "relu"):
            return _does_not_scale(str(value.kwargs["activation"]))
        if value in returned:
            return "it is an output" if value is writer else f"{value.name} is an output"
        if len(value.users) != 1:
            return f"{value.name} is read by {len(value.users)} operators"
        (user,) = value.users
        if op_name(user) in WEIGHTED:
            reason = note(user).frozen or _own_constants(user, uses) or _rank_reason(user, value)
            return reason or ScalingPair(writer, value, user)
        if not _passes_scale(user, value):
            return _does_not_scale(op_name(user))
        value = user


def _does_not_scale(name: str) -> str:
    hint = "; replace-activation{of=relu6} replaces it" if name == "relu6" else ""
    return f"{name} of a scaled value is no scaled {name}{hint}"


def _own_constants(layer: fx.Node, uses: Counter[str]) -> str | None:
    """The reason why the weights of a layer cannot be scaled, or None."""
    for held in (operand(layer, 1), optional_operand(layer, 2)):
        if held is None:
            continue
        if not is_constant(held):
            return f"a weight of {layer.name} is computed"
        if uses[str(held.target)] != 1:
            return f"{layer.name} shares {held.target}"
    return None


def _rank_reason(layer: fx.Node, value: fx.Node) -> str | None:
    """The reason why a linear layer's channels, on its last axis, are not on axis 1 of a value, or None."""
    if op_name(layer) == "linear" and len(shape_of(value)) != 2:
        return f"{layer.name} works along another axis than the channels"
    return None


def _passes_scale(node: fx.Node, value: fx.Node) -> bool:
    """Whether f(s x) = s f(x) for a positive s per channel on axis 1 of both."""
    if operand(node, 0) is not value or value in node.args[1:]:
        return False
    kwargs: dict[str, Any] = dict(node.kwargs)
    name = op_name(node)
    if name == "pad":
        zeros = kwargs["mode"] != "constant" or kwargs["value"] == 0.0
        return zeros and not any(kwargs["padding"][1])
    if name == "clamp":
        return (kwargs["min"], kwargs["max"]) == (0.0, float("inf"))
    if name == "mean":
        return min(kwargs["axes"]) > 1
    if name == "prelu":
        return is_constant(operand(node, 1))
    return name in ("relu", "leaky_relu", "identity", "max_pool2d", "avg_pool2d", "resize")


def _by_group(layer: fx.Node, weight: Tensor, side: Side) -> tuple[Tensor, int]:
    """A weight as [groups, O, I, taps] ([groups, I, O, taps] if transposed), and its channel axis."""
    groups: Any = layer.kwargs.get("groups", 1)
    grouped = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    return grouped, 1 if (side == "written") != (op_name(layer) == "conv_transpose2d") else 2


def channel_rows(layer: fx.Node, weight: Tensor, side: Side) -> Tensor:
    """The weights that produce (or read) each channel, [C, n]."""
    grouped, axis = _by_group(layer, weight, side)
    return grouped.movedim(axis, 1).reshape(grouped.shape[0] * grouped.shape[axis], -1)


def scale_channels(layer: fx.Node, weight: Tensor, side: Side, factor: Tensor) -> Tensor:
    """The weight of a layer with the part that produces (or reads) each channel times a factor [C]."""
    grouped, axis = _by_group(layer, weight, side)
    shape = [grouped.shape[0], 1, 1, 1]
    shape[axis] = grouped.shape[axis]
    return (grouped * factor.reshape(shape)).reshape(weight.shape).to(weight.dtype)
