"""Sounds through a user's data module: convolutions of rows are compressed, the GRU stays whole."""

from __future__ import annotations

from pathlib import Path

import pytest

import mcc
from mcc.ir.graph import calls
from mcc.ir.notes import shape_of
from mcc.ir.storage import load_graph
from tests.compress import sounds, stand_ins


@pytest.mark.slow
def test_a_network_on_sounds_is_compressed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_ins.install(monkeypatch)
    report = mcc.compress(
        f"{sounds.__file__}:network", f"{sounds.__file__}:data", "litert-host", out=tmp_path / "out",
        speedup="1.2x", epochs=1, strategies=["uniform-width", "int8-ptq"],
    )  # fmt: skip
    by_name = {one.name: one for one in report.strategies}
    narrow, integer = by_name["uniform-width"], by_name["int8-ptq"]
    assert narrow.size_bytes < report.baseline.size_bytes
    assert integer.size_bytes < report.baseline.size_bytes
    assert report.baseline.validation is not None
    assert integer.validation is not None
    assert integer.validation.value >= report.baseline.validation.value - 0.1
    graphs = sorted((tmp_path / "out").rglob("*.mcc"))
    assert graphs
    for path in graphs:
        graph = load_graph(path)
        assert [shape_of(node)[2] for node in calls(graph, "gru")] == [12], path
