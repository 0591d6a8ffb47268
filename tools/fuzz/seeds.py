"""Small valid files of every kind that mcc reads, as input of the fuzzer."""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from mcc.ir.graph import Graph, GraphBuilder, constants
from mcc.ir.text import parse_graph, print_graph
from mcc.lower.onnx.writer import to_onnx
from mcc.lower.tflite.writer import to_tflite
from mcc.pass_api import PassContext
from mcc.pipeline import Pipeline

GOLDENS = Path(__file__).parents[2] / "golden_graphs"
KINDS = ("mcc", "onnx", "pt2", "safetensors", "tflite")


class Net(nn.Module):
    """Three layers; also the network for files of weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, 6, 6] to [N, 2]."""
        y = torch.relu(self.norm(self.conv(x)))
        return self.head(y.mean((2, 3)))


def model() -> tuple[nn.Module, Tensor]:
    """The factory for which files of weights are loaded."""
    torch.manual_seed(0)
    return Net().eval(), torch.zeros(1, 3, 6, 6)


@cache
def seeds(kind: str) -> tuple[bytes, ...]:
    """The whole files of a kind."""
    torch.manual_seed(0)
    if kind == "mcc":
        return tuple(_text(path) for path in sorted(GOLDENS.glob("*/*.mcc")))
    if kind == "pt2":
        return (_exported(),)
    if kind == "safetensors":
        return (save(dict(model()[0].state_dict())),)
    write = to_onnx if kind == "onnx" else to_tflite
    return tuple(write(graph) for graph in _graphs())


def _text(path: Path) -> bytes:
    before = path.read_text().split("=== before\n")[1]
    return before.split("=== ")[0].encode()


def _exported() -> bytes:
    import io

    held = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module, example = model()
        torch.export.save(torch.export.export(module, (example,)), held)
    return held.getvalue()


def _graphs() -> list[Graph]:
    """A residual network in float, with sparse 1x1 layers, and on integers."""
    b = GraphBuilder()
    x = b.input("x", (1, 3, 6, 6))
    w = [
        b.constant(f"w{i}", torch.randn(s) * 0.3) for i, s in enumerate(((4, 3, 3, 3), (4, 4, 1, 1), (2, 4)))
    ]
    x = b.conv2d(x, w[0], b.constant("b", torch.randn(4)), padding=(1, 1, 1, 1), activation="relu")
    x = b.add(b.conv2d(x, w[1], None), x)
    plain = b.finish(b.softmax(b.linear(b.mean(x, axes=(2, 3)), w[2], None), axis=1))
    data = PassContext((torch.randn(4, 3, 6, 6),))
    other = [
        Pipeline.parse(text).run(plain, data).graph for text in ("sparsify-1x1{sparsity=0.5}", "insert-qdq")
    ]
    return [plain, *other]


def beside(text: str) -> bytes | None:
    """Constants for a .mcc whose text does not define them; None if it is no graph."""
    graph = parse_graph(text)
    return save({name: value.detach().contiguous() for name, value in constants(graph).items()})


def printed(text: str) -> str:
    """A .mcc whose constants are in a separate file."""
    return print_graph(parse_graph(text))
