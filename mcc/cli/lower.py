"""`mcc lower`."""

from __future__ import annotations

from pathlib import Path

import click

from mcc.cli.models import (
    FORMATS,
    deployment_form,
    load_model,
    lower_graph,
    model_options,
    stated_normalisation,
    write_bytes,
)
from mcc.cli.output import print_json
from mcc.cli.settings import Settings, common_options


@click.command(short_help="Write a model in a mobile format.")
@click.argument("model")
@click.option("--to", type=click.Choice(list(FORMATS)), required=True, help="The format.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Where to write; the model's name with the format's suffix if left out.")  # fmt: skip
@model_options
@common_options
def lower(
    model: str, to: str, output: Path | None, input_shape: tuple[int, ...] | None, weights: Path | None,
    settings: Settings,
) -> None:  # fmt: skip
    """Write a model in a mobile format: batch norms folded, activations fused, quantisation kept as it is."""
    loaded = load_model(model, input_shape, weights)
    path = output or Path(f"{loaded.name}{FORMATS[to]}")
    graph = deployment_form(loaded.graph)
    raw = lower_graph(graph, to, **stated_normalisation(loaded.preprocessing))
    write_bytes(path, raw)
    if settings.json:
        print_json({"file": str(path), "format": to, "size_bytes": len(raw)})
    elif not settings.quiet:
        from mcc.report.words import bytes_words

        click.echo(f"{path}: {bytes_words(len(raw))}")
