"""Sparsification of 1x1 convolutions: selection of weights to zero, and refitting of the others."""

from __future__ import annotations

import torch
from torch import Tensor

from mcc.ir.notes import SparseNote

RIDGE = 1e-4  # of the mean energy of an input channel, added to all: keeps near-constant channels bounded
ROWS_AT_A_TIME = 64  # systems solved at once: 64 of 320 unknowns take 52 MB


def thin(weight: Tensor, wanted: SparseNote, moment: Tensor | None = None) -> Tensor:
    """Zero the blocks with the smallest energy; of equal blocks the later one, so that the result is unique.

    Args:
        weight: [O, I, 1, 1].
        moment: Second moment [I, I] of the inputs: its energies weight the squares, and the kept weights are
            refitted to it. Without one, all inputs have equal weight and the kept weights are unchanged.

    Returns:
        The sparse weight, same shape.
    """
    out, width = weight.shape[0], weight.shape[1]
    rows = -(-out // wanted.block)
    energy = torch.zeros(rows * wanted.block, width, dtype=torch.float64)
    energy[:out] = weight.reshape(out, width).double().square()
    score = energy.reshape(rows, wanted.block, width).sum(1)
    if moment is not None:
        score = score * moment.diagonal().clamp_min(1e-12 * float(moment.diagonal().max()) + 1e-30)
    score = score.reshape(-1)
    count = int(score.numel() * wanted.sparsity)
    # A stable ascending sort of the flipped scores puts later blocks first among equals.
    order = torch.argsort(score.flip(0), stable=True)[:count]
    keep = torch.ones(score.numel(), dtype=torch.bool)
    keep[score.numel() - 1 - order] = False
    mask = keep.reshape(rows, 1, width).expand(rows, wanted.block, width).reshape(-1, width)[:out]
    mask = mask.reshape(weight.shape)
    thinned = weight * mask.to(weight.dtype)
    if moment is None or torch.equal(thinned, weight):
        return thinned
    return refit(weight, mask & (weight != 0), moment)


def zero_count(weight: Tensor, wanted: SparseNote) -> int:
    """Minimum number of zeros of a weight: whole blocks, rounded down."""
    blocks = -(-weight.shape[0] // wanted.block) * weight.shape[1]
    per_block = min(wanted.block, weight.shape[0] % wanted.block or wanted.block)
    return int(blocks * wanted.sparsity) * per_block


def refit(weight: Tensor, mask: Tensor, moment: Tensor) -> Tensor:
    """The masked weight whose outputs are nearest to those of the full weight.

    Row w of the weight becomes the v that minimises (w - v) C (w - v)^T among those with its zeros: on the
    kept indices K, v_K = w C[:, K] C[K, K]^-1 (the optimal update of Hassibi and Stork 1993, "Second order
    derivatives for network pruning", for a single layer).

    Args:
        weight: [O, I, 1, 1].
        mask: Same shape, true where a weight is kept.
        moment: Second moment [I, I] of the inputs.

    Returns:
        Same shape and dtype; exactly zero where the mask is false.
    """
    dense, kept = weight[:, :, 0, 0].double(), mask[:, :, 0, 0]
    ridge = RIDGE * float(moment.diagonal().mean()) + 1e-30
    whole = moment + ridge * torch.eye(len(moment), dtype=torch.float64)
    target = dense @ whole
    fitted = torch.zeros_like(dense)
    counts = kept.sum(1)
    for count in sorted({int(n) for n in counts.tolist()} - {0}):
        rows = (counts == count).nonzero()[:, 0]
        for some in rows.split(ROWS_AT_A_TIME):
            places = kept[some].nonzero()[:, 1].reshape(len(some), count)
            systems = whole[places[:, :, None], places[:, None, :]]
            solved = torch.linalg.solve(systems, target[some].gather(1, places)[:, :, None])[:, :, 0]
            fitted[some] = fitted[some].scatter(1, places, solved)
    return fitted[:, :, None, None].to(weight.dtype)
