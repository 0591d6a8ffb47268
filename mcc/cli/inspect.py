"""The command `mcc inspect`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mcc.cli.models import (
    current_cut,
    deployment_form,
    get_target,
    load_model,
    model_options,
)
from mcc.cli.output import print_json, print_table
from mcc.cli.prepared import calibration_images, stated_preprocessing
from mcc.cli.progress import progress_for
from mcc.cli.quantities import ROOFLINE
from mcc.cli.settings import Settings, common_options
from mcc.errors import UnsupportedError, UsageError
from mcc.ir.first_look import check_model, check_specs
from mcc.ir.outputs import check_folder, files_in

if TYPE_CHECKING:
    from mcc.calibrate.missing import Filled
    from mcc.cost_api import CostModel, Estimate
    from mcc.cost_sum import GraphCost
    from mcc.ir.diff import NodeView
    from mcc.ir.graph import Graph
    from mcc.report.layers import Layer, Move
    from mcc.runtime.target import Target
    from mcc.runtime.units import Unit

TFLITE, ORT, ONNX = ".tflite", ".ort", ".onnx"


@click.command(short_help="Show a model's layers, their cost and possible compression.")
@click.argument("model")
@click.option("--target", metavar="T", help="Target; adds predicted costs, and what its runtime allows.")
@click.option(
    "--roofline",
    type=ROOFLINE,
    metavar="GMACS,GBYTES",
    help="Predict for an unmeasured device, from its peak float32 rate and memory bandwidth, as 20,10.",
)
@click.option("--no-measure", is_flag=True,
              help="Predict from earlier measurements; do not measure missing ones.")  # fmt: skip
@click.option("--model-explorer", "folder", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
              help="Also write the graph and its costs for Google's Model Explorer.")  # fmt: skip
@click.option("--force", is_flag=True, help="Overwrite files in that folder that mcc did not create.")
@click.option("--why", is_flag=True, help="Reasons why layers cannot be pruned, sparse, low-rank or int8.")
@click.option("--data", metavar="DATA", help="Calibration data, which decides which layers int8 can hold.")
@model_options
@common_options
def inspect(
    model: str, target: str | None, roofline: tuple[float, float] | None, no_measure: bool,
    folder: Path | None, force: bool, why: bool, data: str | None, input_shape: tuple[int, ...] | None,
    weights: Path | None, settings: Settings,
) -> None:  # fmt: skip
    """Show a model's operators, shapes, multiply-accumulates and bytes, and the possible compression by
    layer.

    The model is shown in deployment form: batch norms folded, activations fused. For a .tflite or .ort file,
    its operators and tensors are shown unchanged; with --target, --data, --why or --cut a .tflite file is
    shown as a model, too.

    With a target, a second table shows the predicted cost of each layer in each form: unchanged, int8,
        sparse, or
    as a low-rank pair; measured, or interpolated between measurements, with one standard deviation. Operators
    that were never measured are measured first, for about 30 s at most; parts that are then still estimated
    by a roofline are named.
    """
    if folder is not None and model.endswith((TFLITE, ORT)):
        raise UsageError(
            "is for graphs", where="--model-explorer", hint="Model Explorer opens .tflite files itself"
        )
    check_model(model, weights)
    check_specs(data)
    asked = (target, roofline, data, current_cut(), why)
    views = None if model.endswith(TFLITE) and any(asked) else views_of(model)
    if views is not None:
        return _show_file(model, views, settings)
    from mcc.report.layers import inspect_layers
    from mcc.report.sparse_path import sparse_path

    loaded = load_model(model, input_shape, weights)
    graph = deployment_form(loaded.graph)
    found = None if target is None else get_target(target)
    calibration = (
        () if data is None else calibration_images(graph, data, stated_preprocessing(model, loaded), settings)
    )
    layers = inspect_layers(graph, None if found is None else found.facts(), calibration)
    if roofline is not None and found is None:
        raise UsageError("--roofline needs a --target", hint="it says which forms a layer can take")
    costs = {} if found is None else predicted(graph, found, roofline, settings, measure=not no_measure)
    sparse = None if found is None else sparse_path(graph, found.facts())
    if folder is not None:
        _export(folder, model, graph, layers, costs, [*files_in(model, weights)], force)
    if settings.json:
        report = _json(model, target, layers, costs)
        return print_json(report if sparse is None else {**report, "sparse_path": sparse.to_dict()})
    _show(layers, costs, why)
    for sentence in () if sparse is None else sparse.sentences():
        click.echo(sentence)
    return None


def _export(
    folder: Path, model: str, graph: Graph, layers: tuple[Layer, ...], costs: dict[str, Any],
    reads: list[Path], force: bool,
) -> None:  # fmt: skip
    from mcc.report.model_explorer import file_names, write_model_explorer

    figures: dict[str, dict[str, float]] = {}
    for node, estimate in costs.get("layers", {}).items():
        for key, value in _figures(estimate, costs["unit"]).items():
            figures.setdefault(f"predicted_{key}", {})[node] = value
    check_folder(folder, file_names(figures), reads, force=force)
    files = write_model_explorer(folder, Path(model).name, graph, layers, figures)
    click.echo(f"wrote {', '.join(map(str, files))}; open with: model-explorer {files[0]}", err=True)


def predicted(
    graph: Graph, target: Target, roofline: tuple[float, float] | None, settings: Settings, *, measure: bool
) -> dict[str, Any]:
    """Predicted cost in the target's unit: `layers` by node name, `forms` of each, the total `cost`."""
    from cost_models.roofline import RooflineCostModel
    from mcc.calibrate.api import measured_model, predict_graph
    from mcc.calibrate.missing import fill
    from mcc.search.layer_alternatives import layer_forms

    filled = None
    if measure and roofline is None:
        with progress_for(settings) as progress:
            filled = fill(graph, target, progress=progress)
    model: CostModel = RooflineCostModel(*roofline) if roofline else measured_model(graph, target)
    cost = predict_graph(graph, target, model=model)
    return {
        "layers": {layer.node: layer.estimate for layer in cost.layers},
        "forms": {found.node: found.forms for found in layer_forms(graph, target, model)},
        "cost": cost,
        "filled": filled,
        "footprint": _footprint(graph, target),
        "unit": target.unit,
    }


def _footprint(graph: Graph, target: Target) -> dict[str, int]:
    """Bytes of the file, exact, and of peak memory, predicted; only those known for the target."""
    from mcc.search.footprint import footprint

    try:
        found = footprint(graph, target)
    except (UnsupportedError, UsageError):  # reported with the reason when the model is lowered
        return {}
    peak = {} if found.peak_bytes is None else {"predicted_peak_memory_bytes": found.peak_bytes}
    return {"file_bytes": found.file_bytes, **peak}


def _json(model: str, target: str | None, layers: tuple[Layer, ...], costs: dict[str, Any]) -> dict[str, Any]:
    entries: list[dict[str, Any]] = []
    for layer in layers:
        entry = layer.to_dict()
        estimate = costs.get("layers", {}).get(layer.node)
        if estimate is not None:
            entry |= {f"predicted_{key}": value for key, value in _figures(estimate, costs["unit"]).items()}
            entry["source"] = estimate.source
            entry["forms"] = {
                name: {**_figures(form, costs["unit"]), "source": form.source}
                for name, form in costs["forms"].get(layer.node, {}).items()
            }
        entries.append(entry)
    total: dict[str, Any] = {"model": model, **totals(layers), "layers": entries}
    if costs:
        unit: Unit = costs["unit"]
        cost: GraphCost = costs["cost"]
        low, high = cost.interval
        total["target"] = target
        total[f"predicted_{unit.key}"] = round(unit.raw(cost.cost), 3)
        total[f"predicted_{unit.key}_low"] = round(unit.raw(low), 3)
        total[f"predicted_{unit.key}_high"] = round(unit.raw(high), 3)
        total[f"predicted_error_{unit.name}"] = round(unit.raw(cost.error), 3)
        total[f"predicted_overhead_{unit.name}"] = round(unit.raw(cost.overhead_cost), 3)
        total["roofline_share"] = round(cost.roofline_share, 4)
        total["rooflines"] = [asdict(roofline) for roofline in cost.rooflines()]
        total["measured"] = None if costs["filled"] is None else asdict(costs["filled"])
        total |= costs["footprint"]
    return total


def _figures(estimate: Estimate, unit: Unit) -> dict[str, float]:
    """An estimate and its error under the keys of the unit: `latency_us`, `error_us`."""
    return {
        unit.key: round(unit.raw(estimate.cost), 3),
        f"error_{unit.name}": round(unit.raw(estimate.error), 3),
    }


def totals(layers: tuple[Layer, ...]) -> dict[str, int]:
    """Sums over the layers, and the largest activation."""
    return {
        "macs": sum(layer.macs for layer in layers),
        "params": sum(layer.params for layer in layers),
        "weight_bytes": sum(layer.weight_bytes for layer in layers),
        "largest_activation_bytes": max((layer.activation_bytes for layer in layers), default=0),
    }


def _mark(move: Move | None) -> str:
    if move is None or move.depends_on:
        return "" if move is None else "data"
    return "yes" if move.possible else "no"


def _show(layers: tuple[Layer, ...], costs: dict[str, Any], why: bool) -> None:
    from mcc.report.formatting import bytes_words, count_words

    headers = ["layer", "operator", "shape", "MACs", "params", "prune", "sparse", "low-rank", "int8"]
    if costs:
        headers += ["cost", "share", "source"]
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
                costs["unit"].words(estimate.cost),
                f"{100 * estimate.cost / costs['cost'].cost:.1f} %",
                _source(estimate),
            ]  # fmt: skip
        rows.append(row)
    print_table(headers, rows, right=["shape", "MACs", "params", "cost", "share"])
    sums = totals(layers)
    weights, largest = bytes_words(sums["weight_bytes"]), bytes_words(sums["largest_activation_bytes"])
    counts = f"{count_words(sums['macs'])} MACs, {count_words(sums['params'])} parameters"
    click.echo(f"\n{counts}, weights {weights}, largest activation {largest}")
    if costs:
        for sentence in cost_sentences(costs["cost"], costs["filled"], costs["unit"]):
            click.echo(sentence)
        bytes_of = costs["footprint"]
        if bytes_of:
            click.echo(f"file {bytes_of['file_bytes']:,} bytes")
        if "predicted_peak_memory_bytes" in bytes_of:
            click.echo(f"peak memory about {bytes_words(bytes_of['predicted_peak_memory_bytes'])}")
        _show_forms(costs["forms"], costs["unit"])
    if why:
        click.echo("")
        print_table(["layer", "cannot be", "because it"], _reasons(layers))


def cost_sentences(cost: GraphCost, filled: Filled | None, unit: Unit) -> list[str]:
    """The predicted cost with its interval, and its sources."""
    from mcc.cost_sum import COVERAGE

    low, high = cost.interval
    found = [
        f"predicted {unit.words(cost.cost)}, between {unit.words(low)} and {unit.words(high)} with "
        f"{COVERAGE:.0%} confidence; {unit.words(cost.overhead_cost)} of it outside of layers"
    ]
    if cost.rooflines():
        kinds = "; ".join(
            f"{roofline.kind} ({roofline.kernels} layers, {roofline.share:.0%})"
            for roofline in cost.rooflines()
        )
        found.append(f"{cost.roofline_share:.0%} of it is estimated by a roofline: {kinds}")
    if filled is None:
        return found
    if filled.measured:
        found.append(f"{filled.measured} operators were measured for it, in {filled.seconds:.0f} s")
    if filled.left:
        found.append(f"{filled.left} operators were not measured for lack of time: run mcc calibrate")
    if filled.why_not:
        found.append(f"no more operators could be measured: {filled.why_not}")
    return [*found, *(f"cannot be measured alone: {kernel}: {reason}" for kernel, reason in filled.failed)]


def _show_forms(forms: dict[str, Mapping[str, Estimate]], unit: Unit) -> None:
    """The predicted costs of each layer in each form."""
    kinds = list(dict.fromkeys(name.split()[0] for each in forms.values() for name in each))
    rows: list[list[str]] = []
    for node, each in forms.items():
        cells = {name.split()[0]: _form(name, form, unit) for name, form in each.items()}
        rows.append([node, *[cells.get(kind, "–") for kind in kinds]])
    click.echo("")
    print_table(["layer", *kinds], rows, title="cost of each layer in each form")


def _form(name: str, form: Estimate, unit: Unit) -> str:
    detail = name.partition(" ")[2]
    return f"{unit.words(form.cost)} {_source(form)}" + (f" ({detail})" if detail else "")


def _source(estimate: Estimate) -> str:
    """Source of a figure, with its standard deviation if it was not measured itself."""
    if estimate.source == "measured":
        return estimate.source
    return f"{estimate.source} ± {100 * estimate.error / max(estimate.cost, 1e-9):.0f} %"


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
        rows += [
            (layer.node, f"{name}, perhaps", f"depends on {move.depends_on} (--data)")
            for name, move in moves.items()
            if move and move.depends_on
        ]
    return rows


def views_of(file: str) -> list[NodeView] | None:
    """The operators of a lowered file, for display; None for a MODEL."""
    if file.endswith(TFLITE):
        from mcc.report.tflite_views import view_tflite

        return view_tflite(file)
    if file.endswith(ORT):
        from mcc.report.ort_views import view_ort

        return view_ort(file)
    if file.endswith(ONNX):
        from mcc.report.onnx_views import view_integer_onnx

        return view_integer_onnx(file)
    return None


def _show_file(file: str, views: list[NodeView], settings: Settings) -> None:
    from mcc.report.formatting import bytes_words, name_words

    size = Path(file).stat().st_size
    operators = [view for view in views if view.op != "input"]
    if settings.json:
        return print_json(
            {
                "model": file,
                "size_bytes": size,
                "operators": _counts(file, operators),
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
        [name_words(view.name), view.op, view.type, view.quantised or "float",
         " ".join(f"{c.role}[{','.join(map(str, c.shape))}] {c.zeros:.0%} zeros" for c in view.constants)]
        for view in views
    ]  # fmt: skip
    print_table(["layer", "operator", "value", "precision", "constants"], rows)
    click.echo(f"\n{sum(_counts(file, operators).values())} operators, {bytes_words(size)}")
    if file.endswith(TFLITE):
        click.echo("Values of four axes are shown channels first, as in graphs; the file stores them last.")
    return None


def _counts(file: str, operators: list[NodeView]) -> dict[str, int]:
    """Number of occurrences of each operator, by its own name in a .tflite file."""
    if file.endswith(TFLITE):
        from mcc.lower.tflite.reader import read_tflite

        return dict(read_tflite(file).op_counts())
    return dict(Counter(view.op for view in operators))
