"""Models that compute with the length of the batch: right for one sample, as files run, or refused."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from mcc.cli import main
from mcc.errors import MccError, UnsupportedError
from mcc.frontend import batch, capture, load_model
from mcc.ir.graph import Graph, run

SHAPE = (3, 8, 8)
CLOSE = 1e-5
Form = Callable[[Tensor], Tensor]


class Net(nn.Module):
    """A convolution, one form of use of the batch, and a classifier."""

    def __init__(self, form: Form) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.form = form
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.form(self.conv(x).relu()).mean((2, 3)))


def _branch(y: Tensor) -> Tensor:
    return y * y.shape[0] if y.shape[0] > 1 else y


def _loop(y: Tensor) -> Tensor:
    total = torch.zeros_like(y)
    for _ in range(y.shape[0]):
        total = total + y
    return total


def _power(y: Tensor) -> Tensor:
    return torch.pow(y, y.shape[0])


def _no_single(y: Tensor) -> Tensor:
    if y.shape[0] == 1:
        raise ValueError("needs several samples")
    return y


def _no_single_and_length(y: Tensor) -> Tensor:
    return _no_single(y) * y.shape[0]


# Sample by sample, whatever the batch: these must be read.
INDEPENDENT: dict[str, Form] = {
    "plain": lambda y: y,
    "view": lambda y: y.view(y.shape[0], -1, 4, 4).view(y.size(0), 8, 8, 8),
    "expanded constant": lambda y: y + torch.ones(1, 8, 1, 1).expand(y.shape[0], -1, -1, -1),
    "zeros of the batch": lambda y: y + torch.zeros(y.shape[0], 8, 8, 8),
    "length divided out": lambda y: y * y.shape[0] / len(y),
    "squeezed axes": lambda y: y.mean((2, 3), keepdim=True).squeeze(-1).unsqueeze(-1),
    "branch beyond the capture": lambda y: y * 5 if y.shape[0] > 3 else y,
    "dropout": lambda y: F.dropout(y, 0.5, training=False),
    "instance norm": lambda y: F.instance_norm(y),
}
# With the length of the batch: these are refused, since two samples are not computed like one.
DEPENDENT: dict[str, Form] = {
    "branch": _branch,
    "power": _power,
    "loop": _loop,
    "factor": lambda y: y * y.shape[0],
    "divisor": lambda y: y / len(y),
    "numel": lambda y: y.div(y.numel()),
    "small term": lambda y: (y * y + 1e-3 * y.shape[0]).sqrt(),
    "clamp": lambda y: y.clamp(max=3.0 * y.shape[0]),
    "slope": lambda y: F.leaky_relu(y - 1, 0.1 * y.shape[0]),
    "padding": lambda y: F.pad(y, (0, y.shape[0], 0, 0)),
    "channels": lambda y: y[:, : 4 * y.shape[0]].repeat(1, 2 // y.shape[0], 1, 1),
    "position": lambda y: y + torch.arange(y.shape[0]).max(),
    "repeats": lambda y: y + torch.ones(1, 8, 1, 1).repeat(y.shape[0], 1, 1, 1) * y.shape[0],
    "no single sample": _no_single_and_length,
}
# Across the batch: right for one sample, or refused.
ACROSS: dict[str, Form] = {
    "group of the batch": lambda y: F.avg_pool2d(y.view(1, -1, 8, 8), 2).view(-1, 8, 4, 4),
    "mean": lambda y: y - y.mean(0, keepdim=True),
    "mean of all": lambda y: y - y.mean(),
    "largest of all": lambda y: y / y.max(),
    "norm": lambda y: y / y.norm(),
    "softmax": lambda y: y.softmax(0),
    "sum so far": lambda y: y.cumsum(0),
    "every other": lambda y: y[::2],
    "first": lambda y: y[:1],
    "first for all": lambda y: y[:1] + 0 * y,
    "backwards": lambda y: y.flip(0),
    "rolled": lambda y: y.roll(1, 0),
    "numbered": lambda y: y + torch.arange(y.shape[0]).reshape(-1, 1, 1, 1),
    "statistics": lambda y: F.batch_norm(y, None, None, training=True),
    "variance": lambda y: y / (y.var((0, 2, 3), keepdim=True, unbiased=False) + 1).sqrt(),
    "flattened": lambda y: y.flatten(0, 1).unsqueeze(0),
    "mixed rows": lambda y: y.reshape(-1, 8 * 8 * 8).reshape(8, -1, 8, 8).transpose(0, 1),
    "layer norm": lambda y: F.layer_norm(y.transpose(0, 1), [y.shape[0], 8, 8]).transpose(0, 1),
    "another branch": lambda y: y if y.shape[0] == 1 else y + y.std(0, keepdim=True),
}
ALL = {**INDEPENDENT, **DEPENDENT, **ACROSS}


def right_at_one(graph: Graph, original: Callable[[Tensor], Tensor]) -> bool:
    x = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        wanted = original(x)
    (got,) = run(graph, x)
    return got.numel() == wanted.numel() and bool((got - wanted.reshape(got.shape)).abs().max() < CLOSE)


def accepted(read: Callable[[], Graph]) -> Graph | None:
    """The graph, or None where the model is refused."""
    try:
        return read()
    except MccError:
        return None


def from_torch(module: nn.Module, folder: Path) -> Graph:
    return capture(module, (torch.zeros(1, *SHAPE),))


def from_pt2(module: nn.Module, folder: Path) -> Graph:
    """Exported with an open batch; where the model fixes it, at a batch of 1."""
    path = folder / "net.pt2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            axes = ({0: torch.export.Dim("batch", min=1, max=8)},)
            program = torch.export.export(module, (torch.zeros(2, *SHAPE),), dynamic_shapes=axes)
        except Exception:  # of many kinds: the length decides on the way through the model
            program = torch.export.export(module, (torch.zeros(1, *SHAPE),))
        torch.export.save(program, path)
    return load_model(str(path)).graph


@pytest.mark.parametrize("read", [from_torch, from_pt2])
@pytest.mark.parametrize("name", [name for name in ALL if not name.startswith("no single")])
def test_right_for_one_sample_or_refused(
    name: str, read: Callable[[nn.Module, Path], Graph], tmp_path: Path
) -> None:
    module = Net(ALL[name]).eval()
    graph = accepted(lambda: read(module, tmp_path))
    if graph is None:
        assert name not in INDEPENDENT
    else:
        assert right_at_one(graph, module)
        assert name not in DEPENDENT or read is from_pt2


@pytest.mark.parametrize("name", DEPENDENT)
def test_the_refusal_says_what_to_do(name: str) -> None:
    with pytest.raises(UnsupportedError, match=r"depends on the length of the batch.*keep x\.shape\[0\]"):
        capture(Net(DEPENDENT[name]).eval(), (torch.zeros(1, *SHAPE),))


def test_a_model_that_takes_no_single_sample_is_compared_at_three() -> None:
    module = Net(_no_single).eval()
    graph = capture(module, (torch.zeros(1, *SHAPE),))
    x = torch.randn(2, *SHAPE)
    with torch.no_grad():
        torch.testing.assert_close(run(graph, x)[0], module(x))


# -- ONNX --------------------------------------------------------------------------------------------------

node = helper.make_node


def onnx_net(
    form: Sequence[onnx.NodeProto], length: int | str = "n", stored: dict[str, Any] | None = None
) -> onnx.ModelProto:
    """A convolution x -> c, the form c -> f, and a pooled output; `b` is the length as a float."""
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "zero"], ["length"]),
        node("Cast", ["length"], ["b"], to=TensorProto.FLOAT),
        *form,
        node("GlobalAveragePool", ["f"], ["y"]),
    ]
    random = np.random.default_rng(0)
    constants: dict[str, Any] = {
        "w": random.standard_normal((4, 3, 1, 1)).astype(np.float32),
        "zero": np.array(0, np.int64),
        "one": np.array(1, np.int64),
        **(stored or {}),
    }
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [length, *SHAPE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    made.graph.output[0].type.tensor_type.shape.SetInParent()
    return onnx.shape_inference.infer_shapes(made)


def _ints(*values: int) -> np.ndarray[Any, Any]:
    return np.array(values, np.int64)


Constants = dict[str, Any]
ONNX_INDEPENDENT: dict[str, tuple[list[onnx.NodeProto], Constants]] = {
    "plain": ([node("Relu", ["c"], ["f"])], {}),
    "divided out": ([node("Mul", ["c", "b"], ["m"]), node("Div", ["m", "b"], ["f"])], {}),
    "reshape by 0": ([node("Reshape", ["c", "to"], ["f"])], {"to": _ints(0, 2, -1, 8)}),
    "reshape by the length": (
        [
            node("Unsqueeze", ["length", "axis"], ["n"]),
            node("Concat", ["n", "rest"], ["to"], axis=0),
            node("Reshape", ["c", "to"], ["f"]),
        ],
        {"axis": _ints(0), "rest": _ints(2, 16, 8)},
    ),
}
ONNX_DEPENDENT: dict[str, tuple[list[onnx.NodeProto], Constants]] = {
    "factor": ([node("Mul", ["c", "b"], ["f"])], {}),
    "divisor": ([node("Div", ["c", "b"], ["f"])], {}),
    "term": ([node("Add", ["c", "b"], ["f"])], {}),
    "clip": (
        [node("Mul", ["b", "five"], ["high"]), node("Clip", ["c", "", "high"], ["f"])],
        {"five": np.array(5, np.float32)},
    ),
    "size": (
        [
            node("Size", ["x"], ["size"]),
            node("Cast", ["size"], ["s"], to=TensorProto.FLOAT),
            node("Div", ["c", "s"], ["f"]),
        ],
        {},
    ),
    "where": (
        [
            node("Greater", ["length", "one"], ["several"]),
            node("Where", ["several", "two", "unit"], ["k"]),
            node("Mul", ["c", "k"], ["f"]),
        ],
        {"two": np.array(2, np.float32), "unit": np.array(1, np.float32)},
    ),
    "tile of channels": (
        [
            node("Unsqueeze", ["length", "axis"], ["n"]),
            node("Concat", ["unit", "n", "unit", "unit"], ["times"], axis=0),
            node("Tile", ["c", "times"], ["f"]),
        ],
        {"axis": _ints(0), "unit": _ints(1)},
    ),
}
ONNX_ACROSS: dict[str, tuple[list[onnx.NodeProto], Constants]] = {
    "mean": (
        [node("ReduceMean", ["c"], ["m"], axes=[0], keepdims=1), node("Sub", ["c", "m"], ["f"])],
        {},
    ),
    "mean of all": ([node("ReduceMean", ["c"], ["m"], keepdims=1), node("Sub", ["c", "m"], ["f"])], {}),
    "softmax": ([node("Softmax", ["c"], ["f"], axis=0)], {}),
    "sum so far": ([node("CumSum", ["c", "zero"], ["f"])], {}),
    "backwards": (
        [node("Slice", ["c", "from", "to", "axes", "step"], ["f"])],
        {"from": _ints(-1), "to": _ints(-(2**31)), "axes": _ints(0), "step": _ints(-1)},
    ),
    "reshape to 1": ([node("Reshape", ["c", "to"], ["f"])], {"to": _ints(1, -1, 8, 8)}),
    "reshape to 2": ([node("Reshape", ["c", "to"], ["f"])], {"to": _ints(2, -1, 8, 8)}),
    "flatten from 0": (
        [node("Flatten", ["c"], ["r"], axis=0), node("Reshape", ["r", "to"], ["f"])],
        {"to": _ints(-1, 4, 8, 8)},
    ),
    "statistics": (
        [node("BatchNormalization", ["c", "s", "o", "m", "v"], ["f", "p", "q"], training_mode=1)],
        {
            "s": np.ones(4, np.float32),
            "o": np.zeros(4, np.float32),
            "m": np.zeros(4, np.float32),
            "v": np.ones(4, np.float32),
        },
    ),
}
ONNX_ALL = {**ONNX_INDEPENDENT, **ONNX_DEPENDENT, **ONNX_ACROSS}


def onnxruntime_of(model: onnx.ModelProto) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda x: torch.from_numpy(np.asarray(session.run(None, {"x": x.numpy()})[0]))


@pytest.mark.parametrize("length", ["n", 1])
@pytest.mark.parametrize("name", ONNX_ALL)
def test_onnx_is_right_for_one_sample_or_refused(name: str, length: int | str, tmp_path: Path) -> None:
    form, stored = ONNX_ALL[name]
    model = onnx_net(form, length, stored)
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    graph = accepted(lambda: load_model(str(tmp_path / "net.onnx")).graph)
    if graph is None:
        assert name not in ONNX_INDEPENDENT
        assert name in ONNX_ACROSS or length == "n"
    else:
        assert right_at_one(graph, onnxruntime_of(model))
        assert name not in ONNX_DEPENDENT or length == 1


def test_a_file_of_a_fixed_batch_is_compared_at_one_sample_where_it_runs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(onnx_net(*_with(ONNX_DEPENDENT["factor"], 4)).SerializeToString())
    with pytest.raises(UnsupportedError, match="depends on the length of the batch"):
        load_model(str(path))
    path.write_bytes(onnx_net(*_with(ONNX_INDEPENDENT["plain"], 4)).SerializeToString())
    with caplog.at_level(logging.WARNING):
        load_model(str(path))
        assert not caplog.records
    fixed = ([node("Reshape", ["c", "to"], ["f"])], {"to": _ints(4, 2, -1, 8)})
    path.write_bytes(onnx_net(*_with(fixed, 4)).SerializeToString())
    with caplog.at_level(logging.WARNING):
        load_model(str(path))
    assert "runs at a batch of 4 only" in caplog.text


def _with(form: tuple[list[onnx.NodeProto], Constants], length: int) -> tuple[Any, int, Any]:
    return form[0], length, form[1]


# -- mcc verify --------------------------------------------------------------------------------------------

FACTORY = """
import torch
from tests.frontend.test_batch_length import DEPENDENT, Net

def net():
    return Net(DEPENDENT["factor"]), torch.zeros(1, 3, 8, 8)
"""


def _trusting(*_: object, **__: object) -> None:
    """In place of the comparison with one sample."""


@pytest.mark.slow
def test_verify_asks_the_original_one_sample_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Planted: a capture that trusts its batch of 2. `mcc verify` still finds that the file is wrong."""
    (tmp_path / "net.py").write_text(FACTORY)
    model, file = f"{tmp_path / 'net.py'}:net", str(tmp_path / "net.onnx")
    assert main.run(["lower", model, "--to", "onnx", "-o", file]) == 2
    assert "depends on the length of the batch" in capsys.readouterr().err
    for place in ("mcc.frontend.torch_module", "mcc.frontend.batch"):
        monkeypatch.setattr(f"{place}.{batch.check_one_sample.__name__}", _trusting)
    assert main.run(["lower", model, "--to", "onnx", "-o", file, "-q"]) == 0
    assert main.run(["verify", model, file, "--json", "--count", "4"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["original"]["worst"] > 0.1
    assert not found["passed"]
