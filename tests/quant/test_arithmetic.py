"""Formulas against arithmetic done by other means: exact fractions, python integers, float64."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mcc.quant import arithmetic
from mcc.quant.params import QuantParams

scales = st.floats(2.0**-10, 2.0**-2, width=32)
zeros = st.integers(-128, 127)
CODES = torch.arange(-128, 128, dtype=torch.int8)


def params(scale: float, zero_point: int) -> QuantParams:
    return QuantParams((float(np.float32(scale)),), (zero_point,), -128, 127)


def real(code: int, p: QuantParams) -> Fraction:
    return (code - p.zero_point) * Fraction(p.scales[0])


@given(scales, zeros)
def test_quantize_inverts_dequantize(scale: float, zero: int) -> None:
    p = params(scale, zero)
    assert torch.equal(arithmetic.quantize(arithmetic.dequantize(CODES, p), p), CODES)


def test_quantize_multiplies_by_the_reciprocal_and_saturates() -> None:
    p = params(0.1, 5)
    x = torch.tensor([float("inf"), float("-inf"), 1e30, 0.25, 0.35, float("nan")])
    reciprocal = np.float32(1) / np.float32(0.1)
    near = [int(np.rint(np.float32(v) * reciprocal)) + 5 for v in (0.25, 0.35)]
    assert arithmetic.quantize(x, p).tolist() == [127, -128, 127, *near, 5]


@given(scales, zeros, scales, zeros)
def test_requantize_is_coarse_but_bounded(s: float, z: int, t: float, u: int) -> None:
    source, target = params(s, z), params(t, u)
    ratio = source.scale / target.scale
    if not 2.0**-8 <= ratio <= 2.0**7:
        return
    got = arithmetic.requantize(CODES, source, target).to(torch.int64)
    for code in (-128, -3, z, 100, 127):
        exact = real(code, source) / Fraction(target.scales[0]) + u
        clamped = min(max(exact, Fraction(-128)), Fraction(127))
        # Half a step of rounding, and half of 1/256 of the multiplier for each step of the input.
        assert abs(int(got[code + 128]) - clamped) <= Fraction(1, 2) + Fraction(
            abs(code - z), 512
        ) + Fraction(1, 100)


@given(scales, zeros, scales, zeros, scales, zeros, st.sampled_from([1, -1]))
def test_addition_is_within_a_step_of_the_real_sum(
    s: float, z: int, t: float, u: int, r: float, v: int, sign: int
) -> None:
    a, b, out = params(s, z), params(t, u), params(r, v)
    codes_b = CODES.flip(0)
    got = arithmetic.add(CODES, codes_b, (a, b), out, sign).tolist()
    for code, other, result in zip(CODES.tolist(), codes_b.tolist(), got, strict=True):
        exact = (real(code, a) + sign * real(other, b)) / Fraction(out.scales[0]) + v
        assert abs(result - min(max(exact, Fraction(-128)), Fraction(127))) <= Fraction(6, 10)


def test_sum_multipliers_fill_the_accumulator() -> None:
    m = arithmetic.sum_multipliers(np.float32(0.1), np.float32(0.001), np.float32(0.05))
    assert 2**20 <= max(m.a, m.b) <= 2**21
    assert abs(m.a / 2**m.shift - 2.0) < 1e-5
    assert abs(m.b / 2**m.shift - 0.02) < 1e-5


def test_accumulators_above_float32_are_rounded_to_it() -> None:
    accumulator = torch.tensor([2.0**24 + 1, 2.0**24 + 3], dtype=torch.float64)
    scale = 2.0**-18
    expected = [int(np.rint(np.float32(v) * np.float32(scale))) for v in (2**24 + 1, 2**24 + 3)]
    assert arithmetic.requantize_accumulator(accumulator, scale, 0, (-128, 127)).tolist() == expected


def test_rounds_half_to_even_in_requantisation_and_half_up_in_shifts() -> None:
    accumulator = torch.tensor([1.0, 3.0, -1.0, -3.0])
    assert arithmetic.requantize_accumulator(accumulator, 0.5, 0, (-128, 127)).tolist() == [0, 2, 0, -2]
    halves = arithmetic.requantize(
        torch.tensor([1, 3, -1, -3], dtype=torch.int8), params(0.5, 0), params(1.0, 0)
    )
    assert halves.tolist() == [1, 2, 0, -1]


@pytest.mark.parametrize("count", [4, 9])
def test_averages_round_half_away_from_zero(count: int) -> None:
    totals = torch.arange(-60, 61)
    got = arithmetic.average(totals, count).tolist()
    for total, result in zip(totals.tolist(), got, strict=True):
        magnitude = (abs(total) + count // 2) // count
        assert result == (magnitude if total > 0 else -magnitude)


def test_accumulator_dtype_switches_where_float32_ends() -> None:
    bias = np.zeros(1, np.int32)
    small = np.full((1, 500), 127, np.int8)
    large = np.full((1, 600), 127, np.int8)
    assert arithmetic.accumulator_dtype(small, bias, (1,)) is torch.float32
    assert arithmetic.accumulator_dtype(large, bias, (1,)) is torch.float64
    assert arithmetic.accumulator_dtype(small, np.array([2**24], np.int32), (1,)) is torch.float64


def test_fused_clamps_in_codes() -> None:
    p = params(6 / 255, -128)
    assert arithmetic.clamp_bounds("none", p) == (-128, 127)
    assert arithmetic.clamp_bounds("relu", params(0.1, -5)) == (-5, 127)
    assert arithmetic.clamp_bounds("relu6", params(0.1, -5)) == (-5, 55)
    assert arithmetic.code_of(float("inf"), p) == 127
