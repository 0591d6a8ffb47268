"""Inputs and outputs of lowered files have the names that the author of a model gave them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from ai_edge_litert.interpreter import Interpreter
from onnx import helper, numpy_helper

from mcc.cli import main
from mcc.frontend.load import load_model

NETWORK = """
import numpy as np
import torch
from torch import nn
from mcc.data import from_arrays

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.boxes, self.scores = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 2, 1)

    def forward(self, picture):
        x = self.body(picture)
        return {"conv2d": self.boxes(x), "picture scores": self.scores(x).sigmoid()}

def network():
    torch.manual_seed(0)
    return Net(), torch.zeros(1, 3, 16, 16)

def data():
    chance = np.random.default_rng(0)
    train, test = (chance.integers(0, 256, (count, 3, 16, 16), np.uint8) for count in (64, 8))
    return from_arrays((train, np.arange(64) % 2), (test, np.arange(8) % 2), class_names=("a", "b"))
"""
GIVEN = ["conv2d", "picture scores"]


def names_in(file: Path) -> tuple[list[str], list[str]]:
    if file.suffix == ".onnx":
        graph = onnx.load(file).graph
        return [one.name for one in graph.input], [one.name for one in graph.output]
    interpreter = Interpreter(str(file))
    (signature,) = interpreter.get_signature_list().values()
    tensors = [one["name"] for one in interpreter.get_output_details()]
    assert sorted(signature["outputs"]) == sorted(tensors)
    return signature["inputs"], tensors


@pytest.mark.parametrize("suffix", ["tflite", "onnx"])
@pytest.mark.parametrize("passes", ["", "prune-channels{keep=0.5},decompose,fold-batch-norm,insert-qdq"])
def test_keys_of_a_dictionary_are_the_names_in_the_file(tmp_path: Path, suffix: str, passes: str) -> None:
    (tmp_path / "net.py").write_text(NETWORK)
    model, file = f"{tmp_path / 'net.py'}:network", tmp_path / f"out.{suffix}"
    if passes:
        data = ["--data", f"{tmp_path / 'net.py'}:data"]
        assert main.run(["opt", model, "-p", passes, *data, "-o", str(tmp_path / "net.mcc")]) == 0
        model = str(tmp_path / "net.mcc")
    assert load_model(model).output_names == tuple(GIVEN)
    assert main.run(["lower", model, "--to", suffix, "-o", str(file)]) == 0
    assert names_in(file) == (["picture"], GIVEN)
    assert main.run(["verify", model, str(file)]) == 0


@pytest.mark.parametrize("suffix", ["tflite", "onnx"])
def test_an_onnx_file_keeps_its_names(tmp_path: Path, suffix: str) -> None:
    weight = numpy_helper.from_array(np.ones((5, 3, 3, 3), np.float32) / 27, "w")
    source, file = tmp_path / "net.onnx", tmp_path / f"again.{suffix}"
    graph = helper.make_graph(
        [helper.make_node("Conv", ["input.1", "w"], ["y"]), helper.make_node("Relu", ["y"], ["a/b:0"])],
        "net",
        [helper.make_tensor_value_info("input.1", onnx.TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("a/b:0", onnx.TensorProto.FLOAT, [1, 5, 6, 6])],
        [weight],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), source)
    assert main.run(["lower", str(source), "--to", suffix, "-o", str(file)]) == 0
    assert names_in(file) == (["input.1"], ["a/b:0"])
    assert main.run(["verify", str(source), str(file)]) == 0
