"""How far a graph read from an ONNX file is from onnxruntime: rounding told from another function.

onnxruntime computes in float32, and its sigmoid and exponential are right to some 1e-7 of 1: a detector whose
scores are all below 6e-5 on random input differs by a permille of that, and is right. So where the outputs
of one input differ by more than the tolerance, inputs of other sizes are tried as well. The range of an
output is then the largest on any of them, and the graph is run in float64, which leaves the rounding of
onnxruntime alone.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mcc.errors import MccError
from mcc.frontend.batch import Original, unsqueezed
from mcc.ir.graph import Graph, calls, run

log = logging.getLogger(__name__)

# onnxruntime and torch sum float32 products in different orders: some hundred roundings of 2**-24 per layer.
TOLERANCE = 1e-4
# A value on the border of two steps may fall either way, and takes what follows with it; a wrong scale moves
# all values and is far beyond.
TOLERANCE_QUANTISED = 0.02

_OTHER_INPUTS: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda x: 8.0 * x,
    lambda x: x.abs().clamp(max=1.0),
    lambda x: 64.0 * x.abs(),
)
"""Saturated, as pictures in 0..1, as pictures in 0..255."""


class Comparison:
    """A graph held against the file that it was read from.

    Args:
        values: a random batch.
    """

    def __init__(self, graph: Graph, original: Original, values: Sequence[Tensor]) -> None:
        self.graph = graph
        self.original = original
        self.values = list(values)
        self.quantised = bool(calls(graph, "fake_quantize"))
        self.tolerance = TOLERANCE_QUANTISED if self.quantised else TOLERANCE
        self.ranges: list[float] | None = None

    def differences(self, graph: Graph, values: Sequence[Tensor], expected: Sequence[Tensor]) -> list[float]:
        """The difference of each output over its range; see the head of this file."""
        got = run(graph, *values)
        if len(got) != len(expected):
            return [math.inf]
        found = [_apart(a, b, self.quantised) for a, b in zip(got, expected, strict=True)]
        if self.quantised or max(found, default=0.0) <= self.tolerance or math.inf in found:
            return found
        ranges = self._ranges(expected)
        exact = _in_double(graph, values)
        return [
            _apart(a, b, False, least) for a, b, least in zip(exact or got, expected, ranges, strict=True)
        ]

    def disagreement(self, graph: Graph, values: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
        """The largest of them as a multiple of what is taken for rounding."""
        return max(self.differences(graph, values, expected), default=0.0) / self.tolerance

    def own_differences(self, expected: Sequence[Tensor]) -> list[float]:
        """On the batch that was given, and where that is in doubt on the others as well.

        Args:
            expected: the outputs of the file for that batch.
        """
        found = self.differences(self.graph, self.values, expected)
        if self.ranges is None:
            return found
        for change in _OTHER_INPUTS:
            values = [change(value) for value in self.values]
            more = self.differences(self.graph, values, self.original(values))
            found = [max(pair) for pair in zip(found, more, strict=True)]
        return found

    def _ranges(self, expected: Sequence[Tensor]) -> list[float]:
        """The largest magnitude of each output on inputs of several sizes."""
        if self.ranges is None:
            several = [self.original([change(value) for value in self.values]) for change in _OTHER_INPUTS]
            self.ranges = [max(map(_size, outputs)) for outputs in zip(*several, strict=True)]
        return [max(known, _size(value)) for known, value in zip(self.ranges, expected, strict=True)]


def _size(value: Tensor) -> float:
    finite = value[torch.isfinite(value)]
    return float(finite.abs().max()) if finite.numel() else 0.0


def _in_double(graph: Graph, values: Sequence[Tensor]) -> list[Tensor] | None:
    """The outputs in float64; None where the graph does not run so."""
    try:
        return list(run(copy.deepcopy(graph).double(), *(value.double() for value in values)))
    except (MccError, RuntimeError, TypeError) as error:
        log.info("compared in float32 only, since the graph does not run in float64: %s", error)
        return None


def _apart(got: Tensor, wanted: Tensor, quantised: bool, least: float = 0.0) -> float:
    """The largest difference over the range; for quantised models the mean one over the mean size.

    Args:
        least: the range is at least this.
    """
    shaped = unsqueezed(wanted, got.shape)
    if shaped is None:
        return math.inf
    if not got.numel():
        return 0.0
    same = (got == shaped) | (got.isnan() & shaped.isnan())  # infinities, and both undefined
    apart, size = torch.where(same, 0.0, (got - shaped).abs()), shaped.abs()
    difference = apart.mean() if quantised else apart.max()
    scale = float(size.mean()) if quantised else max(least, _size(shaped))
    return math.inf if bool(difference.isnan()) else float(difference) / (scale or 1.0)
