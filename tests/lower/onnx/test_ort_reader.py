"""Files in onnxruntime's own format, ours and others': read, shown, compared, refused when damaged."""

from __future__ import annotations

import contextlib
import functools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mcc.cli import main
from mcc.errors import DataError
from mcc.lower.onnx.ort_format import to_ort
from mcc.lower.onnx.ort_reader import read_ort
from mcc.lower.onnx.writer import to_onnx
from mcc.lower.tflite.writer import to_tflite
from mcc.report.ort_views import view_ort
from tests.quant.graphs import case_graph, mobile_net, quantise


def written(tmp_path: Path, raw: bytes, name: str = "net.ort") -> Path:
    path = tmp_path / name
    path.write_bytes(raw)
    return path


def foreign(folder: Path) -> Path:
    """A file that onnxruntime's own converter makes of a model that mcc had no part in."""
    x, y = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", length])
        for name, length in (("x", 4), ("y", 3))
    )
    weight = onnx.numpy_helper.from_array(np.eye(4, 3, dtype=np.float32), "w")
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "w"], ["m"], "product"),
        onnx.helper.make_node("Elu", ["m"], ["y"], "bent", alpha=0.5),
    ]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "other", [x], [y], [weight]),
        opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8,
    )  # fmt: skip
    onnx.save(model, folder / "other.onnx")
    convert = [sys.executable, "-m", "onnxruntime.tools.convert_onnx_models_to_ort"]
    words = [str(folder / "other.onnx"), "--optimization_style", "Fixed"]
    subprocess.run([*convert, *words], capture_output=True, check=True)
    return folder / "other.ort"


def test_what_was_written_is_read(tmp_path: Path) -> None:
    graph = case_graph("conv3x3")
    model = read_ort(written(tmp_path, to_ort(to_onnx(graph, labels=["a"]))))
    (node,) = model.nodes
    assert node.op in ("Conv", "FusedConv")
    assert node.inputs[0] == model.inputs[0]
    assert node.outputs == model.outputs
    weight = model.constants[node.inputs[1]]
    assert any(np.array_equal(weight, value.detach().numpy()) for _, value in graph.named_parameters())
    assert tuple(node.attributes["kernel_shape"]) == weight.shape[2:]
    assert json.loads(model.metadata["labels"]) == ["a"]


@pytest.mark.slow
def test_others_files_are_shown_and_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = foreign(tmp_path)
    made, product, bent = view_ort(file)
    assert (made.name, made.op, made.type) == ("x", "input", "f32[1,4]")
    assert (product.op, product.type) == ("matmul", "f32[1,3]")
    assert product.constants[0].shape == (4, 3)
    assert product.constants[0].zeros == 0.75
    assert (bent.op, dict(bent.attributes)) == ("elu", {"alpha": 0.5})
    assert main.run(["inspect", str(file), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["operators"] == {"matmul": 1, "elu": 1}
    assert shown["size_bytes"] == file.stat().st_size
    assert main.run(["inspect", str(file)]) == 0
    assert "2 operators" in capsys.readouterr().out
    assert main.run(["diff", str(file), str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["equal"]


def test_integers_and_two_formats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = quantise(mobile_net(), torch.rand(4, 3, 32, 32) * 2 - 1)
    views = view_ort(written(tmp_path, to_ort(to_onnx(graph))))
    convolutions = [view for view in views if view.op == "conv2d"]
    assert len(convolutions) == 17
    assert {view.quantised for view in convolutions} == {"integers"}
    assert {c.role for view in convolutions for c in view.constants} <= {"weight", "bias"}
    assert {c.quantised for view in convolutions for c in view.constants if c.role == "weight"} == {"int8"}
    other = written(tmp_path, to_tflite(mobile_net()), "net.tflite")
    assert main.run(["diff", str(tmp_path / "net.ort"), str(other), "--json"]) == 0
    assert not json.loads(capsys.readouterr().out)["equal"]


@functools.cache
def small() -> bytes:
    return to_ort(to_onnx(case_graph("conv1x1")))


@settings(max_examples=100)
@given(st.integers(0, 100_000), st.integers(1, 255))
def test_a_flipped_byte_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, at: int, change: int
) -> None:
    raw = bytearray(small())
    raw[at % len(raw)] ^= change
    path = tmp_path_factory.getbasetemp() / "flipped.ort"
    path.write_bytes(bytes(raw))
    with contextlib.suppress(DataError):
        view_ort(path)


def test_no_ort_file_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for raw, said in (
        (b"", "is empty"),
        (b"x" * 64, "is no "),
        (small()[:300], "is damaged"),
    ):
        assert main.run(["inspect", str(written(tmp_path, raw))]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
    assert main.run(["inspect", str(tmp_path / "absent.ort")]) == 2
    assert "absent.ort: no such file" in capsys.readouterr().err
