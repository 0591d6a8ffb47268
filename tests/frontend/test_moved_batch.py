"""A batch axis that is moved, squeezed or folded on its way: the numbers are those of the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from onnx import helper
from torch import Tensor, nn

from mcc.errors import MccError
from mcc.frontend import capture, load_model, moved_batch
from mcc.ir.graph import run
from tests.frontend.constructs import MAP, Of
from tests.frontend.test_onnx_file import model

node = helper.make_node
Array = np.ndarray[Any, Any]


def _ctc(s: Any, x: Tensor) -> Tensor:
    return s.fc(x.mean(2).permute(2, 0, 1)).log_softmax(2)


def _attended(s: Any, x: Tensor) -> Tensor:
    y = x.flatten(2).permute(2, 0, 1)  # [T, N, C], as nn.MultiheadAttention wants it
    scores = torch.einsum("nqc,nkc->nqk", y.transpose(0, 1), y.transpose(0, 1)).softmax(-1)
    return torch.matmul(scores, y.transpose(0, 1)).transpose(0, 1) + 2 * y


def _combined(s: Any, x: Tensor) -> Tensor:
    y = x.permute(1, 2, 0, 3)
    a, b = y[:2], F.pad(y[2:], (1, 0, 0, 0, 0, 0, 0, 0))[..., :8]
    z = torch.cat((a, b * torch.arange(8.0)), 0)
    return (z.sigmoid() - z.mean(0, keepdim=True) + s.w).sum(1)


TORCH: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "sequence head": (lambda: Of(_ctc, fc=nn.Linear(4, 5)), 1),
    "attention over [T, N, C]": (lambda: Of(_attended), 1),
    "slices, joins, padding, sums": (lambda: Of(_combined, w=torch.randn(4, 1, 1, 8)), 1),
    "an axis in front": (lambda: Of(lambda s, x: x.mean((2, 3))[None] * 2), 1),
}


@pytest.mark.parametrize("name", list(TORCH))
def test_of_modules(name: str) -> None:
    factory, place = TORCH[name]
    module = factory().eval()
    graph = capture(module, (torch.zeros(MAP),))
    for batch in (1, 3):
        x = torch.randn(batch, *MAP[1:])
        with torch.no_grad():
            wanted = module(x).movedim(place, 0)
        torch.testing.assert_close(run(graph, x)[0], wanted, rtol=1e-5, atol=1e-6)


FOLDED: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "folded": lambda s, x: F.linear(x.reshape(-1, 8), s.w).softmax(0),
    "squeezed": lambda s, x: (x.squeeze(0) * s.w).amax(0).cumsum(0),
    "taken": lambda s, x: x.reshape(4, 8, 8).permute(2, 0, 1)[..., 1:].reshape(8, 1, 28) @ torch.ones(28, 3),
}


@pytest.mark.parametrize("name", list(FOLDED))
def test_of_modules_for_one_sample(name: str) -> None:
    module = Of(FOLDED[name], w=torch.randn(8, 8)).eval()
    graph = capture(module, (torch.zeros(MAP),))
    x = torch.randn(3, *MAP[1:])
    for sample, got in zip(x, run(graph, x)[0], strict=True):
        wanted = module(sample[None])
        torch.testing.assert_close(got.reshape(wanted.shape), wanted, rtol=1e-5, atol=1e-6)


def test_the_user_is_told_which_output_has_another_shape(caplog: pytest.LogCaptureFixture) -> None:
    capture(Of(_ctc, fc=nn.Linear(4, 5)), (torch.zeros(MAP),))
    assert "output 0: its axis 1 is the batch; here the batch comes first" in caplog.text


@pytest.mark.parametrize("name", ["sequence head", "slices, joins, padding, sums"])
def test_a_wrong_axis_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moved_batch, "_inner", lambda axis, place: 1 if axis > 1 else 2)
    with pytest.raises(MccError):
        capture(TORCH[name][0](), (torch.zeros(MAP),))


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


def floats(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


Net = tuple[Sequence[onnx.NodeProto], dict[str, Array]]
CTC: Net = (
    [
        node("MaxPool", ["x"], ["p"], kernel_shape=[8, 1], strides=[8, 1]),
        node("Squeeze", ["p", "two"], ["s"]),
        node("Transpose", ["s"], ["t"], perm=[2, 0, 1]),
        node("Reshape", ["t", "rows"], ["r"]),
        node("Gemm", ["r", "w"], ["g"]),
        node("Reshape", ["g", "back"], ["y"]),
    ],
    {"two": ints(2), "rows": ints(8, 4), "w": floats(4, 5), "back": ints(8, 1, 5)},
)
ONNX: dict[str, Net] = {
    "sequence head by rows": CTC,
    "fixed reshape": (
        [
            node("Reshape", ["x", "s"], ["r"]),
            node("MatMul", ["r", "w"], ["m"]),
            node("Add", ["m", "b"], ["y"]),
        ],
        {"s": ints(1, 256), "w": floats(256, 5), "b": floats(5)},
    ),
    "flattened from the front": (
        [
            node("Flatten", ["x"], ["f"], axis=0),
            node("Reshape", ["f", "s"], ["r"]),
            node("Softmax", ["r"], ["y"], axis=0),
        ],
        {"s": ints(4, 64)},
    ),
    "picture without a batch": (
        [
            node("Squeeze", ["x", "zero"], ["s"]),
            node("Transpose", ["s"], ["t"], perm=[1, 2, 0]),
            node("Sub", ["t", "mean"], ["d"]),
            node("Transpose", ["d"], ["c"], perm=[2, 0, 1]),
            node("Unsqueeze", ["c", "zero"], ["u"]),
            node("Conv", ["u", "w"], ["y"]),
        ],
        {"zero": ints(0), "mean": floats(4), "w": floats(3, 4, 3, 3)},
    ),
}


def file_of(net: Net, path: Path, first: int | str) -> str:
    onnx.save(model(net[0], net[1], (first, *MAP[1:]), opset=17), str(path))
    return str(path)


@pytest.mark.parametrize("first", [1, -1, 0, "N"])
@pytest.mark.parametrize("name", list(ONNX))
def test_of_files(name: str, first: int | str, tmp_path: Path) -> None:
    file = file_of(ONNX[name], tmp_path / "net.onnx", first)
    graph = load_model(file).graph
    x = torch.randn(1, *MAP[1:])
    fixed = file_of(ONNX[name], tmp_path / "fixed.onnx", 1)
    session = onnxruntime.InferenceSession(fixed, providers=["CPUExecutionProvider"])
    (wanted,) = session.run(None, {"x": x.numpy()})
    got = run(graph, x)[0].reshape(wanted.shape)
    torch.testing.assert_close(got, torch.from_numpy(wanted), rtol=1e-4, atol=1e-5)
