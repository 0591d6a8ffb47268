"""What an ONNX model says about itself, and what the writer refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from mcc.errors import DataError, UnsupportedError, UsageError
from mcc.ir.graph import GraphBuilder, calls
from mcc.lower.onnx.ort_format import to_ort
from mcc.lower.onnx.writer import to_onnx, write_onnx
from mcc.lower.tflite.metadata import Normalisation
from mcc.quant.scales import scale_table
from mcc.report.doubt import saturation_warning
from mcc.runtime import ort_host
from mcc.runtime.registry import get_target
from tests.lower.onnx.test_parity import infer
from tests.quant.graphs import case_graph, mobile_net, quantise


def test_the_model_states_names_shapes_labels_and_normalisation() -> None:
    labels = ["cat", "Hund", "oiseau à bec"]
    normalisation = Normalisation(mean=(127.5, 127.5, 127.5), deviation=(60.0, 61.0, 62.5))
    raw = to_onnx(mobile_net(), name="small", opset=15, labels=labels, normalisation=normalisation)
    model = onnx.load_from_string(raw)
    assert model.graph.name == "small"
    assert [(i.domain, i.version) for i in model.opset_import] == [("", 15)]
    assert [v.name for v in model.graph.input] == ["x"]
    assert [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == [1, 3, 32, 32]
    assert [d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim] == [1, 10]
    properties = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert properties["labels"] == labels
    assert properties["normalisation"]["deviation"] == [60.0, 61.0, 62.5]
    assert raw == to_onnx(
        mobile_net_again(), name="small", opset=15, labels=labels, normalisation=normalisation
    )


def mobile_net_again() -> object:
    """The same network, built from the same seed."""
    torch.manual_seed(0)
    return mobile_net()


def test_scales_are_carried_exactly() -> None:
    x = torch.randn(2, 3, 32, 32)
    graph = quantise(mobile_net(), x)
    model = onnx.load_from_string(to_onnx(graph))
    stored = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    written = {
        tuple(stored[node.input[1]].reshape(-1).tolist())
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and stored[node.input[2]].dtype != np.int32
    }
    assert written == {params.scales for params in scale_table(graph).values()}


def test_weights_are_signed_and_activations_unsigned() -> None:
    graph = quantise(case_graph("conv3x3"), torch.randn(2, 8, 9, 9))
    model = onnx.load_from_string(to_onnx(graph))
    kinds = {i.name: numpy_helper.to_array(i).dtype for i in model.graph.initializer}
    quantised = {kinds[n.input[2]].name for n in model.graph.node if n.op_type == "QuantizeLinear"}
    constants = {kinds[n.input[0]].name for n in model.graph.node if n.input[0] in kinds}
    assert quantised == {"uint8"}
    assert constants == {"int8", "int32"}


def test_values_returned_twice_or_unchanged() -> None:
    b = GraphBuilder()
    x = b.input("x", (1, 4))
    y = b.relu(x)
    model = onnx.load_from_string(to_onnx(b.finish(y, y, x)))
    assert len({v.name for v in model.graph.output}) == 3
    onnx.checker.check_model(model, full_check=True)


def test_ort_files_compute_the_same() -> None:
    x = torch.rand(3, 3, 32, 32)
    narrow = to_onnx(quantise(mobile_net(), x, weight_limit=63))  # whose sums saturate on no processor
    for platform in ("arm", "amd64"):
        assert np.array_equal(infer(to_ort(narrow, platform=platform), x), infer(narrow, x))


def test_an_ort_file_for_x86_saturates_on_no_processor() -> None:
    x = torch.rand(3, 3, 32, 32)
    raw = to_onnx(quantise(mobile_net(), x))
    assert np.array_equal(infer(to_ort(raw, platform="amd64"), x), infer(raw, x))


def test_outputs_that_this_processor_gets_wrong_are_doubted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.rand(1, 3, 32, 32)
    raw = to_onnx(quantise(mobile_net(), x))
    files = {
        "int8.onnx": raw,
        "int8.ort": to_ort(raw),
        "exact.ort": to_ort(raw, platform="amd64"),
        "float.ort": to_ort(to_onnx(mobile_net())),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)

    def doubted(spec: str) -> set[str]:
        return {name for name in files if saturation_warning(get_target(spec), tmp_path / name)}

    monkeypatch.setattr(ort_host, "sums_saturate", lambda: True)
    assert doubted("ort-host") == {"int8.ort"}
    assert doubted("ort-host:fast") == {"int8.ort", "int8.onnx"}
    monkeypatch.setattr(ort_host, "sums_saturate", lambda: False)
    assert doubted("ort-host") == doubted("ort-host:fast") == set()


def test_refusals_name_what_and_where(tmp_path: Path) -> None:
    graph = case_graph("conv3x3")
    with pytest.raises(UsageError, match="opset 12 cannot be written; choose 13 to 23"):
        to_onnx(graph, opset=12)
    with pytest.raises(UsageError, match="platform must be arm or amd64"):
        to_ort(to_onnx(graph), platform="riscv")
    wide = quantise(case_graph("relu"), torch.randn(2, 8, 9, 9))
    node = calls(wide, "fake_quantize")[0]
    node.update_kwarg("qmin", -32768)
    with pytest.raises(
        UnsupportedError, match=rf"{node.name}: fake_quantize to -32768..127 has no 8-bit form"
    ):
        to_onnx(wide)
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(DataError, match="cannot be written"):
        write_onnx(graph, blocked / "model.onnx")
    written = write_onnx(graph, tmp_path / "made" / "model.onnx")
    assert [entry.name for entry in written.parent.iterdir()] == ["model.onnx"]
