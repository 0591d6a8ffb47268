"""Measure the prediction error of `mcc inspect` on networks without measurements: twenty, from an empty
cache.

    python -m tools.results.fresh_networks -o out/fresh --prepare    # write the networks: no measuring
    python -m tools.results.fresh_networks -o out/fresh              # predict, then time each

Each network is predicted by the command itself, `mcc inspect NETWORK --target T --json`, which measures
missing kernels; then it is timed as a file. One cache serves the whole series of a target: it is empty for
the first network, and contains for each the kernels of earlier ones. Predictions are stored before the
network is first timed. A network is timed in several sessions, each in a fresh process, and the least
disturbed (the lowest median) counts, reported with the load of that session.

Resumable: known results are kept. Writes docs/results/fresh_networks.md.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from click.testing import CliRunner

from mcc.calibrate.files import write_graph
from mcc.calibrate.undisturbed import undisturbed_times
from mcc.cli.inspect import inspect
from mcc.cli.models import deployment_form
from mcc.frontend.torch_module import capture
from mcc.ir.storage import load_graph, save_graph
from mcc.report.formatting import time_words
from mcc.runtime.registry import get_target
from tools.results.mobile_networks import mobile_network
from tools.results.prediction_runs import Notebook, timed

TARGETS = ("litert-host", "ort-host")
SEEDS = range(831, 851)
SESSION_S = 0.6  # of timing one network once
SERIES = 2  # of up to four sessions each
WANTED_MEDIAN, WANTED_WORST, WANTED_HELD = 5.0, 15.0, 18  # per cent, per cent, of twenty
PAGE = Path(__file__).parents[2] / "docs" / "results" / "fresh_networks.md"

PAGE_TEXT = """\
# Fresh networks

{count} random networks with hard swishes, squeeze and excitation and 5x5 windows
(`tools/results/mobile_networks.py`), predicted by `mcc inspect NETWORK --target T` and then timed. The
cache is empty for the first network of a target, and holds for each later one what those before it needed.
No prediction has seen its network's time. A network is timed in two series of up to four sessions,
each until one is undisturbed; the fastest counts. Load is that of other processes in this session, in
cores. Wanted: a median error below 5 %, none above 15 %, and the measured time within the stated 95 %
interval for 18 of 20. Written by

    python -m tools.results.fresh_networks -o out/fresh --prepare
    python -m tools.results.fresh_networks -o out/fresh

{remark}
| target | networks | median error | worst | interval holds | median width | share of rooflines, at most |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
{rows}

Error is predicted over timed, less one; width is half of the interval over the prediction.
{details}"""


@dataclass(frozen=True)
class Case:
    """One network, predicted and timed, in microseconds."""

    name: str
    predicted_us: float
    low_us: float
    high_us: float
    roofline_share: float
    inspect_s: float
    timed_us: float
    others_cores: float

    @property
    def error(self) -> float:
        """Predicted over timed, less one, in per cent."""
        return 100 * (self.predicted_us / self.timed_us - 1.0)

    @property
    def held(self) -> bool:
        """Whether the time lies in the interval."""
        return self.low_us <= self.timed_us <= self.high_us


def prepare(folder: Path, seeds: Sequence[int]) -> None:
    """Write the networks, as captured."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        path = folder / f"net{seed}.mcc"
        if not path.exists():
            network = mobile_network(seed)
            save_graph(capture(network, network.example_inputs(), ()), path)
            click.echo(
                f"wrote {path}: {network.side} pixels, {network.macs() / 1e6:.0f} M multiply-accumulates"
            )


def predict(network: Path, target: str) -> dict[str, Any]:
    """The output of `mcc inspect` for a network, run in this process."""
    found = CliRunner().invoke(inspect, [str(network), "--target", target, "--json"], catch_exceptions=False)
    if found.exit_code:
        raise click.ClickException(found.output)
    stated: dict[str, Any] = json.loads(found.stdout)
    return {key: value for key, value in stated.items() if key != "layers"}


def run(target: str, networks: Path, folder: Path, seeds: Sequence[int]) -> None:
    """Predict and time the networks without results."""
    notes = Notebook(folder / "notes.json")
    os.environ["MCC_CACHE_DIR"] = str(folder / "cache")
    for seed in seeds:
        name, network = f"net{seed}", networks / f"net{seed}.mcc"
        if f"predicted {name}" not in notes.known:
            assert f"timed {name}" not in notes.known, "predictions come before timing"
            notes.keep(f"predicted {name}", predict(network, target))
        if f"timed {name}" not in notes.known:
            runtime = get_target(target)
            file = write_graph(deployment_form(load_graph(network)), runtime, folder / name)
            taken = [
                undisturbed_times(runtime, [file], threads=1, budget_s=SESSION_S)[0] for _ in range(SERIES)
            ]
            samples = min(taken, key=lambda found: found.median_us)
            notes.keep(f"timed {name}", timed(samples))
        (case,) = cases(notes.known, [seed])
        held = "" if case.held else ", outside of the interval"
        click.echo(
            f"{target} {name}: predicted {time_words(case.predicted_us)} ({time_words(case.low_us)} to "
            f"{time_words(case.high_us)}), timed {time_words(case.timed_us)}: {case.error:+.1f} %{held}"
        )


def cases(known: Mapping[str, Any], seeds: Sequence[int]) -> list[Case]:
    """The known results of the timed networks."""
    found: list[Case] = []
    for name in (f"net{seed}" for seed in seeds):
        if f"timed {name}" in known:
            said, timed_ = known[f"predicted {name}"], known[f"timed {name}"]
            found.append(
                Case(
                    name, said["predicted_latency_us"], said["predicted_latency_us_low"],
                    said["predicted_latency_us_high"], said["roofline_share"],
                    (said["measured"] or {}).get("seconds", 0.0), timed_["median"], timed_["others_cores"],
                )
            )  # fmt: skip
    return found


def summary(target: str, found: Sequence[Case]) -> str:
    """One row of the page's first table; missed goals are marked."""
    errors = np.abs([case.error for case in found])
    held = sum(case.held for case in found)
    widths = [100 * (case.high_us - case.low_us) / 2 / case.predicted_us for case in found]
    cells = [
        _marked(f"{np.median(errors):.1f} %", float(np.median(errors)) < WANTED_MEDIAN),
        _marked(f"{errors.max():.1f} %", float(errors.max()) < WANTED_WORST),
        _marked(f"{held} of {len(found)}", held >= WANTED_HELD * len(found) / len(SEEDS)),
        f"{np.median(widths):.0f} %",
        f"{100 * max(case.roofline_share for case in found):.0f} %",
    ]
    return f"| {target} | {len(found)} | {' | '.join(cells)} |"


def _marked(text: str, kept: bool) -> str:
    return text if kept else f"{text} (missed)"


def page(known: Mapping[str, Sequence[Case]], remark: str) -> str:
    """The page as Markdown, for the targets with timed networks."""
    details: list[str] = []
    for target, found in known.items():
        details += ["", f"## {target}", "",
                    "| network | predicted | interval | timed | error | holds | measured for it in | load |",
                    "| --- | ---: | ---: | ---: | ---: | --- | ---: | ---: |"]  # fmt: skip
        details += [
            f"| {c.name} | {time_words(c.predicted_us)} | {time_words(c.low_us)} to {time_words(c.high_us)} "
            f"| {time_words(c.timed_us)} | {c.error:+.1f} % | {'yes' if c.held else 'no'} "
            f"| {c.inspect_s:.0f} s | {c.others_cores:.2f} |"
            for c in found
        ]
    return PAGE_TEXT.format(
        count=max(map(len, known.values())), remark=f"{remark}\n" if remark else "",
        rows="\n".join(summary(target, found) for target, found in known.items()),
        details="\n".join(details) + "\n",
    )  # fmt: skip


@click.command()
@click.option("-o", "--output", default="out/fresh", show_default=True, type=click.Path(path_type=Path))
@click.option(
    "--target", "targets", multiple=True, default=TARGETS, type=click.Choice(TARGETS), show_default=True
)
@click.option("--networks", "count", default=len(SEEDS), show_default=True, help="Number of networks.")
@click.option("--seed", "first", default=SEEDS[0], show_default=True, help="Seed of the first network.")
@click.option("--prepare", "only_prepare", is_flag=True, help="Only write the networks.")
@click.option("--remark", default="", help="A sentence on how it was run, for the page.")
@click.option("--no-page", is_flag=True, help="Measure without writing the page.")
def main(
    output: Path,
    targets: tuple[str, ...],
    count: int,
    first: int,
    only_prepare: bool,
    remark: str,
    no_page: bool,
) -> None:
    """Measure missing results, then write the page."""
    output, seeds = output.resolve(), range(first, first + count)
    prepare(output / "networks", seeds)
    if only_prepare:
        return
    for target in targets:
        run(target, output / "networks", output / target, seeds)
    known = {t: cases(Notebook(output / t / "notes.json").known, seeds) for t in TARGETS}
    known = {target: found for target, found in known.items() if found}
    for target, found in known.items():
        click.echo(summary(target, found))
    if not no_page:
        PAGE.write_text(page(known, remark), encoding="utf-8")
        click.echo(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
