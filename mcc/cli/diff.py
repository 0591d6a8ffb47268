"""The command `mcc diff`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mcc.cli.inspect import ORT, TFLITE, views_of
from mcc.cli.models import current_cut, load_model, model_options
from mcc.cli.output import print_json
from mcc.cli.settings import Settings, common_options
from mcc.errors import UnsupportedError
from mcc.ir.first_look import check_model

if TYPE_CHECKING:
    from mcc.ir.diff import GraphDiff, NodeView


@click.command(short_help="Compare two graphs: added, removed, reshaped, requantised.")
@click.argument("a")
@click.argument("b")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Also write the two side by side as one page.")  # fmt: skip
@click.option("--all", "all_nodes", is_flag=True, help="Show unchanged nodes, too.")
@model_options
@common_options
def diff(
    a: str, b: str, html: Path | None, all_nodes: bool, input_shape: tuple[int, ...] | None,
    weights: Path | None, settings: Settings,
) -> None:  # fmt: skip
    """Compare two graphs of any format that mcc reads: nodes added, removed, reshaped, requantised.

    Nodes are matched by name, then by the nodes of the captured graph that both come from.
    """
    from mcc.ir.outputs import check_output, files_in

    check_model(a, weights)
    check_model(b)
    from mcc.ir.diff import diff_views

    if html is not None:
        check_output(html, files_in(a, b, weights), named=True)
    graphs = [_is_graph(a, b), _is_graph(b, a)]
    first, second = _views(a, input_shape, weights, graphs[0]), _views(b, input_shape, weights, graphs[1])
    kinds = ["" if graph else _kind(spec) for spec, graph in zip((a, b), graphs, strict=True)]
    found = diff_views(first, second, attributes=kinds[0] == kinds[1])
    if html is not None:
        from mcc.report.diff_html import write_diff_html

        write_diff_html(found, html, a, b)
    if settings.json:
        return print_json(diff_json(found, a, b, all_nodes))
    click.echo(found.to_text(all_nodes=all_nodes), nl=False)
    return None


def _kind(spec: str) -> str:
    """The format of a model's operator attributes: a lowered file's own, or the graph's."""
    return next((suffix for suffix in (TFLITE, ORT) if spec.endswith(suffix)), "")


def _is_graph(spec: str, other: str) -> bool:
    """Whether a .tflite file is read as a model.

    It is, if it ends at --cut, and beside a graph or a file that is named after one: nodes have the names of
    the nodes that they come from, tensors of another program's file have names of its own.
    """
    if not spec.endswith(TFLITE):
        return False
    if current_cut():
        return True
    if other.endswith(TFLITE):
        return _by_mcc(spec) != _by_mcc(other)
    return not other.endswith(ORT) and not _by_mcc(spec)


def _by_mcc(file: str) -> bool:
    from mcc.lower.tflite.reader import read_tflite
    from mcc.lower.tflite.writer import DESCRIPTION

    return read_tflite(file).description == DESCRIPTION


def _views(
    spec: str, input_shape: tuple[int, ...] | None, weights: Path | None, is_graph: bool
) -> list[NodeView]:
    stored = None if is_graph else views_of(spec)
    if stored is not None:
        return stored
    from mcc.ir.diff import view_graph

    try:
        return view_graph(load_model(spec, input_shape, weights).graph)
    except UnsupportedError:  # the operators of the file can still be compared
        if is_graph and not current_cut() and (found := views_of(spec)) is not None:
            return found
        raise


def diff_json(found: GraphDiff, a: str, b: str, all_nodes: bool) -> dict[str, Any]:
    """The diff as plain values; unchanged nodes only with `all_nodes`."""
    entries = [entry for entry in found.entries if all_nodes or entry.status != "same"]
    return {
        "a": a,
        "b": b,
        "equal": found.equal,
        "counts": found.counts(),
        "nodes": [
            {
                "status": entry.status,
                "a": None
                if entry.a is None
                else {"name": entry.a.name, "op": entry.a.op, "type": entry.a.type},
                "b": None
                if entry.b is None
                else {"name": entry.b.name, "op": entry.b.op, "type": entry.b.type},
                "changes": [dataclasses.asdict(change) for change in entry.changes],
            }
            for entry in entries
        ],
    }
