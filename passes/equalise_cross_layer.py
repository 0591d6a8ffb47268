"""equalise-cross-layer: equalise the ranges of channels, so that one quantisation scale fits them all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, fx

from mcc.analysis.scaling import ScalingPair, channel_rows, scale_channels, scaling_pairs
from mcc.errors import VerificationError
from mcc.ir.feed import tensors_of
from mcc.ir.graph import Graph, constant, copy_graph, operand, optional_operand, set_constant
from mcc.ir.interpreter import observe
from mcc.pass_api import Pass, PassContext

# Each sweep equalises every pair; a chain of layers converges in a few (a balanced matrix in the sense of
# Osborne 1960, "On Pre-Conditioning of Matrices"). A bound, so that a bug cannot cause an endless loop.
MAX_SWEEPS = 200


@dataclass(frozen=True)
class EqualiseCrossLayer(Pass):
    """Move scale from a layer's output channels to the weights that read them (Nagel 2019, section 4.1).

    Before and after, with one factor s > 0 per channel between the two layers:

        %a = conv2d(%x, @w, @b)                 %a = conv2d(%x, @w / s, @b / s)
        %r = relu(%a)                           %r = relu(%a)
        %y = conv2d(%r, @v, @c)                 %y = conv2d(%r, @v * s, @c)

    With r1 the range of a channel and r2 the largest weight that reads it, s = sqrt(r1 / r2) makes both
    sqrt(r1 r2). r1 is the largest value of the channel on calibration data, if there is any, else the norm of
    the weights that produce it plus its bias. s is rounded to a power of two, so that no weight is rounded;
    pairs are equalised in turn until every s is 1.

    Exact across relu, prelu, leaky_relu, identity and operators that preserve channels (pooling, resizing,
    zero padding), for which f(x / s) = f(x) / s. Skips, with the reason: pairs with a relu6 or any other
    operator between them (`replace-activation{of=relu6}` replaces it and states the error), values and
    weights with other readers, and frozen nodes.

    Exact twin: the graph before the pass.
    """

    name: ClassVar[str] = "equalise-cross-layer"

    def run(self, graph: Graph, ctx: PassContext) -> None:
        """Equalise all pairs in turn until none changes."""
        pairs = scaling_pairs(graph, ctx.refuse)
        ranges = _ranges(graph, pairs, ctx)
        changed: set[str] = set()
        for _ in range(MAX_SWEEPS):
            moved = {pair.writer.name for pair in pairs if _level(graph, pair, ranges)}
            changed |= moved
            if not moved:
                break
        ctx.count("pairs equalised", len(changed))

    def ensures(self, graph: Graph) -> None:
        """Raise VerificationError unless all weights are finite."""
        for pair in scaling_pairs(graph, lambda node, reason: None):
            for node in (pair.writer, pair.reader):
                if not bool(torch.isfinite(constant(graph, operand(node, 1))).all()):
                    raise VerificationError("has a weight that is not finite", where=node.name)


def _ranges(graph: Graph, pairs: list[ScalingPair], ctx: PassContext) -> dict[str, Tensor]:
    """The largest magnitude of each channel of a pair, by name of the writer; empty without data."""
    if not ctx.calibration:
        return {}
    writers = {pair.value.name: pair.writer.name for pair in pairs}
    found: dict[str, Tensor] = {}

    def see(node: fx.Node, value: Tensor) -> None:
        name = writers[node.name]
        largest = value.abs().transpose(0, 1).flatten(1).amax(1).double()
        found[name] = torch.maximum(found[name], largest) if name in found else largest

    for batch in ctx.calibration:
        observe(copy_graph(graph), tensors_of(batch), see, set(writers))
    return found


def _level(graph: Graph, pair: ScalingPair, ranges: dict[str, Tensor]) -> bool:
    """Equalise one pair; returns whether it changed."""
    writer, reader = pair.writer, pair.reader
    weight, reading = (constant(graph, operand(node, 1)).detach() for node in (writer, reader))
    bias = optional_operand(writer, 2)
    shift = constant(graph, bias).detach() if bias is not None else None
    first = ranges.get(writer.name)
    if first is None:
        first = channel_rows(writer, weight.double(), "written").square().sum(1).sqrt()
        first = first + shift.double().abs() if shift is not None else first
    second = channel_rows(reader, reading.double(), "read").abs().amax(1)
    # Half to even: a channel that differs by at most the root of two is unchanged, so that sweeps converge.
    power = torch.round(torch.log2(first / second) / 2)
    power = torch.where((first > 0) & (second > 0), power, torch.zeros_like(power))
    if not bool(power.any()):
        return False
    scale = torch.exp2(power)
    set_constant(graph, str(operand(writer, 1).target), scale_channels(writer, weight, "written", 1 / scale))
    set_constant(graph, str(operand(reader, 1).target), scale_channels(reader, reading, "read", scale))
    if bias is not None and shift is not None:
        set_constant(graph, str(bias.target), (shift.double() / scale).to(shift.dtype))
    if writer.name in ranges:
        ranges[writer.name] = ranges[writer.name] / scale
    return True
