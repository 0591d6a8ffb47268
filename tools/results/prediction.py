"""How well are latencies predicted? Networks predicted before they are first timed, on every host target.

    python -m tools.results.prediction -o out/prediction [--target ort-host]

Resumable: kernels, predictions and times are kept as they come. Writes docs/results/prediction.md.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from mcc.calibrate.store import Store
from mcc.cost_api import Precision
from mcc.runtime.registry import get_target
from tools.results.architectures import random_network
from tools.results.prediction_runs import Bench, Notebook, Subject, subjects_of

TARGETS = ("litert-host", "ort-host", "litert-web")
PRECISIONS: tuple[Precision, ...] = ("float", "int8")
LEARNT = range(101, 113)  # seeds of the networks whose kernels make the table
GROUP = 12  # networks whose kernels are measured at a time
ASKED = range(1, 21)  # seeds of the networks that are predicted


def networks(seeds: range) -> list[Subject]:
    """Random networks in both precisions."""
    return [
        subject
        for seed in seeds
        for subject in subjects_of(f"net{seed}", partial(random_network, seed), PRECISIONS)
    ]


def run(bench: Bench) -> None:
    """All steps for one target."""
    learnt, asked = networks(LEARNT), networks(ASKED)
    for begin in range(0, len(learnt), GROUP):
        click.echo(f"{bench.target.spec}: measuring {learnt[begin].name} and others")
        bench.measure(learnt[begin : begin + GROUP])
    for precision in PRECISIONS:
        bench.learn(learnt, precision)
    for subject in asked:
        bench.predict(subject, "unmeasured", without_own=True)
    for begin in range(0, len(asked), GROUP):
        click.echo(f"{bench.target.spec}: measuring {asked[begin].name} and others")
        bench.measure(asked[begin : begin + GROUP])
    for subject in asked:
        bench.predict(subject, "measured", without_own=False)
    bench.time(asked)


@click.command()
@click.option("-o", "--output", default="out/prediction", show_default=True, type=click.Path(path_type=Path))
@click.option("--target", "targets", multiple=True, default=TARGETS, show_default=True)
def main(output: Path, targets: tuple[str, ...]) -> None:
    """Measure what is missing, then write the page."""
    for name in targets:
        folder = output / name
        folder.mkdir(parents=True, exist_ok=True)
        with Store(folder / "table.sqlite") as store:
            run(Bench(get_target(name), store, Notebook(folder / "notes.json"), folder))


if __name__ == "__main__":
    main()
