"""A graph and its costs as files that Google's Model Explorer opens.

`graph.json` is a graph collection, the other files are custom node data: `pip install
ai-edge-model-explorer`, `model-explorer graph.json`, then "Add per-node data" in the browser. The formats are
those of version 0.1.34 (`graph_builder.py` and `node_data_builder.py` of google-ai-edge/model-explorer).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import fx

from mcc.files import write_text
from mcc.ir.graph import Graph, is_constant, op_name, operands, output_node
from mcc.ir.notes import note, type_of
from mcc.ir.outputs import note_made
from mcc.ir.text import print_note
from mcc.report.layers import Layer

COUNTS = ("macs", "weight_bytes", "activation_bytes")
COLD, HOT = "#ffffff", "#ff7043"  # from zero to the most expensive node


def file_names(costs: Mapping[str, Mapping[str, float]] | None = None) -> list[str]:
    """The files that `write_model_explorer` writes."""
    return ["graph.json", *(f"{stem}.json" for stem in (*COUNTS, *(costs or {})))]


def write_model_explorer(
    folder: Path,
    name: str,
    graph: Graph,
    layers: Sequence[Layer],
    costs: Mapping[str, Mapping[str, float]] | None = None,
) -> list[Path]:
    """Write a graph and its costs, one file each. Raises DataError if the folder cannot be written.

    Args:
        folder: Output folder, created if missing.
        name: Display name of the graph.
        layers: Operators and sizes.
        costs: Predicted figures by node name, by name of the figure (`predicted_latency_us`).

    Returns:
        Paths of the files, `graph.json` first.
    """
    numbers: dict[str, tuple[str, Mapping[str, float]]] = {
        "macs": ("multiply-accumulates", {layer.node: layer.macs for layer in layers}),
        "weight_bytes": ("weight bytes", {layer.node: layer.weight_bytes for layer in layers}),
        "activation_bytes": ("activation bytes", {layer.node: layer.activation_bytes for layer in layers}),
    }
    numbers |= {stem: (stem.replace("_", " "), values) for stem, values in (costs or {}).items()}
    files: dict[str, dict[str, Any]] = {"graph.json": {"label": name, "graphs": [graph_json(graph, name)]}}
    for stem, (title, values) in numbers.items():
        files[f"{stem}.json"] = {name: node_data(title, values)}
    assert list(files) == file_names(costs)
    for file, content in files.items():
        write_text(folder / file, json.dumps(content, indent=1))
    note_made(folder, files)
    return [folder / file for file in files]


def graph_json(graph: Graph, name: str) -> dict[str, Any]:
    """The graph without nodes for constants: each is an input of the node that reads it."""
    nodes = [_node(node) for node in graph.graph.nodes if node.op in ("placeholder", "call_function")]
    end = output_node(graph)
    nodes.append({"id": "return", "label": "return", "incomingEdges": _edges(end.all_input_nodes)})
    return {"id": name, "nodes": nodes}


def _node(node: fx.Node) -> dict[str, Any]:
    attributes = {key: repr(value) for key, value in node.kwargs.items()}
    for index, value in enumerate(operands(node)):
        if is_constant(value):
            attributes[f"operand {index}"] = f"@{value.target} : {type_of(value)}"
    if noted := print_note(node):
        attributes["note"] = noted
    return {
        "id": node.name,
        "label": "input" if node.op == "placeholder" else op_name(node),
        "namespace": _namespace(node),
        "attrs": [{"key": key, "value": value} for key, value in attributes.items()],
        "incomingEdges": _edges([value for value in operands(node) if not is_constant(value)]),
        "outputsMetadata": [
            {
                "id": "0",
                "attrs": [
                    {"key": "tensor_shape", "value": str(type_of(node))},
                    {"key": "tensor_name", "value": node.name},
                ],
            }
        ],
    }


def _namespace(node: fx.Node) -> str:
    """The modules of a node: `features.0.conv` is in `features/0`."""
    origin = note(node).origin
    return "/".join(origin[0].split(".")[:-1]) if origin else ""


def _edges(values: Sequence[fx.Node]) -> list[dict[str, str]]:
    return [
        {"sourceNodeId": value.name, "sourceNodeOutputId": "0", "targetNodeInputId": str(index)}
        for index, value in enumerate(values)
    ]


def node_data(title: str, values: Mapping[str, float]) -> dict[str, Any]:
    """Numbers by node name, with a colour scale from the least to the greatest."""
    return {
        "name": title,
        "results": {name: {"value": value} for name, value in values.items()},
        "gradient": [{"stop": 0, "bgColor": COLD}, {"stop": 1, "bgColor": HOT}],
    }
