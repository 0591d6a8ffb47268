"""The commands `mcc compress` and `mcc plan`."""

from __future__ import annotations

import shlex
import sys
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
from mcc.cli.quantities import EPOCHS, LATENCY, LOSS, NAMES, RATIO, SIZE
from mcc.cli.settings import Settings, common_options
from mcc.errors import ConstraintError, UsageError
from mcc.ir.first_look import check_model, check_specs
from mcc.ir.json_file import read_json
from mcc.quantities import LatencyLimit, parse_names

if TYPE_CHECKING:
    from mcc.compress.plan_loop import SharedTrial
    from mcc.report.schema import Report, StrategyResult

Callback = Callable[..., Any]

PLAN_HINT = "use a plan.json that mcc wrote"


def job_options(callback: Callback) -> Callback:
    """Common options of `compress` and `plan`: the model, its data, the target and the budgets."""
    options = [
        click.argument("model"),
        click.option("--data", required=True, metavar="DATA",
                     help="digits, cifar10:DIR, imagefolder:DIR, segmentation:DIR, detection:DIR or "
                          "module:factory."),
        task_option,
        click.option("--target", required=True, metavar="T",
                     help="Target, see mcc targets; several separated by commas share one plan."),
        click.option("--latency", type=LATENCY, metavar="TIME",
                     help="Largest latency, as 8ms; on a simulator as 20Mcycles."),
        click.option("--speedup", type=RATIO, metavar="RATIO", help="Smallest speed-up, as 2x."),
        click.option("--size", type=SIZE, metavar="SIZE", help="Largest file size, as 1.5MB."),
        click.option("--memory", type=SIZE, metavar="SIZE", help="Largest peak memory, as 6MB."),
        click.option("--max-drop", type=LOSS, metavar="LOSS",
                     help="Largest loss of accuracy, in points (hundredths); of another metric, in "
                     "its unit."),
        click.option("--threads", type=click.IntRange(1), default=1, show_default=True, metavar="N",
                     help="Threads of one inference."),
    ]  # fmt: skip
    for option in reversed(options):
        callback = option(callback)
    return callback


@click.command(short_help="Compress a model under budgets, and report what it cost.")
@job_options
@click.option("--epochs", type=EPOCHS, metavar="N", help="Passes over the data for fine-tuning; 0: none.")
@click.option("--plan", "plan_file", type=click.Path(dir_okay=False, exists=True, path_type=Path),
              metavar="FILE", help="Follow this plan.json instead of a new plan.")  # fmt: skip
@click.option("--steps", type=click.IntRange(1, 6), default=1, show_default=True, metavar="N",
              help="Steps to the latency budget, with a short fine-tuning after each.")  # fmt: skip
@click.option("--strategies", type=NAMES, metavar="NAME,...",
              help="Strategies to compare with the original, as joint,int8-ptq; default: all.")  # fmt: skip
@click.option("--workers", type=click.IntRange(1), metavar="N",
              help="Single-threaded processes for sensitivities and fine-tuning.")  # fmt: skip
@click.option("--ray", metavar="ADDRESS", help="Ray cluster to use instead; local: one on this machine.")
@click.option("--resume", is_flag=True,
              help="Continue from the state in DIR; more --strategies may be given.")  # fmt: skip
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), default="out",
              show_default=True, metavar="DIR", help="Output folder.")  # fmt: skip
@noise_option
@click.option("--force", is_flag=True, help="Overwrite files in DIR that mcc did not create.")
@model_options
@job_picture_options
@common_options
def compress(output: Path, settings: Settings, **given: Any) -> int:
    """Compress MODEL for a target under budgets, and write the model and a report to DIR.

    Without a budget, the most accurate result is chosen, and within its margin of error the fastest. Exit
    status 1
    if no result keeps every budget: the nearest one is written to DIR, marked as missing them, and the error
        names
    the nearest feasible budgets.
    """
    common = arguments(given)
    from mcc.compress import compress as one
    from mcc.compress import compress_for
    from mcc.compress.multi_target import folder_name

    run: Callable[..., Any] = compress_for if "targets" in common else one
    failure: ConstraintError | None = None
    found: Report | dict[str, Report] | None
    with progress_for(settings) as progress:
        try:
            found = run(
                **common, epochs=given["epochs"], out=output, resume=given["resume"],
                plan=given["plan_file"], workers=given["workers"], ray=given["ray"], steps=given["steps"],
                strategies=given["strategies"] or (), force=given["force"], allow_noise=given["allow_noise"],
                seed=settings.seed, progress=progress, command=command_line(),
            )  # fmt: skip
        except ConstraintError as error:
            failure, found = error, error.report
        except KeyboardInterrupt:
            raise Interrupted(how_to_go_on()) from None
    if found and settings.json:
        print_json({n: r.to_dict() for n, r in found.items()} if isinstance(found, dict) else found.to_dict())
    elif isinstance(found, dict):
        for name, report in found.items():
            click.echo(f"\n{name}")
            show_report(report, output / folder_name(name))
    elif found is not None:
        show_report(found, output)
    if failure is not None:
        return fail_after_result(failure, shown=bool(found))
    reports = [*found.values()] if isinstance(found, dict) else [found] if found else []
    return 0 if all(kept for report in reports for kept in report.met.values()) else 1


@click.command(short_help="Plan without training, and show the predicted Pareto front.")
@job_options
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Write the plan as JSON, for mcc compress --plan.")  # fmt: skip
@click.option("--no-measure", is_flag=True,
              help="Use earlier measurements only; time neither operators nor the original.")  # fmt: skip
@model_options
@job_picture_options
@common_options
def plan(output: Path | None, no_measure: bool, settings: Settings, **given: Any) -> int:
    """Compute a plan for MODEL, without training, and show the predicted Pareto front.

    Operators that the prediction lacks are measured first, for 90 s at most; parts that are then still
    estimated by a roofline are named.
    """
    common = arguments(given)
    from mcc.compress import plan as one
    from mcc.compress import plan_for

    several = "targets" in common
    run: Callable[..., Any] = plan_for if several else one
    with progress_for(settings) as progress:
        found = run(**common, out=output, seed=settings.seed, progress=progress, measure=not no_measure)
    if several:
        return _show_shared(found, settings)
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


def _show_shared(found: SharedTrial, settings: Settings) -> int:
    """Print a plan for several targets, measured on each of them, untrained."""
    from mcc.compress.multi_target import shared_plan_content
    from mcc.runtime import get_target

    if settings.json:
        print_json(shared_plan_content(found))
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


def _targets(text: str) -> dict[str, Any]:
    """`target`, or `targets` if there are several, separated by commas. Raises UsageError."""
    if "," not in text:
        return {"target": text}
    try:
        return {"targets": parse_names(text)}
    except UsageError as error:
        error.where = "--target"
        raise


def arguments(given: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments of the Python API from the options of the command line."""
    limit: LatencyLimit = given["latency"] or LatencyLimit()
    check_model(given["model"], given["weights"])  # before torch is imported, which takes seconds
    check_specs(given["data"], given["task"])
    if given.get("plan_file") is not None:
        read_json(given["plan_file"], what="plan", hint=PLAN_HINT)
    found: dict[str, Any] = {
        "model": given["model"],
        "data": given["data"],
        **_targets(given["target"]),
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
    """The command as typed, without the program's folder."""
    return shlex.join(["mcc", *sys.argv[1:]])


def how_to_go_on() -> str:
    """The command that continues an interrupted run, as a sentence."""
    again = [word for word in sys.argv[1:] if word not in ("--resume", "--force")]
    return f"{shlex.join(['mcc', *again, '--resume'])} continues from here"


def show_strategies(strategies: Sequence[StrategyResult]) -> None:
    """Print the table of strategies; the first is the original."""
    from mcc.report.tables import STRATEGY_HEADERS, STRATEGY_NUMBERS, strategy_rows

    print_table(STRATEGY_HEADERS, strategy_rows(strategies, strategies[0]), right=STRATEGY_NUMBERS)


def show_report(report: Report, folder: Path) -> None:
    """Print warnings, the table of strategies, the verdicts, and the location of all files."""
    for sentence in report.warnings:
        click.echo(f"Warning: {sentence}")
    show_strategies(report.strategies)
    click.echo("")
    for sentence in report.verdicts:
        click.echo(sentence)
    click.echo(f"\nResults are in {folder}: open {folder / 'report.html'}")
