"""Weights fitted to second moments: the least change of the outputs among those with the same zeros."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from mcc.analysis.thinning import refit


def _case(seed: int, out: int, width: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(out, width, 1, 1, generator=generator, dtype=torch.float64)
    x = torch.randn(width, 200, generator=generator, dtype=torch.float64)
    x = torch.randn(width, width, generator=generator, dtype=torch.float64) @ x  # channels that go together
    mask = torch.rand(out, width, 1, 1, generator=generator) < 0.5
    return weight, mask, x


def _error(weight: torch.Tensor, other: torch.Tensor, x: torch.Tensor) -> float:
    return float((((weight - other)[:, :, 0, 0]) @ x).square().sum())


@given(st.integers(0, 200), st.integers(1, 6), st.integers(1, 7))
def test_it_is_the_least_squares_solution_with_these_zeros(seed: int, out: int, width: int) -> None:
    weight, mask, x = _case(seed, out, width)
    fitted = refit(weight, mask, x @ x.T / x.shape[1])
    assert bool((fitted[~mask] == 0).all())
    assert _error(weight, fitted, x) <= _error(weight, weight * mask, x) * (1 + 1e-9) + 1e-9
    for row in range(out):
        kept = mask[row, :, 0, 0]
        if not bool(kept.any()):
            continue
        target = weight[row, :, 0, 0] @ x
        best = torch.linalg.lstsq(x[kept].T, target[:, None]).solution[:, 0]
        least = float((best @ x[kept] - target).square().sum())
        got = float((fitted[row, :, 0, 0] @ x - target).square().sum())
        assert got <= least + 1e-2 * float(target.square().sum())  # the ridge costs a little


def test_a_weight_that_keeps_everything_stays() -> None:
    weight, _, x = _case(3, 4, 5)
    fitted = refit(weight, torch.ones_like(weight, dtype=torch.bool), x @ x.T / x.shape[1])
    assert torch.allclose(fitted, weight, rtol=1e-6, atol=1e-9)
