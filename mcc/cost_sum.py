"""What several kernels cost together, and between which bounds.

An estimate's error is one standard deviation of the logarithm of its latency, given as microseconds. Errors
of several estimates are of three origins:

* *of a kind*: what makes one hard swish slower than the table says makes the next one slower, too. Errors of
  kernels of one kind add up linearly, those of different kinds in quadrature. All that rests on a roofline
  rests on the same few figures, and counts as one kind.
* *of the whole*: the sum of kernels measured one by one is not the network (caches, the state of the machine
  in another session). It is common to all kernels: `WHOLE_ERROR` of the sum, or more where the times of
  one file spread more on that machine.
* *of the overhead*: by itself.

    bound = T * exp(+-z w), and for a kind  sum of t * (exp(+-z s) - 1),    z = 1.96

The deviations of the whole, of each kind and of the overhead are then joined in quadrature, upwards and
downwards apart: a time that may be wrong by a factor of two may be twice or half of what is said.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mcc.cost_api import WHOLE_ERROR, CostModel, Estimate, Kernel, Precision, Source

COVERAGE = 0.95  # of the interval that is stated
DEVIATIONS = 1.96  # of a normal variable, within which that share of it lies
MOST_DEVIATION = 3.0  # of a logarithm: a factor of 20, which says nothing any more

Kind = tuple[str, str, Precision, int, str]


def grouping(kernel: Kernel) -> str:
    """How the channels of a convolution are grouped: `dense`, `depthwise`, `grouped`; `dense` of others."""
    groups = int(dict(kernel.attributes).get("groups", 1))
    return "dense" if groups == 1 else "depthwise" if groups == kernel.output[1] else "grouped"


def kind_of(kernel: Kernel) -> Kind:
    """The kind of a kernel: operator, grouping, precision, storage of the weight, layout."""
    stored = kernel.sparse.block if kernel.sparse is not None else 0
    return kernel.op, grouping(kernel), kernel.precision, stored, kernel.layout


def kind_words(kind: Kind) -> str:
    """A kind for people: `depthwise conv2d, float`."""
    op, grouped, precision, stored, layout = kind
    name = op if grouped == "dense" else f"{grouped} {op}"
    form = ", sparse" if stored else ", inside a sparse cluster" if layout == "nchw" else ""
    return f"{name}, {precision}{form}"


@dataclass(frozen=True)
class LayerCost:
    """Predicted cost of one node."""

    node: str
    kernel: Kernel
    estimate: Estimate


@dataclass(frozen=True)
class Roofline:
    """What of a prediction rests on a roofline because kernels of its kind were never measured.

    Attributes:
        kind: in words.
        kernels: of that kind in the network.
        share: of the predicted latency.
    """

    kind: str
    kernels: int
    share: float


@dataclass(frozen=True)
class GraphCost:
    """Predicted cost of a graph.

    Attributes:
        layers: nodes that cost something.
        overhead: what belongs to no layer.
        whole_error: relative error common to all of it, one standard deviation.
    """

    layers: tuple[LayerCost, ...]
    overhead: Estimate = field(default=Estimate(0.0, 0.0, "measured"))
    whole_error: float = WHOLE_ERROR

    @property
    def overhead_us(self) -> float:
        """What belongs to no layer."""
        return self.overhead.latency_us

    @property
    def latency_us(self) -> float:
        """Sum of the layers and the overhead."""
        return self.overhead_us + sum(layer.estimate.latency_us for layer in self.layers)

    @property
    def error_us(self) -> float:
        """One standard deviation; see the module."""
        whole = self.whole_error * self.latency_us
        return math.hypot(whole, self.overhead.error_us, *_errors(self._parts()))

    @property
    def interval_us(self) -> tuple[float, float]:
        """Between these lies the latency with a probability of `COVERAGE`; see the module."""
        parts = self._parts()
        low, high = (
            math.hypot(
                self.latency_us * _shift(self.whole_error, sign),
                self.overhead_us * _shift(_relative(self.overhead), sign),
                *(sum(e.latency_us * _shift(_relative(e), sign) for e in kind) for kind in _kinds(parts)),
            )
            for sign in (-1.0, 1.0)
        )
        return max(0.0, self.latency_us - low), self.latency_us + high

    def rooflines(self) -> tuple[Roofline, ...]:
        """What rests on a roofline, kind by kind, the largest share first."""
        found: dict[Kind, list[float]] = {}
        for layer in self.layers:
            if layer.estimate.source == "roofline":
                found.setdefault(kind_of(layer.kernel), []).append(layer.estimate.latency_us)
        total = max(self.latency_us, 1e-9)
        each = [Roofline(kind_words(kind), len(us), sum(us) / total) for kind, us in found.items()]
        return tuple(sorted(each, key=lambda roofline: -roofline.share))

    @property
    def roofline_share(self) -> float:
        """Share of the latency that rests on a roofline."""
        return sum(roofline.share for roofline in self.rooflines())

    def _parts(self) -> list[tuple[Kernel, Estimate]]:
        return [(layer.kernel, layer.estimate) for layer in self.layers]


def predict(model: CostModel, kernels: Mapping[str, Kernel], precision: Precision = "float") -> GraphCost:
    """Cost of a whole graph from its kernels; `precision` is that of its input and output conversion."""
    layers = tuple(LayerCost(name, kernel, model.kernel(kernel)) for name, kernel in kernels.items())
    return GraphCost(layers, model.overhead(precision), model.whole_error)


def summed(parts: Iterable[tuple[Kernel, Estimate]]) -> Estimate:
    """Some kernels of one network together, without what concerns the whole network."""
    each = list(parts)
    latency = sum(estimate.latency_us for _, estimate in each)
    return Estimate(latency, math.hypot(*_errors(each)), joint_source(e.source for _, e in each))


def joint_source(sources: Iterable[Source]) -> Source:
    """Where a sum came from: measured if all was, a roofline if any of it was one."""
    found = set(sources)
    return "roofline" if "roofline" in found else "fitted" if "fitted" in found else "measured"


def _kinds(parts: Iterable[tuple[Kernel, Estimate]]) -> list[list[Estimate]]:
    """Estimates in groups within which errors are common."""
    found: dict[object, list[Estimate]] = {}
    for kernel, estimate in parts:
        key = "roofline" if estimate.source == "roofline" else kind_of(kernel)
        found.setdefault(key, []).append(estimate)
    return list(found.values())


def _errors(parts: Iterable[tuple[Kernel, Estimate]]) -> list[float]:
    return [sum(estimate.error_us for estimate in kind) for kind in _kinds(parts)]


def _relative(estimate: Estimate) -> float:
    return min(MOST_DEVIATION, estimate.error_us / max(estimate.latency_us, 1e-9))


def _shift(deviation: float, sign: float) -> float:
    """By what share a time may lie above (sign 1) or below (-1) its estimate."""
    return abs(math.exp(sign * DEVIATIONS * deviation) - 1.0)
