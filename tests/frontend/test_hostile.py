"""Files that ask for more than they hold, and weights that are no numbers: refused before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from mcc.errors import MccError, UnsupportedError
from mcc.frontend import allowance, capture, load_model
from mcc.ir import limits
from mcc.ir.graph import run
from mcc.ir.limits import TooLargeError, check_graph
from mcc.ir.storage import load_graph
from mcc.ir.text import parse_graph

node = helper.make_node
Constants = dict[str, Any]


def ints(*values: int) -> np.ndarray[Any, Any]:
    return np.array(values, np.int64)


def number(value: float) -> np.ndarray[Any, Any]:
    return np.array(value, np.float32)


def written(folder: Path, nodes: Sequence[onnx.NodeProto], stored: Constants) -> str:
    graph = helper.make_graph(
        list(nodes),
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in stored.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    made.graph.output[0].type.tensor_type.shape.SetInParent()
    path = folder / "net.onnx"
    path.write_bytes(made.SerializeToString())
    assert path.stat().st_size < 1 << 16
    return str(path)


USE = [node("ReduceMax", ["c"], ["r"], keepdims=0), node("Add", ["x", "r"], ["y"])]


def _loop() -> onnx.NodeProto:
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [node("Concat", ["a", "a"], ["b"], axis=0), node("Identity", ["go"], ["on"])],
        "body",
        [
            info("i", TensorProto.INT64, []),
            info("go", TensorProto.BOOL, []),
            info("a", TensorProto.FLOAT, None),
        ],
        [info("on", TensorProto.BOOL, []), info("b", TensorProto.FLOAT, None)],
    )
    return node("Loop", ["times", "", "one"], ["c"], body=body)


# name: (nodes that make the constant c, what is stored)
GROWING: dict[str, tuple[list[onnx.NodeProto], Constants]] = {
    "constant of shape": ([node("ConstantOfShape", ["s"], ["c"])], {"s": ints(1 << 14, 1 << 14)}),
    "doubled by concat": (
        [
            node("Concat", [f"k{i}" if i else "one", f"k{i}" if i else "one"], [f"k{i + 1}"], axis=0)
            for i in range(34)
        ]
        + [node("Identity", ["k34"], ["c"])],
        {"one": np.ones(1, np.float32)},
    ),
    "many of some size": (
        [node("ConstantOfShape", ["s"], [f"k{i}"]) for i in range(60)]
        + [node("Max", [f"k{i}" for i in range(60)], ["c"])],
        {"s": ints(1 << 10, 1 << 10)},
    ),
    "range": (
        [node("Range", ["a", "b", "d"], ["c"])],
        {"a": number(0), "b": number(1e9), "d": number(1)},
    ),
    "pad": (
        [node("Pad", ["one", "p"], ["c"])],
        {"one": np.ones((1, 1), np.float32), "p": ints(0, 0, 40000, 40000)},
    ),
    "tile": (
        [node("Tile", ["one", "t"], ["c"])],
        {"one": np.ones((1, 1), np.float32), "t": ints(50000, 50000)},
    ),
    "expand": ([node("Expand", ["one", "t"], ["c"])], {"one": number(1), "t": ints(50000, 50000)}),
    "outer product": (
        [node("ConstantOfShape", ["s"], ["q"]), node("Einsum", ["q", "q"], ["c"], equation="a,b->ab")],
        {"s": ints(40000)},
    ),
    "sum over a product": (
        [
            node("ConstantOfShape", ["s"], ["q"]),
            node("Einsum", ["q", "q", "q", "q"], ["c"], equation="a,b,c,d->"),
        ],
        {"s": ints(3000)},
    ),
    "matrices": (
        [node("ConstantOfShape", ["s"], ["q"]), node("MatMul", ["q", "q"], ["c"])],
        {"s": ints(2000, 2000)},
    ),
    "resize": (
        [node("Resize", ["map", "", "scales"], ["c"], mode="linear")],
        {"map": np.ones((1, 1, 4, 4), np.float32), "scales": np.array([1, 1, 500, 500], np.float32)},
    ),
    "one hot": (
        [node("OneHot", ["i", "depth", "v"], ["c"])],
        {"i": ints(*range(100)), "depth": np.array(10**8, np.int64), "v": np.array([0, 1], np.float32)},
    ),
    "loop": ([_loop()], {"times": np.array(40, np.int64), "one": np.ones(1, np.float32)}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", GROWING)
def test_constants_that_grow_are_refused_before_they_are_made(name: str, tmp_path: Path) -> None:
    nodes, stored = GROWING[name]
    path = written(tmp_path, [*nodes, *USE], stored)
    with pytest.raises(UnsupportedError, match=r"node .*(beyond what mcc|too long|several ways)") as caught:
        load_model(path)
    assert "\n" not in str(caught.value)


def test_constants_of_usual_size_are_evaluated(tmp_path: Path) -> None:
    nodes = [
        node("ConstantOfShape", ["s"], ["ones"], value=numpy_helper.from_array(np.ones(1, np.float32))),
        node("NonZero", ["ones"], ["where"]),
        node("Cast", ["where"], ["k"], to=TensorProto.FLOAT),
        node("MatMul", ["k", "square"], ["c"]),
        *USE,
    ]
    graph = load_model(written(tmp_path, nodes, {"s": ints(5), "square": np.ones((5, 2), np.float32)})).graph
    x = torch.randn(1, 3, 8, 8)
    assert torch.equal(run(graph, x)[0], x + 10)


def test_without_the_bound_the_constant_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check bites: with a bound above what one of these asks for, it passes."""
    nodes, stored = GROWING["many of some size"]
    path = written(tmp_path, [*nodes, *USE], stored)
    monkeypatch.setattr(allowance, "ALL_BYTES", 2 << 30)
    load_model(path)


class Growing(nn.Module):
    """Makes so many constants of 16 MiB each of nothing."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        for index in range(self.count):
            x = x + torch.full((1 << 22,), float(index)).sum()
        return x


@pytest.mark.slow
def test_constants_that_a_torch_model_makes_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.zeros(1, 3, 8, 8)
    capture(Growing(2), (x,))
    with pytest.raises(UnsupportedError, match="makes constants beyond what mcc handles"):
        capture(Growing(20), (x,))
    monkeypatch.setattr(allowance, "ALL_BYTES", 2 << 30)
    capture(Growing(20), (x,))


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Expand", ["x", "t"], ["e"]), node("ReduceMean", ["e"], ["y"], axes=[1, 2, 3, 4])],
        [node("Resize", ["x", "", "scales"], ["e"]), node("Relu", ["e"], ["y"])],
    ],
)
def test_values_that_grow_are_refused_before_they_are_computed(
    nodes: list[onnx.NodeProto], tmp_path: Path
) -> None:
    stored = {"t": ints(1 << 21, 1, 3, 8, 8), "scales": np.array([1, 1, 900, 900], np.float32)}
    with pytest.raises(UnsupportedError):
        load_model(written(tmp_path, nodes, stored))


# -- how many nodes ----------------------------------------------------------------------------------------


class Long(nn.Module):
    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.steps):
            x = x.relu()
        return x


def test_too_many_nodes_are_counted_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_NODES", 50)
    monkeypatch.setattr("mcc.frontend.torch_module.MAX_OPERATORS", 50)
    text = "mcc 1\n%x = input() {} : f32[1,3,8,8]\n"
    text += "".join(f"%v{i} = relu(%{f'v{i - 1}' if i else 'x'}) {{}} : f32[1,3,8,8]\n" for i in range(60))
    (tmp_path / "net.mcc").write_text(f"{text}return %v59\n")
    nodes = [node("Relu", [f"v{i}" if i else "x"], [f"v{i + 1}" if i < 59 else "y"]) for i in range(60)]
    torch.export.save(torch.export.export(Long(60), (torch.zeros(1, 3, 8, 8),)), tmp_path / "net.pt2")
    for path in (str(tmp_path / "net.mcc"), written(tmp_path, nodes, {}), str(tmp_path / "net.pt2")):
        with pytest.raises(TooLargeError, match="more than the 50 that mcc handles"):
            load_model(path)
    with pytest.raises(TooLargeError, match="more than the 50 that mcc handles"):
        capture(Long(60), (torch.zeros(1, 3, 8, 8),))
    capture(Long(20), (torch.zeros(1, 3, 8, 8),))


def test_what_lives_at_one_time_is_bounded(tmp_path: Path) -> None:
    side = 1 << 12
    text = f"mcc 1\n%x = input() {{}} : f32[1,1,{side},{side}]\n"
    lines = [f"%v{i} = relu(%{f'v{i - 1}' if i else 'x'}) {{}} : f32[1,1,{side},{side}]" for i in range(20)]
    chain = text + "\n".join(lines)
    check_graph(parse_graph(f"{chain}\nreturn %v19\n"))  # each in its turn
    everything = ", ".join(f"%v{i}" for i in range(20))
    (tmp_path / "net.mcc").write_text(f"{chain}\nreturn {everything}\n")
    with pytest.raises(TooLargeError, match=r"net\.mcc: v\d+: needs \d+ MiB for the values of one sample"):
        load_graph(tmp_path / "net.mcc")


# -- what is no number -------------------------------------------------------------------------------------


class Masked(nn.Module):
    """Legitimate infinities: a mask before a softmax, and a padding."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        mask = torch.zeros(8)
        mask[3] = -torch.inf
        self.mask = nn.Buffer(mask)

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.pad(self.conv(x), (0, 1, 0, 1), value=-torch.inf)
        return torch.softmax(nn.functional.max_pool2d(y, 2, 1) + self.mask, 3)


def test_infinities_that_are_meant_stay(tmp_path: Path) -> None:
    module, x = Masked().eval(), torch.randn(1, 3, 8, 8)
    torch.export.save(torch.export.export(module, (x,)), tmp_path / "net.pt2")
    for graph in (capture(module, (x,)), load_model(str(tmp_path / "net.pt2")).graph):
        with torch.no_grad():
            torch.testing.assert_close(run(graph, x)[0], module(x))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["conv.weight", "conv.bias"])
def test_weights_that_are_no_numbers_are_named(name: str, value: float, tmp_path: Path) -> None:
    module = Masked().eval()
    with torch.no_grad():
        module.get_parameter(name).view(-1)[1] = value
    sentence = rf"constant {name.replace('.', '_')}: holds 1 .* read by conv2d conv"
    with pytest.raises(UnsupportedError, match=sentence):
        capture(module, (torch.zeros(1, 3, 8, 8),))
    torch.export.save(torch.export.export(module, (torch.zeros(1, 3, 8, 8),)), tmp_path / "net.pt2")
    with pytest.raises(UnsupportedError, match=sentence):
        load_model(str(tmp_path / "net.pt2"))
    stored = {"w": np.full((4, 3, 1, 1), value, np.float32)}
    with pytest.raises(UnsupportedError, match=r"constant w: holds 12 .* read by conv2d"):
        load_model(written(tmp_path, [node("Conv", ["x", "w"], ["y"])], stored))
    (tmp_path / "net.mcc").write_text(
        f"mcc 1\nconst @w : f32[4,3,1,1] = full({value})\n%x = input() {{}} : f32[1,3,8,8]\n"
        "%y = conv2d(%x, @w, none) {stride=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1), groups=1, "
        "activation='none'} : f32[1,4,8,8]\nreturn %y\n"
    )
    with pytest.raises(MccError, match=r"net\.mcc: constant w: holds 12 "):
        load_graph(tmp_path / "net.mcc")
