"""Files for Model Explorer: nodes, edges and costs; `mcc inspect --model-explorer` writes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mcc.cli.main import run
from mcc.ir.text import parse_graph
from mcc.report.layers import inspect_layers
from mcc.report.model_explorer import graph_json, write_model_explorer

TEXT = """mcc 1
const @w : f32[4,3,3,3] = seed(1)
const @v : f32[3,4,1,1] = seed(2)
%x = input() {} : f32[1,3,8,8] !{origin=('x',)}
%a = conv2d(%x, @w, none) {padding=(1, 1, 1, 1), activation='relu'} : f32[1,4,8,8] !{origin=('net.0.conv',)}
%c = conv2d(%a, @v, none) {} : f32[1,3,8,8] !{origin=('net.1',), precision='float'}
%s = add(%c, %x) {} : f32[1,3,8,8] !{origin=('add',)}
return %s
"""


def test_every_value_is_a_node_and_every_use_an_edge() -> None:
    nodes = {node["id"]: node for node in graph_json(parse_graph(TEXT), "net")["nodes"]}
    edges = {name: [edge["sourceNodeId"] for edge in node["incomingEdges"]] for name, node in nodes.items()}
    assert edges == {"x": [], "a": ["x"], "c": ["a"], "s": ["c", "x"], "return": ["s"]}
    assert [nodes[name]["namespace"] for name in ("x", "a", "c", "s")] == ["", "net/0", "net", ""]
    attributes = {entry["key"]: entry["value"] for entry in nodes["c"]["attrs"]}
    assert attributes["operand 1"] == "@v : f32[3,4,1,1]"
    assert "precision='float'" in attributes["note"]
    assert nodes["a"]["outputsMetadata"][0]["attrs"][0]["value"] == "f32[1,4,8,8]"


def test_costs_are_node_data_of_the_graph(tmp_path: Path) -> None:
    graph = parse_graph(TEXT)
    files = write_model_explorer(
        tmp_path,
        "net",
        graph,
        inspect_layers(graph),
        {"predicted_latency_us": {"a": 12.5, "c": 1.0, "s": 0.5}},
    )
    collection = json.loads(files[0].read_text())
    (found,) = collection["graphs"]
    assert collection["label"] == found["id"] == "net"
    ids = {node["id"] for node in found["nodes"]}
    for file in files[1:]:
        data = json.loads(file.read_text())["net"]
        assert set(data["results"]) <= ids
        assert [stop["stop"] for stop in data["gradient"]] == [0, 1]
    assert json.loads((tmp_path / "macs.json").read_text())["net"]["results"]["a"] == {"value": 64 * 4 * 27}
    latency = json.loads((tmp_path / "predicted_latency_us.json").read_text())["net"]
    assert latency["results"]["a"] == {"value": 12.5}


def test_inspect_writes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.mcc").write_text(TEXT)
    assert run(["inspect", str(tmp_path / "net.mcc"), "--model-explorer", str(tmp_path / "out")]) == 0
    assert "model-explorer " in capsys.readouterr().err
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        ".mcc-made.json", "activation_bytes.json", "graph.json", "macs.json", "weight_bytes.json",
    ]  # fmt: skip


def test_a_tflite_file_is_opened_by_model_explorer_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", "net.tflite", "--model-explorer", "out"]) == 2
    assert "Model Explorer opens .tflite files itself" in capsys.readouterr().err
