"""The joint plan against single and sequential strategies, under the same budgets with the same training.

    python -m tools.results.joint --data DIR --weights DIR -o out/joint --page docs/results/joint.md

For each network, target, budget and seed, `mcc compress` trains every strategy for 390 steps of 128
images; each distinct structure is trained once, and seeds beyond the first train only the joint plan and
what came within a point of the best other strategy. Every trained file that keeps the budget where it was
planned is run on the test images; the gain of the joint plan is that over the other strategy with the
highest validation accuracy among those that keep the budget, with a paired bootstrap interval over the
test images. Resumable. Run it on a machine that does nothing else; it takes a day on two cores.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from mcc.compress.strategies import strategies
from tools.results.cells import (
    Cell,
    Figures,
    Inputs,
    Right,
    cell,
    compressed,
    epochs_for,
    folder_of,
    is_finished,
    measured,
    paired_interval,
    written,
)
from tools.results.data import named
from tools.results.swap import CIFAR10_TRAIN

NETWORKS = ("mobilenet_v2", "resnet20")
TARGETS = ("ort-host", "litert-web", "litert-arm64-sim:a76", "litert-host")
SPEEDUPS = (1.5, 2.0, 3.0)
MIDDLE = SPEEDUPS[1]
SEEDS = 3  # at the middle budget; one elsewhere
NEAR = 0.9  # of the budget: a slower result in its own job would miss it when measured again, too
BEHIND = 0.01  # of validation accuracy: strategies that are further behind are not trained with more seeds
COMPARED = tuple(name for name, strategy in strategies().items() if not strategy.is_reference)


@dataclass(frozen=True)
class Comparison:
    """One network, target, budget and seed.

    Attributes:
        joint, other: Cells of the joint plan and of the best other strategy that keep the budget, or None.
        rival: Name of the other strategy.
    """

    network: str
    target: str
    speedup: float
    seed: int
    joint: Cell | None
    other: Cell | None
    rival: str


def in_reach(job: Path, speedup: float) -> dict[str, Figures]:
    """The figures of a finished job for the strategies near their budget."""
    found = measured(job).items()
    return {name: f for name, f in found if name in COMPARED and f.speedup > NEAR * speedup}


def strategies_for(given: Inputs, target: str, speedup: float, seed: int) -> tuple[str, ...]:
    """All strategies for the first seed; for others the joint plan and possible best others.

    Raises SystemExit if the first seed has not been run yet.
    """
    if seed == 0:
        return COMPARED
    if not is_finished(given, target, speedup, 0, COMPARED):
        raise SystemExit(f"{target}, {speedup:g}x: seed 0 comes before seed {seed}")
    tried = in_reach(folder_of(given, target, speedup, 0), speedup)
    tried.pop("joint", None)
    least = max((f.validation for f in tried.values()), default=0.0) - BEHIND
    return ("joint", *(name for name in COMPARED if name in tried and tried[name].validation >= least))


def compared(given: Inputs, target: str, speedup: float, seed: int, limit: int | None) -> Comparison:
    """Run the missing parts of one comparison."""
    job = compressed(given, target, speedup, seed, strategies_for(given, target, speedup, seed))
    tried = in_reach(job, speedup)
    joint = cell(given, job, "joint", target, limit) if "joint" in tried else None
    others = sorted(set(tried) - {"joint"}, key=lambda name: tried[name].validation, reverse=True)
    for rival in others:  # the first that keeps the budget is the best of those that do
        other = cell(given, job, rival, target, limit)
        if other.keeps(speedup):
            break
    else:
        rival, other = "", None
    kept = joint if joint is not None and joint.keeps(speedup) else None
    return Comparison(given.network, target, speedup, seed, kept, other, rival)


def _is_run(given: Inputs, target: str, speedup: float, seed: int) -> bool:
    first = is_finished(given, target, speedup, 0, COMPARED)
    return first and is_finished(given, target, speedup, seed, strategies_for(given, target, speedup, seed))


@click.command()
@click.option("--data", required=True, help="Folder with cifar-10-batches-bin.")
@click.option("--weights", required=True, help="Folder with the trained baselines.")
@click.option("--network", "networks", multiple=True, default=NETWORKS, show_default=True)
@click.option("--target", "targets", multiple=True, default=TARGETS, show_default=True)
@click.option("--speedup", "speedups", multiple=True, type=float, default=SPEEDUPS, show_default=True)
@click.option("--seeds", default=SEEDS, show_default=True, help="Seeds at the middle budget.")
@click.option(
    "--epochs", default=epochs_for(CIFAR10_TRAIN), show_default=True, help="Epochs of each fine-tuning."
)
@click.option("--limit", type=int, help="Limit on the images of each split: a trial, not a result.")
@click.option("-o", "--output", default="out/joint", show_default=True, type=click.Path(path_type=Path))
@click.option("--page", type=click.Path(path_type=Path), help="File for the table; default: standard output.")
@click.option("--page-only", is_flag=True, help="Write the table of finished jobs only.")
@click.option("--remark", default="", help="A sentence on how it was run, for the page.")
def main(
    data: str, weights: str, networks: tuple[str, ...], targets: tuple[str, ...], speedups: tuple[float, ...],
    seeds: int, epochs: str, limit: int | None, output: Path, page: Path | None, page_only: bool, remark: str,
) -> None:  # fmt: skip
    """Run what is missing, then write the table."""
    found: list[Comparison] = []
    spec = named(data)
    for network in networks:
        given = Inputs(network, spec, weights, epochs, output)
        for target in targets:
            for speedup in speedups:
                for seed in range(seeds if speedup == MIDDLE else 1):
                    if not page_only or _is_run(given, target, speedup, seed):
                        found.append(compared(given, target, speedup, seed, limit))
    lines = table(found, remark)
    if limit is not None:
        lines.insert(2, f"A TRIAL on {limit} images of each split; not a result.\n")
    if page is not None:
        written(page, lines)
    click.echo("\n".join(lines))


def table(found: list[Comparison], remark: str = "") -> list[str]:
    """The page."""
    lines = [
        "# The joint plan against single and sequential strategies",
        "",
        "Accuracy on the test images of the lowered file in the target's runtime. The other strategy is the",
        "one with the highest validation accuracy of those that keep the budget. Gain: in points, with the",
        "95 % interval of a paired bootstrap over images. With seeds beyond the first, only strategies",
        f"are tried that were at most {100 * BEHIND:g} point behind the best other with the first.",
        "`python -m tools.results.joint` repeats it.",
        "",
        *([remark, ""] if remark else []),
        "| network | target | budget | seed | joint | speed-up | best other | accuracy | speed-up | gain |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [row(one) for one in found]
    for network in dict.fromkeys(one.network for one in found):
        whole = [one for one in found if one.network == network and one.joint and one.other]
        if whole:
            gain, low, high = paired_interval(*_sides(whole))
            lines += ["", f"{network}, mean over {len(whole)} comparisons: {gain:+.2f} points "
                          f"(95 % interval {low:+.2f} to {high:+.2f})."]  # fmt: skip
            worse = [one for one in whole if paired_interval(*_sides([one]))[2] < 0]
            lines.append(f"Worse beyond its interval in {len(worse)} of them.")
    return lines


def _sides(found: list[Comparison]) -> tuple[list[Right], list[Right]]:
    joint = [one.joint.right["test"] for one in found if one.joint]
    other = [one.other.right["test"] for one in found if one.other]
    return joint, other


def row(one: Comparison) -> str:
    """One comparison as text."""
    head = f"| {one.network} | {one.target} | {one.speedup:g}x | {one.seed} "
    ours, theirs = (f"{_figures(found)}" for found in (one.joint, one.other))
    if one.joint is None or one.other is None:
        return f"{head}| {ours} | {one.rival or 'none keeps it'} | {theirs} | – |"
    gain, low, high = paired_interval([one.joint.right["test"]], [one.other.right["test"]])
    return f"{head}| {ours} | {one.rival} | {theirs} | {gain:+.2f} ({low:+.2f} to {high:+.2f}) |"


def _figures(found: Cell | None) -> str:
    return (
        "misses it | –" if found is None else f"{100 * found.accuracy('test'):.2f} % | {found.speedup:.2f}x"
    )


if __name__ == "__main__":
    main()
