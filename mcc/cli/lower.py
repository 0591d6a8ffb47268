"""`mcc lower`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
from mcc.errors import UsageError
from mcc.ir.outputs import check_output, files_in

SUFFIXES = {**FORMATS, "ort": ".ort"}
ROUTES = {"tflite": ("direct", "tensorflow"), "pte": ("auto", "direct", "export")}
"""Ways to a format, the usual one first."""

OWNERS = {"opset": ("onnx", "ort"), "processor": ("ort",), "fp16": ("tflite",), "via": tuple(ROUTES)}
"""The formats that an option belongs to."""


@click.command(short_help="Write a model in a mobile format.")
@click.argument("model")
@click.option("--to", type=click.Choice(list(SUFFIXES)), required=True, help="The format.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Where to write; the model's name with the format's suffix if left out.")  # fmt: skip
@click.option("--via", type=click.Choice(["auto", "direct", "export", "tensorflow"]),
              help="tflite: direct (usual), or tensorflow's converter; pte: auto (usual), direct, or "
              "export, by ExecuTorch's own exporter.")  # fmt: skip
@click.option("--opset", type=click.IntRange(1), metavar="N", help="onnx, ort: version of the operators.")
@click.option("--processor", type=click.Choice(["arm", "amd64"]),
              help="ort: whose kernels the file is prepared for; arm if left out.")  # fmt: skip
@click.option("--fp16", is_flag=True, help="tflite: float weights in half precision.")
@click.option("--force", is_flag=True, help="Overwrite a file that was not named with -o.")
@model_options
@common_options
def lower(
    model: str, to: str, output: Path | None, via: str | None, opset: int | None, processor: str | None,
    fp16: bool, force: bool, input_shape: tuple[int, ...] | None, weights: Path | None, settings: Settings,
) -> None:  # fmt: skip
    """Write a model in a mobile format: batch norms folded, activations fused, quantisation kept as it is."""
    if to == "onnx" and output is not None and output.suffix == ".ort":
        to = "ort"
    options = _options(to, via=via, opset=opset, processor=processor, fp16=fp16)
    loaded = load_model(model, input_shape, weights)
    path = output or Path(f"{loaded.name}{SUFFIXES[to]}")
    check_output(path, files_in(model, weights), named=output is not None, force=force)
    graph = deployment_form(loaded.graph)
    raw = lower_graph(graph, to, **stated_normalisation(loaded.preprocessing), **options)
    write_bytes(path, raw)
    if settings.json:
        print_json({"file": str(path), "format": to, "size_bytes": len(raw)})
    elif not settings.quiet:
        from mcc.report.words import bytes_words

        click.echo(f"{path}: {bytes_words(len(raw))}")


def _options(to: str, **given: Any) -> dict[str, Any]:
    """Options of the format's writer. Raises UsageError for one that belongs to another format."""
    asked = {name: value for name, value in given.items() if value not in (None, False)}
    for name in asked:
        if to not in OWNERS[name]:
            raise UsageError(f"{to} files have no such option", where=f"--{name}")
    if asked.pop("fp16", False):
        asked["weights"] = "float16"
    if "via" in asked and asked["via"] not in ROUTES[to]:
        raise UsageError(f"no such way to {to}", where="--via", hint=f"choose {' or '.join(ROUTES[to])}")
    return asked
