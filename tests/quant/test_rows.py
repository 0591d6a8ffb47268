"""Networks on sequences in int8: integer kernels throughout, or up to the LSTM, and close to float."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

from tests.quant.sequences import TARGETS, keywords, lowered, recogniser

LEAST_DB = 25.0
INTEGER = {
    (keywords, "litert-host"): {
        "Convolution (NHWC, QC8) IGEMM": 2,
        "Fully Connected (NC, QS8, QC8W) GEMM": 1,
        "Fully Connected (NC, F32) GEMM": 0,
    },
    (keywords, "ort-host"): {"QLinearConv": 2, "QGemm": 1, "Conv": 0},
    (recogniser, "litert-host"): {
        "Convolution (NHWC, QC8) IGEMM": 2,
        "Fully Connected (NC, QS8, QC8W) GEMM": 1,
        "Fully Connected (NC, F32) GEMM": 2 * 20,  # the LSTM: two directions of 20 columns
    },
    (recogniser, "ort-host"): {"QLinearConv": 2, "QGemm": 1, "LSTM": 2, "Conv": 0},
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("make", [keywords, pytest.param(recogniser, marks=pytest.mark.slow)])
def test_a_network_on_sequences_runs_on_integers(
    make: Callable[[], nn.Module], target: str, tmp_path: Path
) -> None:
    found = lowered(make, target, tmp_path)
    assert LEAST_DB <= found.decibels < math.inf  # infinite: float kernels
    wanted = INTEGER.get((make, target), {})
    assert {kind: found.kernels.count(kind) for kind in wanted} == wanted
