"""Quantisation parameters of a value, read from its `fake_quantize` node."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from mcc.errors import GraphError
from mcc.ir.graph import constant, op_name, operand

INT8_MIN, INT8_MAX = -128, 127


@dataclass(frozen=True)
class QuantParams:
    """Affine mapping of integers to real numbers: real = (q - zero_point) * scale.

    Attributes:
        scales: One float32 scale, or one per channel along `axis`.
        zero_points: Zero points, as many as scales.
        qmin, qmax: Minimum and maximum integer, inclusive.
        axis: Channel axis of the value, or None for a scale per tensor.
    """

    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    qmin: int
    qmax: int
    axis: int | None = None

    def __post_init__(self) -> None:
        if not self.scales or len(self.scales) != len(self.zero_points):
            raise ValueError(f"{len(self.scales)} scales but {len(self.zero_points)} zero points")
        if self.axis is None and len(self.scales) != 1:
            raise ValueError("several scales need a channel axis")
        if not all(np.isfinite(scale) and scale > 0 for scale in self.scales):
            raise ValueError("scales must be positive and finite")
        if not all(self.qmin <= zero <= self.qmax for zero in self.zero_points):
            raise ValueError(f"zero points must lie in {self.qmin}..{self.qmax}")

    @property
    def scale(self) -> np.float32:
        """The scale of a value with one scale. Raises ValueError for a scale per channel."""
        if len(self.scales) != 1:
            raise ValueError("the value has a scale per channel")
        return np.float32(self.scales[0])

    @property
    def zero_point(self) -> int:
        """The zero point of a value with one zero point. Raises ValueError for one per channel."""
        if len(self.zero_points) != 1:
            raise ValueError("the value has a zero point per channel")
        return self.zero_points[0]

    @property
    def scale_vector(self) -> NDArray[np.float32]:
        """The scales as a float32 vector, of length 1 or of the number of channels."""
        return np.asarray(self.scales, dtype=np.float32)

    @property
    def is_int8_activation(self) -> bool:
        """Whether integer kernels accept the value as activation: one scale, the whole int8 range."""
        return self.axis is None and (self.qmin, self.qmax) == (INT8_MIN, INT8_MAX)

    @property
    def is_symmetric(self) -> bool:
        """Whether every zero point is 0 and all integers fit int8, as integer kernels require of weights."""
        return not any(self.zero_points) and self.qmin >= INT8_MIN and self.qmax <= INT8_MAX

    def same_mapping(self, other: QuantParams) -> bool:
        """Whether both map integers to the same real numbers."""
        return self.scales == other.scales and self.zero_points == other.zero_points


def is_fake_quantize(node: object) -> bool:
    """Whether a value is a `fake_quantize` node."""
    return isinstance(node, fx.Node) and node.op == "call_function" and op_name(node) == "fake_quantize"


def quant_params(graph: fx.GraphModule, node: fx.Node) -> QuantParams:
    """Parameters of a `fake_quantize` node. Raises GraphError if its constants are unusable.

    A range of 256 integers is converted to that of int8, with the zero point shifted (uint8 by 128).
    """
    scale = constant(graph, operand(node, 1)).detach().to(torch.float32).reshape(-1)
    zero = constant(graph, operand(node, 2)).detach().to(torch.int64).reshape(-1)
    axis = node.kwargs["axis"]
    assert axis is None or isinstance(axis, int)
    if len(zero) == 1 and len(scale) > 1:
        zero = zero.expand(len(scale))
    qmin, qmax = int(str(node.kwargs["qmin"])), int(str(node.kwargs["qmax"]))
    shift = INT8_MIN - qmin if qmax - qmin == INT8_MAX - INT8_MIN else 0
    try:
        return QuantParams(
            tuple(float(s) for s in scale),
            tuple(int(z) + shift for z in zero),
            qmin + shift,
            qmax + shift,
            axis,
        )
    except ValueError as error:
        raise GraphError(f"unusable quantisation parameters: {error}", where=node.name) from error
