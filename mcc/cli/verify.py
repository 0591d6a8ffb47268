"""The command `mcc verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mcc.cli.models import default_target, deployment_form, get_target, load_model, model_options, outputs_of
from mcc.cli.noise_check import came_as_integers, check_integers, noise_option
from mcc.cli.output import print_json
from mcc.cli.pictures import asked_pictures, judged_output, picture_options, say, say_pictures, task_option
from mcc.cli.quantities import FiniteRange
from mcc.cli.settings import Settings, common_options
from mcc.errors import UsageError, VerificationError
from mcc.ir.first_look import check_model, check_model_file, check_specs

if TYPE_CHECKING:
    from mcc.data.stated import Stated
    from mcc.frontend.load import LoadedModel
    from mcc.ir.graph import Graph
    from mcc.report.compare import Comparison

INPUTS = 32


@click.command(short_help="Compare a lowered file's numbers with its model's.")
@click.argument("model")
@click.argument("file", type=click.Path(dir_okay=False, exists=True, path_type=Path))
@click.option("--target", metavar="T", help="Target that runs FILE; default: the host runtime of its kind.")
@click.option("--data", metavar="DATA", help="Images to compare on; default: random inputs.")
@task_option
@click.option("--count", type=click.IntRange(1), default=INPUTS, show_default=True, metavar="N",
              help="Number of inputs.")  # fmt: skip
@click.option("--tolerance", type=FiniteRange(0), metavar="SHARE",
              help="Largest accepted difference, as a share of the output range.")  # fmt: skip
@noise_option
@model_options
@picture_options
@common_options
def verify(
    model: str, file: Path, target: str | None, data: str | None, task: str | None, count: int,
    tolerance: float | None, allow_noise: bool, input_shape: tuple[int, ...] | None, weights: Path | None,
    settings: Settings,
) -> int:  # fmt: skip
    """Run MODEL here and FILE on the target, on the same inputs, and compare their outputs.

    A float model must agree to 1e-4 of the output range; a quantised graph is run by the integer simulator,
    and FILE must give the same class on 99.5 % of the inputs, or the same result as TASK defines it. A float
    FILE is
    also compared with the original MODEL: the module in PyTorch, the .onnx file in onnxruntime, given one
        input at
    a time like FILE. If the target has reference kernels, a float FILE must agree with these, too; if it
    reports which kernels ran, there must be as many sparse kernels as FILE has sparse weights. Exit status 1
    if something differs.

    This does not check the quantisation itself: a quantised MODEL is also compared with the float network of
        its
    weights, as by mcc opt and mcc lower, on the images of DATA or else on random inputs.
    """
    check_model_file(file, raising=UsageError)
    check_model(model, weights)
    check_specs(data, task)
    import numpy as np
    import torch

    from mcc.data.bound import placed_task
    from mcc.frontend.finite import not_finite
    from mcc.ir.graph import calls, outputs
    from mcc.ir.notes import shape_of
    from mcc.quant.simulator import flavour_of
    from mcc.report.compare import compare_outputs
    from mcc.report.doubt import saturation_warning, stated_by_model
    from mcc.report.kernels import against_reference, sparse_kernels
    from mcc.report.measure import run_file

    found = get_target(target or default_target(file))
    doubt = saturation_warning(found, file)
    if doubt is not None:
        say(f"Warning: {doubt}")
    loaded = load_model(model, input_shape, weights)
    graph = deployment_form(loaded.graph)
    integer = bool(calls(graph, "fake_quantize"))
    values = _inputs(graph, data, stated_by_model(model, loaded.preprocessing), count, settings)
    noise = check_integers(
        graph, None if data is None else [torch.from_numpy(value) for value in values],
        allow_noise=allow_noise or came_as_integers(model, loaded.graph),
        settings=settings, flavour=flavour_of(file.suffix),
    )  # fmt: skip
    reference = _reference(graph, values, integer, file)
    if not all(np.isfinite(value).all() for value in reference):
        raise not_finite(graph, list(map(torch.from_numpy, values)), "these inputs")
    made = run_file(found, file, values, [shape_of(node) for node in outputs(graph)])
    place = _judged(model, loaded)
    agree = None if task is None else placed_task(task, outputs_of(loaded), place).agreement
    result = compare_outputs(made, reference, integer=integer, tolerance=tolerance, judged=place, agree=agree)
    shapes = [shape_of(node) for node in outputs(graph)]
    original = None if integer else _against_original(loaded, values, made, tolerance)
    slow = None if integer else against_reference(found, file, values, shapes, made)
    sparse = sparse_kernels(found, file)
    passed = (
        result.passed
        and (original is None or original.passed)
        and (slow is None or slow.passed)
        and (sparse is None or sparse.passed)
    )
    if settings.json:
        more = {"original": original, "reference_kernels": slow, "sparse_kernels": sparse}
        figures = {name: None if value is None else value.to_dict() for name, value in more.items()}
        print_json(
            {"model": model, "file": str(file), "target": found.spec, **result.to_dict(), **figures,
             "noise": noise, "passed": passed}
        )  # fmt: skip
    else:
        _show(file, found.spec, result, passed, "same class" if task is None else "says the same")
        if original is not None:
            click.echo(f"  original model      {_verdict(original)}")
        if slow is not None:
            worst = "not finite" if slow.worst is None else f"{slow.worst:.2e} of the output range"
            click.echo(
                f"  reference kernels   {'agree' if slow.passed else 'DIFFER'}, largest difference {worst}"
            )
        if sparse is not None:
            click.echo(
                f"  sparse kernels      {sparse.words}{'' if sparse.passed else ': FEWER THAN EXPECTED'}"
            )
    return 0 if passed else 1


def _judged(model: str, loaded: LoadedModel) -> int:
    """The index of the output whose class is compared: by --judge or the model, else by name."""
    from mcc.data.outputs import named_output, outstanding
    from mcc.report.file_metadata import describe

    found = outputs_of(loaded)
    asked = judged_output() or (describe(model).output if Path(model).is_file() else None)
    return outstanding(found) if asked is None else named_output(found, asked)


def _inputs(
    graph: Graph, data: str | None, stated: Stated | None, count: int, settings: Settings
) -> list[Any]:
    """Inputs [count, ...] in the graph's axes: images of the validation split, or normal random numbers."""
    import numpy as np
    import torch

    from mcc.frontend.finite import in_domain
    from mcc.ir.graph import inputs
    from mcc.ir.notes import shape_of

    shapes = [shape_of(node) for node in inputs(graph)]
    if data is not None:
        from mcc.data.stated import load_stated
        from mcc.ir.feed import arrays_of
        from mcc.ir.graph import taken_by

        module, used = load_stated(
            data, seed=settings.seed, input_shape=taken_by(graph), stated=stated, asked=asked_pictures()
        )
        say_pictures(used)
        batch = next(module.batches("validation", count))
        return list(arrays_of(batch.inputs))
    generator = np.random.default_rng(settings.seed)
    drawn = [generator.standard_normal((count, *shape[1:])).astype(np.float32) for shape in shapes]
    return [value.numpy() for value in in_domain(graph, [torch.from_numpy(value) for value in drawn])]


def _reference(graph: Graph, values: list[Any], integer: bool, file: Path) -> list[Any]:
    """Outputs of the graph in torch, or of the integer simulator with the rounding of the file's runtime."""
    import torch

    tensors = [torch.from_numpy(value) for value in values]
    if integer:
        from mcc.quant.simulator import flavour_of, simulate

        results = simulate(graph, tensors, flavour=flavour_of(file.suffix))
    else:
        from mcc.ir.graph import run

        results = run(graph, *tensors)
    return [result.numpy() for result in results]


def _against_original(
    loaded: LoadedModel, values: list[Any], made: list[Any], tolerance: float | None
) -> Comparison | None:
    """Compare the file with the original model, one input at a time; None if there is no original.

    A model without support for single inputs cannot be run: a warning was given when it was read.
    """
    import numpy as np
    import torch

    from mcc.report.compare import compare_outputs

    if loaded.original is None:
        return None
    collected: list[list[Any]] = []
    try:
        for index in range(len(values[0])):
            one = [torch.from_numpy(value[index : index + 1].copy()) for value in values]
            collected.append([result.numpy() for result in loaded.original(one)])
    except (UsageError, RuntimeError):
        return None
    # A model may drop the batch axis of a single sample; the values are the same.
    wanted = [np.stack(list(results)) for results in zip(*collected, strict=True)]
    if [value.size for value in wanted] != [value.size for value in made]:
        raise VerificationError(
            f"returns {_shapes(made)}, and the original model {_shapes(wanted)}", where="file"
        )
    shaped = [value.reshape(result.shape) for value, result in zip(wanted, made, strict=True)]
    return compare_outputs(made, shaped, integer=False, tolerance=tolerance)


def _shapes(values: list[Any]) -> str:
    return ", ".join(str(value.shape) for value in values)


def _verdict(found: Comparison) -> str:
    worst = "not finite" if found.worst is None else f"{found.worst:.2e} of the output range"
    return f"{'agrees' if found.passed else 'DIFFERS'}, largest difference {worst}"


def _show(file: Path, target: str, result: Comparison, passed: bool, agrees: str) -> None:
    worst = "not finite" if result.worst is None else f"{result.worst:.2e} of the output range"
    click.echo(f"{file} on {target}: {'agrees' if passed else 'DIFFERS'}")
    click.echo(f"  inputs              {result.inputs}")
    click.echo(f"  largest difference  {worst}")
    click.echo(f"  equal values        {100 * result.equal:.2f} %")
    if result.sqnr_db is not None:
        click.echo(f"  signal to noise     {result.sqnr_db:.1f} dB")
    if result.agreement is not None:
        click.echo(f"  {agrees:<19} {100 * result.agreement:.2f} %")
    click.echo(f"  criterion           {result.rule}")
