"""Low-rank factorisation of 1x1 convolutions."""

from __future__ import annotations

import torch
from torch import Tensor


def factors(weight: Tensor, moment: Tensor | None, rank: int) -> tuple[Tensor, Tensor]:
    """Factors U [O, r, 1, 1] and V [r, I, 1, 1] whose product best approximates a weight [O, I, 1, 1].

    Args:
        moment: Second moment [I, I] of the inputs; the identity if None.
    """
    dense = weight[:, :, 0, 0].double()
    root, inverse = _square_root(moment, dense.shape[1])
    left, values, right = torch.linalg.svd(dense @ root, full_matrices=False)
    # With V = right S^-1 every inner channel has unit second moment on the data, so one scale fits all of
    # them; U holds the singular values.
    u = left[:, :rank] * values[:rank]
    v = right[:rank] @ inverse
    return u[:, :, None, None].to(weight.dtype), v[:, :, None, None].to(weight.dtype)


def _square_root(moment: Tensor | None, width: int) -> tuple[Tensor, Tensor]:
    """Symmetric square root of a moment and its inverse; a floor of 1e-6 of the mean makes it invertible."""
    if moment is None:
        eye = torch.eye(width, dtype=torch.float64)
        return eye, eye
    energies, vectors = torch.linalg.eigh(moment)
    energies = energies.clamp_min(float(energies.mean()) * 1e-6 + 1e-30).sqrt()
    return vectors * energies @ vectors.T, vectors / energies @ vectors.T
