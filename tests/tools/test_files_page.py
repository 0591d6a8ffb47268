"""The comparison of public files finds what is apart, and takes layouts for what they are."""

from __future__ import annotations

import numpy as np

from tools.results.files import FILES, difference, page


def test_layouts_may_differ_and_numbers_may_not() -> None:
    rng = np.random.default_rng(0)
    wanted = [[rng.standard_normal((1, 4, 5, 6)).astype(np.float32)] for _ in range(2)]
    last = [[np.moveaxis(value, 1, -1) for value in outputs] for outputs in wanted]
    assert difference(last, wanted) == 0.0
    moved = [[value + 0.01 for value in outputs] for outputs in last]
    assert 1e-3 < difference(moved, wanted) < 1e-2
    assert difference([[value[:, :3] for value in outputs] for outputs in wanted], wanted) == float("inf")


def test_the_page_says_what_was_refused_or_not_run() -> None:
    written = page({FILES[0].name: {"refused": "mcc: error: no"}}, ["| backend |"])
    assert "mcc: error: no" in written
    assert "| no figure |" in written
    assert written.count("not run") == len(FILES) - 1
    assert written.endswith("| backend |\n")
