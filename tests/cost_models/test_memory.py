"""Peak memory: what a network's facts are, and that a fit finds what they weigh."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cost_models.memory import STORED, MemoryFacts, MemoryModel, arena_bytes, memory_facts, stored_models
from mcc.errors import DataError
from mcc.ir.graph import Graph, GraphBuilder

LARGE = ("file", "floats", "integers", "windows", "arena", "indirection", "one")


def branched() -> Graph:
    """[1,4,8,8] twice through convolutions, then added: three values of 1 KiB live at a time."""
    b = GraphBuilder()
    x = b.input("x", (1, 4, 8, 8))
    wide = b.conv2d(x, b.constant("w", torch.ones(4, 4, 3, 3)), None, padding=(1,) * 4, name="wide")
    thin = b.conv2d(x, b.constant("v", torch.ones(4, 4, 1, 1)), None, name="thin")
    return b.finish(b.mean(b.add(wide, thin, name="sum"), axes=(2, 3), keepdim=False))


def test_facts_of_a_network() -> None:
    facts = memory_facts(branched(), 5000)
    value = 4 * 8 * 8 * 4
    assert facts.arena == 3 * value  # the input and one result, then both results and the sum
    assert (facts.floats, facts.integers, facts.windows) == (4 * 4 * 10 * 4, 0, 4 * 4 * 9 * 4)
    assert facts.indirection == 8 * 9 * 8 * 8
    assert (facts.file, facts.operators, facts.integer) == (5000, 4, 0)
    whole = memory_facts(branched(), 5000, ["wide", "thin", "sum", "mean"])
    assert (whole.floats, whole.integers, whole.windows, whole.integer) == (0, facts.floats / 4, 0, 1)
    assert arena_bytes(branched(), frozenset(["wide", "thin", "sum"])) < facts.arena


def test_a_fit_finds_the_coefficients() -> None:
    true = MemoryFacts(1.0, 1.1, 0.9, 0.5, 1.4, 1.0, 2000.0, 3e5, 6e6)
    random = np.random.default_rng(0)
    rows: list[tuple[MemoryFacts, int]] = []
    for _ in range(60):
        sizes = random.uniform(1e5, 1e7, 6)
        facts = MemoryFacts(*map(float, sizes), float(random.integers(5, 60)), float(random.integers(2)))
        rows.append((facts, MemoryModel(true, "").peak_bytes(facts)))
    found = MemoryModel.fit(rows[:30], "made up")
    for name in LARGE:
        assert getattr(found.weights, name) == pytest.approx(getattr(true, name), rel=0.1), name
    for facts, peak in rows[30:]:
        assert found.peak_bytes(facts) == pytest.approx(peak, rel=0.02)
    with pytest.raises(DataError, match="too few"):
        MemoryModel.fit(rows[:3], "")


def test_what_networks_do_not_tell_apart_counts_once_each() -> None:
    random = np.random.default_rng(0)
    rows: list[tuple[MemoryFacts, int]] = []
    for _ in range(30):
        size, arena = (float(value) for value in random.uniform(1e5, 1e7, 2))
        facts = MemoryFacts(size, size, 0.0, 0.0, arena, 0.0, 10.0, 0.0)
        rows.append((facts, round(2 * size + arena + 5e6)))
    found = MemoryModel.fit(rows, "made up").weights
    assert (found.file, found.floats) == (pytest.approx(1.0, rel=0.02), pytest.approx(1.0, rel=0.02))


def test_models_are_kept_with_the_package(tmp_path: Path) -> None:
    for name, model in stored_models().items():
        assert 1.5 < model.weights.file + model.weights.floats < 2.5, name  # once mapped, once packed
        assert model.fitted_to
    bad = tmp_path / "memory.json"
    bad.write_text('{"litert-host": {"one": 1}}')
    with pytest.raises(DataError, match="litert-host: must hold fitted_to, file"):
        stored_models(bad)


@pytest.mark.parametrize("value", [-1, 1e300, True, "1", None, float("nan")])
def test_an_edited_model_is_refused_by_field(value: object, tmp_path: Path) -> None:
    held = json.loads(STORED.read_text())
    held["litert-host"]["arena"] = value
    (tmp_path / "memory.json").write_text(json.dumps(held))
    with pytest.raises(DataError, match=r"memory.json: (litert-host.arena: must lie in 0..|is no table)"):
        stored_models(tmp_path / "memory.json")
