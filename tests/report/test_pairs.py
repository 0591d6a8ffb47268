"""Strategies in pairs on the same images, and originals that remember the images for choices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mcc.data import Task, load_task
from mcc.data.classification import Classification
from mcc.data.interval import deviations_apart, paired_proportions
from mcc.report.pairs import Pairs, memorised_words
from tests.report import examples


def table(both: int, first: int, second: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores of pairs of which so many were right in both, in the first or second alone, in neither."""
    one = np.repeat([1.0, 1.0, 0.0, 0.0], [both, first, second, neither])
    return one, np.repeat([1.0, 0.0, 1.0, 0.0], [both, first, second, neither])


@pytest.mark.parametrize(
    ("counts", "low", "high"),
    [  # Newcombe 1998 (Statistics in Medicine 17, 2635), table III, method 10
        ((36, 12, 2, 0), 0.0569, 0.3404),
        ((36, 14, 0, 0), 0.1528, 0.4167),
    ],
)
def test_intervals_of_pairs_are_those_of_the_paper(counts: Any, low: float, high: float) -> None:
    found = paired_proportions(*table(*counts))
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_an_interval_of_pairs_turns_round_with_them_and_holds_nothing_lost() -> None:
    one, other = table(900, 12, 5, 83)
    there, back = paired_proportions(one, other), paired_proportions(other, one)
    assert (there.low, there.high) == (pytest.approx(-back.high), pytest.approx(-back.low))
    assert paired_proportions(one, one).holds(0.0)
    with pytest.raises(ValueError, match="are not pairs"):
        paired_proportions(one, other[1:])
    with pytest.raises(ValueError, match=r"1\.0 for right"):
        paired_proportions(one, other / 2)


def test_an_interval_of_pairs_holds_the_truth_as_often_as_it_says() -> None:
    chance = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        kind = chance.choice(4, 300, p=(0.85, 0.05, 0.03, 0.07))
        found = paired_proportions((kind < 2).astype(float), np.isin(kind, (0, 2)).astype(float))
        held += found.holds(0.02)
    assert held >= 0.93 * 400


def test_losses_are_counted_in_pairs_from_the_better_original() -> None:
    tried = examples.strategies()
    found = {
        s.name: s for s in examples.pairs(tried).filled_in(tried, ("original", "original-trained"), "joint")
    }
    assert found["joint"].lost_points == pytest.approx(0.42)
    assert found["joint"].behind_points == 0
    assert found["channels"].behind_points == pytest.approx(1.04)  # of 5,000 images, rounded
    low, high = found["channels"].lost_ci95 or (0, 0)
    assert low < 1.47 < high
    unknown = Pairs({}, load_task()).filled_in(tried, ("original",), "joint")
    assert unknown == tried


def test_a_metric_that_is_no_mean_is_compared_by_resampling() -> None:
    class Ratio(Classification):
        def figure(self, statistics: np.ndarray) -> float:
            return float(statistics[:, 0].sum() / statistics[:, 1].sum())

        difference = Task.difference

    task: Any = Ratio()
    hits = (np.arange(200) % 10 > 0).astype(float)
    scores = {"a": np.stack([hits, np.ones(200)], 1), "b": np.stack([hits * 0.5, np.ones(200)], 1)}
    found = Pairs(scores, task).difference("a", "b")
    assert found.value == pytest.approx(0.45)
    assert 0.42 < found.low < 0.45 < found.high < 0.48


def test_an_original_that_remembers_the_validation_images_is_suspected() -> None:
    def share(right: int, count: int) -> np.ndarray:
        return (np.arange(count) < right).astype(float)

    task = load_task()
    said = memorised_words(share(900, 900), share(267, 300), task)
    assert said.startswith(
        "The original scores 100.00 % on the 900 validation images and 89.00 % on the 300 test"
    )
    assert "Give images that it has not seen (val/)" in said
    assert memorised_words(share(4485, 5000), share(7000, 8000), task), "89.7 against 87.5 %"
    assert memorised_words(share(445, 500), share(437, 500), task) == "", "chance"
    assert memorised_words(share(800, 1000), share(900, 1000), task) == "", "worse is not suspicious"
    assert memorised_words(share(50, 50), share(50, 50), task) == ""


def test_deviations_are_those_of_two_proportions() -> None:
    first, second = np.repeat([1.0, 0.0], [90, 10]), np.repeat([1.0, 0.0], [160, 40])
    pooled = 250 / 300
    wanted = 0.1 / np.sqrt(pooled * (1 - pooled) * (1 / 100 + 1 / 200))
    assert deviations_apart(first, second) == pytest.approx(wanted)
