"""The CIFAR-10 table: compress the baselines for every target and write docs/results/cifar10.md.

    python -m tools.results.cifar10 --data DIR --weights DIR -o out/cifar10

Resumable: a finished row is read from its report.json, an unfinished one continues from its state. Run it on
a machine that does nothing else; it takes about an hour on two cores.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import click

from mcc.report.formatting import bytes_words, time_words
from mcc.report.schema import Report, StrategyResult, load_report
from tools.results.data import SPEC, named

STRATEGY_HEAD = (
    "| strategy | validation accuracy | latency | p10–p90 | speed-up | size | peak memory | marks |"
)
PAGE = Path(__file__).parents[2] / "docs" / "results" / "cifar10.md"


@dataclass(frozen=True)
class Row:
    """One network on one target, with the requested speed-up.

    Attributes:
        epochs: Passes over the data for each fine-tuning, if they differ from those of the other rows.
    """

    network: str
    target: str
    speedup: float
    epochs: str = ""

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"{self.network}-{self.target}"

    def command(self, weights: str, out: str, epochs: str) -> list[str]:
        """The command that repeats the row."""
        return [
            "mcc", "compress", f"tools/baselines/networks.py:{self.network}",
            "--weights", f"{weights}/{self.network}.safetensors", "--data", SPEC,
            "--target", self.target, "--speedup", f"{self.speedup:g}x", "--epochs", self.epochs or epochs,
            "-o", f"{out}/{self.name}",
        ]  # fmt: skip


ROWS = (
    Row("mobilenet_v2", "ort-host", 2.0),
    Row("mobilenet_v2", "litert-host", 1.8),
    Row("mobilenet_v2", "litert-web", 2.5, epochs="1.1"),  # sparse networks need more
    Row("resnet20", "ort-host", 1.8),
    Row("resnet20", "litert-host", 1.8),
)


@click.command()
@click.option("--data", required=True, help="Folder with cifar-10-batches-bin.")
@click.option("--weights", required=True, help="Folder with the trained baselines.")
@click.option("-o", "--output", default="out/cifar10", show_default=True)
@click.option("--epochs", default="0.4", show_default=True, help="Passes over the data for each fine-tuning.")
@click.option("--only", multiple=True, help="Names of rows, as mobilenet_v2-ort-host; all if none.")
@click.option("--remark", default="", help="A sentence on how it was run, for the page.")
def main(data: str, weights: str, output: str, epochs: str, only: tuple[str, ...], remark: str) -> None:
    """Run missing rows, then write the page."""
    reports: list[tuple[Row, Report]] = []
    named(data)
    for row in ROWS:
        folder = Path(output) / row.name
        if only and row.name not in only:
            if (folder / "report.json").exists():
                reports.append((row, load_report(folder / "report.json")))
            continue
        if not (folder / "report.json").exists():
            program = Path(sys.executable).with_name("mcc")
            command = row.command(weights, output, epochs)
            subprocess.run([str(program), *command[1:], "--resume"], check=False)
        if (folder / "report.json").exists():
            reports.append((row, load_report(folder / "report.json")))
        else:
            click.echo(f"{row.name}: no report; see the message above", err=True)
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page(reports, epochs, remark), encoding="utf-8")
    click.echo(f"wrote {PAGE}")


def page(reports: list[tuple[Row, Report]], epochs: str, remark: str) -> str:
    """The page as Markdown."""
    lines = [
        "# CIFAR-10",
        "",
        "Trained networks compressed for three runtimes. Every figure is that of the lowered file run in the",
        "runtime; latencies are measured in turns with the original, on one thread. Accuracy is that of the",
        "test split, read once, after every choice; the original given the same extra training",
        f"({epochs} passes over the training images where a row's command says nothing else) is among the",
        "strategies. Choices use 3,000 of the test images, the report on the others: `MCC_CIFAR10` names",
        "the folder for `tools/results/data.py`. This page is written by `python -m tools.results.cifar10`.",
        *(["", remark] if remark else []),
        "",
        "| network | target | asked | speed-up (95 %) | predicted / measured | test accuracy | size "
        "| peak memory | chosen |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [summary(row, report) for row, report in reports]
    for row, report in reports:
        command = shlex.join(row.command("WEIGHTS", "out/cifar10", epochs))
        lines += ["", f"## {row.network} on {row.target}", "", f"    {command}", ""]
        known = report.target
        lines += [f"{known.runtime} {known.version}, {known.device}, seed {report.seed}.", ""]
        lines += [
            "| strategy | validation accuracy | latency | p10–p90 | speed-up | size | peak memory | marks |"
        ]
        lines += ["| --- | --- | --- | --- | --- | --- | --- | --- |"]
        lines += [strategy_line(strategy) for strategy in report.strategies]
        lines += ["", *[f"- {sentence}" for sentence in report.verdicts]]
    return "\n".join(lines) + "\n"


def summary(row: Row, report: Report) -> str:
    """One row of the first table."""
    low, high = report.speedup_ci95 or (report.speedup, report.speedup)
    latency, predicted = report.compressed.latency_us, report.predicted_latency_us
    ratio = f"{predicted / latency.median:.2f}" if latency and predicted else "–"
    before, after = report.baseline.accuracy or 0.0, report.compressed.accuracy or 0.0
    sizes = f"{bytes_words(report.baseline.size_bytes)} → {bytes_words(report.compressed.size_bytes)}"
    memory = (
        f"{bytes_words(report.baseline.peak_memory_bytes or 0)} → "
        f"{bytes_words(report.compressed.peak_memory_bytes or 0)}"
    )
    chosen = report.chosen.name if report.chosen else "–"
    return (
        f"| {row.network} | {row.target} | {row.speedup:g}x | {report.speedup:.2f} ({low:.2f}–{high:.2f}) "
        f"| {ratio} | {100 * before:.2f} → {100 * after:.2f} % | {sizes} | {memory} | {chosen} |"
    )


def strategy_line(strategy: StrategyResult) -> str:
    """One strategy of a row's own table."""
    latency = strategy.latency_us
    marks = [word for word, on in (("Pareto", strategy.on_pareto_front), ("chosen", strategy.chosen)) if on]
    marks += ["keeps the budget"] if strategy.keeps_all else []
    return (
        f"| {strategy.name} | {100 * (strategy.validation_accuracy or 0):.2f} % "
        f"| {time_words(latency.median) if latency else '–'} "
        f"| {f'{time_words(latency.p10)}–{time_words(latency.p90)}' if latency else '–'} "
        f"| {strategy.speedup or 0:.2f}x | {bytes_words(strategy.size_bytes)} "
        f"| {bytes_words(strategy.peak_memory_bytes or 0)} | {', '.join(marks)} |"
    )


if __name__ == "__main__":
    main()
