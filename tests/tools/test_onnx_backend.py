"""ONNX's own test models are read and compared with their stored outputs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tools.checks.onnx_backend import Outcome, Stored, is_met, outcome, stored_models, table

NAMES = ("test_Conv1d_groups", "test_MaxPool1d_stride", "test_ConvTranspose2d", "test_PReLU_1d_multiparam")


@pytest.fixture(scope="module")
def models() -> list[Stored]:
    return [model for model in stored_models(("pytorch-converted",)) if model.name in NAMES]


def test_some_of_each_kind_are_equal(models: list[Stored]) -> None:
    found = [outcome(model) for model in models]
    assert [(o.name, o.in_scope, o.kind) for o in found] == [(name, True, "equal") for name in sorted(NAMES)]
    assert "| pytorch-converted | 4 | 4 | 0 | 0 | 0 |" in table(found)


def test_other_outputs_are_wrong(models: list[Stored]) -> None:
    first = models[0]
    changed = replace(first, outputs=[value * 1.01 for value in first.outputs])
    found = outcome(changed)
    assert found.kind == "wrong"
    assert "differs by" in found.said
    assert not is_met([found])


def test_a_refusal_counts_and_a_crash_fails() -> None:
    equal = [Outcome("light", f"n{i}", True, "equal") for i in range(19)]
    assert is_met([*equal, Outcome("light", "r", True, "refused")])
    assert not is_met([*equal[:18], Outcome("light", "r", True, "refused")])
    assert not is_met([*equal, Outcome("light", "c", False, "crashed")])
