"""ONNX files: every construct round trips, QDQ models keep their scales, other spellings are understood."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from mcc.errors import DataError, MccError, UnsupportedError, UsageError, VerificationError
from mcc.frontend import capture, load_model, onnx_table
from mcc.ir.graph import Graph, calls, constants, inputs, op_name, run
from mcc.ir.notes import shape_of
from mcc.lower.onnx.writer import to_onnx
from mcc.pass_api import PassContext
from mcc.pipeline import Pipeline
from mcc.verify import check_shapes, check_structure
from tests.frontend.constructs import ALL, trained

MAP = (1, 4, 8, 8)
Array = np.ndarray[Any, Any]


def read(path: Path, raw: bytes | onnx.ModelProto, **options: Any) -> Graph:
    file = path / "net.onnx"
    file.write_bytes(raw if isinstance(raw, bytes) else raw.SerializeToString())
    return load_model(str(file), **options).graph


def model(
    nodes: Sequence[onnx.NodeProto],
    stored: dict[str, Array] | None = None,
    shape: Sequence[int | str] = ("n", 4, 8, 8),
    opset: int = 18,
    outputs: Sequence[str] = ("y",),
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in (stored or {}).items()],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("my.domain", 1)]
    made = helper.make_model(graph, opset_imports=imports, ir_version=10)
    inferred = onnx.shape_inference.infer_shapes(made)
    for value in inferred.graph.output:
        if not value.type.tensor_type.HasField("shape"):
            value.type.tensor_type.shape.SetInParent()
            made.graph.ClearField("value_info")
    return inferred


node = helper.make_node

# Lowered as reshapes of the batch into rows, which the reader refuses; see `test_refused`.
NOT_ROUND = ("convolution: matrix products",)


@pytest.mark.parametrize("name", [name for i, name in enumerate(ALL) if i % 2 == 0 and name not in NOT_ROUND])
def test_round_trip(tmp_path: Path, name: str) -> None:
    factory, shape = ALL[name]
    before = capture(trained(factory()).eval(), (torch.zeros(shape),))
    after = read(tmp_path, to_onnx(before))
    x = torch.randn(3, *shape[1:])
    for a, b in zip(run(after, x), run(before, x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    check_structure(after)
    check_shapes(after)


def float32(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def int64(*values: int) -> Array:
    return np.array(values, np.int64)


Case = tuple[Sequence[onnx.NodeProto], dict[str, Array], Sequence[str]]
# Nodes, constants, the operators expected in order. The reader itself compares numbers with onnxruntime.
SPELLINGS: dict[str, Case] = {
    "gemm, both ways": (
        [
            node("Flatten", ["x"], ["f"]),
            node("Gemm", ["f", "w", "b"], ["h"], alpha=0.5, beta=2.0),
            node("Gemm", ["h", "v"], ["y"], transB=1),
        ],
        {"w": float32(256, 6), "b": float32(1), "v": float32(3, 6)},
        ["reshape", "linear", "linear"],
    ),
    "matmul and add": (
        [node("Flatten", ["x"], ["f"]), node("MatMul", ["f", "w"], ["h"]), node("Add", ["h", "b"], ["y"])],
        {"w": float32(256, 6), "b": float32(6)},
        ["reshape", "linear", "add"],
    ),
    "shape, gather, concat, reshape": (
        [
            node("Shape", ["x"], ["s"]),
            node("Gather", ["s", "zero"], ["n"]),
            node("Unsqueeze", ["n", "axis"], ["n1"]),
            node("Concat", ["n1", "minus"], ["target"], axis=0),
            node("Reshape", ["x", "target"], ["y"]),
        ],
        {"zero": np.array(0, np.int64), "axis": int64(0), "minus": int64(-1)},
        ["reshape"],
    ),
    "reshape with zero": ([node("Reshape", ["x", "s"], ["y"])], {"s": int64(0, 2, -1, 8)}, ["reshape"]),
    "same upper": (
        [node("Conv", ["x", "w"], ["y"], auto_pad="SAME_UPPER", strides=[2, 2], kernel_shape=[3, 3])],
        {"w": float32(2, 4, 3, 3)},
        ["conv2d"],
    ),
    "same lower pool": (
        [node("MaxPool", ["x"], ["y"], auto_pad="SAME_LOWER", strides=[2, 2], kernel_shape=[2, 2])],
        {},
        ["max_pool2d"],
    ),
    "uneven padding": (
        [
            node("Conv", ["x", "w"], ["h"], pads=[0, 0, 1, 1], strides=[2, 2]),
            node("AveragePool", ["h"], ["y"], pads=[1, 0, 0, 1], kernel_shape=[2, 2], count_include_pad=1),
        ],
        {"w": float32(2, 4, 3, 3)},
        ["conv2d", "avg_pool2d"],
    ),
    "clip to relu6": (
        [node("Clip", ["x", "low", "high"], ["y"])],
        {"low": np.array(0, np.float32), "high": np.array(6, np.float32)},
        ["relu6"],
    ),
    "clip, open": ([node("Clip", ["x", "", "high"], ["y"])], {"high": np.array(6, np.float32)}, ["clamp"]),
    "hard sigmoid of keras": ([node("HardSigmoid", ["x"], ["y"])], {}, ["mul", "add", "clamp"]),
    "hard sigmoid of torch": ([node("HardSigmoid", ["x"], ["y"], alpha=1 / 6)], {}, ["hardsigmoid"]),
    "slices": (
        [node("Slice", ["x", "from", "to", "axes", "steps"], ["y"])],
        {"from": int64(1, 0), "to": int64(2**62, 8), "axes": int64(1, 3), "steps": int64(1, 2)},
        ["slice", "slice"],
    ),
    "slice, backwards": (
        [node("Slice", ["x", "from", "to", "axes", "steps"], ["y"])],
        {"from": int64(-1), "to": int64(-(2**62)), "axes": int64(1), "steps": int64(-1)},
        ["slice"] * 4 + ["concat"],
    ),
    "split": (
        [node("Split", ["x", "s"], ["a", "b"], axis=1), node("Concat", ["b", "a"], ["y"], axis=1)],
        {"s": int64(1, 3)},
        ["slice", "slice", "concat"],
    ),
    "gather rows": (
        [node("Gather", ["x", "i"], ["y"], axis=1)],
        {"i": int64(2, 0, 3, 3)},
        ["slice", "slice", "slice", "concat"],
    ),
    "pad with axes": (
        [node("Pad", ["x", "p", "v", "a"], ["y"])],
        {"p": int64(1, 2, 0, 1), "v": np.array(0.5, np.float32), "a": int64(2, 3)},
        ["pad"],
    ),
    "pad, reflect": (
        [node("Pad", ["x", "p"], ["y"], mode="reflect")],
        {"p": int64(0, 0, 1, 1, 0, 0, 2, 0)},
        ["pad"],
    ),
    "resize by scales": (
        [node("Resize", ["x", "", "s"], ["y"], mode="nearest")],
        {"s": np.array([1, 1, 2, 2], np.float32)},
        ["resize"],
    ),
    "resize to sizes": (
        [node("Resize", ["x", "", "", "s"], ["y"], mode="linear", axes=[2, 3])],
        {"s": int64(5, 11)},
        ["resize"],
    ),
    "depth to space": (
        [node("DepthToSpace", ["x"], ["y"], blocksize=2)],
        {},
        ["reshape", "transpose", "reshape"],
    ),
    "depth to space, torch": (
        [node("DepthToSpace", ["x"], ["y"], blocksize=2, mode="CRD")],
        {},
        ["pixel_shuffle"],
    ),
    "space to depth": (
        [node("SpaceToDepth", ["x"], ["y"], blocksize=2)],
        {},
        ["reshape", "transpose", "reshape"],
    ),
    "prelu per channel": ([node("PRelu", ["x", "s"], ["y"])], {"s": float32(4, 1, 1)}, ["prelu"]),
    "reductions": (
        [
            node("ReduceMean", ["x", "a"], ["m"]),
            node("ReduceL2", ["m", "c"], ["y"], keepdims=0),
        ],
        {"a": int64(2, 3), "c": int64(1)},
        ["mean", "mul", "sum", "sqrt"],
    ),
    "gelu by erf": (
        [
            node("Div", ["x", "root"], ["u"]),
            node("Erf", ["u"], ["e"]),
            node("Add", ["e", "one"], ["p"]),
            node("Mul", ["x", "p"], ["q"]),
            node("Mul", ["q", "half"], ["y"]),
        ],
        {
            "root": np.array(2**0.5, np.float32),
            "one": np.array(1, np.float32),
            "half": np.array(0.5, np.float32),
        },
        ["gelu"],
    ),
    "dropout, identity, cast, constant": (
        [
            node("Constant", [], ["c"], value=numpy_helper.from_array(np.float32(2))),
            node("Dropout", ["x"], ["d"]),
            node("Identity", ["d"], ["i"]),
            node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
            node("Mul", ["f", "c"], ["y"]),
        ],
        {},
        ["mul"],
    ),
    "squeeze and unsqueeze": (
        [
            node("GlobalAveragePool", ["x"], ["g"]),
            node("Squeeze", ["g", "a"], ["s"]),
            node("Unsqueeze", ["s", "a"], ["u"]),
            node("Mul", ["u", "x"], ["y"]),
        ],
        {"a": int64(2, 3)},
        ["mean", "reshape", "reshape", "mul"],
    ),
    "expand and tile": (
        [
            node("GlobalMaxPool", ["x"], ["g"]),
            node("Expand", ["g", "s"], ["e"]),
            node("Add", ["e", "x"], ["a"]),
            node("Tile", ["a", "t"], ["y"]),
        ],
        {"s": int64(1, 1, 8, 8), "t": int64(1, 2, 1, 1)},
        ["amax", "add", "concat"],
    ),
    "transposed, its size given": (
        [
            node("ConvTranspose", ["x", "w"], ["a"], auto_pad="SAME_UPPER", strides=[2, 2]),
            node("ConvTranspose", ["a", "w"], ["b"], auto_pad="SAME_LOWER", strides=[3, 1]),
            node("ConvTranspose", ["b", "w"], ["c"], output_shape=[49, 15]),
            node("ConvTranspose", ["c", "w"], ["y"], auto_pad="VALID", output_padding=[1, 0], strides=[2, 2]),
        ],
        {"w": float32(4, 4, 3, 4)},
        ["conv_transpose2d"] * 4,
    ),
    "local response norm": (
        [node("LRN", ["x"], ["h"], size=3), node("LRN", ["h"], ["y"], size=2, alpha=0.3, beta=0.5, bias=2.0)],
        {},
        [
            *("mul", "conv2d", "mul", "add", "sqrt", "sqrt", "mul", "div"),
            *("mul", "conv2d", "mul", "add", "sqrt", "div"),
        ],
    ),
    "rectifiers by comparison": (
        [
            node("Greater", ["x", "zero"], ["m"]),
            node("Mul", ["x", "slope"], ["l"]),
            node("Where", ["m", "x", "l"], ["h"]),
            node("LessOrEqual", ["h", "one"], ["k"]),
            node("Where", ["k", "h", "one"], ["y"]),
        ],
        {"zero": np.float32(0).reshape(()), "slope": np.float32([0.1]), "one": np.float32([1])},
        ["leaky_relu", "clamp"],
    ),
    "masks": (
        [
            node("Equal", ["x", "zero"], ["e"]),
            node("Less", ["x", "c"], ["l"]),
            node("Or", ["e", "l"], ["o"]),
            node("Not", ["o"], ["n"]),
            node("Cast", ["n"], ["f"], to=TensorProto.FLOAT),
            node("Where", ["l", "x", "f"], ["w"]),
            node("Where", ["b", "w", "c"], ["y"]),
        ],
        {
            "zero": np.float32(0).reshape(()),
            "c": float32(4, 1, 1),
            "b": np.array([True, False] * 4).reshape(1, 8),
        },
        [
            *("sign", "abs", "sub"),
            *("sub", "sign", "relu"),
            *("sub", "sub", "mul", "sub", "sub"),
            *("mul", "sub", "mul", "add"),
            *("mul", "add"),
        ],
    ),
    "resized by matrices": (
        [
            node("Resize", ["x", "", "s"], ["a"], mode="cubic"),
            node("Resize", ["a", "", "t"], ["b"], mode="linear", coordinate_transformation_mode="asymmetric"),
            node("Resize", ["b", "", "", "z"], ["y"], mode="nearest", nearest_mode="ceil"),
        ],
        {"s": np.float32([1, 1, 1.3, 2]), "t": np.float32([1, 1, 1.7, 1]), "z": int64(1, 4, 21, 16)},
        [
            *("linear", "transpose", "linear", "transpose"),
            *("transpose", "linear", "transpose"),
            *("transpose", "linear", "transpose"),
        ],
    ),
    "products over named axes": (
        [
            node("Einsum", ["x", "w"], ["a"], equation="nchw,kc->nkhw"),
            node("ReduceLogSumExp", ["a", "axis"], ["y"], keepdims=0),
        ],
        {"w": float32(3, 4), "axis": int64(-1)},
        ["transpose", "linear", "transpose", "amax", "sub", "exp", "sum", "amax", "log", "add"],
    ),
    "shrink and sums": (
        [
            node("Shrink", ["x"], ["a"], lambd=0.3, bias=0.1),
            node("CumSum", ["a", "axis"], ["b"]),
            node("LpNormalization", ["b"], ["y"], axis=1, p=1),
        ],
        {"axis": np.array(1, np.int64)},
        [
            *("abs", "sub", "sign", "relu", "mul", "abs", "sub", "sign", "relu", "sign", "mul", "mul", "sub"),
            *("transpose", "linear", "transpose", "abs", "sum", "clamp", "div"),
        ],
    ),
    "sums and extrema": (
        [
            node("Sum", ["x", "x", "c"], ["s"]),
            node("Max", ["s", "zero"], ["m"]),
            node("Min", ["m", "x"], ["y"]),
        ],
        {"c": float32(4, 1, 1), "zero": np.array(0, np.float32)},
        ["add", "add", "relu", "neg", "neg", "reshape", "reshape", "concat", "amax", "neg"],
    ),
}


@pytest.mark.parametrize("name", list(SPELLINGS))
def test_spellings(tmp_path: Path, name: str) -> None:
    nodes, stored, expected = SPELLINGS[name]
    graph = read(tmp_path, model(nodes, stored))
    assert [op_name(call) for call in calls(graph)] == expected
    assert run(graph, torch.randn(3, 4, 8, 8))[0].shape[0] == 3


def test_models_of_one_batch_length(tmp_path: Path) -> None:
    graph = read(tmp_path, model([node("Reshape", ["x", "s"], ["y"])], {"s": int64(1, 256)}, (1, 4, 8, 8)))
    assert run(graph, torch.randn(3, 4, 8, 8))[0].shape == (3, 256)


def test_an_older_opset_is_brought_up(tmp_path: Path) -> None:
    old = [node("Unsqueeze", ["x"], ["u"], axes=[2]), node("Squeeze", ["u"], ["y"], axes=[2])]
    assert read(tmp_path, model(old, opset=11)) is not None


def test_open_lengths_come_from_the_command_line(tmp_path: Path) -> None:
    open_ended = model([node("Relu", ["x"], ["y"])], shape=("n", 4, "h", "w"))
    graph = read(tmp_path, open_ended, input_shape=(1, 4, 6, 6))
    assert shape_of(inputs(graph)[0]) == (1, 4, 6, 6)
    with pytest.raises(UsageError, match="--input-shape 1,4,N,N, with a number"):
        read(tmp_path, open_ended)
    with pytest.raises(UsageError, match="declares the shape"):
        read(tmp_path, open_ended, input_shape=(1, 5, 6, 6))


# -- quantised ---------------------------------------------------------------------------------------------


def quantised() -> Graph:
    module = torch.nn.Sequential(
        torch.nn.Conv2d(4, 8, 3, padding=1),
        torch.nn.BatchNorm2d(8),
        torch.nn.ReLU6(),
        torch.nn.Conv2d(8, 8, 3, groups=8),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(72, 5),
    )
    graph = capture(trained(module), (torch.zeros(MAP),))
    ctx = PassContext((torch.randn(8, 4, 8, 8),))
    return Pipeline.parse("fold-batch-norm,fuse-activation,insert-qdq").run(graph, ctx).graph


def scales(graph: Graph) -> list[list[float]]:
    """Scales in the order of quantisers, rounded to what float32 keeps."""
    found: list[list[float]] = []
    for call in calls(graph, "fake_quantize"):
        scale, zero = (getattr(graph, str(arg.target)) for arg in call.args[1:])
        found.append([*scale.reshape(-1).tolist(), *zero.reshape(-1).tolist(), call.kwargs["qmin"]])
    return sorted(found)


def test_quantised_models_keep_their_scales(tmp_path: Path) -> None:
    before = quantised()
    after = read(tmp_path, to_onnx(before, simplify=False))
    kept = scales(after)
    assert len(kept) >= 6
    assert all(entry in scales(before) for entry in kept)
    x = torch.randn(16, 4, 8, 8)
    a, b = run(after, x)[0], run(before, x)[0]
    assert float((a - b).abs().mean()) < 0.01 * float(b.abs().max())
    assert {str(v.dtype) for n, v in constants(after).items() if "zero" in n} <= {"torch.int32"}


def test_tied_scales_stay_tied(tmp_path: Path) -> None:
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        node("MaxPool", ["d"], ["p"], kernel_shape=[2, 2]),
        node("QuantizeLinear", ["p", "s", "z"], ["r"]),
        node("DequantizeLinear", ["r", "s", "z"], ["y"]),
    ]
    graph = read(tmp_path, model(nodes, {"s": np.array([0.05], np.float32), "z": np.array([3], np.int8)}))
    first, last = calls(graph, "fake_quantize")
    assert first.args[1:] == last.args[1:]
    assert set(constants(graph)) == {"s", "z"}
    assert constants(graph)["s"].shape == ()


# -- refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nodes", "stored", "parts"),
    [
        ([node("NonMaxSuppression", ["x", "x"], ["y"], name="nms")], {}, ("nms", "post-processing")),
        ([node("Det", ["x"], ["y"], name="d")], {}, ("node d (Det)", "not supported")),
        (
            [node("Transpose", ["x"], ["t"], perm=[1, 0, 2, 3]), node("GlobalAveragePool", ["t"], ["p"]),
             node("MaxPool", ["t"], ["y"], kernel_shape=[2, 2])],
            {}, ("moves the batch axis",),
        ),
        (
            [node("Reshape", ["x", "s"], ["r"]), node("MaxPool", ["r"], ["y"], kernel_shape=[2, 2])],
            {"s": int64(-1, 1, 8, 8)}, ("folds the batch axis",),
        ),
        ([node("RandomNormalLike", ["x"], ["y"])], {}, ("RandomNormalLike",)),
        ([node("QuantizeLinear", ["x", "s"], ["y"])], {"s": np.float32(1).reshape(())}, ("the integers",)),
        ([node("Mine", ["x"], ["y"], domain="my.domain")], {}, ("my.domain.Mine", "standard ONNX")),
    ],
)  # fmt: skip
def test_refused(
    tmp_path: Path, nodes: Sequence[onnx.NodeProto], stored: dict[str, Array], parts: Sequence[str]
) -> None:
    proto = model(nodes, stored)
    with pytest.raises(UnsupportedError) as caught:
        read(tmp_path, proto)
    assert all(part in str(caught.value) for part in ("net.onnx", *parts)), str(caught.value)
    assert "\n" not in str(caught.value)


def test_integers_are_refused_where_they_are_computed_with(tmp_path: Path) -> None:
    proto = model([node("Relu", ["x"], ["y"])])
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.INT8
    with pytest.raises(MccError, match=r"input x: is int8, and Relu computes .* Cast to float32"):
        read(tmp_path, proto)


def test_constants_beyond_reason_are_refused(tmp_path: Path) -> None:
    nodes = [node("ConstantOfShape", ["s"], ["c"]), node("Add", ["x", "c"], ["y"])]
    with pytest.raises(MccError, match="beyond what mcc handles"):
        read(tmp_path, model(nodes, {"s": int64(1, 4, 1 << 30, 1 << 30)}))


def test_data_outside_the_folder_is_not_read(tmp_path: Path) -> None:
    proto = model([node("Add", ["x", "c"], ["y"])], {"c": float32(4, 1, 1)})
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../../etc/hostname")
    with pytest.raises(DataError):
        read(tmp_path, proto)


def test_damaged_files(tmp_path: Path) -> None:
    whole = model(*SPELLINGS["gemm, both ways"][:2]).SerializeToString()
    dice = random.Random(0)
    refused = 0
    for _ in range(60):
        torn = bytearray(whole[: dice.choice([len(whole), dice.randrange(len(whole))])])
        for _ in range(dice.randrange(1, 10)):
            torn[dice.randrange(min(len(torn), 600)) if torn else 0 : 1] = bytes([dice.randrange(256)])
        try:
            read(tmp_path, bytes(torn))
        except MccError as error:
            refused += 1
            sentence = str(error)
        else:
            continue
        assert "\n" not in sentence
    assert refused > 30


def swap(monkeypatch: pytest.MonkeyPatch, op: str, rule: Callable[[onnx_table.Site], Any]) -> None:
    monkeypatch.setitem(onnx_table.RULES, op, rule)


def test_a_wrong_rule_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    swap(monkeypatch, "Relu", lambda site: site.emitter.call("leaky_relu", site.value(), slope=0.01))
    with pytest.raises(VerificationError, match="differs from onnxruntime"):
        read(tmp_path, model([node("Relu", ["x"], ["y"])]))


def test_a_wrong_scale_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = onnx_table.RULES["DequantizeLinear"]
    swap(monkeypatch, "DequantizeLinear", lambda site: site.emitter.broadcast("mul", right(site), 1.1))
    nodes = [node("QuantizeLinear", ["x", "s"], ["q"]), node("DequantizeLinear", ["q", "s"], ["y"])]
    with pytest.raises(VerificationError, match="differs from onnxruntime"):
        read(tmp_path, model(nodes, {"s": np.float32(0.02).reshape(())}))
