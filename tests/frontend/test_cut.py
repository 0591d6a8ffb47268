"""Models up to a named place: what follows is not looked at, and what remains computes the same."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

import mcc
from mcc.cli import main
from mcc.errors import MccError, UnsupportedError, UsageError
from mcc.frontend import capture
from mcc.frontend.torch_module import up_to_nodes
from mcc.ir.graph import inputs, outputs, run
from mcc.ir.notes import shape_of
from mcc.ir.storage import save_graph

SHAPE = (1, 3, 8, 8)


class Detector(nn.Module):
    """Two heads, then a tail whose shape depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU())
        self.scores = nn.Conv2d(6, 2, 1)
        self.boxes = nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Any:
        features = self.body(x)
        scores, boxes = self.scores(features), self.boxes(features)
        best = torch.nonzero(scores.flatten() > 0.5)
        return {"boxes": boxes.flatten()[best], "scores": scores.flatten()[best]}


def test_a_module_ends_at_named_parts_and_is_left_as_it_was() -> None:
    detector = Detector().eval()
    with pytest.raises(UnsupportedError):
        capture(detector, (torch.zeros(SHAPE),))
    graph = capture(detector, (torch.zeros(SHAPE),), ("boxes", "scores"))
    x = torch.randn(3, *SHAPE[1:])
    with torch.no_grad():
        features = detector.body(x)
        expected = detector.boxes(features), detector.scores(features)
    for got, wanted in zip(run(graph, x), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)
    assert "forward" not in vars(detector)
    assert not any(part._forward_hooks for part in detector.modules())
    assert set(detector(x)) == {"boxes", "scores"}


def test_a_part_that_is_not_there_or_not_reached_is_named() -> None:
    detector = Detector()
    detector.idle = nn.Identity()
    with pytest.raises(UsageError, match=r"--cut idle: is not reached"):
        capture(detector, (torch.zeros(SHAPE),), ("idle",))
    plain = nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 4, 1), relu=nn.ReLU()))
    with pytest.raises(UsageError, match=r"there is no node 'reul'; nearest: relu"):
        capture(plain, (torch.zeros(SHAPE),), ("reul",))


def test_a_module_ends_at_a_node_of_its_graph(tmp_path: Path) -> None:
    plain = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    whole = capture(plain, (torch.zeros(SHAPE),))
    middle = outputs(whole)[0].all_input_nodes[0].name
    cut = capture(plain, (torch.zeros(SHAPE),), (middle,))
    x = torch.randn(2, *SHAPE[1:])
    with torch.no_grad():
        torch.testing.assert_close(run(cut, x)[0], plain[:2](x), rtol=1e-5, atol=1e-6)
    save_graph(whole, tmp_path / "whole.mcc")
    again = mcc.load(str(tmp_path / "whole.mcc"), cut=[middle]).graph
    assert torch.equal(run(again, x)[0], run(cut, x)[0])
    assert len(inputs(again)) == 1
    with pytest.raises(UsageError, match="there is no node 'nowhere'"):
        mcc.load(str(tmp_path / "whole.mcc"), cut=["nowhere"])


def test_an_exported_program_ends_at_a_node(tmp_path: Path) -> None:
    class Sorted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.conv(x)).flatten(1).sort(1)[0]

    model = Sorted().eval()
    program = torch.export.export(model, (torch.zeros(2, *SHAPE[1:]),))
    torch.export.save(program, tmp_path / "sorted.pt2")
    with pytest.raises(UnsupportedError, match=r"sort.*--cut"):
        mcc.load(str(tmp_path / "sorted.pt2"))
    graph = mcc.load(str(tmp_path / "sorted.pt2"), cut=["relu_default"]).graph
    x = torch.randn(2, *SHAPE[1:])
    with torch.no_grad():
        torch.testing.assert_close(run(graph, x)[0], torch.relu(model.conv(x)), rtol=1e-5, atol=1e-6)
    named = mcc.load(str(tmp_path / "sorted.pt2"), cut=["relu"]).graph  # as `mcc inspect` names it
    assert torch.equal(run(named, x)[0], run(graph, x)[0])
    with pytest.raises(UsageError, match=r"there is no node 'relu_def'; nearest: relu_default"):
        mcc.load(str(tmp_path / "sorted.pt2"), cut=["relu_def"])


class Segmented(nn.Module):
    """Positions of the largest score, of which the scores are no module's result."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.interpolate(self.conv(x), scale_factor=2.0, mode="bilinear").argmax(1)


def test_a_module_ends_at_an_operator() -> None:
    """The refusal names the place, and what follows it is not read."""
    model = Segmented().eval()
    with pytest.raises(UnsupportedError, match=r"argmax.*--cut upsample_bilinear2d$"):
        capture(model, (torch.zeros(SHAPE),))
    graph = capture(model, (torch.zeros(SHAPE),), cut=["upsample_bilinear2d"])
    x = torch.randn(3, *SHAPE[1:])
    with torch.no_grad():
        wanted = nn.functional.interpolate(model.conv(x), scale_factor=2.0, mode="bilinear")
    torch.testing.assert_close(run(graph, x)[0], wanted, rtol=1e-5, atol=1e-6)
    (own,) = up_to_nodes(model, ["upsample_bilinear2d"])([x])
    torch.testing.assert_close(own, wanted)
    with pytest.raises(MccError, match="argmax"):
        capture(model, (torch.zeros(SHAPE),), cut=["nowhere"])


@pytest.fixture
def ranked(tmp_path: Path) -> tuple[str, Tensor]:
    """An ONNX file that ends in TopK, and the weight of its convolution."""
    weight = torch.randn(5, 3, 1, 1)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["features"], name="/conv"),
        helper.make_node("Relu", ["features"], ["scores"], name="/relu"),
        helper.make_node("TopK", ["scores", "k"], ["best", "places"], name="/rank", axis=1),
    ]
    graph = helper.make_graph(
        nodes, "ranked", [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("best", TensorProto.FLOAT, (1, 2, 8, 8))],
        [numpy_helper.from_array(weight.numpy(), "w"), numpy_helper.from_array(np.array([2]), "k")],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "ranked.onnx")
    return str(tmp_path / "ranked.onnx"), weight


@pytest.mark.parametrize("place", ["/relu", "scores"])
def test_an_onnx_file_ends_at_a_node_or_a_value(ranked: tuple[str, Tensor], place: str) -> None:
    file, weight = ranked
    with pytest.raises(UnsupportedError, match="TopK"):
        mcc.load(file)
    graph = mcc.load(file, cut=[place]).graph
    x = torch.randn(1, *SHAPE[1:])
    expected = torch.relu(torch.nn.functional.conv2d(x, weight))
    torch.testing.assert_close(run(graph, x)[0], expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(UsageError, match="there is no node or value 'score'; nearest: scores"):
        mcc.load(file, cut=["score"])


def test_the_command_line_takes_cuts(ranked: tuple[str, Tensor], tmp_path: Path) -> None:
    file, _ = ranked
    out = tmp_path / "cut.mcc"
    status = main.run(
        ("opt", file, "-p", "drop-identity", "--cut", "scores", "--cut", "features", "-o", str(out))
    )
    assert status == 0
    assert [shape_of(node) for node in outputs(mcc.load(str(out)).graph)] == [(1, 5, 8, 8), (1, 5, 8, 8)]
