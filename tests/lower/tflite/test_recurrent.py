"""Unrolled recurrent layers: large weights are read in place, and what is too long names the place to cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mcc.errors import UnsupportedError
from mcc.ir.graph import Graph, GraphBuilder, run
from mcc.lower.pte.writer import to_pte
from mcc.lower.tflite import emit_recurrent
from mcc.lower.tflite.reader import read_tflite
from mcc.lower.tflite.writer import to_tflite
from tests.lower.pte.running import infer
from tests.lower.tflite.cases import RECURRENT, Case
from tests.lower.tflite.running import execute


@pytest.mark.parametrize("case", RECURRENT, ids=lambda case: case.id)
def test_weights_that_are_read_in_place(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    copied = to_tflite(case.graph())
    monkeypatch.setattr(emit_recurrent, "MAX_COPIED_BYTES", 0)
    graph, x = case.graph(), case.input()
    raw, expected = to_tflite(graph), run(graph, x)[0].numpy()
    if case.shape[1] > 1:
        codes = [[op.code for op in read_tflite(file).operators] for file in (copied, raw)]
        assert [kinds.count("SUM") > 0 for kinds in codes] == [False, True]
    for got in (execute(raw, [x.numpy()])[0], infer(to_pte(graph, via="direct"), x)[0]):
        assert np.abs(got - expected).max() <= 1e-5 * max(np.ptp(expected), 1e-3)


def _long(steps: int) -> Graph:
    b = GraphBuilder()
    x = b.relu(b.input("x", (1, steps, 2)), name="before")
    weights = [b.constant(name, torch.randn(4, 2 if name == "w" else 1)) for name in ("w", "own")]
    return b.finish(b.lstm(x, *weights, None, None, reverse=False))


def test_a_sequence_that_is_too_long_is_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"lstm of 513 steps would be unrolled.*--cut before$"):
        to_tflite(_long(emit_recurrent.MAX_STEPS + 1))
