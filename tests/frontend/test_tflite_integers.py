"""Integer .tflite files: read on their grids, lowered to the same integers, kept in type, freed of grids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from mcc.cli.main import run as mcc
from mcc.cli.noise_check import came_as_integers
from mcc.errors import VerificationError
from mcc.frontend import tflite_runner
from mcc.ir.graph import calls, op_name, run
from mcc.lower.onnx.writer import to_onnx
from mcc.lower.tflite.reader import read_tflite
from mcc.lower.tflite.writer import to_tflite
from mcc.pass_api import PassContext
from mcc.pipeline import Pipeline, deployment_form
from mcc.quant.regions import integer_nodes
from tests.frontend.tflite_files import Array, Net, Real, Stored, Whole, as_graph, feeds, litert, read

MAP = (1, 6, 6, 4)
SAME = {"padding": 0, "strideH": 1, "strideW": 1}
INPUT = Whole(MAP, 0.05, 3)


def whole(*shape: int, seed: int = 1, low: int = -127, kind: type = np.int8) -> Array:
    return np.random.default_rng(seed).integers(low, low + 255, shape).astype(kind)


def bias(count: int, scales: Any, seed: int = 2) -> Stored:
    value = np.random.default_rng(seed).integers(-500, 500, count).astype(np.int32)
    return Stored(value, [INPUT.scale * scale for scale in scales])


def i(*values: Any) -> Array:
    return np.array(values, np.int32)


SEVERAL = (0.01, 0.02, 0.015, 0.005, 0.01, 0.02, 0.015, 0.005)


def network(per_channel: bool = True, kind: str = "int8") -> bytes:
    """Convolution, depthwise, residual sum, pools, flatten, dense, softmax, all on integers."""
    scales = SEVERAL if per_channel else (0.01,)
    net = Net()
    x = net.input("image", INPUT)
    wide = Whole((1, 6, 6, 8), 0.2, -10)
    net.op(
        "CONV_2D",
        [x, Stored(whole(8, 3, 3, 4), scales), bias(8, scales)],
        {"a": wide},
        "Conv2DOptions",
        **SAME,
        fusedActivationFunction=1,
    )
    kernel = Stored(whole(1, 3, 3, 8), scales, axis=3 if per_channel else 0)
    net.op(
        "DEPTHWISE_CONV_2D",
        ["a", kernel, Stored(i(*range(8)), [0.2 * s for s in scales])],
        {"b": wide},
        "DepthwiseConv2DOptions",
        **SAME,
        depthMultiplier=1,
    )
    net.op("ADD", ["a", "b"], {"c": Whole((1, 6, 6, 8), 0.3, 5)}, "AddOptions", fusedActivationFunction=1)
    pooled = {"padding": 1, "strideH": 2, "strideW": 2, "filterHeight": 2, "filterWidth": 2}
    net.op("MAX_POOL_2D", ["c"], {"d": Whole((1, 3, 3, 8), 0.3, 5)}, "Pool2DOptions", **pooled)
    net.op(
        "AVERAGE_POOL_2D",
        ["d"],
        {"e": Whole((1, 1, 1, 8), 0.3, 5)},
        "Pool2DOptions",
        **{**pooled, "filterHeight": 3, "filterWidth": 3},
    )
    net.op("RESHAPE", ["e", i(-1, 8)], {"g": Whole((1, 8), 0.3, 5)}, "ReshapeOptions")
    net.op(
        "FULLY_CONNECTED",
        ["g", Stored(whole(5, 8), (0.01,)), Stored(i(*range(5)), (0.3 * 0.01,))],
        {"h": Whole((1, 5), 0.4, 0)},
        "FullyConnectedOptions",
    )
    net.op("SOFTMAX", ["h"], {"scores": Whole((1, 5), 1 / 256, -128)}, "SoftmaxOptions", beta=1.0)
    return net.bytes("scores")


@pytest.mark.parametrize("per_channel", [True, False])
def test_the_same_integers_come_out(tmp_path: Path, per_channel: bool) -> None:
    raw = network(per_channel)
    graph = read(tmp_path, raw).graph
    assert len(integer_nodes(graph)) == 8  # nothing in float between
    again = to_tflite(deployment_form(graph))
    assert read_tflite(again).op_counts() == read_tflite(raw).op_counts()
    for seed in range(4):
        given = feeds(raw, seed)
        np.testing.assert_array_equal(litert(again, given)[0], litert(raw, given)[0])


def test_onnx_has_the_same_scales(tmp_path: Path) -> None:
    graph = read(tmp_path, network()).graph
    model = onnx.load_from_string(to_onnx(deployment_form(graph)))
    stored = {
        np.float32(v)
        for t in model.graph.initializer
        for v in numpy_helper.to_array(t).reshape(-1)
        if t.data_type == onnx.TensorProto.FLOAT
    }
    for scale in (0.05, 0.2, 0.3, 0.4, 1 / 256, *SEVERAL):
        assert np.float32(scale) in stored


def test_grids_are_removed_for_further_work(tmp_path: Path) -> None:
    raw = network()
    graph = read(tmp_path, raw).graph
    real = Pipeline.parse("strip-qdq").run(graph, PassContext()).graph
    assert not calls(real, "fake_quantize")
    value = torch.randn(4, 4, 6, 6)
    got, wanted = run(real, value)[0], run(graph, value)[0]
    assert float((got - wanted).abs().max()) < 0.1
    again = to_tflite(deployment_form(real))  # and still takes and gives integers
    found = read_tflite(again)
    assert [found.tensors[k].dtype for k in (*found.inputs, *found.outputs)] == ["int8", "int8"]
    given = feeds(raw)
    assert np.abs(litert(again, given)[0].astype(int) - litert(raw, given)[0]).max() <= 20
    quantised = Pipeline.parse("strip-qdq,insert-qdq").run(graph, PassContext((value,))).graph
    found = read_tflite(to_tflite(deployment_form(quantised)))
    assert [found.tensors[k].quantisation for k in found.inputs] == [
        read_tflite(raw).tensors[k].quantisation for k in read_tflite(raw).inputs
    ]


OPERATORS: dict[str, Any] = {
    "MUL": (["x", "x"], {}, "MulOptions", Whole(MAP, 0.1, 4)),
    "SUB": (["x", "x"], {}, "SubOptions", Whole(MAP, 0.1, 4)),
    "LOGISTIC": (["x"], {}, "", Whole(MAP, 1 / 256, -128)),
    "TANH": (["x"], {}, "", Whole(MAP, 1 / 128, 0)),
    "RELU": (["x"], {}, "", INPUT),
    "MEAN": (["x", i(1, 2)], {"keepDims": True}, "ReducerOptions", Whole((1, 1, 1, 4), 0.03, 0)),
    "PAD": (["x", i((0, 0), (1, 1), (0, 1), (0, 0))], {}, "PadOptions", Whole((1, 8, 7, 4), 0.05, 3)),
    "CONCATENATION": (["x", "x"], {"axis": 3}, "ConcatenationOptions", Whole((1, 6, 6, 8), 0.05, 3)),
    "RESIZE_NEAREST_NEIGHBOR": (
        ["x", i(12, 12)],
        {},
        "ResizeNearestNeighborOptions",
        Whole((1, 12, 12, 4), 0.05, 3),
    ),
    "RESIZE_BILINEAR": (
        ["x", i(12, 12)],
        {"halfPixelCenters": True},
        "ResizeBilinearOptions",
        Whole((1, 12, 12, 4), 0.05, 3),
    ),
    "LEAKY_RELU": (["x"], {"alpha": 0.25}, "LeakyReluOptions", Whole(MAP, 0.05, 3)),
    "TRANSPOSE": (["x", i(0, 2, 1, 3)], {}, "TransposeOptions", INPUT),
    "STRIDED_SLICE": (
        ["x", i(0, 1, 0, 0), i(1, 5, 6, 4), i(1, 1, 1, 1)],
        {},
        "StridedSliceOptions",
        Whole((1, 4, 6, 4), 0.05, 3),
    ),
    "QUANTIZE": (["x"], {}, "QuantizeOptions", Whole(MAP, 0.08, -7)),
    "RESHAPE": (["x", i(1, 72, 2)], {}, "ReshapeOptions", Whole((1, 72, 2), 0.05, 3)),
    "SPACE_TO_DEPTH": (["x"], {"blockSize": 2}, "SpaceToDepthOptions", Whole((1, 3, 3, 16), 0.05, 3)),
    "DEPTH_TO_SPACE": (["x"], {"blockSize": 2}, "DepthToSpaceOptions", Whole((1, 12, 12, 1), 0.05, 3)),
}


@pytest.mark.parametrize("code", OPERATORS)
def test_operator_on_integers(tmp_path: Path, code: str) -> None:
    given, fields, table, made = OPERATORS[code]
    net = Net()
    net.input("x", INPUT)
    net.op(code, given, {"y": made}, table, **fields)
    raw = net.bytes("y")
    graph = read(tmp_path, raw).graph
    again = to_tflite(deployment_form(graph))
    values = feeds(raw)
    np.testing.assert_array_equal(litert(again, values)[0], litert(raw, values)[0])


def test_what_the_integers_of_a_file_lose_is_said_and_not_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = Net()
    x = net.input("x", INPUT)  # a grid on which nothing but zero is left
    net.op(
        "CONV_2D",
        [x, Stored(whole(8, 3, 3, 4), (0.01,)), bias(8, (0.01,))],
        {"a": Whole((1, 6, 6, 8), 500.0, 0)},
        "Conv2DOptions",
        **SAME,
    )
    (tmp_path / "poor.tflite").write_bytes(net.bytes("a"))
    assert (
        mcc(["lower", str(tmp_path / "poor.tflite"), "--to", "onnx", "-o", str(tmp_path / "poor.onnx")]) == 0
    )
    assert "warning" in capsys.readouterr().err


def test_scales_that_passes_chose_are_not_those_of_the_file(tmp_path: Path) -> None:
    """What mcc quantises again is held to the bound, whatever the file was."""
    graph = read(tmp_path, network()).graph
    context = PassContext((torch.randn(4, 4, 6, 6),))
    again = Pipeline.parse("strip-qdq,insert-qdq").run(graph, context).graph
    unchanged = Pipeline.parse("drop-dead-code").run(graph, context).graph
    assert came_as_integers("net.tflite", graph, unchanged)
    assert not came_as_integers("net.tflite", graph, again)
    assert not came_as_integers("net.onnx", graph, unchanged)


@pytest.mark.parametrize("factor", [0.7, 1.4])
def test_another_scale_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    """The comparison with LiteRT bites on integers, too."""
    stored = tflite_runner._real
    monkeypatch.setattr(tflite_runner, "_real", lambda *given: stored(*given) * factor)
    with pytest.raises(VerificationError, match="differs from LiteRT"):
        read(tmp_path, network())


def test_a_constant_operand_keeps_its_grid(tmp_path: Path) -> None:
    net = Net()
    x = net.input("x", INPUT)
    net.op("ADD", [x, Stored(whole(4), (0.03,), (2,))], {"y": Whole(MAP, 0.1, 0)}, "AddOptions")
    raw = net.bytes("y")
    graph = read(tmp_path, raw).graph
    assert len(integer_nodes(graph)) == 1
    values = feeds(raw)
    np.testing.assert_array_equal(
        litert(to_tflite(deployment_form(graph)), values)[0], litert(raw, values)[0]
    )


def test_the_older_scheme_of_unsigned_integers(tmp_path: Path) -> None:
    """uint8 values and weights: 128 lower, the same numbers; the file still takes and gives uint8."""
    net = Net()
    x = net.input("x", Whole(MAP, 0.05, 131, "uint8"))
    weight = Stored(whole(8, 3, 3, 4, low=1, kind=np.uint8), (0.01,), (128,))
    net.op(
        "CONV_2D",
        [x, weight, bias(8, (0.01,))],
        {"a": Whole((1, 6, 6, 8), 0.2, 118, "uint8")},
        "Conv2DOptions",
        **SAME,
        fusedActivationFunction=1,
    )
    net.op("RESHAPE", ["a", i(1, 288)], {"y": Whole((1, 288), 0.2, 118, "uint8")}, "ReshapeOptions")
    raw = net.bytes("y")
    graph = read(tmp_path, raw).graph
    assert "conv2d" in [op_name(node) for node in integer_nodes(graph)]
    again = to_tflite(deployment_form(graph))
    found = read_tflite(again)
    assert [found.tensors[k].dtype for k in (*found.inputs, *found.outputs)] == ["uint8", "uint8"]
    values = feeds(raw)
    apart = litert(again, values)[0].astype(int) - litert(raw, values)[0]
    assert np.abs(apart).max() <= 1  # the kernels of the older scheme round otherwise


def test_integer_weights_among_real_activations(tmp_path: Path) -> None:
    """Dynamic-range files: the weights become the real numbers that they stand for."""
    net = Net()
    x = net.input("x", Real(MAP))
    net.op(
        "CONV_2D",
        [x, Stored(whole(8, 3, 3, 4), SEVERAL), np.zeros(8, np.float32)],
        {"y": Real((1, 6, 6, 8))},
        "Conv2DOptions",
        **SAME,
    )
    raw = net.bytes("y")
    graph = read(tmp_path, raw).graph
    assert [op_name(node) for node in calls(graph)] == ["conv2d"]
    values = feeds(raw)
    wanted = as_graph(litert(raw, values)[0])
    got = run(graph, torch.from_numpy(as_graph(values[0])))[0].numpy()
    assert np.abs(got - wanted).max() <= 0.02 * np.abs(wanted).max()
