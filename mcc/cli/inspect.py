"""`mcc inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mcc.cli.models import deployment_form, get_target, load_model, model_options
from mcc.cli.output import print_json, print_table
from mcc.cli.settings import Settings, common_options

if TYPE_CHECKING:
    from mcc.ir.graph import Graph
    from mcc.report.layers import Layer, Move

TFLITE = ".tflite"


@click.command(short_help="Show a model's layers, their cost, and what can be done.")
@click.argument("model")
@click.option("--target", metavar="T", help="Also the predicted cost there, and what its runtime allows.")
@click.option("--why", is_flag=True, help="Why each layer cannot be pruned, sparse, low-rank or int8.")
@model_options
@common_options
def inspect(
    model: str, target: str | None, why: bool, input_shape: tuple[int, ...] | None, weights: Path | None,
    settings: Settings,
) -> None:  # fmt: skip
    """Show a model's operators, shapes, multiply-accumulates and bytes, and what can be done to each layer.

    The model is shown as it is lowered: batch norms folded, activations fused. Of a .tflite file, the
    operators and tensors as they are.
    """
    if model.endswith(TFLITE):
        return _inspect_tflite(model, settings)
    from mcc.report.layers import inspect_layers

    graph = deployment_form(load_model(model, input_shape, weights).graph)
    found = None if target is None else get_target(target)
    layers = inspect_layers(graph, None if found is None else found.facts())
    costs = {} if target is None else predicted(graph, target)
    if settings.json:
        return print_json(_json(model, target, layers, costs))
    _show(layers, costs, why)
    return None


def predicted(graph: Graph, target: str) -> dict[str, Any]:
    """Predicted cost in microseconds: `layers` by node name, `total` and `overhead`."""
    from mcc.calibrate import predict_graph

    cost = predict_graph(graph, get_target(target))
    layers = {layer.node: layer.estimate for layer in cost.layers}
    return {"layers": layers, "total": cost.latency_us, "overhead": cost.overhead_us}


def _json(model: str, target: str | None, layers: tuple[Layer, ...], costs: dict[str, Any]) -> dict[str, Any]:
    entries: list[dict[str, Any]] = []
    for layer in layers:
        entry = layer.to_dict()
        estimate = costs.get("layers", {}).get(layer.node)
        if estimate is not None:
            entry["predicted_latency_us"] = round(estimate.latency_us, 3)
            entry["predicted_error_us"] = round(estimate.error_us, 3)
            entry["source"] = estimate.source
        entries.append(entry)
    total: dict[str, Any] = {"model": model, **totals(layers), "layers": entries}
    if costs:
        total["target"] = target
        total["predicted_latency_us"] = round(costs["total"], 3)
        total["predicted_overhead_us"] = round(costs["overhead"], 3)
    return total


def totals(layers: tuple[Layer, ...]) -> dict[str, int]:
    """Sums over the layers, and the largest activation."""
    return {
        "macs": sum(layer.macs for layer in layers),
        "params": sum(layer.params for layer in layers),
        "weight_bytes": sum(layer.weight_bytes for layer in layers),
        "largest_activation_bytes": max((layer.activation_bytes for layer in layers), default=0),
    }


def _mark(move: Move | None) -> str:
    return "" if move is None else "yes" if move.possible else "no"


def _show(layers: tuple[Layer, ...], costs: dict[str, Any], why: bool) -> None:
    from mcc.report.words import bytes_words, count_words

    headers = ["layer", "operator", "shape", "MACs", "params", "prune", "sparse", "low-rank", "int8"]
    if costs:
        headers += ["us", "share", "source"]
    rows: list[list[object]] = []
    for layer in layers:
        shape = "x".join(map(str, layer.shape[1:]))
        row: list[object] = [
            layer.node,
            layer.kind,
            shape,
            count_words(layer.macs),
            count_words(layer.params),
        ]
        row += [_mark(layer.prune), _mark(layer.sparse), _mark(layer.low_rank), _mark(layer.int8)]
        if costs:
            estimate = costs["layers"].get(layer.node)
            row += ["", "", ""] if estimate is None else [
                f"{estimate.latency_us:.1f}",
                f"{100 * estimate.latency_us / costs['total']:.1f} %",
                estimate.source,
            ]  # fmt: skip
        rows.append(row)
    print_table(headers, rows, right=["shape", "MACs", "params", "us", "share"])
    sums = totals(layers)
    weights, largest = bytes_words(sums["weight_bytes"]), bytes_words(sums["largest_activation_bytes"])
    counts = f"{count_words(sums['macs'])} MACs, {count_words(sums['params'])} parameters"
    click.echo(f"\n{counts}, weights {weights}, largest activation {largest}")
    if costs:
        click.echo(
            f"predicted {costs['total']:.1f} us, of which {costs['overhead']:.1f} us belong to no layer"
        )
    if why:
        click.echo("")
        print_table(["layer", "cannot be", "because it"], _reasons(layers))


def _reasons(layers: tuple[Layer, ...]) -> list[tuple[str, str, str | None]]:
    rows: list[tuple[str, str, str | None]] = []
    for layer in layers:
        moves = {
            "pruned": layer.prune,
            "sparse": layer.sparse,
            "low-rank": layer.low_rank,
            "int8": layer.int8,
        }
        rows += [
            (layer.node, name, move.why_not) for name, move in moves.items() if move and not move.possible
        ]
    return rows


def _inspect_tflite(model: str, settings: Settings) -> None:
    from mcc.lower.tflite.reader import read_tflite
    from mcc.report.tflite_views import view_tflite
    from mcc.report.words import bytes_words

    file, views = read_tflite(model), view_tflite(model)
    if settings.json:
        return print_json(
            {
                "model": model,
                "size_bytes": file.size_bytes,
                "operators": dict(file.op_counts()),
                "layers": [
                    {
                        "node": view.name,
                        "kind": view.op,
                        "type": view.type,
                        "quantised": view.quantised,
                        "constants": [
                            {"role": c.role, "shape": list(c.shape), "zeros": round(c.zeros, 6)}
                            for c in view.constants
                        ],
                    }
                    for view in views
                ],
            }
        )
    rows = [
        [view.name, view.op, view.type, view.quantised or "float",
         " ".join(f"{c.role}[{','.join(map(str, c.shape))}] {c.zeros:.0%} zeros" for c in view.constants)]
        for view in views
    ]  # fmt: skip
    print_table(["layer", "operator", "value", "precision", "constants"], rows)
    click.echo(f"\n{len(file.operators)} operators, {bytes_words(file.size_bytes)}")
    return None
