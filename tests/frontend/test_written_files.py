"""What the writers write, the readers read: every operator of the op table, in TFLite and ONNX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mcc.frontend import load
from mcc.ir.graph import Graph, run
from mcc.lower.onnx.writer import write_onnx
from mcc.lower.tflite.writer import write_tflite
from tests.lower.tflite.cases import CASES, COMPOSITES, Case, Composite

Write = Callable[[Graph, Path], Path]
WRITERS: dict[str, Write] = {"tflite": write_tflite, "onnx": write_onnx}
TOLERANCE = 1e-5
"""Share of the output range: float32 sums in another order."""


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("case", [*CASES, *COMPOSITES], ids=lambda case: case.id)
def test_an_operator_is_read_as_it_was_written(case: Case | Composite, suffix: str, tmp_path: Path) -> None:
    graph, feeds = case.graph(), inputs(case)
    again = load(str(WRITERS[suffix](graph, tmp_path / f"net.{suffix}"))).graph
    for got, wanted in zip(run(again, *feeds), run(graph, *feeds), strict=True):
        limit = TOLERANCE * max(1.0, float(wanted.abs().max()))
        assert np.abs(got.numpy() - wanted.numpy()).max() <= limit


def inputs(case: Case | Composite) -> Sequence[Tensor]:
    """One example."""
    if isinstance(case, Case):
        return [case.input()[:1]]
    return [torch.randn(1, *shape, generator=torch.Generator().manual_seed(2)) for shape in case.inputs]
