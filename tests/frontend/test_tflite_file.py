"""Whole .tflite files: what they keep, what is refused and how, damaged and hostile ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema

from mcc.cli.main import run as mcc
from mcc.errors import DataError, MccError, UnsupportedError, UsageError, VerificationError
from mcc.frontend import load_model, tflite_runner
from mcc.ir.graph import calls, op_name, run
from mcc.ir.notes import shape_of
from mcc.ir.storage import load_graph, save_graph
from mcc.lower.tflite.metadata import Normalisation
from mcc.lower.tflite.reader import read_tflite
from mcc.lower.tflite.writer import to_tflite
from mcc.pass_api import PassContext
from mcc.pipeline import Pipeline, deployment_form
from tests.frontend.tflite_files import Array, Net, Real, Whole, feeds, litert, read

MAP = (1, 6, 6, 3)
SAME = {"padding": 0, "strideH": 1, "strideW": 1}
CONV = "Conv2DOptions"


def f(*shape: int, seed: int = 1) -> Array:
    return (np.random.default_rng(seed).standard_normal(shape) * 0.5).astype(np.float32)


def i(*values: Any) -> Array:
    return np.array(values, np.int32)


def classifier(signature: str = "serving_default") -> bytes:
    """conv, relu6, average pool, flatten, dense, softmax: what Keras writes."""
    net = Net()
    x = net.input("serving_default_image:0", Real(MAP))
    net.op(
        "CONV_2D",
        [x, f(8, 3, 3, 3), f(8)],
        {"model/conv/Relu6;model/bn": Real((1, 6, 6, 8))},
        CONV,
        **SAME,
        fusedActivationFunction=3,
    )
    net.op(
        "AVERAGE_POOL_2D",
        ["model/conv/Relu6;model/bn"],
        {"pool": Real((1, 3, 3, 8))},
        "Pool2DOptions",
        padding=1,
        strideH=2,
        strideW=2,
        filterHeight=2,
        filterWidth=2,
    )
    net.op("RESHAPE", ["pool", i(-1, 72)], {"flat": Real((1, 72))}, "ReshapeOptions")
    net.op("FULLY_CONNECTED", ["flat", f(5, 72), f(5)], {"dense": Real((1, 5))}, "FullyConnectedOptions")
    net.op("SOFTMAX", ["dense"], {"StatefulPartitionedCall:0": Real((1, 5))}, "SoftmaxOptions", beta=1.0)
    return net.bytes("StatefulPartitionedCall:0", signature=signature)


def same(raw: bytes, again: bytes, tolerance: float = 1e-5) -> None:
    given = feeds(raw)
    for a, b in zip(litert(again, given), litert(raw, given), strict=True):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        if a.dtype.kind == "f":
            assert np.abs(a - b).max() <= tolerance * max(1.0, np.abs(b).max())
        else:
            np.testing.assert_array_equal(a, b)


def test_a_classifier_comes_back_as_it_was(tmp_path: Path) -> None:
    raw = classifier()
    loaded = read(tmp_path, raw)
    assert [op_name(node) for node in calls(loaded.graph)] == [
        "conv2d",
        "avg_pool2d",
        "reshape",
        "linear",
        "softmax",
    ]
    again = to_tflite(deployment_form(loaded.graph))
    assert read_tflite(again).op_counts() == read_tflite(raw).op_counts()
    same(raw, again)


def test_names_order_and_signature_are_kept_through_passes_and_text(tmp_path: Path) -> None:
    raw = classifier("classify")
    graph = read(tmp_path, raw).graph
    pruned = Pipeline.parse("prune-channels{keep=0.5}").run(graph, PassContext()).graph
    save_graph(pruned, tmp_path / "pruned.mcc")
    model, before = (
        read_tflite(to_tflite(deployment_form(load_graph(tmp_path / "pruned.mcc")))),
        read_tflite(raw),
    )
    assert model.signatures == {
        "classify": (
            {"serving_default_image:0": model.inputs[0]},
            {"StatefulPartitionedCall:0": model.outputs[0]},
        )
    }
    for now, then in ((model.inputs, before.inputs), (model.outputs, before.outputs)):
        assert [model.tensors[k].name for k in now] == [before.tensors[k].name for k in then]
        assert [model.tensors[k].shape for k in now] == [before.tensors[k].shape for k in then]
    assert "conv2d" in [op_name(node) for node in calls(pruned)]
    assert shape_of(calls(pruned, "conv2d")[0])[1] == 4


def test_class_names_and_normalisation_are_kept(tmp_path: Path) -> None:
    from mcc.report.file_metadata import describe

    graph = read(tmp_path, classifier()).graph
    made = to_tflite(
        deployment_form(graph), labels=list("abcde"), normalisation=Normalisation((10.0,) * 3, (2.0,) * 3)
    )
    (tmp_path / "labelled.tflite").write_bytes(made)
    for command in (
        ["lower", str(tmp_path / "labelled.tflite"), "--to", "tflite", "-o", str(tmp_path / "again.tflite")],
        ["opt", str(tmp_path / "labelled.tflite"), "-O1", "-o", str(tmp_path / "again.mcc")],
        ["lower", str(tmp_path / "again.mcc"), "--to", "onnx", "-o", str(tmp_path / "again.onnx")],
    ):
        assert mcc(command) == 0
    first = describe(tmp_path / "labelled.tflite")
    assert first.labels == tuple("abcde")
    for name in ("again.tflite", "again.mcc", "again.onnx"):
        found = describe(tmp_path / name)
        assert (found.labels, found.preprocessing) == (first.labels, first.preprocessing), name


def test_of_several_subgraphs_the_first_is_read_with_its_signature(tmp_path: Path) -> None:
    def change(model: Any) -> None:
        model.subgraphs.append(model.subgraphs[0])
        other = schema.SignatureDefT()
        other.signatureKey, other.subgraphIndex = b"train", 1
        other.inputs = other.outputs = []
        model.signatureDefs.insert(0, other)

    loaded = read(tmp_path, changed(classifier("classify"), change))
    assert "2 subgraphs" in loaded.remarks[0]
    assert "classify" in loaded.remarks[0]
    assert list(read_tflite(to_tflite(deployment_form(loaded.graph))).signatures) == ["classify"]


@pytest.mark.parametrize("other", ["smaller.mcc", "smaller.tflite"])
def test_a_file_and_what_came_from_it_are_compared_by_name(
    tmp_path: Path, other: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "net.tflite").write_bytes(classifier())
    net, smaller = str(tmp_path / "net.tflite"), str(tmp_path / "smaller.mcc")
    assert mcc(["opt", net, "-p", "prune-channels{keep=0.5}", "-o", smaller]) == 0
    assert mcc(["lower", smaller, "--to", "tflite", "-o", str(tmp_path / "smaller.tflite")]) == 0
    capsys.readouterr()
    assert mcc(["diff", net, str(tmp_path / other)]) == 0
    said = capsys.readouterr().out
    assert "0 added, 0 removed" in said
    assert "weight [8,3,3,3] -> [4,3,3,3]" in said


# -- storage -----------------------------------------------------------------------------------------------


def test_half_precision_is_decoded(tmp_path: Path) -> None:
    net = Net()
    x = net.input("x", Real(MAP))
    net.op("DEQUANTIZE", [f(8, 3, 3, 3).astype(np.float16)], {"w": Real((8, 3, 3, 3))}, "DequantizeOptions")
    net.op("CONV_2D", [x, "w", f(8)], {"y": Real((1, 6, 6, 8))}, CONV, **SAME)
    raw = net.bytes("y")
    graph = read(tmp_path, raw).graph
    assert [op_name(node) for node in calls(graph)] == ["conv2d"]
    same(raw, to_tflite(deployment_form(graph)))


def test_half_precision_is_kept_where_it_is_exact(tmp_path: Path) -> None:
    net = Net()
    x = net.input("x", Real(MAP))
    net.op("DEQUANTIZE", [f(8, 3, 3, 3).astype(np.float16)], {"w": Real((8, 3, 3, 3))}, "DequantizeOptions")
    net.op("CONV_2D", [x, "w", np.zeros(8, np.float32)], {"y": Real((1, 6, 6, 8))}, CONV, **SAME)
    raw = net.bytes("y")
    graph = deployment_form(read(tmp_path, raw).graph)
    kept = to_tflite(graph, weights="kept")
    assert {t.dtype for t in read_tflite(kept).tensors if t.is_constant} == {"float16"}
    same(raw, kept, 0.0)
    assert "float16" not in {t.dtype for t in read_tflite(to_tflite(graph)).tensors}
    with torch.no_grad():
        next(value for name, value in graph.named_parameters() if value.dim() == 4).mul_(1.0001)
    trained = read_tflite(to_tflite(graph, weights="kept"))
    assert {t.dtype for t in trained.tensors if t.is_constant and len(t.shape) == 4} == {"float32"}


def test_a_sparse_weight_is_decoded(tmp_path: Path) -> None:
    from mcc.ir.graph import GraphBuilder

    b = GraphBuilder()
    x = b.input("x", (1, 8, 4, 4))
    graph = b.finish(b.relu(b.conv2d(x, b.constant("w", torch.randn(8, 8, 1, 1)), None)))
    sparse = Pipeline.parse("sparsify-1x1{sparsity=0.5}").run(graph, PassContext()).graph
    raw = to_tflite(deployment_form(sparse))
    assert read_tflite(raw).op_counts()["DENSIFY"] == 1
    again = read(tmp_path, raw).graph
    value = torch.randn(2, 8, 4, 4)
    torch.testing.assert_close(run(again, value)[0], run(sparse, value)[0])


# -- patterns ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["x*r/6", "(x/6)*r", "x*(r/6)", "divided"])
def test_hard_swish_is_put_together(tmp_path: Path, order: str) -> None:
    net, sixth = Net(), np.float32(1 / 6).reshape(())
    x = net.input("x", Real(MAP))
    net.op("ADD", [x, np.float32(3).reshape(())], {"r": Real(MAP)}, "AddOptions", fusedActivationFunction=3)
    if order == "x*r/6":
        net.op("MUL", [x, "r"], {"m": Real(MAP)}, "MulOptions")
        net.op("MUL", ["m", sixth], {"y": Real(MAP)}, "MulOptions")
    elif order == "divided":
        net.op("MUL", [x, "r"], {"m": Real(MAP)}, "MulOptions")
        net.op("DIV", ["m", np.float32(6).reshape(())], {"y": Real(MAP)}, "DivOptions")
    else:
        net.op("MUL", [x if order == "(x/6)*r" else "r", sixth], {"m": Real(MAP)}, "MulOptions")
        net.op("MUL", ["m", "r" if order == "(x/6)*r" else x], {"y": Real(MAP)}, "MulOptions")
    raw = net.bytes("y")
    graph = read(tmp_path, raw).graph
    assert [op_name(node) for node in calls(graph)] == ["hardswish"]
    same(raw, to_tflite(deployment_form(graph)))


def test_dilation_by_way_of_the_batch(tmp_path: Path) -> None:
    net = Net()
    x = net.input("x", Real((1, 7, 7, 3)))
    pads = i((2, 3), (2, 3))
    net.op("SPACE_TO_BATCH_ND", [x, i(2, 2), pads], {"s": Real((4, 6, 6, 3))}, "SpaceToBatchNDOptions")
    net.op("CONV_2D", ["s", f(4, 3, 3, 3), f(4)], {"c": Real((4, 4, 4, 4))}, CONV, **{**SAME, "padding": 1})
    net.op(
        "BATCH_TO_SPACE_ND",
        ["c", i(2, 2), i((0, 1), (0, 1))],
        {"y": Real((1, 7, 7, 4))},
        "BatchToSpaceNDOptions",
    )
    raw = net.bytes("y")
    graph = read(tmp_path, raw).graph
    assert [op_name(node) for node in calls(graph)] == ["conv2d"]
    assert calls(graph)[0].kwargs["dilation"] == (2, 2)
    same(raw, to_tflite(deployment_form(graph)))


def test_a_one_dimensional_network_has_no_transposes(tmp_path: Path) -> None:
    net, x = Net(), "x"
    net.input(x, Real((1, 16, 3)))
    for layer, (before, after) in enumerate(((3, 4), (4, 5))):
        net.op("EXPAND_DIMS", [x, i(1)], {f"e{layer}": Real((1, 1, 16, before))}, "ExpandDimsOptions")
        net.op(
            "CONV_2D",
            [f"e{layer}", f(after, 1, 3, before), f(after)],
            {f"c{layer}": Real((1, 1, 16, after))},
            CONV,
            **SAME,
            fusedActivationFunction=1,
        )
        x = net.op(
            "SQUEEZE", [f"c{layer}"], {f"s{layer}": Real((1, 16, after))}, "SqueezeOptions", squeezeDims=[1]
        )
    raw = net.bytes(x)
    again = to_tflite(deployment_form(read(tmp_path, raw).graph))
    assert "TRANSPOSE" not in read_tflite(again).op_counts()
    same(raw, again)


def test_depth_to_space_behind_a_convolution_takes_no_further_operator(tmp_path: Path) -> None:
    net = Net()
    x = net.input("x", Real(MAP))
    net.op("CONV_2D", [x, f(8, 1, 1, 3), f(8)], {"c": Real((1, 6, 6, 8))}, CONV, **SAME)
    net.op("DEPTH_TO_SPACE", ["c"], {"y": Real((1, 12, 12, 2))}, "DepthToSpaceOptions", blockSize=2)
    raw = net.bytes("y")
    graph = read(tmp_path, raw).graph
    assert [op_name(node) for node in calls(graph)] == ["conv2d", "pixel_shuffle"]
    again = to_tflite(deployment_form(graph))
    assert read_tflite(again).op_counts() == read_tflite(raw).op_counts()
    same(raw, again)


# -- refusals ----------------------------------------------------------------------------------------------


def with_tail() -> bytes:
    net = Net()
    x = net.input("x", Real(MAP))
    net.op("CONV_2D", [x, f(8, 3, 3, 3), f(8)], {"features": Real((1, 6, 6, 8))}, CONV, **SAME)
    net.op("RELU", ["features"], {"scores": Real((1, 6, 6, 8))})
    net.op("FLOOR", ["features"], {"steps": Real((1, 6, 6, 8))})
    net.op("ABS", ["steps"], {"y": Real((1, 6, 6, 8))}, "AbsOptions")
    return net.bytes("scores", "y")


def test_an_operator_outside_the_canonical_form_is_refused_with_the_cut_that_works(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="FLOOR") as caught:
        read(tmp_path, with_tail())
    assert "operator 2 (FLOOR, steps)" in str(caught.value)
    assert caught.value.hint is not None
    words = caught.value.hint.partition("--cut ")[2].replace("'", "").split(" --cut ")
    assert words == ["scores", "features"]
    loaded = read(tmp_path, with_tail(), cut=words)
    assert [op_name(node) for node in calls(loaded.graph)] == ["conv2d", "relu"]
    assert loaded.output_names == ("scores", "features")
    assert loaded.original is not None
    value = torch.randn(2, 3, 6, 6)
    for a, b in zip(run(loaded.graph, value), loaded.original([value]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_an_unknown_place_to_cut_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="feature") as caught:
        read(tmp_path, with_tail(), cut=("feature",))
    assert "features" in str(caught.value.hint)


def test_another_input_shape_is_refused(tmp_path: Path) -> None:
    assert read(tmp_path, classifier(), input_shape=(1, 3, 6, 6)).graph
    with pytest.raises(UsageError, match=r"\[1, 3, 6, 6\]"):
        read(tmp_path, classifier(), input_shape=(1, 3, 8, 8))


def test_sixteen_bits_are_inspected_and_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def change(model: Any) -> None:
        for tensor in (*model.subgraphs[0].tensors,):
            if tensor.quantization is not None and tensor.buffer == 0:
                tensor.type = schema.TensorType.INT16

    net = Net()
    x = net.input("x", Whole(MAP, 0.1, 0))
    net.op("RELU", [x], {"y": Whole(MAP, 0.1, 0)})
    path = tmp_path / "wide.tflite"
    path.write_bytes(changed(net.bytes("y"), change))
    assert mcc(["inspect", str(path)]) == 0
    assert "int16" in capsys.readouterr().out
    with pytest.raises(UnsupportedError, match="int16") as caught:
        load_model(str(path))
    assert "inspect" in str(caught.value.hint)


def test_another_function_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison with LiteRT bites."""
    stored = tflite_runner._real
    monkeypatch.setattr(tflite_runner, "_real", lambda *given: stored(*given) * 1.01)
    with pytest.raises(VerificationError, match="differs from LiteRT"):
        read(tmp_path, classifier())


# -- damage ------------------------------------------------------------------------------------------------


def changed(raw: bytes, change: Callable[[Any], object]) -> bytes:
    """A file with something changed."""
    model: Any = schema.ModelT.InitFromPackedBuf(bytearray(raw), 0)
    change(model)
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def tensor(model: Any, name: str) -> Any:
    return next(one for one in model.subgraphs[0].tensors if one.name.decode() == name)


def _cycle(model: Any) -> None:
    operators = model.subgraphs[0].operators
    operators[0].inputs[0] = operators[-1].outputs[0]


def _twice(model: Any) -> None:
    operators = model.subgraphs[0].operators
    operators[1].outputs[0] = operators[0].outputs[0]


def _buffer_of_nothing(model: Any) -> None:
    tensor(model, "dense").buffer = 12345


def _shared_names(model: Any) -> None:
    for one in model.subgraphs[0].tensors:
        one.name = "n" * (1 << 20)


@pytest.mark.parametrize(
    ("change", "kind", "reason"),
    [
        (_cycle, DataError, "nothing computes before it"),
        (_twice, DataError, "another operator or an input has written"),
        (_buffer_of_nothing, DataError, "damaged"),
        (
            lambda m: setattr(tensor(m, "pool"), "shape", [1, 3, 3, 9]),
            DataError,
            "declares the result",
        ),
        (lambda m: setattr(tensor(m, "pool"), "shape", [1, 3, -3, 8]), DataError, "declares the shape"),
        (lambda m: setattr(tensor(m, "pool"), "shape", [1, 1 << 15, 1 << 15, 8]), UnsupportedError, "beyond"),
        (lambda m: setattr(m.subgraphs[0], "inputs", []), UnsupportedError, "no input"),
        (lambda m: setattr(m.subgraphs[0], "outputs", [m.subgraphs[0].inputs[0]]), MccError, ""),
    ],
    ids=["cycle", "written twice", "no buffer", "shape", "negative", "2 GB", "no input", "input returned"],
)
def test_a_damaged_file_gets_a_sentence(
    tmp_path: Path, change: Callable[[Any], object], kind: type[MccError], reason: str
) -> None:
    raw = changed(classifier(), change)
    if not reason:  # an input that is returned is read, or refused: not a crash
        with __import__("contextlib").suppress(MccError):
            read(tmp_path, raw)
        return
    with pytest.raises(kind, match=reason):
        read(tmp_path, raw)


def test_parts_that_share_their_bytes_are_counted(tmp_path: Path) -> None:
    """A few kilobytes of offsets must not stand for gigabytes of names: each table refers to one string."""
    builder = flatbuffers.Builder(1 << 22)
    name = builder.CreateString("n" * (1 << 20))
    tensors: list[int] = []
    for _ in range(200):
        schema.TensorStart(builder)
        schema.TensorAddName(builder, name)
        tensors.append(schema.TensorEnd(builder))
    schema.SubGraphStartTensorsVector(builder, len(tensors))
    for offset in tensors:
        builder.PrependUOffsetTRelative(offset)
    vector = builder.EndVector()
    schema.SubGraphStart(builder)
    schema.SubGraphAddTensors(builder, vector)
    graph = schema.SubGraphEnd(builder)
    schema.ModelStartSubgraphsVector(builder, 1)
    builder.PrependUOffsetTRelative(graph)
    vector = builder.EndVector()
    schema.ModelStart(builder)
    schema.ModelAddSubgraphs(builder, vector)
    builder.Finish(schema.ModelEnd(builder), b"TFL3")
    with pytest.raises(DataError, match="share their bytes"):
        read_tflite(bytes(builder.Output()))


def test_inputs_of_integers_without_a_grid_are_refused(tmp_path: Path) -> None:
    raw = changed(
        classifier(), lambda m: setattr(tensor(m, "serving_default_image:0"), "type", schema.TensorType.INT32)
    )
    with pytest.raises(UnsupportedError, match="is int32"):
        read(tmp_path, raw)
