"""Measure the time of a plan for 60 convolutions, with table and sensitivities given, and its gap.

    python -m tools.results.solver -o out/solver --page docs/results/solver.md

Resumable: each plan is stored when it is done. The network is MobileNetV2-like with random weights; costs are
a formula and losses random, since neither changes the work of the solver. Each case builds its tables and
solves once for each budget. The processor time of one thread is reported: the solver uses one, so that the
plan does not depend on the machine.
"""

from __future__ import annotations

import platform
import random
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click

from mcc.analysis.channel_groups import analyse_channels
from mcc.analysis.pointwise import pointwise
from mcc.analysis.sparse_cluster import find_sparse_cluster
from mcc.compress.configurations import planned_integers
from mcc.ir.graph import Graph, calls, operand
from mcc.ir.notes import SparseNote, shape_of
from mcc.pipeline import deployment_form
from mcc.search.regions import precision_regions
from mcc.search.sensitivity import Sensitivities
from mcc.search.sensitivity_run import MOST_PAIRS, meeting
from mcc.search.solver import Limits, solve
from mcc.search.space import SPARSITIES, Configuration, rank_levels
from mcc.search.tables import Setting, build_problem
from tests.search.networks import Net
from tests.search.test_problem import MacsModel, sensitivities
from tools.results.cells import written
from tools.results.prediction_runs import Notebook

SHARES = (0.8, 0.65, 0.5, 0.3)  # of the whole network's latency
STAGES = (
    (1, 16, 2, 1), (6, 24, 3, 2), (6, 32, 4, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip


@dataclass(frozen=True)
class Timed:
    """One plan: processor seconds of tables and of solving, and the gap stated by the solver.

    Attributes:
        gap: None if the solver proved that the budget is infeasible.
    """

    case: str
    share: float
    tables_s: float
    solve_s: float
    gap: float | None


def sixty() -> Graph:
    """Inverted residuals with 60 convolutions, at 64x64."""
    net = Net(64)
    x = net.conv(net.x, 32, 3, 2, activation="relu6")
    for expansion, out, blocks, stride in STAGES:
        for block in range(blocks):
            x = net.block(x, out, 1 if block else stride, expansion)
    return net.head(net.conv(x, 1280, activation="relu6"))


def known_of(graph: Graph, whole: Graph) -> Sensitivities:
    """Random losses of all decisions of a plan."""
    chance = random.Random(0)
    plain = sensitivities(graph)
    ranks = {
        node.name: {r: chance.uniform(0.01, 0.3) for r in rank_levels(*shape_of(operand(node, 1))[:2])}
        for node in pointwise(whole)
    }
    sparse = {
        name: dict(zip(SPARSITIES, sorted(chance.uniform(0.01, 0.3) for _ in SPARSITIES), strict=True))
        for name in find_sparse_cluster(whole).pointwise
    }
    regions = precision_regions(whole, planned_integers(whole))
    noise = {region.name: chance.uniform(0.001, 0.05) for region in regions}
    pairs = {pair: chance.uniform(-0.5, 0.5) for pair in meeting(analyse_channels(graph))[:MOST_PAIRS]}
    return replace(plain, ranks=ranks, sparse=sparse, noise=noise, pairs=pairs)


def measured(notes: Notebook) -> list[Timed]:
    """All cases; results of earlier runs are reused."""
    graph = sixty()
    whole = deployment_form(graph)
    setting = Setting(
        whole, planned_integers(whole), find_sparse_cluster(whole), MacsModel(), known_of(graph, whole), 8
    )
    cases = {
        "float, low-rank pairs": (Configuration(), True, False),
        "integers, pairs, each region free": (Configuration("int8"), True, True),
        "sparse, each layer's zeros free": (
            Configuration("float", SparseNote(1, SPARSITIES[0])),
            False,
            True,
        ),
    }
    for name, (configuration, low_rank, mixed) in cases.items():
        left = [share for share in SHARES if _key(name, share) not in notes.known]
        if not left:
            continue
        begin = time.process_time()
        problem = build_problem(setting, configuration, widths=True, low_rank=low_rank, mixed=mixed)
        tables_s = time.process_time() - begin
        widest = [layer.options[max(layer.options)][0] for layer in problem.layers]
        latency = problem.overhead_cost + sum(option.cost for option in widest)
        for share in left:
            begin = time.process_time()
            solution = solve(problem, Limits(share * latency))
            spent = time.process_time() - begin
            gap = None if solution is None else solution.gap
            notes.keep(_key(name, share), asdict(Timed(name, share, tables_s, spent, gap)))
            click.echo(f"{name} {share}: {spent:.1f} s, gap {gap}", err=True)
    count = len(calls(whole, "conv2d"))
    click.echo(f"{count} convolutions", err=True)
    return [Timed(**notes.known[_key(name, share)]) for name in cases for share in SHARES]


def _gap_words(gap: float | None) -> str:
    return "nothing keeps it" if gap is None else f"{100 * gap:.2f} %"


def _key(case: str, share: float) -> str:
    return f"{case} at {share:g}"


@click.command()
@click.option("-o", "--output", default="out/solver", show_default=True, type=click.Path(path_type=Path))
@click.option("--page", type=click.Path(path_type=Path), help="File for the table; default: standard output.")
def main(output: Path, page: Path | None) -> None:
    """Time the plans, and write the table."""
    output.mkdir(parents=True, exist_ok=True)
    found = measured(Notebook(output / "notes.json"))
    lines = [
        "# The solver",
        "",
        "A plan for a network of 60 convolutions (27 groups of channels) with table and sensitivities",
        "given: processor seconds of one thread for its tables and for solving, and the gap between answer",
        "and proved bound. Wanted: under 60 s, and a gap under 1 %.",
        "`python -m tools.results.solver -o out/solver --page docs/results/solver.md` repeats it.",
        "",
        f"{platform.machine()}, Python {platform.python_version()}; each plan once.",
        "",
        "| decided, besides widths | budget, of the latency | tables, s | solving, s | gap |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {one.case} | {one.share:g} | {one.tables_s:.1f} | {one.solve_s:.1f} | {_gap_words(one.gap)} |"
        for one in found
    ]
    if page is not None:
        written(page, lines)
    click.echo("\n".join(lines))


if __name__ == "__main__":
    main()
