"""ONNX files that compute with integers are shown and compared as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mcc.cli.main import run
from mcc.report.onnx_views import view_integer_onnx

node = helper.make_node


def dynamic(path: Path, seed: int = 0) -> str:
    """A convolution with its input quantised while it runs."""
    weight = np.random.default_rng(seed).integers(-127, 127, (4, 3, 3, 3)).astype(np.int8)
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        node("ConvInteger", ["q", "w", "z"], ["i"], name="conv"),
        node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        node("Mul", ["f", "s"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 6, 6])],
        [numpy_helper.from_array(weight, "w")],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return str(path)


def test_operators_and_weights_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = dynamic(tmp_path / "net.onnx")
    views = {view.name: view for view in view_integer_onnx(file) or []}
    assert views["conv"].op == "conv2d"
    assert views["conv"].type == "i32[1,4,6,6]"
    assert [(held.role, held.shape) for held in views["conv"].constants] == [("weight", (4, 3, 3, 3))]
    assert run(["inspect", file]) == 0
    assert "4 operators" in capsys.readouterr().out


def test_two_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = dynamic(tmp_path / "a.onnx"), dynamic(tmp_path / "b.onnx", seed=1)
    assert run(["diff", one, one]) == 0
    assert "no difference" in capsys.readouterr().out
    assert run(["diff", one, other]) == 0
    assert "conv" in capsys.readouterr().out


def test_what_else_is_refused_says_what_is_possible(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["lower", dynamic(tmp_path / "net.onnx"), "--to", "onnx", "-o", str(tmp_path / "o.onnx")]) == 2
    assert "mcc inspect, diff and bench take this one" in capsys.readouterr().err
