"""Cost of several kernels together, with its interval.

An estimate's error is one standard deviation of the logarithm of its latency, given as microseconds. The
errors of several estimates have three origins:

* *of a kind*: errors of kernels of one kind are correlated (if one hard swish is slower than in the table, so
  is the next) and add up linearly, those of different kinds in quadrature. All roofline estimates depend on
  the same few figures, and count as one kind.
* *of the whole*: the sum of kernels measured one by one differs from the network (caches, the state of the
  machine in another session). It is common to all kernels: `WHOLE_ERROR` of the sum, or more where the
  times of one file spread more on that machine.
* *of the overhead*: independent of the others.

    bound = T * exp(+-z w), and for a kind  sum of t * (exp(+-z s) - 1),    z = 1.96

The deviations of the whole, of each kind and of the overhead are then combined in quadrature, upwards and
downwards separately: a time with an error of a factor of two may be twice or half of the estimate.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mcc.cost_api import WHOLE_ERROR, CostModel, Estimate, Kernel, Precision, Source

COVERAGE = 0.95  # of the stated interval
DEVIATIONS = 1.96  # standard deviations of a normal variable that cover that share
MOST_DEVIATION = 3.0  # of a logarithm: a factor of 20, beyond which an estimate has no information

Kind = tuple[str, str, Precision, int, str]


def grouping(kernel: Kernel) -> str:
    """Grouping of a convolution's channels: `dense`, `depthwise`, `grouped`; `dense` for other operators."""
    groups = int(dict(kernel.attributes).get("groups", 1))
    return "dense" if groups == 1 else "depthwise" if groups == kernel.output[1] else "grouped"


def kind_of(kernel: Kernel) -> Kind:
    """The kind of a kernel: operator, grouping, precision, storage of the weight, layout."""
    stored = kernel.sparse.block if kernel.sparse is not None else 0
    return kernel.op, grouping(kernel), kernel.precision, stored, kernel.layout


def kind_words(kind: Kind) -> str:
    """A kind in words, e.g. `depthwise conv2d, float`."""
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
    """Part of a prediction that comes from a roofline because kernels of its kind were never measured.

    Attributes:
        kind: Kind in words.
        kernels: Number of kernels of that kind in the network.
        share: Share of the predicted latency.
    """

    kind: str
    kernels: int
    share: float


@dataclass(frozen=True)
class GraphCost:
    """Predicted cost of a graph.

    Attributes:
        layers: Costs of the nodes that have one.
        overhead: Cost outside the layers.
        whole_error: Relative error common to all parts, one standard deviation.
    """

    layers: tuple[LayerCost, ...]
    overhead: Estimate = field(default=Estimate(0.0, 0.0, "measured"))
    whole_error: float = WHOLE_ERROR

    @property
    def overhead_cost(self) -> float:
        """Latency outside the layers."""
        return self.overhead.cost

    @property
    def cost(self) -> float:
        """Sum of the layers and the overhead."""
        return self.overhead_cost + sum(layer.estimate.cost for layer in self.layers)

    @property
    def error(self) -> float:
        """One standard deviation of the latency; see the module."""
        whole = self.whole_error * self.cost
        return math.hypot(whole, self.overhead.error, *_errors(self._parts()))

    @property
    def interval(self) -> tuple[float, float]:
        """Interval that contains the latency with a probability of `COVERAGE`; see the module."""
        parts = self._parts()
        low, high = (
            math.hypot(
                self.cost * _shift(self.whole_error, sign),
                self.overhead_cost * _shift(_relative(self.overhead), sign),
                *(sum(e.cost * _shift(_relative(e), sign) for e in kind) for kind in _kinds(parts)),
            )
            for sign in (-1.0, 1.0)
        )
        return max(0.0, self.cost - low), self.cost + high

    def rooflines(self) -> tuple[Roofline, ...]:
        """The parts from a roofline, by kind, the largest share first."""
        found: dict[Kind, list[float]] = {}
        for layer in self.layers:
            if layer.estimate.source == "roofline":
                found.setdefault(kind_of(layer.kernel), []).append(layer.estimate.cost)
        total = max(self.cost, 1e-9)
        each = [Roofline(kind_words(kind), len(us), sum(us) / total) for kind, us in found.items()]
        return tuple(sorted(each, key=lambda roofline: -roofline.share))

    @property
    def roofline_share(self) -> float:
        """Share of the latency that comes from a roofline."""
        return sum(roofline.share for roofline in self.rooflines())

    def _parts(self) -> list[tuple[Kernel, Estimate]]:
        return [(layer.kernel, layer.estimate) for layer in self.layers]


def predict(model: CostModel, kernels: Mapping[str, Kernel], precision: Precision = "float") -> GraphCost:
    """Cost of a whole graph from its kernels; `precision` is that of its input and output conversion."""
    layers = tuple(LayerCost(name, kernel, model.kernel(kernel)) for name, kernel in kernels.items())
    return GraphCost(layers, model.overhead(precision), model.whole_error)


def summed(parts: Iterable[tuple[Kernel, Estimate]]) -> Estimate:
    """Sum of some kernels of one network, without overhead and the error of the whole."""
    each = list(parts)
    latency = sum(estimate.cost for _, estimate in each)
    return Estimate(latency, math.hypot(*_errors(each)), joint_source(e.source for _, e in each))


def joint_source(sources: Iterable[Source]) -> Source:
    """Source of a sum: measured if all parts are, a roofline if any part is one."""
    found = set(sources)
    return "roofline" if "roofline" in found else "fitted" if "fitted" in found else "measured"


def _kinds(parts: Iterable[tuple[Kernel, Estimate]]) -> list[list[Estimate]]:
    """Estimates in groups with correlated errors."""
    found: dict[object, list[Estimate]] = {}
    for kernel, estimate in parts:
        key = "roofline" if estimate.source == "roofline" else kind_of(kernel)
        found.setdefault(key, []).append(estimate)
    return list(found.values())


def _errors(parts: Iterable[tuple[Kernel, Estimate]]) -> list[float]:
    return [sum(estimate.error for estimate in kind) for kind in _kinds(parts)]


def _relative(estimate: Estimate) -> float:
    return min(MOST_DEVIATION, estimate.error / max(estimate.cost, 1e-9))


def _shift(deviation: float, sign: float) -> float:
    """Relative distance of the upper (sign 1) or lower (-1) bound from the estimate."""
    return abs(math.exp(sign * DEVIATIONS * deviation) - 1.0)
