"""Quantisation parameters of a TFLite tensor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class Quantisation:
    """real = scale * (q - zero_point), per tensor (one scale) or along `axis` (one scale per index).

    Attributes:
        scales: Scales as trained, float32, positive.
        zero_points: Zero points, int64, as many as scales.
        axis: Quantised dimension of the tensor as stored; 0 for one scale.
    """

    scales: npt.NDArray[np.float32]
    zero_points: npt.NDArray[np.int64]
    axis: int = 0

    def key(self) -> tuple[object, ...]:
        """Hashable identity: equal keys mean equal parameters, bit by bit."""
        return (self.scales.tobytes(), self.zero_points.tobytes(), self.axis)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Quantisation) and self.key() == other.key()

    def __hash__(self) -> int:
        return hash(self.key())

    @property
    def scale(self) -> np.float32:
        """The scale of a per-tensor quantisation."""
        return np.float32(self.scales.reshape(-1)[0])

    @property
    def zero_point(self) -> int:
        """The zero point of a per-tensor quantisation."""
        return int(self.zero_points.reshape(-1)[0])

    def along(self, axis: int) -> Quantisation:
        """The same parameters for a tensor stored with the quantised dimension at `axis`."""
        return Quantisation(self.scales, self.zero_points, axis)

    def take(self, order: npt.NDArray[np.int64]) -> Quantisation:
        """The parameters after the quantised dimension was reordered."""
        if self.scales.size == 1:
            return self
        return Quantisation(self.scales[order], self.zero_points[order], self.axis)


def per_tensor(scale: float | np.float32, zero_point: int) -> Quantisation:
    """Parameters with one scale for the whole tensor."""
    return Quantisation(np.array([scale], np.float32), np.array([zero_point], np.int64))
