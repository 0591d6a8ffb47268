"""The swap table: plans made for one target, run on every other.

    python -m tools.results.swap --data DIR --weights DIR -o out/swap --page docs/results/swap.md

For each target, the joint plan for a budget of 2x is computed and trained; then every trained plan is lowered
for, timed on and evaluated in the runtime of each target. On each target, its own plan should be the most
accurate of those that keep the budget there. Resumable. Run it on an otherwise idle machine; it takes hours.
"""

from __future__ import annotations

import json
from pathlib import Path

import click

from tools.results.cells import (
    LATENCY_NOISE,
    Cell,
    Inputs,
    cell,
    compressed,
    epochs_for,
    paired_interval,
    structure,
    written,
)
from tools.results.data import named

TARGETS = ("litert-host", "ort-host", "litert-web", "litert-arm64-sim:a76")
CIFAR10_TRAIN = 50_000  # training images of CIFAR-10
SPEEDUP = 2.0


@click.command()
@click.option("--data", required=True, help="Folder with cifar-10-batches-bin.")
@click.option("--weights", required=True, help="Folder with the trained baselines.")
@click.option("--network", default="mobilenet_v2", show_default=True)
@click.option("--target", "targets", multiple=True, default=TARGETS, show_default=True)
@click.option("--speedup", default=SPEEDUP, show_default=True)
@click.option(
    "--epochs", default=epochs_for(CIFAR10_TRAIN), show_default=True, help="Epochs of each fine-tuning."
)
@click.option("--limit", type=int, help="Limit on the images of each split: a trial, not a result.")
@click.option("-o", "--output", default="out/swap", show_default=True, type=click.Path(path_type=Path))
@click.option("--page", type=click.Path(path_type=Path), help="File for the table; default: standard output.")
@click.option("--remark", default="", help="A sentence on how it was run, for the page.")
def main(
    data: str, weights: str, network: str, targets: tuple[str, ...], speedup: float, epochs: str,
    limit: int | None, output: Path, page: Path | None, remark: str,
) -> None:  # fmt: skip
    """Make the plans, run each on every target, and write the table."""
    given = Inputs(network, named(data), weights, epochs, output)
    jobs = {target: compressed(given, target, speedup, 0, ["joint"]) for target in targets}
    plans = {target: structure(job, "joint") for target, job in jobs.items()}
    cells = {(made, on): cell(given, job, "joint", on, limit) for made, job in jobs.items() for on in targets}
    lines = table(network, speedup, targets, plans, cells, remark)
    if limit is not None:
        lines.insert(2, f"A TRIAL on {limit} images of each split; not a result.\n")
    if page is not None:
        written(page, lines)
    click.echo("\n".join(lines))


def table(
    network: str,
    speedup: float,
    targets: tuple[str, ...],
    plans: dict[str, dict[str, object]],
    cells: dict[tuple[str, str], Cell],
    remark: str = "",
) -> list[str]:
    """The page."""
    lines = [
        f"# Plans for one target on another: {network}, {speedup:g}x",
        "",
        "Each column is a target, each row the plan made for one: speed-up there (measured in turns with the",
        "original; modelled on a simulator), and validation accuracy of the lowered file in that runtime.",
        f"Bold: the budget is kept, within {LATENCY_NOISE:.0%} that measuring again may differ by. Intervals",
        "are 95 % ones of a paired bootstrap over the validation images.",
        "`python -m tools.results.swap` repeats it.",
        *(["", remark] if remark else []),
        "",
        "| plan made for | " + " | ".join(f"on {on}" for on in targets) + " |",
        "| --- |" + " --- |" * len(targets),
    ]
    for made in targets:
        lines.append(f"| {made} | " + " | ".join(entry(cells[made, on], speedup) for on in targets) + " |")
    lines += ["", *[verdict(on, targets, cells, speedup) for on in targets], ""]
    distinct = len({json.dumps(plan, sort_keys=True) for plan in plans.values()})
    lines.append(f"{distinct} of the {len(plans)} plans differ from one another.")
    return lines


def entry(found: Cell, speedup: float) -> str:
    """One cell as text."""
    words = f"{found.speedup:.2f}x, {100 * found.accuracy('validation'):.2f} %"
    return f"**{words}**" if found.keeps(speedup) else words


def verdict(on: str, targets: tuple[str, ...], cells: dict[tuple[str, str], Cell], speedup: float) -> str:
    """Whether a target's own plan is the best there of those that keep the budget, or else the better one."""
    keeping = {made: cells[made, on] for made in targets if cells[made, on].keeps(speedup)}
    if on not in keeping:
        return f"- {on}: its own plan misses the budget when measured again: {cells[on, on].speedup:.2f}x."
    best = max(keeping, key=lambda made: keeping[made].accuracy("validation"))
    if best == on:
        return f"- {on}: its own plan is the best of {len(keeping)} that keep the budget."
    behind, low, high = paired_interval(
        [keeping[best].right["validation"]], [keeping[on].right["validation"]]
    )
    return (
        f"- {on}: the plan for {best} is {behind:.2f} points more accurate here (95 % interval {low:+.2f} to "
        f"{high:+.2f}) and keeps the budget, too."
    )


if __name__ == "__main__":
    main()
