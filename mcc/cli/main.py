"""`mcc`: the entry point, the table of commands, and the handling of errors.

Exit status: 0 success; 1 a constraint or a check was not met, or mcc itself failed; 2 wrong use or unusable
input; 130 interrupted.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence

import click

from mcc import __version__
from mcc.cli import failures
from mcc.cli.lazy import Entry, LazyGroup
from mcc.cli.output import harmless_streams
from mcc.cli.settings import forget_settings, stop_log

COMMANDS = {
    "compress": Entry(
        "mcc.cli.compress:compress", "Compress a model under budgets, and report what it cost."
    ),
    "plan": Entry("mcc.cli.compress:plan", "Plan without training, and show the predicted Pareto front."),
    "explain": Entry(
        "mcc.cli.explain:explain", "Show the alternatives for one layer, and why a plan took one."
    ),
    "inspect": Entry(
        "mcc.cli.inspect:inspect", "Show a model's layers, their cost and possible compression."
    ),
    "opt": Entry("mcc.cli.opt:opt", "Run passes on a graph, verified one by one."),
    "diff": Entry("mcc.cli.diff:diff", "Compare two graphs: added, removed, reshaped, requantised."),
    "lower": Entry("mcc.cli.lower:lower", "Write a model in a mobile format."),
    "bench": Entry("mcc.cli.bench:bench", "Measure lowered models on a target, interleaved."),
    "evaluate": Entry(
        "mcc.cli.evaluate:evaluate", "Measure the accuracy, or another metric, of lowered files on a target."
    ),
    "verify": Entry("mcc.cli.verify:verify", "Compare a lowered file's numbers with its model's."),
    "calibrate": Entry("mcc.cli.calibrate:calibrate", "Measure the operators that the cost model needs."),
    "passes": Entry("mcc.cli.passes:passes", "List the passes, or explain one."),
    "targets": Entry("mcc.cli.targets:targets", "List the targets."),
    "doctor": Entry("mcc.cli.doctor:doctor", "Show what this machine can use, and how to get the rest."),
}

HELP = """Compress trained neural networks for mobile runtimes.

A command's own --help lists its options. MODEL is `package.module:factory`, `path/to/file.py:factory`, or a
.pt2, .onnx, .tflite or .mcc file.
"""


def _show_version(ctx: click.Context, parameter: click.Parameter, asked: bool) -> None:
    if asked:
        click.echo(f"mcc {__version__}")
        ctx.exit()


GROUP = LazyGroup(
    COMMANDS,
    name="mcc",
    help=HELP,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    params=[
        click.Option(
            ["--version"],
            is_flag=True,
            expose_value=False,
            is_eager=True,
            help="Show the version and exit.",
            callback=_show_version,
        )
    ],
)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status; every error is printed as a sentence on stderr."""
    with harmless_streams():
        return _run(arguments)


def _run(arguments: Sequence[str] | None) -> int:
    forget_settings()
    try:
        with warnings.catch_warnings():
            status = GROUP.main(
                list(arguments) if arguments is not None else None, prog_name="mcc", standalone_mode=False
            )
        sys.stdout.flush()
    except Exception as error:
        return failures.report(error)
    finally:
        stop_log()
    return status if isinstance(status, int) else 0


def main() -> None:
    """Entry point of the `mcc` program."""
    # Read once, when torch is imported. Waiting threads that spin make two training threads beside another
    # busy process about ten times slower than one (measured on two cores, 2026-11-23).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:  # a dash in an ASCII locale must not abort a run of an hour
            reconfigure(errors="replace")
    status = run()
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(status)
