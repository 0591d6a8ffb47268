"""`mcc compress` and `mcc plan`."""

from __future__ import annotations

import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mcc.cli.failures import Interrupted, fail_after_result
from mcc.cli.models import current_cut, model_options
from mcc.cli.noise_check import noise_option
from mcc.cli.output import print_json, print_table
from mcc.cli.pictures import asked_pictures, job_picture_options, judged_output, labels_ignored, task_option
from mcc.cli.progress import progress_for
from mcc.cli.quantities import EPOCHS, LATENCY, LOSS, NAMES, RATIO, SIZE, LatencyLimit, parse_names
from mcc.cli.settings import Settings, common_options
from mcc.errors import ConstraintError, UsageError
from mcc.ir.first_look import check_model, check_specs
from mcc.ir.json_file import read_json

if TYPE_CHECKING:
    from mcc.budget import Budget
    from mcc.report.schema import Report, StrategyResult

Callback = Callable[..., Any]

PLAN_HINT = "use a plan.json that mcc wrote"


def job_options(callback: Callback) -> Callback:
    """What `compress` and `plan` have in common: the model, its data, the target and the budgets."""
    options = [
        click.argument("model"),
        click.option("--data", required=True, metavar="DATA",
                     help="digits, cifar10:DIR, imagefolder:DIR or package.module:factory."),
        task_option,
        click.option("--target", required=True, metavar="T",
                     help="Where it is to run, see mcc targets; T,T,...: on all of these, by one plan."),
        click.option("--latency", type=LATENCY, metavar="TIME",
                     help="At most this long, as 8ms; on a simulator as 20Mcycles."),
        click.option("--speedup", type=RATIO, metavar="RATIO", help="At least this much faster, as 2x."),
        click.option("--size", type=SIZE, metavar="SIZE", help="A file of at most this size, as 1.5MB."),
        click.option("--memory", type=SIZE, metavar="SIZE", help="At most this peak memory, as 6MB."),
        click.option("--max-drop", type=LOSS, metavar="LOSS",
                     help="At most this much accuracy lost, in points (hundredths); of another metric, in "
                     "its unit."),
        click.option("--threads", type=click.IntRange(1), default=1, show_default=True, metavar="N",
                     help="Threads of an inference."),
    ]  # fmt: skip
    for option in reversed(options):
        callback = option(callback)
    return callback


@click.command(short_help="Compress a model under budgets, and report what it cost.")
@job_options
@click.option("--epochs", type=EPOCHS, metavar="N", help="Passes over the data for repair; 0: none.")
@click.option("--plan", "plan_file", type=click.Path(dir_okay=False, exists=True, path_type=Path),
              metavar="FILE", help="Follow this plan.json and do not make one.")  # fmt: skip
@click.option("--steps", type=click.IntRange(1, 6), default=1, show_default=True, metavar="N",
              help="Go to the budget of time in N steps, with a little repair after each.")  # fmt: skip
@click.option("--strategies", type=NAMES, metavar="NAME,...",
              help="Compare only these with the original, as joint,int8-ptq; all if not given.")  # fmt: skip
@click.option("--workers", type=click.IntRange(1), metavar="N",
              help="Processes for sensitivities and repairs, of one thread each.")  # fmt: skip
@click.option("--ray", metavar="ADDRESS", help="A Ray cluster for them; local: one on this machine.")
@click.option("--resume", is_flag=True,
              help="Go on from the state in DIR; more --strategies may be asked for.")  # fmt: skip
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), default="out",
              show_default=True, metavar="DIR", help="Where everything goes.")  # fmt: skip
@noise_option
@click.option("--force", is_flag=True, help="Overwrite files in DIR that no job of mcc left there.")
@model_options
@job_picture_options
@common_options
def compress(output: Path, settings: Settings, **given: Any) -> int:
    """Compress MODEL for a target under budgets, and leave the model and a report in DIR.

    Without a budget, the most accurate result is taken, and within its margin of error the fastest. Exit
    status 1 when no result keeps every budget: the one that comes nearest is left in DIR, marked as missing
    them, and the sentence names the nearest budgets that can be kept.
    """
    if "," in given["target"]:
        return _compress_several(output, settings, given)
    common = arguments(given)
    from mcc.compress import compress as run

    failure: ConstraintError | None = None
    report: Report | None
    with progress_for(settings) as progress:
        try:
            report = run(
                **common, epochs=given["epochs"], out=output, resume=given["resume"],
                plan=given["plan_file"], workers=given["workers"], ray=given["ray"], steps=given["steps"],
                strategies=given["strategies"] or (), force=given["force"], allow_noise=given["allow_noise"],
                seed=settings.seed, progress=progress, command=command_line(),
            )  # fmt: skip
        except ConstraintError as error:
            failure, report = error, error.report
        except KeyboardInterrupt:
            raise Interrupted(how_to_go_on()) from None
    if report is not None:
        print_json(report.to_dict()) if settings.json else show_report(report, output)
    if failure is not None or report is None:
        return fail_after_result(failure, shown=report is not None) if failure is not None else 1
    return 0 if all(report.met.values()) else 1


@click.command(short_help="Decide without training, and show the predicted Pareto front.")
@job_options
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Write the plan as JSON, for mcc compress --plan.")  # fmt: skip
@click.option("--no-measure", is_flag=True,
              help="Rest on what was measured before; time neither operators nor the original.")  # fmt: skip
@model_options
@job_picture_options
@common_options
def plan(output: Path | None, no_measure: bool, settings: Settings, **given: Any) -> int:
    """Decide what would be done to MODEL, without training, and show the predicted Pareto front.

    Operators that the prediction lacks are measured first, for a minute and a half at most; what rests on a
    roofline after that is named.
    """
    if "," in given["target"]:
        if no_measure:
            raise UsageError("plans for several targets are tried on each", where="--no-measure",
                             hint="name one --target")  # fmt: skip
        return _plan_several(output, settings, given)
    common = arguments(given)
    from mcc.compress import plan as run

    with progress_for(settings) as progress:
        found = run(**common, out=output, seed=settings.seed, progress=progress, measure=not no_measure)
    if settings.json:
        print_json(found.to_dict())
        return 0
    for sentence in found.warnings:
        click.echo(f"Warning: {sentence}")
    headers = ["latency", "95 % interval", "loss added", "size", "chosen"]
    rows = [
        [p.latency_words, p.bounds_words, f"{p.loss:.4f}", p.size_words, "*" if p.chosen else ""]
        for p in found.front
    ]
    print_table(headers, rows, right=["latency", "95 % interval", "loss added", "size"])
    for sentence in found.roofline_sentences():
        click.echo(sentence)
    return 0


def _several(given: dict[str, Any]) -> tuple[tuple[str, ...], dict[str, Any], Budget]:
    """The targets, the arguments that all have in common, and the budgets that each must keep."""
    from mcc.budget import Budget

    common = arguments(given)
    try:
        targets = tuple(dict.fromkeys(parse_names(common.pop("target"))))
    except UsageError as error:
        error.where = "--target"
        raise
    names = ("latency_us", "model_cycles", "speedup", "size_bytes", "memory_bytes", "max_drop")
    return targets, common, Budget(**{name: common.pop(name) for name in names})


def _compress_several(output: Path, settings: Settings, given: dict[str, Any]) -> int:
    from mcc.compress.several import compress_several, place

    if given["plan_file"] is not None:
        raise UsageError("follows one plan on one target", where="--plan", hint="name one --target")
    targets, common, budget = _several(given)
    model, data = common.pop("model"), common.pop("data")
    failure: ConstraintError | None = None
    with progress_for(settings) as progress:
        try:
            reports = compress_several(
                model, data, targets, output, budget=budget, **common, epochs=given["epochs"],
                resume=given["resume"], steps=given["steps"], workers=given["workers"], ray=given["ray"],
                strategies=given["strategies"] or (), force=given["force"],
                allow_noise=given["allow_noise"],
                seed=settings.seed, progress=progress, command=command_line(),
            )  # fmt: skip
        except ConstraintError as error:
            failure, reports = error, error.report or {}
        except KeyboardInterrupt:
            raise Interrupted(how_to_go_on()) from None
    if settings.json and reports:
        print_json({name: report.to_dict() for name, report in reports.items()})
    elif reports:
        for name, report in reports.items():
            click.echo(f"\n{name}")
            show_report(report, output / place(name))
    if failure is not None:
        return fail_after_result(failure, shown=bool(reports))
    return 0 if all(kept for report in reports.values() for kept in report.met.values()) else 1


def _plan_several(output: Path | None, settings: Settings, given: dict[str, Any]) -> int:
    """One plan for several targets: measured on each of them, untrained."""
    from mcc.budget import refuse_unplanned
    from mcc.compress.job import save_json
    from mcc.compress.several import plan_several
    from mcc.ir.outputs import files_in, refuse_inputs
    from mcc.runtime import get_target

    targets, common, budget = _several(given)
    refuse_unplanned(budget, ("max_drop",))
    model, data = common.pop("model"), common.pop("data")
    if output is not None:
        refuse_inputs([output], files_in(model, data, common["weights"]))
    with progress_for(settings) as progress, tempfile.TemporaryDirectory(prefix="mcc-plan-") as folder:
        found = plan_several(
            model, data, targets, Path(folder), budget=budget, **common, seed=settings.seed, progress=progress
        )
    if output is not None:
        save_json(output, found.to_dict())
    if settings.json:
        print_json(found.to_dict())
    else:
        rows = [
            [name, get_target(name).unit.words(trial.speed.latency_us), f"{trial.speed.speedup:.2f}x",
             "kept" if trial.keeps_all else "not kept", trial.speed.date[:10]]
            for name, trial in found.trials.items()
        ]  # fmt: skip
        print_table(
            ["target", "latency", "speed-up", "budgets", "timed on"], rows, right=["latency", "speed-up"]
        )
    return 0 if found.keeps_all else 1


def arguments(given: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments of the Python API from the options of the command line."""
    limit: LatencyLimit = given["latency"] or LatencyLimit()
    check_model(given["model"], given["weights"])  # all before the seconds that importing torch takes
    check_specs(given["data"], given["task"])
    if given.get("plan_file") is not None:
        read_json(given["plan_file"], what="plan", hint=PLAN_HINT)
    found: dict[str, Any] = {
        "model": given["model"],
        "data": given["data"],
        "target": given["target"],
        "input_shape": given["input_shape"],
        "weights": given["weights"],
        "cut": current_cut(),
        "latency_us": limit.latency_us,
        "model_cycles": limit.model_cycles,
        "speedup": given["speedup"],
        "size_bytes": given["size"],
        "memory_bytes": given["memory"],
        "max_drop": given["max_drop"],
        "threads": given["threads"],
        "preprocessing": asked_pictures(),
        "task": given["task"],
        "judge": judged_output(),
        "ignore_labels": labels_ignored(),
    }
    return found


def command_line() -> str:
    """The command as typed, without the folder of the program."""
    return shlex.join(["mcc", *sys.argv[1:]])


def how_to_go_on() -> str:
    """The command that goes on from where this one was stopped, as a sentence."""
    again = [word for word in sys.argv[1:] if word not in ("--resume", "--force")]
    return f"{shlex.join(['mcc', *again, '--resume'])} goes on from here"


def show_strategies(strategies: Sequence[StrategyResult]) -> None:
    """The table of what was tried; the first is the original."""
    from mcc.report.tables import STRATEGY_HEADERS, STRATEGY_NUMBERS, strategy_rows

    print_table(STRATEGY_HEADERS, strategy_rows(strategies, strategies[0]), right=STRATEGY_NUMBERS)


def show_report(report: Report, folder: Path) -> None:
    """Warnings, the table of strategies, the verdicts, and where everything is."""
    for sentence in report.warnings:
        click.echo(f"Warning: {sentence}")
    show_strategies(report.strategies)
    click.echo("")
    for sentence in report.verdicts:
        click.echo(sentence)
    click.echo(f"\nEverything is in {folder}: open {folder / 'report.html'}")
