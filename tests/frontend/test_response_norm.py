"""Global response normalisation: found in PyTorch and ONNX models, pruned, and left in float."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, fx, nn

import passes.prune_channels
from mcc.analysis.remove_channels import zero_readers
from mcc.errors import VerificationError
from mcc.frontend import capture, load_model
from mcc.ir.graph import Graph, calls, op_name, run
from mcc.ir.notes import shape_of
from mcc.pass_api import PassContext
from mcc.pipeline import Pipeline
from mcc.quant.regions import integer_nodes

NAME = "global_response_norm"
WIDTH = 16


class Last(nn.Module):
    """As the authors of ConvNeXt V2 write it: channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.randn(1, 1, 1, WIDTH))
        self.beta = nn.Parameter(torch.randn(1, 1, 1, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        norms = torch.norm(x, p=2, dim=(1, 2), keepdim=True)
        response = norms / (norms.mean(dim=-1, keepdim=True) + 1e-6)
        return self.gamma * (x * response) + self.beta + x


class First(nn.Module):
    """As timm writes it, here for channels second."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = (nn.Parameter(torch.randn(WIDTH)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        norms = x.norm(p=2, dim=(2, 3), keepdim=True)
        response = norms / (norms.mean(dim=1, keepdim=True) + 1e-6)
        shape = (1, -1, 1, 1)
        return x + torch.addcmul(self.bias.view(shape), self.weight.view(shape), x * response)


class Block(nn.Module):
    """A block of ConvNeXt V2, 4 channels wide and 16 inside."""

    def __init__(self, norm: nn.Module, last: bool) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(4, 4, 7, padding=3, groups=4)
        self.expand = nn.Linear(4, WIDTH) if last else nn.Conv2d(4, WIDTH, 1)
        self.reduce = nn.Linear(WIDTH, 4) if last else nn.Conv2d(WIDTH, 4, 1)
        self.norm, self.last = norm, last

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(x)
        y = y.permute(0, 2, 3, 1) if self.last else y
        y = self.reduce(self.norm(nn.functional.gelu(self.expand(y))))
        return x + (y.permute(0, 3, 1, 2) if self.last else y)


def network(last: bool) -> nn.Module:
    torch.manual_seed(0)
    blocks = [Block(Last() if last else First(), last) for _ in range(2)]
    return nn.Sequential(
        nn.Conv2d(3, 4, 4, 4), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    )


def captured(last: bool) -> Graph:
    return capture(network(last).eval(), (torch.zeros(1, 3, 32, 32),))


@pytest.mark.parametrize(("last", "axis"), [(True, 3), (False, 1)])
def test_found_in_pytorch_models(last: bool, axis: int) -> None:
    graph = captured(last)
    found = calls(graph, NAME)
    assert [node.kwargs for node in found] == [{"axis": axis, "eps": 1e-6}] * 2
    assert not calls(graph, "div", "sqrt")
    x = torch.randn(2, 3, 32, 32)
    assert torch.allclose(run(graph, x)[0], network(last).eval()(x), atol=1e-5)


def test_found_in_onnx_files(tmp_path: Path) -> None:
    node = helper.make_node
    nodes = [
        node("ReduceL2", ["x", "maps"], ["g"], keepdims=1),
        node("ReduceMean", ["g", "channels"], ["m"], keepdims=1),
        node("Add", ["m", "eps"], ["e"]),
        node("Div", ["g", "e"], ["n"]),
        node("Mul", ["x", "n"], ["p"]),
        node("Mul", ["gamma", "p"], ["s"]),
        node("Add", ["x", "s"], ["t"]),
        node("Add", ["beta", "t"], ["y"]),
    ]
    held = {
        "maps": np.array([2, 3]), "channels": np.array([1]), "eps": np.array(1e-6, np.float32),
        "gamma": np.random.default_rng(0).random((4, 1, 1), np.float32),
        "beta": np.random.default_rng(1).random((1, 4, 1, 1), np.float32),
    }  # fmt: skip
    made = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 5, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 5, 6])],
        [numpy_helper.from_array(value, name) for name, value in held.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)]), tmp_path / "net.onnx")
    graph = load_model(str(tmp_path / "net.onnx")).graph
    assert [op_name(call) for call in calls(graph)] == [NAME]
    assert [shape_of(arg) for arg in calls(graph)[0].args[1:] if isinstance(arg, fx.Node)] == [(4,), (4,)]


def spelled(
    over: tuple[int, ...] = (2, 3),
    own: tuple[int, ...] = (1,),
    shape: tuple[int, ...] = (1, 4, 1, 1),
    use: Callable[[Tensor, Tensor], Tensor] = lambda x, n: x * n,
) -> nn.Module:
    class Spelled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gamma, self.beta = (nn.Parameter(torch.randn(shape)) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            norms = torch.norm(x, p=2, dim=over, keepdim=True)
            response = norms / (norms.mean(dim=own, keepdim=True) + 1e-6)
            return self.gamma * use(x, response) + self.beta + x

    return Spelled()


@pytest.mark.parametrize(
    ("module", "found"),
    [
        (spelled(), 1),
        (spelled(over=(1, 3), own=(2,), shape=(1, 1, 5, 1)), 1),
        (spelled(over=(2,)), 0),
        (spelled(own=(2,)), 0),
        (spelled(shape=(1, 4, 5, 6)), 0),
        (spelled(use=lambda x, n: x.relu() * n), 0),
        (spelled(use=lambda x, n: x * n * n), 0),
    ],
)
def test_what_is_another_function_stays_spelled_out(module: nn.Module, found: int) -> None:
    graph = capture(module.eval(), (torch.zeros(1, 4, 5, 6),))
    assert len(calls(graph, NAME)) == found
    x = torch.randn(2, 4, 5, 6)
    assert torch.allclose(run(graph, x)[0], module(x), atol=1e-5)


@pytest.mark.parametrize("last", [True, False])
def test_channels_can_be_pruned(last: bool) -> None:
    """The pipeline compares with the twin, whose means are over the channels that stay."""
    pruned = Pipeline.parse("prune-channels{keep=0.5}").run(captured(last), PassContext()).graph
    axis = 3 if last else 1
    assert [shape_of(node)[axis] for node in calls(pruned, NAME)] == [WIDTH // 2] * 2


def test_a_twin_with_the_old_means_is_another_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes.prune_channels, "mask_out", zero_readers)
    with pytest.raises(VerificationError):
        Pipeline.parse("prune-channels{keep=0.5}").run(captured(last=True), PassContext())


def test_it_stays_in_float() -> None:
    context = PassContext((torch.randn(8, 3, 32, 32),))
    graph = Pipeline.parse("insert-qdq").run(captured(last=False), context).graph
    names = {op_name(node) for node in integer_nodes(graph)}
    assert "conv2d" in names
    assert NAME not in names
