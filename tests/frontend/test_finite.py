"""A model that overflows by itself is refused as such, before anything else can be blamed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mcc.cli import main
from mcc.frontend.finite import finite_inputs, in_domain
from mcc.frontend.load import load_model

NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, gain):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.end = nn.Linear(4, 5)
        for layer in (self.a, self.b):
            nn.init.constant_(layer.weight, gain)

    def forward(self, x):
        return self.end(self.b(self.a(x)).mean((2, 3)))

class Root(Net):
    def forward(self, x):
        return super().forward(torch.sqrt(x))

def huge():
    return Net(1e25).eval(), torch.zeros(1, 3, 8, 8)

def root():
    return Root(0.1).eval(), torch.zeros(1, 3, 8, 8)
"""
SENTENCE = "the model itself gives values that are not finite on random inputs, first infinity in conv2d b"


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "command",
    [
        ["inspect", "MODEL"],
        ["opt", "MODEL", "-p", "fold-batch-norm", "-o", "out.mcc"],
        ["lower", "MODEL", "--to", "onnx", "-o", "out.onnx"],
        ["verify", "MODEL", "file.onnx"],
        ["compress", "MODEL", "--data", "digits", "--target", "litert-host", "-o", "out"],
    ],
    ids=lambda command: command[0],
)
def test_every_command_names_the_model_and_the_node(
    command: list[str], nets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if command[0] == "verify":
        assert main.run(["lower", "nets.py:root", "--to", "onnx", "-o", "file.onnx"]) == 0
        capsys.readouterr()
    before = sorted(nets.iterdir())
    assert main.run(["nets.py:huge" if word == "MODEL" else word for word in command]) == 2
    assert SENTENCE in capsys.readouterr().err
    left = [path for path in nets.iterdir() if path not in before and path.name != "__pycache__"]
    assert all(path.is_dir() and not list(path.rglob("*.tflite")) for path in left)


def test_a_root_is_tried_on_what_it_takes(nets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = load_model("nets.py:root").graph
    assert float(finite_inputs(graph)[0].min()) >= 0
    drawn = torch.randn(4, 3, 8, 8)
    assert torch.equal(in_domain(graph, [drawn])[0], drawn.abs())
    assert main.run(["lower", "nets.py:root", "--to", "onnx", "-o", "root.onnx"]) == 0
    assert main.run(["verify", "nets.py:root", "root.onnx"]) == 0
    assert "agrees" in capsys.readouterr().out
