"""The command `mcc calibrate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mcc.cli.models import deployment_form, get_target, load_model, model_options
from mcc.cli.output import print_json
from mcc.cli.progress import progress_for
from mcc.cli.quantities import DURATION
from mcc.cli.settings import Settings, common_options
from mcc.errors import UsageError
from mcc.files import readable_file
from mcc.ir.first_look import check_model
from mcc.ir.json_file import LARGEST_BYTES
from mcc.ir.outputs import check_output, files_in

BUDGET_S = 300.0


if TYPE_CHECKING:
    from mcc.calibrate.kernel_selection import CalibrationReport


@click.command(short_help="Measure the operators that the cost model needs.")
@click.option("--target", metavar="T", help="Target to measure on; see mcc targets.")
@click.option("--model", metavar="MODEL", help="Measure the operators of this model, also at smaller widths.")
@click.option("--from", "results", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Import the results of a kit of mcc bench, instead of measuring.")  # fmt: skip
@click.option("--budget", type=DURATION, default=BUDGET_S, metavar="TIME",
              help="Time limit, as 5min.  [default: 5min]")  # fmt: skip
@click.option(
    "--merge",
    multiple=True,
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="First import others' measurements: an exported table, or an SQLite one.",
)
@click.option(
    "--export",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the table's rows of this target as JSON, for others to merge.",
)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, metavar="N")
@model_options
@common_options
def calibrate(
    target: str | None, model: str | None, results: Path | None, budget: float, merge: tuple[Path, ...],
    export: Path | None, threads: int, input_shape: tuple[int, ...] | None, weights: Path | None,
    settings: Settings,
) -> None:  # fmt: skip
    """Measure the operators that the cost model needs; earlier measurements are kept.

    Ctrl-C is safe at any time: every row is stored when it is measured. With --merge or --export and without
    --model, nothing is measured. Only rows with the same target, device, runtime, version and threads are
    used; others stay in the table and are listed.
    """
    for path in (*merge, *(() if results is None else (results,))):
        readable_file(path, at_most_bytes=LARGEST_BYTES)  # before torch is imported, which takes seconds
    if export is not None:  # before measuring, which takes minutes
        check_output(export, [*merge, *files_in(model, weights)], named=True)
    if results is not None:
        return _take_over(results, settings)
    if target is None:
        raise UsageError(
            "needs a target to measure on", hint="--target T, or --from FILE with a kit's results"
        )
    if (merge or export) and model is None:
        return _shared(target, merge, export, threads, settings)
    if model is not None:
        check_model(model, weights)
    from mcc.calibrate import calibrate as measure

    _merged(merge)
    graph = None
    if model is not None:
        graph = deployment_form(load_model(model, input_shape, weights).graph)
    with progress_for(settings) as progress:
        result = measure(
            get_target(target), graph, budget_s=budget, threads=threads, progress=progress, seed=settings.seed
        )
    if export is not None:
        _exported(target, export, threads, [*merge, *files_in(model, weights)])
    if settings.json:
        return print_json(result.to_dict())
    return _show(result, target)


def _take_over(results: Path, settings: Settings) -> None:
    """Read the results of a kit into the table."""
    from mcc.calibrate.remote_bundle import read_results_into

    with progress_for(settings) as progress:
        result, fingerprint = read_results_into(results, progress=progress)
    if settings.json:
        return print_json({**result.to_dict(), "fingerprint": fingerprint})
    click.echo(f"phone: {fingerprint.split('|')[1]}")
    return _show(result, fingerprint.split("|")[0])


def _merged(paths: tuple[Path, ...]) -> int:
    from mcc.calibrate.store import Store

    if not paths:
        return 0
    with Store() as store:
        return store.merge(*paths)


def _exported(target: str, path: Path, threads: int, reads: Sequence[Path]) -> int:
    from mcc.calibrate.store import Store

    with Store() as store:
        check_output(path, [*reads, store.path], named=True)
        return store.export(path, get_target(target).fingerprint(threads).key())


def _shared(
    target: str, merge: tuple[Path, ...], export: Path | None, threads: int, settings: Settings
) -> None:
    """Merge and export without measuring."""
    from mcc.calibrate.store import Store

    fingerprint = get_target(target).fingerprint(threads).key()
    merged = _merged(merge)
    exported = 0 if export is None else _exported(target, export, threads, merge)
    with Store() as store:
        usable, stale, path = len(store.known(fingerprint)), store.others(fingerprint), store.path
    if settings.json:
        return print_json(
            {"merged": merged, "exported": exported, "usable": usable, "stale": stale, "path": str(path)}
        )
    if merge:
        click.echo(f"{merged} operators imported")
    if export is not None:
        click.echo(f"{exported} operators written to {export}")
    click.echo(f"{usable} operators of {target} are known for this device and version")
    _show_stale(stale, target)
    click.echo(f"table: {path}")
    return None


def _show_stale(stale: Mapping[str, int], target: str) -> None:
    """Print the rows that are not used, with the device and version of their measurement."""
    for fingerprint, rows in stale.items():
        click.echo(
            f"{rows} rows of {target} belong to another version or device, and are not used: {fingerprint}"
        )


def _show(result: CalibrationReport, target: str) -> None:
    click.echo(
        f"{result.measured} operators measured, {result.known} known before, in {result.seconds:.0f} s"
    )
    if result.left:
        click.echo(f"{result.left} operators are left: run it again, or give a longer --budget")
    for kernel, reason in result.failed:
        click.echo(f"cannot be measured: {kernel}: {reason}")
    _show_stale(result.stale, target)
    click.echo(f"table: {result.path}")
