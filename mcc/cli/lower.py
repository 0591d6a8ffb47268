"""`mcc lower`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mcc.cli.models import (
    FORMATS,
    deployment_form,
    load_model,
    lower_graph,
    model_options,
    stated_normalisation,
    stated_preprocessing,
    write_bytes,
)
from mcc.cli.noise_check import check_integers, noise_option
from mcc.cli.output import print_json
from mcc.cli.pictures import picture_options
from mcc.cli.settings import Settings, common_options
from mcc.errors import UsageError
from mcc.ir.first_look import check_model, check_specs
from mcc.ir.outputs import check_output, files_in

if TYPE_CHECKING:
    from torch import Tensor

    from mcc.ir.graph import Graph

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
@click.option(
    "--data", metavar="DATA", help="Check an integer model on these images; random inputs if left out."
)
@noise_option
@click.option("--force", is_flag=True, help="Overwrite a file that was not named with -o.")
@model_options
@picture_options
@common_options
def lower(
    model: str, to: str, output: Path | None, via: str | None, opset: int | None, processor: str | None,
    fp16: bool, data: str | None, allow_noise: bool, force: bool, input_shape: tuple[int, ...] | None,
    weights: Path | None, settings: Settings,
) -> None:  # fmt: skip
    """Write a model in a mobile format: batch norms folded, activations fused, quantisation kept as it is.

    What the model states of its pictures, or the options say, is stored in the file.

    A quantised model is held against the float network of its weights, on calibration images of DATA or else
    on random inputs; nothing is written where its signal is lost.
    """
    check_model(model, weights)
    check_specs(data)
    from mcc.quant.simulator import flavour_of

    if to == "onnx" and output is not None and output.suffix == ".ort":
        to = "ort"
    options = _options(to, via=via, opset=opset, processor=processor, fp16=fp16)
    loaded = load_model(model, input_shape, weights)
    path = output or Path(f"{loaded.name}{SUFFIXES[to]}")
    check_output(path, files_in(model, weights), named=output is not None, force=force)
    graph = deployment_form(loaded.graph)
    stated = stated_preprocessing(model, loaded)
    noise = check_integers(
        graph, _images(graph, data, stated.preprocessing if stated else None, settings),
        allow_noise=allow_noise, settings=settings, flavour=flavour_of(SUFFIXES[to]),
    )  # fmt: skip
    raw = lower_graph(graph, to, **stated_normalisation(stated.preprocessing if stated else None), **options)
    write_bytes(path, raw)
    if settings.json:
        print_json({"file": str(path), "format": to, "size_bytes": len(raw), "noise": noise})
    elif not settings.quiet:
        from mcc.report.words import bytes_words

        click.echo(f"{path}: {bytes_words(len(raw))}")


def _images(graph: Graph, data: str | None, preprocessing: Any, settings: Settings) -> tuple[Tensor] | None:
    """Calibration images of the data for a check, or None where none were named."""
    if data is None:
        return None
    import torch

    from mcc.data import load_data
    from mcc.ir.graph import inputs
    from mcc.ir.notes import shape_of
    from mcc.quant.noise import IMAGES

    shape = shape_of(inputs(graph)[0])
    module = load_data(data, seed=settings.seed, input_shape=shape, preprocessing=preprocessing)
    return (torch.from_numpy(next(iter(module.batches("calibration", IMAGES))).inputs),)


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
