"""The simulator against LiteRT's ARM64 build on imitated cores: equal to the bit, as on x86."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mcc.ir.graph import Graph, outputs
from mcc.ir.notes import shape_of
from mcc.lower.tflite.writer import write_tflite
from mcc.quant.params import quant_params
from mcc.quant.simulator import Simulator
from mcc.report.measure import run_file
from mcc.runtime import get_target
from tests.quant.graphs import CASES, case_graph, mobile_net, quantise, residual_net

pytestmark = pytest.mark.slow  # a process of the emulator for each
LARGE, SMALL = "litert-arm64-sim:a76", "litert-arm64-sim:a53"  # with int8 dot products, and without

# LiteRT's own softmax looks exponentials up in a table of 16-bit integers on ARM64, of float elsewhere.
BUILT_IN_THERE = {"softmax", "softmax_channels"}


def steps(core: str, graph: Graph, x: Tensor, folder: Path) -> np.ndarray:
    """Distance of the file on a core from the simulator, in steps of the first output."""
    file = write_tflite(graph, folder / "net.tflite")
    shapes = [shape_of(node) for node in outputs(graph)]
    (made, *_) = run_file(get_target(core), file, [x.numpy()], shapes)
    expected = Simulator(graph).run(x)[0].numpy()
    return np.abs(made - expected) / quant_params(graph, outputs(graph)[0]).scale


@pytest.mark.parametrize("name", CASES)
def test_each_operator_is_equal(name: str, tmp_path: Path) -> None:
    x = torch.randn(3, *CASES[name][1][1:]) * 2
    off = steps(LARGE, quantise(case_graph(name), x), x, tmp_path)
    if name in BUILT_IN_THERE:
        assert off.max() <= 1
        assert (off > 0).mean() <= 0.005
    else:
        assert not off.any()


@pytest.mark.parametrize("core", [LARGE, SMALL])
@pytest.mark.parametrize(("make", "weight_limit"), [(mobile_net, 127), (mobile_net, 63), (residual_net, 127)])
def test_whole_networks_are_equal(make: Any, weight_limit: int, core: str, tmp_path: Path) -> None:
    x = torch.rand(8, 3, 32, 32) * 2 - 1
    graph = quantise(make(), x, weight_limit=weight_limit)
    assert not steps(core, graph, x, tmp_path).any()


def test_a_drift_of_one_scale_is_seen(tmp_path: Path) -> None:
    x = torch.rand(4, 3, 32, 32) * 2 - 1
    graph = quantise(mobile_net(), x)
    file = write_tflite(graph, tmp_path / "net.tflite")
    name = next(n for n, _ in graph.named_buffers() if n.startswith("conv2d_5_scale"))
    getattr(graph, name).mul_(1.01)
    (made,) = run_file(get_target(SMALL), file, [x.numpy()], [shape_of(node) for node in outputs(graph)])
    assert not np.array_equal(Simulator(graph).run(x)[0].numpy(), made)
