"""Quantisation scales during training: weight scales follow the weights, activation scales may be learned."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from mcc.ir.graph import Graph, calls, constant, inputs, is_constant, op_name, operand, optional_operand
from mcc.ir.table import WEIGHTED
from mcc.quant.params import is_fake_quantize
from mcc.quant.ranges import bias_floor, floor_scales
from mcc.quant.regions import FIXED_OUTPUTS

LEAST_LEARNED = 0.1
"""Lower bound of a learned scale, as a share of the calibrated one: from zero it could not recover."""


@dataclass(frozen=True)
class WeightScale:
    """The scale of one quantised weight, with its lower bounds.

    Attributes:
        weight, scale: Names of the constants.
        axis: Channel axis of the weight.
        limit: Largest integer.
        clips: [C] share of each channel's largest magnitude that is covered initially; kept constant.
        biases: Names of the constants (bias, input scale) of each reader.
    """

    weight: str
    scale: str
    axis: int
    limit: int
    clips: Tensor
    biases: tuple[tuple[str, str], ...]


def weight_scales_of(graph: Graph) -> tuple[WeightScale, ...]:
    """The weight scales of a quantised graph, in graph order."""
    found: list[WeightScale] = []
    for node in calls(graph, "fake_quantize"):
        axis = node.kwargs["axis"]
        if not is_constant(operand(node, 0)) or not isinstance(axis, int):
            continue
        weight, scale = constant(graph, operand(node, 0)).detach(), constant(graph, operand(node, 1))
        limit = int(str(node.kwargs["qmax"]))
        clips = scale.detach().double() * limit / _greatest(weight, axis).clamp_min(1e-30)
        found.append(
            WeightScale(
                str(operand(node, 0).target),
                str(operand(node, 1).target),
                axis,
                limit,
                clips.clamp_max(1.0),
                tuple(_biases(node)),
            )
        )
    return tuple(found)


def _biases(quantiser: fx.Node) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for reader in quantiser.users:
        bias = optional_operand(reader, 2) if op_name(reader) in WEIGHTED else None
        if bias is not None and is_constant(bias) and is_fake_quantize(operand(reader, 0)):
            found.append((str(bias.target), str(operand(operand(reader, 0), 1).target)))
    return found


def _greatest(weight: Tensor, axis: int) -> Tensor:
    others = [i for i in range(weight.dim()) if i != axis]
    return weight.detach().abs().amax(others).double()


def follow_weights(graph: Graph, scales: tuple[WeightScale, ...]) -> None:
    """Set each weight scale from the current weights, in place, before a forward pass."""
    with torch.no_grad():
        for entry in scales:
            greatest = _greatest(constant(graph, entry.weight), entry.axis)
            value = floor_scales(greatest * entry.clips / entry.limit)
            for bias, source in entry.biases:
                floor = bias_floor(constant(graph, bias), float(constant(graph, source).detach()))
                value = torch.maximum(value, floor.double().reshape(-1, len(value)).amax(0))
            constant(graph, entry.scale).copy_(value)


def learnable_scales(graph: Graph) -> tuple[str, ...]:
    """Names of the activation scales that may be learned: not of inputs, nor fixed by a runtime."""
    found: dict[str, bool] = {}
    sources = set(inputs(graph))
    for node in calls(graph, "fake_quantize"):
        value = operand(node, 0)
        if node.kwargs["axis"] is None:
            free = not is_constant(value) and value not in sources and op_name(value) not in FIXED_OUTPUTS
            name = str(operand(node, 1).target)
            found[name] = found.get(name, True) and free
    return tuple(name for name, free in found.items() if free)


def make_learnable(graph: Graph, names: tuple[str, ...]) -> dict[str, float]:
    """Turn scales from buffers into parameters, in place; returns their lower bounds by name."""
    for name in names:
        value = constant(graph, name).detach().clone()
        delattr(graph, name)
        graph.register_parameter(name, nn.Parameter(value))
    return {name: LEAST_LEARNED * float(constant(graph, name).detach()) for name in names}


def keep_above(graph: Graph, least: dict[str, float]) -> None:
    """Clamp learned scales to their lower bounds, in place, after a step."""
    with torch.no_grad():
        for name, bound in least.items():
            constant(graph, name).clamp_(min=bound)
