"""Measure the accuracy of latency predictions: networks predicted before they are first timed, on all hosts.

    python -m tools.results.prediction -o out/prediction [--target ort-host] [--networks 5]

Resumable: kernels, predictions and times are stored immediately, one network after the other. Writes
docs/results/prediction.md. About 25 minutes for litert-host on an idle machine, longer for the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import numpy as np

from mcc.calibrate.store import Store
from mcc.cost_api import Precision
from mcc.report.formatting import time_words
from mcc.runtime.registry import get_target
from tools.results.architectures import random_network
from tools.results.prediction_runs import Bench, Notebook, Subject, subjects_of

TARGETS = ("litert-host", "ort-host", "litert-web")
PRECISIONS: tuple[Precision, ...] = ("float", "int8")
LEARNT = range(101, 113)  # seeds of the networks whose kernels fill the table
GROUP = 12  # networks whose kernels are measured at a time
ASKED = range(41, 61)  # seeds of the predicted networks


PAGE = Path(__file__).parents[2] / "docs" / "results" / "prediction.md"
STEADY = 0.9  # of the median at least: tenth percentile of what could be timed undisturbed
COLUMNS = ("unmeasured", "measured")

PAGE_TEXT = """\
# Predictions of whole networks

20 random networks (`tools/results/architectures.py`, inputs of 32 to 96 pixels, float and int8) on each
host target. First the table holds the kernels of {learnt} other networks only, and every row that a network
happens to share is left out: *unmeasured*. Then its own kernels are measured: *measured*. No whole network
corrects the sums. Both predictions are written down before the network is first timed. One whose tenth
percentile lies more than 3 % below its median is timed again, up to four times, and the fastest session
counts. Wanted: a median error of 6 % and a 95th percentile of 15 %, then 3 % and 8 %. Written by

    python -m tools.results.prediction -o out/prediction

{remark}
| target | precision | networks | unmeasured: median | p95 | bias | measured: median | p95 | bias |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
{rows}

Bias is the median of predicted over measured, less one. Networks marked as disturbed (a tenth percentile more
than a tenth below the median) are listed and not counted.
{details}"""


def networks(seeds: range) -> list[Subject]:
    """Random networks in both precisions."""
    return [
        subject
        for seed in seeds
        for subject in subjects_of(f"net{seed}", partial(random_network, seed), PRECISIONS)
    ]


def run(bench: Bench, count: int) -> None:
    """Run all steps for one target and the first `count` networks."""
    learnt, asked = networks(LEARNT), networks(ASKED)
    for begin in range(0, len(learnt), GROUP):
        click.echo(f"{bench.target.spec}: measuring {learnt[begin].name} and others")
        bench.measure(learnt[begin : begin + GROUP])
    for subject in asked:
        bench.predict(subject, "unmeasured", without_own=True)
    for seed in list(ASKED)[:count]:
        own = networks(range(seed, seed + 1))
        bench.measure(own)
        for subject in own:
            bench.predict(subject, "measured", without_own=False)
        bench.time(own)
        for case in cases(bench.notes, own):
            said = ", ".join(f"{column} {100 * case.error(column):+.1f} %" for column in COLUMNS)
            click.echo(f"{bench.target.spec}: {case.name} {time_words(case.timed_us)}, {said}")


@dataclass(frozen=True)
class Case:
    """One network, timed and predicted, in microseconds."""

    name: str
    precision: Precision
    timed_us: float
    p10_us: float
    predicted_us: Mapping[str, float]

    @property
    def steady(self) -> bool:
        """Whether it was timed undisturbed: otherwise its median depends on other programs' time slices."""
        return self.p10_us >= STEADY * self.timed_us

    def error(self, column: str) -> float:
        """Predicted over timed, less one."""
        return self.predicted_us[column] / self.timed_us - 1.0


def cases(notes: Notebook, subjects: Sequence[Subject]) -> list[Case]:
    """The known results of the timed networks."""
    known = notes.known
    return [
        Case(
            s.name, s.precision, *(float(known[f"time {s.name}"][key]) for key in ("median", "p10")),
            {column: float(known[f"{column} {s.name}"]["latency_us"]) for column in COLUMNS},
        )
        for s in subjects
        if f"time {s.name}" in known
    ]  # fmt: skip


def summary(target: str, precision: Precision, found: Sequence[Case]) -> str:
    """One row of the page's first table."""
    cells: list[str] = []
    for column in COLUMNS:
        errors = 100 * np.array([case.error(column) for case in found])
        sizes = np.abs(errors)
        cells += [
            f"{np.median(sizes):.1f} %",
            f"{np.percentile(sizes, 95):.1f} %",
            f"{np.median(errors):+.1f} %",
        ]
    return f"| {target} | {precision} | {len(found)} | {' | '.join(cells)} |"


def page(known: Mapping[str, Sequence[Case]], remark: str) -> str:
    """The page as Markdown, for the targets with timed networks."""
    rows: list[str] = []
    details: list[str] = []
    for target, found in known.items():
        groups = {p: [case for case in found if case.precision == p] for p in PRECISIONS}
        for precision, group in groups.items():
            steady = [case for case in group if case.steady]
            rows += [summary(target, precision, steady)] if steady else []
        details += [
            "",
            f"## {target}",
            "",
            "| network | timed | unmeasured | measured |",
            "| --- | --- | --- | --- |",
        ]
        details += [
            f"| {case.name} | {time_words(case.timed_us)}{'' if case.steady else ' (disturbed)'} "
            + "".join(
                f"| {time_words(case.predicted_us[c])} ({100 * case.error(c):+.1f} %) " for c in COLUMNS
            )
            + "|"
            for case in found
        ]
    said = f"{remark}\n" if remark else ""
    return PAGE_TEXT.format(
        learnt=len(LEARNT), remark=said, rows="\n".join(rows), details="\n".join(details) + "\n"
    )


@click.command()
@click.option("-o", "--output", default="out/prediction", show_default=True, type=click.Path(path_type=Path))
@click.option(
    "--target", "targets", multiple=True, default=TARGETS, type=click.Choice(TARGETS), show_default=True
)
@click.option("--networks", "count", default=len(ASKED), show_default=True, help="Number of networks.")
@click.option("--remark", default="", help="A sentence on how it was run, for the page.")
@click.option("--page-only", is_flag=True, help="Write the page from what is known.")
def main(output: Path, targets: tuple[str, ...], count: int, remark: str, page_only: bool) -> None:
    """Measure missing results, then write the page."""
    for name in () if page_only else targets:
        folder = output / name
        folder.mkdir(parents=True, exist_ok=True)
        with Store(folder / "table.sqlite") as store:
            run(Bench(get_target(name), store, Notebook(folder / "notes.json"), folder), count)
    known = {name: cases(Notebook(output / name / "notes.json"), networks(ASKED)) for name in TARGETS}
    PAGE.write_text(page({name: found for name, found in known.items() if found}, remark), encoding="utf-8")
    click.echo(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
