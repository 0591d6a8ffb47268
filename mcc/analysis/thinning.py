"""Which weights of a 1x1 convolution matter least, and the layer without them."""

from __future__ import annotations

import torch
from torch import Tensor

from mcc.ir.notes import SparseNote

RIDGE = 1e-4  # of the mean energy of an input channel, added to all: channels that hardly vary stay in bounds
ROWS_AT_A_TIME = 64  # systems solved together: 64 of 320 unknowns take 52 MB


def thin(weight: Tensor, wanted: SparseNote, moment: Tensor | None = None) -> Tensor:
    """Zero the blocks with the smallest energy; ties go to the later block, so that the result is one.

    Args:
        weight: [O, I, 1, 1].
        moment: second moment [I, I] of the inputs: its energies weigh the squares, and the weights that stay
            are fitted to it. Without one, all inputs count alike and the others stay as they are.

    Returns:
        The thinned weight, same shape.
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
    """Number of zeros that a weight gets at least: whole blocks, rounded to the nearest below."""
    blocks = -(-weight.shape[0] // wanted.block) * weight.shape[1]
    per_block = min(wanted.block, weight.shape[0] % wanted.block or wanted.block)
    return int(blocks * wanted.sparsity) * per_block


def refit(weight: Tensor, mask: Tensor, moment: Tensor) -> Tensor:
    """The weight with zeros where the mask says so whose outputs are nearest to those of the whole weight.

    Row w of the weight becomes the v that is least in (w - v) C (w - v)^T among those with its zeros: on the
    kept places K, v_K = w C[:, K] C[K, K]^-1 (the optimal update of Hassibi and Stork 1993, "Second order
    derivatives for network pruning", for a layer by itself).

    Args:
        weight: [O, I, 1, 1].
        mask: same shape, true where a weight stays.
        moment: [I, I] of the inputs.

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
