import numpy as np
import pytest
from scipy import stats

from mcc.data import paired_difference, wilson


@pytest.mark.parametrize(
    ("right", "count"), [(0, 1), (1, 1), (0, 50), (50, 50), (7338, 8000), (7000, 8000), (3, 10)]
)
def test_wilson_equals_scipys(right: int, count: int) -> None:
    interval = wilson(right, count)
    expected = stats.binomtest(right, count).proportion_ci(0.95, method="wilson")
    assert interval.value == right / count
    assert interval.low == pytest.approx(expected.low, abs=1e-12)
    assert interval.high == pytest.approx(expected.high, abs=1e-12)
    assert interval.holds(interval.value)


def test_wilson_refuses_what_is_no_proportion() -> None:
    for right, count in ((0, 0), (3, 2), (-1, 4)):
        with pytest.raises(ValueError, match="right of"):
            wilson(right, count)


def test_pairing_narrows_the_difference_to_what_is_disagreed_on() -> None:
    first = (np.arange(8000) % 10 > 0).astype(np.float64)
    second = first.copy()
    second[first.nonzero()[0][:80]] = 0
    difference = paired_difference(first, second)
    assert difference.value == pytest.approx(0.01)
    # Eighty disagreements, all one way: the deviation of their number is sqrt(80 x 0.99).
    half = 1.96 * np.sqrt(80 * 0.99) / 8000
    assert difference.low == pytest.approx(0.01 - half, abs=2e-4)
    assert difference.high == pytest.approx(0.01 + half, abs=2e-4)
    assert paired_difference(first, second) == difference
    assert not paired_difference(first, second).holds(0.0)


def test_a_network_does_not_differ_from_itself() -> None:
    scores = np.array([1.0, 0.0, 1.0])
    difference = paired_difference(scores, scores)
    assert (difference.value, difference.low, difference.high) == (0, 0, 0)


def test_pairs_must_be_pairs() -> None:
    for first, second in (
        (np.ones(3), np.ones(4)),
        (np.ones(0), np.ones(0)),
        (np.ones((2, 2)), np.ones((2, 2))),
    ):
        with pytest.raises(ValueError, match="are not pairs"):
            paired_difference(first, second)
