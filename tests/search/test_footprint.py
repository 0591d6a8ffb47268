"""What a network takes, said before it is run: the file to the byte, and peak memory where it repeats."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mcc.calibrate.files import write_graph
from mcc.ir.graph import Graph, GraphBuilder
from mcc.lower.formats import get_format
from mcc.runtime.registry import get_target
from mcc.search.footprint import footprint


def wide(channels: int) -> Graph:
    """[1,3,32,32] through 3x3 with stride 2, 1x1, again both, all of as many channels."""
    b, made = GraphBuilder(), torch.Generator().manual_seed(0)
    x, depth = b.input("x", (1, 3, 32, 32)), 3
    for layer, kernel in enumerate((3, 1, 3, 1)):
        weight = torch.randn(channels, depth, kernel, kernel, generator=made) / (depth * kernel**2) ** 0.5
        pads = (kernel // 2,) * 4
        steps = (1, 1) if kernel == 1 else (2, 2)
        x = b.conv2d(
            x, b.constant(f"w{layer}", weight), None, stride=steps, padding=pads, name=f"conv{layer}"
        )
        depth = channels
    return b.finish(b.mean(x, axes=(2, 3), keepdim=False))


@pytest.mark.parametrize("spec", ["litert-web:node", "litert-host", "ort-host", "executorch-host"])
def test_the_size_of_the_file_is_known_to_the_byte(spec: str, tmp_path: Path) -> None:
    target, graph = get_target(spec), wide(24)
    file = get_format(target.format).write(graph, tmp_path / "net")
    assert footprint(graph, target).file_bytes == file.stat().st_size


@pytest.mark.parametrize("channels", [128, 256])
def test_peak_memory_in_webassembly_is_predicted_within_a_tenth(channels: int, tmp_path: Path) -> None:
    target, graph = get_target("litert-web:node"), wide(channels)
    peak = target.peak_memory(write_graph(graph, target, tmp_path / "net"))
    known = footprint(graph, target)
    assert known.peak_bytes == pytest.approx(peak, rel=0.1)
    assert "litertjs" in known.fitted_to
