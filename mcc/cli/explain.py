"""The command `mcc explain`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mcc.cli.models import deployment_form, get_target, load_model, model_options
from mcc.cli.output import print_json, print_table
from mcc.cli.settings import Settings, common_options
from mcc.errors import DataError, UsageError
from mcc.ir.json_file import read_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mcc.compress.explanation import Alternative, Choice


@click.command(short_help="Show the alternatives for one layer, and why a plan took one.")
@click.argument("node")
@click.argument("where")
@click.option("--target", metavar="T", help="Target for a MODEL; see mcc targets.")
@model_options
@common_options
def explain(
    node: str, where: str, target: str | None, input_shape: tuple[int, ...] | None, weights: Path | None,
    settings: Settings,
) -> None:  # fmt: skip
    """Show the alternatives for the layer NODE, with cost and added loss, and why a plan took one.

    NODE is a name from mcc inspect, or the layer's path in the PyTorch model (blocks.3.body.0).

    WHERE is the folder or the plan.json of mcc compress, the file of mcc plan, or a MODEL with --target: then
    the costs are from the table of mcc calibrate, and losses are unknown.
    """
    plan = plan_file(where)
    if plan is not None:
        choice = planned_choice(node, plan)
    elif target is None:
        raise UsageError(
            "is neither a folder of mcc compress nor a plan",
            where=where,
            hint="or give a MODEL with --target",
        )
    else:
        choice = model_choice(node, where, target, input_shape, weights)
    if settings.json:
        return print_json(choice.to_dict())
    return show(choice)


def plan_file(where: str) -> Path | None:
    """Path of the plan; None if WHERE is something else. Raises UsageError for a folder without a plan."""
    path = Path(where)
    if path.is_dir():
        if not (path / "plan.json").exists():
            raise UsageError(
                "holds no plan.json", where=where, hint="mcc compress writes one when it ends well"
            )
        return path / "plan.json"
    return path if path.suffix == ".json" else None


def planned_choice(node: str, path: Path) -> Choice:
    """The alternatives of a layer in a plan. Raises DataError if the plan has none at all."""
    hint = "give the plan.json of mcc compress, or the file of mcc plan"
    raw: Any = read_json(path, what="plan", hint=hint)
    from mcc.compress.explanation import Choice, unknown
    from mcc.frontend.values import canonical_name

    found: Any = raw.get("alternatives") if isinstance(raw, dict) else None  # pyright: ignore[reportUnknownMemberType]
    if not isinstance(found, dict):
        raise DataError("holds no alternatives", where=str(path), hint=hint)
    entry: Any = found.get(canonical_name(node))  # pyright: ignore[reportUnknownMemberType]
    if entry is None:
        raise unknown(node, list(found))
    return Choice.from_dict(entry, str(path))


def model_choice(
    node: str, model: str, target: str, input_shape: tuple[int, ...] | None, weights: Path | None
) -> Choice:
    """The alternatives of a layer of a model, by the table of measured kernels."""
    from mcc.compress.explanation import explainer_of
    from mcc.frontend.values import canonical_name

    graph = deployment_form(load_model(model, input_shape, weights).graph)
    return explainer_of(graph, get_target(target)).choice(canonical_name(node))


def show(choice: Choice) -> None:
    """Print both tables."""
    click.echo(f"{choice.node}, {choice.kind}\n")
    click.echo("Ways to run it, at the planned widths:")
    _table(choice.forms)
    if choice.widths:
        click.echo(f"\nWidths of its output (group {choice.group}; for all layers that read or produce it):")
        _table(choice.widths)
    days = [one.measured_on for one in (*choice.forms, *choice.widths) if one.measured_on]
    if days:
        from mcc.compress.bench import period_words

        said = period_words([day for period in days for day in period.split(" to ")])
        click.echo(f"\nThe measurements were taken on {said}.")
    if any(one.loss is None for one in choice.forms):
        click.echo("\nA dash: the loss of this layer alone was not measured.")


def _table(found: Sequence[Alternative]) -> None:
    from mcc.report.formatting import bytes_words

    headers = ["", "alternative", "us", "+-", "source", "size", "loss added"]
    rows = [
        ["*" if one.taken else "", one.what, f"{one.latency_us:.1f}", f"{one.error_us:.1f}", one.source,
         bytes_words(round(one.size_bytes)), "-" if one.loss is None else f"{one.loss:.4f}"]
        for one in found
    ]  # fmt: skip
    print_table(headers, rows, right=["us", "+-", "size", "loss added"])
    for one in found:  # as a column the table would be wider than a terminal
        if one.why:
            click.echo(f"{one.what}: {one.why}")
