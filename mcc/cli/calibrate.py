"""`mcc calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mcc.cli.models import deployment_form, get_target, load_model, model_options
from mcc.cli.output import print_json
from mcc.cli.progress import progress_for
from mcc.cli.quantities import DURATION
from mcc.cli.settings import Settings, common_options

BUDGET_S = 300.0


if TYPE_CHECKING:
    from mcc.calibrate.campaign import CalibrationReport


@click.command(short_help="Measure the operators that the cost model rests on.")
@click.option("--target", required=True, metavar="T", help="Where to measure; see mcc targets.")
@click.option("--model", metavar="MODEL", help="Measure the operators of this model, and narrower ones.")
@click.option("--budget", type=DURATION, default=BUDGET_S, metavar="TIME",
              help="How long at most, as 5min.  [default: 5min]")  # fmt: skip
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, metavar="N")
@model_options
@common_options
def calibrate(
    target: str, model: str | None, budget: float, threads: int, input_shape: tuple[int, ...] | None,
    weights: Path | None, settings: Settings,
) -> None:  # fmt: skip
    """Measure the operators that the cost model rests on; what was measured before is kept.

    Ctrl-C ends it at any time: every row is stored when it is measured.
    """
    from mcc.calibrate import calibrate as measure

    graph = None
    if model is not None:
        graph = deployment_form(load_model(model, input_shape, weights).graph)
    with progress_for(settings) as progress:
        result = measure(
            get_target(target), graph, budget_s=budget, threads=threads, progress=progress, seed=settings.seed
        )
    if settings.json:
        return print_json(result.to_dict())
    return _show(result, target)


def _show(result: CalibrationReport, target: str) -> None:
    click.echo(
        f"{result.measured} operators measured, {result.known} known before, in {result.seconds:.0f} s"
    )
    if result.left:
        click.echo(f"{result.left} operators are left: run it again, or give a longer --budget")
    for kernel, reason in result.failed:
        click.echo(f"cannot be measured: {kernel}: {reason}")
    if result.stale:
        rows = sum(result.stale.values())
        click.echo(f"{rows} rows of {target} belong to another version or device, and are not used")
    click.echo(f"table: {result.path}")
