"""The comparison of public .tflite files finds what is apart; the page says what was refused or not run."""

from __future__ import annotations

import numpy as np

from tools.results.keras_files import NETWORKS
from tools.results.tflite_files import FILES, difference, page


def test_numbers_shapes_and_types_must_be_the_same() -> None:
    wanted = [[np.array([[1.0, -4.0]], np.float32)], [np.array([[2.0, 0.5]], np.float32)]]
    assert difference(wanted, wanted) == 0.0
    assert difference([[value + np.float32(0.4) for value in one] for one in wanted], wanted) > 0.09
    assert difference([[value[0] for value in one] for one in wanted], wanted) == float("inf")
    assert difference([[value.astype(np.float64) for value in one] for one in wanted], wanted) == float("inf")
    steps = [[np.array([3, 250], np.uint8)]]
    assert difference([[np.array([3, 4], np.uint8)]], steps) == 246.0


def test_the_page_says_what_was_refused_or_not_run() -> None:
    written = page(
        {FILES[1].name: {"refused": "mcc: error: no"}}, {NETWORKS[0]: {"refused": "mcc: error: never"}}
    )
    assert "mcc: error: no |" in written
    assert "mcc: error: never" in written
    assert written.count("not run") >= len(FILES) - 1 + len(NETWORKS) - 1
