"""Error of the boxes and scores of a quantised detector.

The SQNR of an output is a poor criterion here: a box of a hundred pixels has a high SQNR with an error of
ten, while a classifier whose logits have 7 dB still finds its class. A detector is recognised by its outputs:
some numbers come from a sigmoid or softmax, others from arithmetic after the last weights, possibly
concatenated in one tensor. The bounds are those of a visual comparison of the boxes:

* boxes, and other results of arithmetic, within `BOX_SHARE` of their range on the data,
* scores within `SCORE`,

for 99 of 100 numbers. The largest error among thousands is reported and has no bound: in trained int8
networks it is several times as large, and depends on one image more than on the network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from mcc.ir.graph import Graph, calls, op_name, operands, outputs
from mcc.ir.interpreter import values_of
from mcc.ir.table import MOVING, WEIGHTED
from mcc.quant.decoding import followed_by_weights
from mcc.quant.params import is_fake_quantize
from mcc.quant.simulator import Flavour, Simulator

BOX_SHARE = 0.01
SCORE = 0.02
MOST = 0.99
"""Share of the numbers that must be within the bounds."""

_SCORES = frozenset({"sigmoid", "softmax"})
_COMPUTED = frozenset({"add", "sub", "mul", "div", "exp", "pow", "sqrt", "sum", "clamp"})
"""Operators that compute boxes. Means and activations are excluded: other networks end in them, too."""


@dataclass(frozen=True)
class Read:
    """A value that is part of an output.

    Attributes:
        node: Name of the value.
        output: Index of the first output that it is part of.
        scores: Whether it is a score (0..1, from a sigmoid or softmax); otherwise it is computed, as boxes
            are.
    """

    node: str
    output: int
    scores: bool


@dataclass(frozen=True)
class Deviation:
    """Error of a value relative to float.

    Attributes:
        read: The value.
        most: 99th percentile of the errors: relative to the range for boxes, absolute for scores.
        worst: Largest error, likewise.
    """

    read: Read
    most: float
    worst: float

    @property
    def excess(self) -> float:
        """The error relative to the bound; above 1 the bound is exceeded."""
        return self.most / (SCORE if self.read.scores else BOX_SHARE)

    @property
    def words(self) -> str:
        """The exceeded bound in words."""
        if self.read.scores:
            return f"1 of 100 scores is off by more than {self.most:.3f}, {SCORE:g} is allowed"
        return (
            f"1 of 100 boxes is off by more than {self.most:.1%} of their range, {BOX_SHARE:.0%} is allowed"
        )


def reads(graph: Graph) -> tuple[Read, ...]:
    """The boxes and scores of a detector, in graph order; empty for other networks."""
    found: dict[str, Read] = {}
    for place, value in enumerate(outputs(graph)):
        front = [value]
        while front:
            node = front.pop()
            if node.op != "call_function" or node.name in found:
                continue
            if is_fake_quantize(node) or op_name(node) in MOVING - {"clamp"}:
                front.extend(operands(node)[:1] if is_fake_quantize(node) else operands(node))
            elif op_name(node) in _SCORES or op_name(node) in _COMPUTED:
                found[node.name] = Read(node.name, place, op_name(node) in _SCORES)
    both = {read.scores for read in found.values()}
    order = [node.name for node in graph.graph.nodes]
    return tuple(sorted(found.values(), key=lambda r: order.index(r.node))) if len(both) == 2 else ()


def last_layers(graph: Graph) -> tuple[fx.Node, ...]:
    """The operators with weights whose results reach no other one, and are no output themselves."""
    followed = followed_by_weights(graph)
    shown = set(outputs(graph))
    return tuple(n for n in calls(graph, *WEIGHTED) if n not in followed and n not in shown)


def deviations(
    graph: Graph, plain: Graph, values: Sequence[Tensor], flavour: Flavour = "xnnpack"
) -> tuple[Deviation, ...]:
    """Errors of the boxes and scores of a quantised graph relative to its float network.

    Args:
        plain: Float network, whose operators have the same names.
        values: Inputs [N, ...].
    """
    wanted_of = reads(plain)
    if not wanted_of:
        return ()
    names = {read.node for read in wanted_of}
    wanted = values_of(plain, values, names)
    made = Simulator(graph, flavour).named(names, *values)
    spans = _spans(wanted_of, wanted)
    return tuple(_deviation(r, made[r.node], wanted[r.node], spans.get(r.output, 1.0)) for r in wanted_of)


def _spans(found: Sequence[Read], values: Mapping[str, Tensor]) -> dict[int, float]:
    """Range of the boxes of each output."""
    ends: dict[int, tuple[float, float]] = {}
    for read in found:
        if not read.scores:
            low, high = (float(end) for end in torch.aminmax(values[read.node]))
            old = ends.get(read.output, (low, high))
            ends[read.output] = min(low, old[0]), max(high, old[1])
    return {output: high - low for output, (low, high) in ends.items()}


def _deviation(read: Read, made: Tensor, wanted: Tensor, span: float) -> Deviation:
    unit = 1.0 if read.scores or not span > 0 else span
    errors = ((made - wanted).abs() / unit).flatten()
    place = max(1, round(MOST * len(errors)))
    return Deviation(read, float(errors.kthvalue(place).values), float(errors.max()))


def in_words(found: Sequence[Deviation]) -> str:
    """All deviations in one phrase, the largest of either kind; empty for none."""
    parts: list[str] = []
    for scores, what, form in ((False, "boxes", "{:.1%}"), (True, "scores", "{:.3f}")):
        kind = [d for d in found if d.read.scores == scores]
        if kind:
            most, worst = (
                form.format(max(part)) for part in zip(*((d.most, d.worst) for d in kind), strict=True)
            )
            behind = "" if scores else " of their range"
            parts.append(f"99 of 100 {what} within {most}{behind}, the worst {worst} off")
    return ", ".join(parts)
