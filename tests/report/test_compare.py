"""The comparison of a lowered file with its graph bites."""

import numpy as np
import pytest

from mcc.report.compare import FLOAT_TOLERANCE, compare_outputs

generator = np.random.default_rng(0)
LOGITS = generator.standard_normal((1000, 10)).astype(np.float32)


def test_equal_outputs_pass() -> None:
    result = compare_outputs([LOGITS], [LOGITS.copy()], integer=False)
    assert result.passed
    assert result.worst == 0
    assert result.equal == result.agreement == 1
    assert result.sqnr_db is None


def test_one_percent_of_drift_is_caught() -> None:
    result = compare_outputs([LOGITS * 1.01], [LOGITS], integer=False)
    assert not result.passed
    assert result.worst == pytest.approx(0.01, rel=1e-3)
    assert result.sqnr_db == pytest.approx(40, abs=0.1)


def test_one_wrong_value_among_many_is_caught() -> None:
    wrong = LOGITS.copy()
    wrong[17, 3] += 3 * FLOAT_TOLERANCE * float(np.abs(LOGITS).max())
    assert not compare_outputs([wrong], [LOGITS], integer=False).passed
    assert compare_outputs([wrong], [LOGITS], integer=False, tolerance=1e-3).passed


def test_a_fault_in_the_second_output_is_caught() -> None:
    assert not compare_outputs([LOGITS, LOGITS * 2], [LOGITS, LOGITS], integer=False).passed


def test_values_that_are_not_finite_are_caught() -> None:
    wrong = LOGITS.copy()
    wrong[0, 0] = np.nan
    for made, wanted in ((wrong, LOGITS), (LOGITS, wrong)):
        result = compare_outputs([made], [wanted], integer=True)
        assert not result.passed
        assert result.worst is None


def test_quantised_files_are_held_against_the_class() -> None:
    other = LOGITS.copy()
    other[:5] = -other[:5]  # 5 of 1000: exactly the limit
    assert compare_outputs([other], [LOGITS], integer=True).passed
    other[5:6] = -other[5:6]
    result = compare_outputs([other], [LOGITS], integer=True)
    assert not result.passed
    assert "99.5 %" in result.rule
    assert not compare_outputs([LOGITS * 1.01], [LOGITS], integer=True, tolerance=1e-3).passed


def test_outputs_that_are_no_classes_are_held_against_the_tolerance() -> None:
    maps = LOGITS.reshape(10, 10, 10, 10)
    result = compare_outputs([maps * 1.01], [maps], integer=True)
    assert not result.passed
    assert result.agreement is None
