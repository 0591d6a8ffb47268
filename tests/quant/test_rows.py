"""A keyword-spotting network on rows [N, C, L] in int8: integer kernels throughout, close to float."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mcc.frontend.torch_module import capture
from mcc.ir.graph import outputs
from mcc.ir.notes import shape_of
from mcc.lower.formats import get_format
from mcc.pass_api import PassContext
from mcc.pipeline import Pipeline, deployment_form
from mcc.report.measure import run_file
from mcc.runtime.registry import get_target

LEAST_DB = 25.0
LENGTH = 2000
INTEGER = {
    "litert-host": {"Convolution (NHWC, QC8) IGEMM": 2, "Fully Connected (NC, QS8, QC8W) GEMM": 1},
    "ort-host": {"QLinearConv": 2, "QGemm": 1},
}


def keywords() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv1d(1, 16, 40, 8), nn.BatchNorm1d(16), nn.ReLU(), nn.MaxPool1d(4)),
        *(nn.Conv1d(16, 32, 3), nn.BatchNorm1d(32), nn.ReLU(), nn.AdaptiveAvgPool1d(1)),
        *(nn.Flatten(), nn.Linear(32, 10)),
    ).eval()


@pytest.mark.parametrize("name", ["litert-host", "ort-host", "executorch-host"])
def test_a_network_on_rows_runs_on_integers(name: str, tmp_path: Path) -> None:
    network, target = keywords(), get_target(name)
    calibration, x = torch.randn(64, 1, LENGTH), torch.randn(32, 1, LENGTH)
    graph = deployment_form(capture(network, (torch.zeros(1, 1, LENGTH),), ()))
    quantised = Pipeline.parse("insert-qdq").run(graph, PassContext((calibration,))).graph
    file = get_format(target.format).write(quantised, tmp_path / "keywords")
    (got,) = run_file(target, file, [x.numpy()], [shape_of(o) for o in outputs(quantised)], threads=1)
    with torch.no_grad():
        wanted = network(x).numpy()
    noise = float(((got - wanted) ** 2).sum())
    assert noise > 0, "float kernels"
    assert 10 * np.log10(float((wanted**2).sum()) / noise) >= LEAST_DB
    if name in INTEGER:  # executorch-host has no profile of delegated kernels by precision
        kinds = [op.kind for op in target.profile(file)]
        assert {kind: kinds.count(kind) for kind in INTEGER[name]} == INTEGER[name]
