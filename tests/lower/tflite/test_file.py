"""The file itself: alignment, determinism, names, metadata, atomic writing, damage, refusals."""

from __future__ import annotations

import contextlib
import functools
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from hypothesis import given, settings
from hypothesis import strategies as st

from mcc.errors import DataError, UnsupportedError, UsageError
from mcc.ir.graph import Graph, GraphBuilder, run
from mcc.ir.notes import SparseNote, annotate
from mcc.lower.tflite import lowering
from mcc.lower.tflite.builder import FlatModel, Options
from mcc.lower.tflite.metadata import METADATA_NAME, Normalisation, read_labels
from mcc.lower.tflite.reader import read_tflite
from mcc.lower.tflite.writer import to_tflite, write_tflite
from tests.lower.tflite import networks
from tests.lower.tflite.cases import CASES, COMPOSITES
from tests.lower.tflite.running import execute


def _graph() -> Graph:
    b = GraphBuilder()
    x = b.input("image", (1, 3, 8, 8))
    w = b.constant("w", torch.randn(4, 3, 3, 3))
    y = b.conv2d(x, w, None, stride=(2, 2), padding=(1, 1, 1, 1), activation="relu", name="stem")
    return b.finish(y, b.mean(y, axes=(2, 3), keepdim=False, name="pooled"))


def test_constants_start_at_multiples_of_16() -> None:
    raw = to_tflite(networks.mobilenet_v2(sparsity=0.5))
    model = schema.Model.GetRootAs(raw)
    offsets = []
    for i in range(model.BuffersLength()):
        buffer = model.Buffers(i)
        field = buffer._tab.Offset(4)
        if field:
            offsets.append(buffer._tab.Vector(field))
    assert len(offsets) > 100
    assert {offset % 16 for offset in offsets} == {0}


def test_equal_graphs_give_equal_bytes() -> None:
    files = set()
    for _ in range(2):
        torch.manual_seed(0)
        files.add(to_tflite(networks.resnet20(), labels=["a", "b"]))
    assert len(files) == 1


def test_a_shared_weight_is_stored_once_and_equal_ones_are_not_merged() -> None:
    """Or the size of a file would depend on what training makes of the weights."""
    value, sizes = torch.randn(64, 64), dict[str, int]()
    for second in ("v", "w"):
        b = GraphBuilder()
        y = b.linear(b.input("x", (1, 64)), b.constant("v", value), None)
        sizes[second] = len(to_tflite(b.finish(b.linear(y, b.constant(second, value.clone()), None))))
    assert sizes["v"] < 2 * value.numel() * 4 < sizes["w"]


def test_inputs_and_outputs_have_names_shapes_and_a_signature() -> None:
    model = read_tflite(to_tflite(_graph(), name="tiny"))
    assert [(model.tensors[i].name, model.tensors[i].shape) for i in model.inputs] == [
        ("image", (1, 8, 8, 3))
    ]
    assert [(model.tensors[i].name, model.tensors[i].shape) for i in model.outputs] == [
        ("stem", (1, 4, 4, 4)),
        ("pooled", (1, 4)),
    ]
    assert list(model.signatures) == ["serving_default"]
    names = model.signatures["serving_default"]
    assert names == ({"image": model.inputs[0]}, {"stem": model.outputs[0], "pooled": model.outputs[1]})


def test_signature_runs() -> None:
    graph = _graph()
    runner = Interpreter(model_content=to_tflite(graph), num_threads=1).get_signature_runner()
    x = torch.randn(1, 3, 8, 8)
    results = runner(image=np.ascontiguousarray(x.numpy().transpose(0, 2, 3, 1)))
    assert np.abs(results["pooled"] - run(graph, x)[1].numpy()).max() < 1e-5


def test_min_runtime_version_follows_the_operators() -> None:
    assert read_tflite(to_tflite(_graph())).metadata["min_runtime_version"].rstrip(b"\0") == b"2.3.0"
    grouped = next(case for case in CASES if case.op == "conv2d" and case.attributes.get("groups") == 2)
    model = read_tflite(to_tflite(grouped.graph()))
    assert model.operators[0].version == 6
    assert model.metadata["min_runtime_version"].rstrip(b"\0") == b"2.9.0"


def test_labels_and_normalisation_are_in_the_file_and_it_still_runs() -> None:
    graph = _graph()
    normalisation = Normalisation((123.0, 117.0, 104.0), (58.0, 57.0, 57.5))
    labels = ["tench", "Gänsegeier", "a, b"]
    raw = to_tflite(graph, labels=labels, normalisation=normalisation)
    assert read_labels(raw) == labels
    entry = read_tflite(raw).metadata[METADATA_NAME]
    assert entry[4:8] == b"M001"
    assert b"labels.txt" in entry
    for value in (*normalisation.mean, *normalisation.deviation):
        assert np.float32(value).tobytes() in entry
    x = torch.randn(1, 3, 8, 8).numpy()
    assert np.array_equal(execute(raw, [x])[0], execute(to_tflite(graph), [x])[0])
    assert read_labels(to_tflite(graph)) == []


@pytest.mark.parametrize(("mean", "deviation"), [((0.0,), (1.0, 1.0)), ((), ()), ((0.0,), (0.0,))])
def test_a_senseless_normalisation_is_refused(mean: tuple[float, ...], deviation: tuple[float, ...]) -> None:
    with pytest.raises(UsageError, match=r"normalisation"):
        Normalisation(mean, deviation)


def test_writing_leaves_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "deep" / "model.tflite"
    assert write_tflite(_graph(), target) == target
    before = target.read_bytes()
    assert os.listdir(target.parent) == ["model.tflite"]

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(DataError, match="No space left on device"):
        write_tflite(_graph(), target)
    assert target.read_bytes() == before
    assert os.listdir(target.parent) == ["model.tflite"]


def test_an_unknown_option_is_wrong_use() -> None:
    with pytest.raises(UsageError, match="weights='int4'"):
        to_tflite(_graph(), weights="int4")  # type: ignore[arg-type]


def test_an_operator_without_emit_function_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(lowering.EMITTERS, "mean")
    with pytest.raises(
        UnsupportedError, match=r"^pooled: operator mean cannot be written as TFLite; replace"
    ):
        to_tflite(_graph())


def test_a_computed_weight_is_refused_by_node() -> None:
    b = GraphBuilder()
    x = b.input("x", (1, 4))
    graph = b.finish(b.linear(x, b.input("w", (3, 4)), None, name="head"))
    with pytest.raises(UnsupportedError, match=r"^head: operand 1 is computed"):
        to_tflite(graph)


def test_dead_operators_are_left_out() -> None:
    b = GraphBuilder()
    x = b.input("x", (1, 4))
    b.exp(x)
    assert read_tflite(to_tflite(b.finish(b.relu(x)))).op_counts() == {"RELU": 1}


@pytest.mark.parametrize(
    ("name", "absent"),
    [
        ("flatten, linear", {"TRANSPOSE"}),
        ("flatten, relu, linear", {"TRANSPOSE"}),
        ("super resolution", {"TRANSPOSE", "GATHER"}),
        ("channels last block", {"TRANSPOSE"}),
        ("matmul with a transpose", {"TRANSPOSE"}),
        ("padded pool of relu", {"TRANSPOSE", "PADV2"}),
        ("squeeze and excite", {"TRANSPOSE", "RESHAPE"}),
    ],
)
def test_compositions_need_no_stray_operator(name: str, absent: set[str]) -> None:
    case = next(case for case in COMPOSITES if case.name == name)
    assert not absent & set(read_tflite(to_tflite(case.graph())).op_counts())


def test_a_channel_shuffle_moves_bytes_once() -> None:
    case = next(case for case in COMPOSITES if case.name == "channel shuffle")
    assert read_tflite(to_tflite(case.graph())).op_counts()["TRANSPOSE"] == 1


# -- reading -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("raw", [b"", b"TFL3", b"\0" * 64, b"\x1c\0\0\0TFL3" + b"\xff" * 40])
def test_what_is_no_tflite_file_is_refused(raw: bytes) -> None:
    with pytest.raises(DataError, match=r"not a TFLite file|damaged"):
        read_tflite(raw)


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    raw = to_tflite(_graph())
    path = tmp_path / "cut.tflite"
    path.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(DataError, match=r"cut\.tflite: the TFLite file is damaged"):
        read_tflite(path)


@pytest.mark.slow
@settings(max_examples=200)
@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_flipped_byte_is_read_or_refused(position: int, change: int) -> None:
    raw = bytearray(_small_file())
    raw[position % len(raw)] ^= change
    with contextlib.suppress(DataError):
        read_tflite(bytes(raw))


@functools.cache
def _small_file() -> bytes:
    b = GraphBuilder()
    y = b.conv2d(b.input("x", (1, 4, 2, 2)), b.constant("w", torch.eye(4)[:, :, None, None]), None)
    annotate(y, sparse=SparseNote(1, 0.75))
    return to_tflite(b.finish(y))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.tflite: no such file"):
        read_tflite(tmp_path / "absent.tflite")


def test_reader_tells_options_and_constants() -> None:
    graph = _graph()
    model = read_tflite(to_tflite(graph))
    conv = next(op for op in model.operators if op.code == "CONV_2D")
    assert (conv.options["strideH"], conv.options["padding"], conv.options["fusedActivationFunction"]) == (
        2,
        1,
        1,
    )
    assert np.array_equal(model.constant(conv.inputs[1]), graph.w.detach().numpy().transpose(0, 2, 3, 1))
    half = read_tflite(to_tflite(graph, weights="float16"))
    conv = next(op for op in half.operators if op.code == "CONV_2D")
    assert np.allclose(
        half.constant(conv.inputs[1]), graph.w.detach().numpy().transpose(0, 2, 3, 1), rtol=1e-3
    )


def test_builder_refuses_what_the_schema_does_not_have() -> None:
    model = FlatModel("m", "d")
    x = model.tensor("x", (1, 4), "float32")
    with pytest.raises(AttributeError, match="has no field colour"):
        model.operator("SOFTMAX", [x], [x], Options("SoftmaxOptions", {"colour": 1}))
    with pytest.raises(AttributeError):
        model.operator("SOFTMIN", [x], [x])
