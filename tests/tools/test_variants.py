"""Order of variants: only pairs that are apart count, and ratios are to the original of the same turns."""

from __future__ import annotations

import pytest

from tools.results.variants import Variant, ordered, page, variants


def test_only_pairs_that_are_apart_in_measurement_count() -> None:
    found = [
        Variant("0", "float", 0.50, 0.50),
        Variant("1", "float", 0.49, 0.51),  # 2 % from the first: nothing is asked
        Variant("2", "int8", 0.80, 0.60),
        Variant("3", "int8", 0.70, 0.70),  # 17 % slower than the one before, predicted to be faster
    ]
    assert ordered(found) == (5, 4)
    assert ordered([]) == (0, 0)


def test_variants_are_shares_of_the_original_timed_with_them() -> None:
    notes = {
        "predicted original": {"us": 200.0, "form": "float"},
        "predicted 0": {"us": 100.0, "form": "int8"},
        "predicted 1": {"us": 150.0, "form": "float"},  # not timed yet
        "timed 0": {"median": 120.0, "original": 300.0},
    }
    (one,) = variants(notes)
    assert (one.name, one.form, one.predicted, one.measured) == ("0", "int8", 0.5, 0.4)
    assert one.error == pytest.approx(0.25)
    text = page({"litert-host": [one]}, {"litert-host": 300.0}, "A remark.")
    assert "| 0 | int8 | 0.500 | 0.400 | +25.0 % |" in text
    assert variants({}) == []
