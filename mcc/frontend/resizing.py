"""Resizing as products with constant matrices, where no kernel of a runtime computes it.

Interpolation is linear in the map and works along one axis after the other:

    y[h', w'] = sum over h, w of A[h', h] B[w', w] x[h, w]

Kernels sample at i * old / new. A factor that does not give a whole size (1.7 times 9), cubic interpolation
and antialiasing sample elsewhere or more; their matrices come from PyTorch or ONNX's reference evaluator, so
that the numbers are those of the original. Runtimes run the products as fully connected layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mcc.frontend.emitter import Emitter
from mcc.frontend.values import AnyValue, Const

Interpolation = Callable[[Tensor, int], Tensor]
"""Resizes the last axis (when `axis` is 1) or the one before (0) of a map [1, 1, H, W]."""

MAX_MATRIX = 1 << 22
"""Entries of a matrix, 16 MiB: 2,048 to 2,048. Beyond it a kernel is wanted."""


def by_matrices(e: Emitter, x: AnyValue, size: Sequence[int], interpolate: Interpolation) -> AnyValue:
    """Resize the two last axes of a map.

    Args:
        size: the new height and width.
        interpolate: what the original does along one axis.
    """
    for axis in (1, 0):
        before = e.shape(x)[2 + axis]
        if before == size[axis] == 1:
            continue
        if before * size[axis] > MAX_MATRIX:
            e.refuse(f"resizes {before} to {size[axis]} in a way that no kernel does", "use mode='bilinear'")
        unit = torch.eye(before).reshape(1, 1, before, before)
        made = interpolate(unit if axis else unit.mT, axis)
        matrix = made[0, 0].mT if axis else made[0, 0]
        if torch.equal(matrix, unit[0, 0]):
            continue
        weight = Const(matrix.contiguous(), f"{e.hint}_matrix{axis}")
        x = e.call("linear", x if axis else e.transpose(x, (0, 1, 3, 2)), weight, None)
        x = x if axis else e.transpose(x, (0, 1, 3, 2))
    return x
