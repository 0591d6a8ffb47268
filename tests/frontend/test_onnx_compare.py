"""Rounding is told from another function, whatever the range of an output on one input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from mcc.errors import VerificationError
from mcc.frontend import onnx_compare, onnx_table
from mcc.frontend.onnx_compare import TOLERANCE, Comparison
from mcc.ir.graph import GraphBuilder
from tests.frontend.test_onnx_file import model, read, swap

node = helper.make_node


def detector(offset: float) -> onnx.ModelProto:
    """Scores that are far below 1 on random input: sigmoid(conv(x) - offset)."""
    rng = np.random.default_rng(0)
    stored = {
        "w": (rng.standard_normal((6, 4, 3, 3)) / 6).astype(np.float32),
        "b": np.full(6, -offset, np.float32),
    }
    return model([node("Conv", ["x", "w", "b"], ["c"]), node("Sigmoid", ["c"], ["y"])], stored)


def test_small_scores_are_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proto = detector(16.0)
    read(tmp_path, proto)
    monkeypatch.setattr(onnx_compare.Comparison, "_ranges", lambda self, expected: [0.0] * len(expected))
    with pytest.raises(VerificationError):  # the sigmoid of onnxruntime has an absolute precision
        read(tmp_path, proto)


@pytest.mark.parametrize("factor", [1.001, 0.99])
def test_an_error_behind_small_scores_is_caught(
    factor: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = onnx_table.RULES["Conv"]

    def wrong(site: onnx_table.Site) -> Any:
        return site.emitter.broadcast("mul", right(site), factor)

    swap(monkeypatch, "Conv", wrong)
    with pytest.raises(VerificationError, match="differs from onnxruntime"):
        read(tmp_path, detector(16.0))


def test_infinities_and_undefined_values_must_be_the_same() -> None:
    b = GraphBuilder()
    graph = b.finish(b.call("log", b.input("x", (1, 4))))
    x = [torch.tensor([[0.0, -1.0, 1.0, 2.0]])]
    assert Comparison(graph, lambda v: [v[0].log()], x).own_differences([x[0].log()])[0] <= TOLERANCE
    for wrong in (x[0].abs().log(), x[0].log().nan_to_num(neginf=-100.0)):
        assert not Comparison(graph, lambda v: [v[0].log()], x).own_differences([wrong])[0] <= TOLERANCE
