"""The command `mcc lower`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mcc.cli.models import (
    deployment_form,
    load_model,
    model_options,
    stated_labels,
    stated_normalisation,
)
from mcc.cli.noise_check import came_as_integers, check_integers, noise_option
from mcc.cli.output import print_json
from mcc.cli.pictures import picture_options
from mcc.cli.prepared import stated_preprocessing
from mcc.cli.settings import Settings, common_options
from mcc.errors import UsageError
from mcc.ir.first_look import check_model, check_specs
from mcc.ir.outputs import check_output, files_in
from mcc.lower.formats import Format, format_of, formats, get_format

if TYPE_CHECKING:
    from torch import Tensor

    from mcc.ir.graph import Graph


@click.command(short_help="Write a model in a mobile format.")
@click.argument("model")
@click.option("--to", type=click.Choice(list(formats())), required=True, help="The format.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Output file; default: the model's name with the format's suffix.")  # fmt: skip
@click.option("--via", type=click.Choice(["auto", "direct", "export", "tensorflow"]),
              help="tflite: direct (default), or tensorflow's converter; pte: auto (default), direct, or "
              "export, by ExecuTorch's own exporter.")  # fmt: skip
@click.option("--opset", type=click.IntRange(1), metavar="N", help="onnx, ort: version of the operators.")
@click.option("--processor", type=click.Choice(["arm", "amd64"]),
              help="ort: processor that the file is prepared for; default: arm.")  # fmt: skip
@click.option("--fp16", is_flag=True, help="tflite: float weights in half precision.")
@click.option("--data", metavar="DATA", help="Images to check an integer model on; default: random inputs.")
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
    """Write a model in a mobile format: batch norms folded, activations fused, quantisation unchanged.

    The preprocessing that the model states, or the options give, is stored in the file, and its class names.
    A .tflite file keeps the inputs and outputs of the .tflite file that it came from.

    A quantised model is compared with the float network of its weights, on calibration images of DATA or else
    on random inputs; it is not written if its signal is lost.
    """
    check_model(model, weights)
    check_specs(data)
    from mcc.files import write_bytes
    from mcc.quant.simulator import flavour_of

    named = format_of(output) if output is not None else None
    if to == "onnx" and named is not None and named.name == "ort":
        to = named.name  # onnxruntime confuses the two, and refuses files whose suffix is wrong
    form = get_format(to)
    options = _options(form, via=via, opset=opset, processor=processor, fp16=fp16)
    loaded = load_model(model, input_shape, weights)
    path = output or Path(f"{loaded.name}{form.suffix}")
    check_output(path, files_in(model, weights), named=output is not None, force=force)
    graph = deployment_form(loaded.graph)
    stated = stated_preprocessing(model, loaded)
    noise = check_integers(
        graph, _images(graph, data, stated.preprocessing if stated else None, settings),
        allow_noise=allow_noise or came_as_integers(model, loaded.graph),
        settings=settings, flavour=flavour_of(form.suffix),
    )  # fmt: skip
    described = stated_normalisation(stated.preprocessing if stated else None) | stated_labels(model, loaded)
    raw = form.lower(graph, **described, **options)
    write_bytes(path, raw)
    if settings.json:
        print_json({"file": str(path), "format": to, "size_bytes": len(raw), "noise": noise})
    elif not settings.quiet:
        from mcc.report.formatting import bytes_words

        click.echo(f"{path}: {bytes_words(len(raw))}")


def _images(
    graph: Graph, data: str | None, preprocessing: Any, settings: Settings
) -> tuple[Tensor, ...] | None:
    """Calibration images of the data for a check; None if no data is given."""
    if data is None:
        return None
    from mcc.data import load_data
    from mcc.ir.feed import feed_of, tensors_of
    from mcc.ir.graph import taken_by
    from mcc.quant.noise import IMAGES

    module = load_data(data, seed=settings.seed, input_shape=taken_by(graph), preprocessing=preprocessing)
    return tensors_of(feed_of(next(iter(module.batches("calibration", IMAGES))).inputs))


def _options(form: Format, **given: Any) -> dict[str, Any]:
    """Options of the format's writer. Raises UsageError for an option of another format."""
    asked = {name: value for name, value in given.items() if value not in (None, False)}
    for name in asked:
        if name not in form.options:
            raise UsageError(f"{form.name} files have no such option", where=f"--{name}")
    if form.name == "tflite" and asked.get("via", "direct") == "direct":
        asked["weights"] = "kept"
    if asked.pop("fp16", False):
        asked["weights"] = "float16"
    if "via" in asked and asked["via"] not in form.routes:
        ways = " or ".join(form.routes)
        raise UsageError(f"no such way to {form.name}", where="--via", hint=f"choose {ways}")
    return asked
