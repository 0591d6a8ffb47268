"""Layouts: what a reshape and a transpose do to the order of bytes, checked on real arrays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcc.lower.layout import (
    IMAGE,
    Layout,
    gathered,
    plain,
    reshaped,
    same_memory,
    settle,
    stored,
    stored_shape,
    transposed,
)

PRIMES = (1, 2, 3, 5)


@st.composite
def values(draw: st.DrawFn) -> tuple[np.ndarray, Layout]:
    """An array with distinct elements and an order to store it in."""
    shape = (draw(st.integers(1, 2)), *draw(st.lists(st.sampled_from(PRIMES), min_size=1, max_size=4)))
    order = (0, *draw(st.permutations(range(1, len(shape)))))
    return np.arange(np.prod(shape)).reshape(shape), Layout(order)


def memory(value: np.ndarray, layout: Layout) -> np.ndarray:
    return stored(value, layout).reshape(-1)


@given(values(), st.data())
def test_reshape_in_place_keeps_the_bytes(drawn: tuple[np.ndarray, Layout], data: st.DataObject) -> None:
    value, layout = drawn
    factors = [p for length in value.shape[1:] for p in (length,)]
    cut = data.draw(st.integers(0, len(factors)))
    after = (value.shape[0], int(np.prod(factors[:cut])), int(np.prod(factors[cut:])))
    target = reshaped(value.shape, layout, after)
    if target is not None:
        assert np.array_equal(memory(value, layout), memory(value.reshape(after), target))
        back = reshaped(after, target, value.shape)
        if back is not None:
            assert np.array_equal(memory(value, layout), memory(value, back))


@given(values(), st.data())
def test_gathered_values_can_be_reshaped_in_place(
    drawn: tuple[np.ndarray, Layout], data: st.DataObject
) -> None:
    value, layout = drawn
    cut = data.draw(st.integers(0, value.ndim - 1))
    after = (value.shape[0], int(np.prod(value.shape[1:][:cut])), 1, int(np.prod(value.shape[1:][cut:])))
    after = after if data.draw(st.booleans()) else after[:2] + after[3:]
    near = gathered(value.shape, layout, after)
    target = reshaped(value.shape, near, after)
    assert target is not None
    assert np.array_equal(memory(value, near), memory(value.reshape(after), target))


@given(values())
def test_a_plain_value_can_always_be_reshaped_in_place(drawn: tuple[np.ndarray, Layout]) -> None:
    value, _ = drawn
    after = (value.shape[0], int(np.prod(value.shape[1:])))
    target = reshaped(value.shape, plain(value.ndim), after)
    assert target is not None
    assert np.array_equal(memory(value, plain(value.ndim)), memory(value.reshape(after), target))


@given(values(), st.data())
def test_transpose_keeps_the_bytes(drawn: tuple[np.ndarray, Layout], data: st.DataObject) -> None:
    value, layout = drawn
    perm = (0, *data.draw(st.permutations(range(1, value.ndim))))
    assert np.array_equal(memory(value, layout), memory(value.transpose(perm), transposed(layout, perm)))


@given(values())
def test_settling_keeps_the_bytes(drawn: tuple[np.ndarray, Layout]) -> None:
    value, layout = drawn
    usual = settle(value.shape, layout)
    assert np.array_equal(memory(value, layout), memory(value, usual))
    assert same_memory(value.shape, layout, usual)


def test_flattened_map_is_stored_rows_first() -> None:
    value = np.arange(24).reshape(1, 2, 3, 4)
    flat = Layout((0, 1), (2, 3, 4))
    assert np.array_equal(stored(value.reshape(1, 24), flat), value.transpose(0, 2, 3, 1).reshape(1, 24))
    assert reshaped((1, 24), flat, (2, 12)) is None


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ((1, 6, 4, 5), (1, 2, 3, 4, 5), (0, 3, 4, 1, 2)),
        ((1, 6, 4, 5), (1, 6, 20), (0, 2, 1)),
        ((1, 6, 4, 5), (1, 24, 5), None),
        ((1, 6, 1, 1), (1, 6), (0, 1)),
        ((1, 6, 4, 5), (1, 120), None),
    ],
)
def test_known_reshapes_of_images(before: tuple[int, ...], after: tuple[int, ...], expected: object) -> None:
    found = reshaped(before, IMAGE, after)
    assert (found.order if found else None) == expected


def test_stored_shape() -> None:
    assert stored_shape((1, 3, 4, 5), IMAGE) == (1, 4, 5, 3)
