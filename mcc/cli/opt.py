"""The command `mcc opt`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mcc.cli.models import load_model, model_options
from mcc.cli.noise_check import came_as_integers, check_integers, noise_option
from mcc.cli.output import print_json, print_table
from mcc.cli.pictures import judged_output, picture_options
from mcc.cli.prepared import calibration_images, stated_preprocessing
from mcc.cli.settings import Settings, common_options
from mcc.errors import UsageError
from mcc.ir.first_look import check_model, check_specs

if TYPE_CHECKING:
    from torch import Tensor

    from mcc.data.stated import Stated
    from mcc.ir.graph import Graph
    from mcc.pass_api import PassContext
    from mcc.pipeline import StepReport


@click.command(short_help="Run passes on a graph, verified one by one.")
@click.argument("model")
@click.option("-p", "--pipeline", "text", metavar="PIPELINE",
              help="Passes, as `fold-batch-norm,prune-channels{keep=0.75}`, or a preset.")  # fmt: skip
@click.option("-O", "level", type=click.Choice(["0", "1", "2", "3"]), help="A preset, as -O1.")
@click.option("--print-after", type=click.Choice(["all", "changed"]), help="Print the graph after passes.")
@click.option(
    "--verify/--no-verify", default=True, show_default=True, help="Verify each pass against its exact twin."
)
@click.option("--bisect-limit", type=click.IntRange(0), metavar="N", help="Run the first N passes only.")
@click.option("--timing", is_flag=True, help="Show the duration of each pass.")
@click.option("--stats", is_flag=True, help="Show the statistics of each pass, and what it skipped.")
@click.option("--load", "files", multiple=True, type=click.Path(dir_okay=False, path_type=Path),
              metavar="FILE", help="Python file with a pass of your own.")  # fmt: skip
@click.option("--data", metavar="DATA", help="Calibration data, for passes that need it.")
@click.option("--reproducer", type=click.Path(file_okay=False, path_type=Path), default="mcc-reproducer",
              metavar="DIR", show_default=True, help="Folder for the input of a failing pass.")  # fmt: skip
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Write FILE.mcc and its constants; without it the text form goes to stdout.")  # fmt: skip
@noise_option
@click.option("--force", is_flag=True, help="Overwrite existing constants of a new FILE.mcc.")
@model_options
@picture_options
@common_options
def opt(
    model: str, text: str | None, level: str | None, print_after: str | None, verify: bool,
    bisect_limit: int | None, timing: bool, stats: bool, files: tuple[Path, ...], data: str | None,
    reproducer: Path, output: Path | None, allow_noise: bool, force: bool,
    input_shape: tuple[int, ...] | None, weights: Path | None, settings: Settings,
) -> None:  # fmt: skip
    """Run passes on a graph, verified one by one, and write the result.

    If a pass fails, the graph before it is kept, and the error message contains a command that reproduces the
    failure. A quantised graph is compared with the float network of its weights, on calibration images of
    DATA or else on random inputs; it is not written if its signal is lost.
    """
    from mcc.ir.outputs import check_output, files_in

    check_model(model, weights)
    check_specs(data, *(f"{path}:" for path in files))
    from mcc.ir.storage import save_graph
    from mcc.ir.text import print_graph
    from mcc.pass_api import load_passes
    from mcc.pipeline import Pipeline, RunOptions
    from mcc.report.doubt import stated_by_model

    if (text is None) == (level is None):
        raise UsageError("needs one of -p PIPELINE and -O LEVEL", where="mcc opt")
    if output is not None and output.suffix != ".mcc":
        raise UsageError("must end in .mcc", where=str(output), hint="mcc lower writes the other formats")
    if output is not None:
        check_output(output, files_in(model, weights, data, *files), named=True, force=force)
    pipeline = Pipeline.parse(text if text is not None else f"-O{level}", load_passes(files))
    loaded = load_model(model, input_shape, weights)
    graph, stated = loaded.graph, stated_preprocessing(model, loaded)
    context = _context(graph, data, stated_by_model(model, loaded.preprocessing), settings)

    def after(report: StepReport, now: Graph) -> None:
        if print_after == "all" or (print_after == "changed" and report.changed):
            click.echo(f"# after {report.step}\n{print_graph(now)}", err=settings.json)

    repeat = () if data is None else ("--data", data)
    options = RunOptions(verify, bisect_limit, reproducer, after, repeat)
    result = pipeline.run(graph, context, options)
    noise = check_integers(
        result.graph,
        _first(context),
        allow_noise=allow_noise or came_as_integers(model, loaded.graph, result.graph),
        settings=settings,
    )
    if output is not None:
        save_graph(result.graph, output, _said(model, stated))
    if settings.json:
        steps = [_step_json(report) for report in result.reports]
        return print_json(
            {
                "pipeline": str(pipeline),
                "steps": steps,
                "output": str(output) if output else None,
                "noise": noise,
            }
        )
    _show(result.reports, timing, stats)
    if output is None and print_after is None and not (timing or stats):
        click.echo(print_graph(result.graph), nl=False)
    return None


def _first(context: PassContext) -> tuple[Tensor, ...] | None:
    """The first calibration batch, one tensor for each input."""
    from mcc.ir.feed import tensors_of

    return tensors_of(context.calibration[0]) if context.calibration else None


def _said(model: str, stated: Stated | None) -> dict[str, Any]:
    """Metadata of the output file: the preprocessing, the class names, and the judged output."""
    from mcc.report.file_metadata import Description, describe

    described = describe(model) if Path(model).is_file() else Description()
    said: dict[str, Any] = {} if stated is None else {"preprocessing": stated.preprocessing.to_json()}
    if described.labels is not None:
        said["labels"] = list(described.labels)
    place = judged_output() or described.output
    return said if place is None else {**said, "judged": place}


def _context(graph: Graph, data: str | None, stated: Stated | None, settings: Settings) -> PassContext:
    from mcc.pass_api import PassContext

    if data is None:
        return PassContext(seed=settings.seed)
    return PassContext(calibration_images(graph, data, stated, settings), settings.seed)


def _step_json(report: StepReport) -> dict[str, Any]:
    return {
        "pass": report.step,
        "changed": report.changed,
        "seconds": round(report.seconds, 6),
        "verify_seconds": round(report.verify_seconds, 6),
        "counts": dict(report.counts),
        "refusals": [{"node": node, "reason": reason} for node, reason in report.refusals],
        "worst_difference": report.worst,
        "measured": [{"node": n, "what": what, "value": value} for n, what, value in report.measured],
    }


def _show(reports: tuple[StepReport, ...], timing: bool, stats: bool) -> None:
    if timing:
        rows = [
            [r.step, "yes" if r.changed else "no", f"{1e3 * r.seconds:.1f}", f"{1e3 * r.verify_seconds:.1f}"]
            for r in reports
        ]
        print_table(["pass", "changed", "ms", "verify ms"], rows, right=["ms", "verify ms"])
    if stats:
        counted = [[r.step, what, number] for r in reports for what, number in r.counts.items()]
        print_table(["pass", "counted", "number"], counted, right=["number"])
        refused = [[r.step, node, reason] for r in reports for node, reason in r.refusals]
        if refused:
            print_table(["pass", "left alone", "reason"], refused)
        stated = [[r.step, node, what, f"{value:.4g}"] for r in reports for node, what, value in r.measured]
        if stated:
            print_table(["pass", "node", "stated error", "value"], stated, right=["value"])
