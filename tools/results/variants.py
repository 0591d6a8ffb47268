"""Test whether variants of one network are ranked correctly: random ones, predicted, then timed.

    python -m tools.results.variants -o out/variants [--target litert-web] [--count 50]

The network's operators are measured first, as by `mcc calibrate` for any model; each variant is predicted
from that table alone, the prediction is stored, and all are timed afterwards. Resumable. Writes
docs/results/variants.md.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import prod
from pathlib import Path

import click
import numpy as np

from cost_models.lookup import LookupCostModel
from mcc.analysis.channel_groups import analyse_channels
from mcc.calibrate.api import active_cluster, table_model
from mcc.calibrate.files import write_graph
from mcc.calibrate.kernel_selection import calibrate
from mcc.calibrate.network_correction import lowered_form
from mcc.calibrate.store import Store
from mcc.calibrate.undisturbed import SESSIONS, undisturbed
from mcc.compress.build import Structure, restructure
from mcc.compress.configurations import available_configurations, planned_integers, target_cluster
from mcc.cost_api import graph_kernels
from mcc.frontend.load import load_model
from mcc.ir.graph import Graph, calls, inputs
from mcc.ir.notes import shape_of
from mcc.pipeline import deployment_form
from mcc.quant.regions import integer_nodes
from mcc.report.formatting import time_words
from mcc.runtime.registry import get_target
from mcc.runtime.target import Target
from mcc.search.regions import Region, precision_regions
from mcc.search.sensitivity import Sensitivities
from mcc.search.space import SPARSITIES, Configuration, width_levels
from tools.results.prediction_runs import THREADS, Notebook

PAGE = Path(__file__).parents[2] / "docs" / "results" / "variants.md"
TARGETS = ("litert-host", "ort-host", "litert-web")
GROUP = 9  # variants that are timed in turns, with the original among them
GROUP_S = 15.0
APART = 0.05  # pairs with a smaller measured difference are ignored
WANTED = 0.95
NARROWEST, SCATTER = 0.25, 0.35  # minimum mean share of widths; spread of the groups around it, in logarithms
MIXED = 1 / 3  # of the integer variants: some regions stay float
ORIGINAL = "original"

PAGE_TEXT = """\
# Variants of one network

`mobilenet_v2` of `tools/baselines/networks.py` (64x64, untrained) in random variants of the plan's own space:
each group of channels has its own width; the network is float, on integers, on integers in some of its
regions, or with sparse 1x1 convolutions if the target gains from zeros. Its operators were measured as
`mcc calibrate` does for any model; each variant was predicted from that table alone and written down, and
then timed in turns with others. Wanted: of the pairs more than 5 % apart in measurement, 95 % ranked
correctly.

    python -m tools.results.variants -o out/variants

{remark}
| target | variants | pairs more than 5 % apart | ranked correctly | error: median | p95 | measured |
| --- | --- | --- | --- | --- | --- | --- |
{rows}

Error is that of the predicted ratio to the original, measured for each variant in the same turns.
{details}"""


@dataclass(frozen=True)
class Variant:
    """One variant, predicted and timed, as shares of the original's latency."""

    name: str
    form: str
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """Predicted over measured, less one."""
        return self.predicted / self.measured - 1.0


@dataclass(frozen=True)
class Network:
    """The network from which variants are drawn."""

    graph: Graph
    deployed: Graph
    target: Target
    configurations: tuple[Configuration, ...]
    regions: tuple[Region, ...]

    @staticmethod
    def of(spec: str, target: Target) -> Network:
        """The network on a target."""
        graph = load_model(spec).graph
        deployed = deployment_form(graph)
        integer = planned_integers(deployed)
        configurations = available_configurations(
            target_cluster(deployed, target.facts()), integer, target.facts()
        )
        return Network(graph, deployed, target, configurations, precision_regions(deployed, integer))

    def draw(self, seed: int) -> Structure:
        """A random structure; all forms of the network are equally frequent."""
        chance = random.Random(seed)
        configuration = self.configurations[seed % len(self.configurations)]
        mean = chance.uniform(NARROWEST, 1.0)
        widths: dict[str, int] = {}
        for group in analyse_channels(self.graph).prunable():
            levels = width_levels(group, self.target.facts().channel_multiple)
            wanted = group.width * min(1.0, mean * 2 ** chance.gauss(0.0, SCATTER))
            widths[group.name] = min(levels, key=lambda level, w=wanted: abs(level - w))
        floats: tuple[str, ...] = ()
        if configuration.precision != "float" and chance.random() < MIXED:
            left = chance.sample(self.regions, chance.randrange(1, len(self.regions)))
            floats = tuple(name for region in left for name in region.nodes)
        if configuration.sparse is not None:
            sparse = type(configuration.sparse)(configuration.sparse.block, chance.choice(SPARSITIES))
            configuration = Configuration(configuration.precision, sparse, configuration.passes)
        return Structure(configuration, widths, floats=floats)

    def built(self, structure: Structure) -> Graph:
        """The variant in deployment form."""
        order = {g.name: tuple(range(g.width)) for g in analyse_channels(self.graph).prunable()}
        known = Sensitivities(order, {}, {}, {})
        made = deployment_form(restructure(self.graph, structure, known, (), verify=False))
        return lowered_form(made, structure.configuration.precision)


def form_words(structure: Structure) -> str:
    """Precision and zeros of a variant."""
    sparse = structure.configuration.sparse
    if sparse is not None:
        return f"float, {sparse.sparsity:.0%} zeros"
    return f"{structure.configuration.precision}{', partly float' if structure.floats else ''}"


def predicted_us(graph: Graph, network: Network, structure: Structure, model: LookupCostModel) -> float:
    """Kernels, overhead, and conversions between regions as in a plan."""
    cluster = active_cluster(graph) if network.target.facts().sparse_1x1 else ()
    kernels = graph_kernels(graph, [n.name for n in integer_nodes(graph)], cluster)
    total = sum(model.kernel(kernel).cost for kernel in kernels.values())
    whole, plain = (model.overhead(precision).cost for precision in ("int8", "float"))
    if structure.configuration.precision == "float":
        return total + plain
    if not structure.floats:
        return total + whole
    shapes = {node.name: shape_of(node) for node in calls(graph)}
    first = shape_of(inputs(graph)[0])
    each = max(0.0, whole - plain) / prod(first)
    on_integers = [region.nodes[0] not in structure.floats for region in network.regions]
    elements = prod(first) if on_integers[0] else 0
    for region, before, after in zip(network.regions, on_integers, on_integers[1:], strict=False):
        elements += prod(shapes[region.exit]) if before != after else 0
    return total + plain + each * elements


def predict_all(network: Network, count: int, folder: Path, store: Store, notes: Notebook) -> None:
    """Draw, build and predict the variants without a stored prediction."""
    model = table_model(network.deployed, store, network.target.fingerprint(THREADS).key())
    for name in (ORIGINAL, *map(str, range(count))):
        if f"predicted {name}" in notes.known:
            continue
        structure = Structure() if name == ORIGINAL else network.draw(int(name))
        graph = network.built(structure)
        file = write_graph(graph, network.target, folder / f"variant-{name}")
        notes.keep(
            f"predicted {name}",
            {"us": predicted_us(graph, network, structure, model), "form": form_words(structure),
             "structure": structure.as_json(), "file": file.name},
        )  # fmt: skip


def time_all(network: Network, count: int, folder: Path, notes: Notebook) -> None:
    """Time the variants without a time, in groups with the original among them."""
    left = [str(i) for i in range(count) if f"timed {i}" not in notes.known]
    for begin in range(0, len(left), GROUP):
        names = [ORIGINAL, *left[begin : begin + GROUP]]
        files = [folder / str(notes.known[f"predicted {name}"]["file"]) for name in names]
        for _ in range(SESSIONS):
            taken = network.target.time(files, threads=THREADS, budget_s=GROUP_S)
            if all(undisturbed(samples) for samples in taken):
                break
        whole = taken[0].median_us
        for name, samples in zip(names[1:], taken[1:], strict=True):
            notes.keep(f"timed {name}", {**samples.as_json(), "original": whole})
        click.echo(f"{network.target.spec}: timed {min(begin + GROUP, len(left))} of {len(left)}")


def variants(notes: Mapping[str, object]) -> list[Variant]:
    """The known results of the timed variants."""
    known = json.loads(json.dumps(notes))
    if f"predicted {ORIGINAL}" not in known:
        return []
    whole_us = float(known[f"predicted {ORIGINAL}"]["us"])
    names = [key.removeprefix("timed ") for key in known if key.startswith("timed ")]
    return [
        Variant(
            name,
            str(known[f"predicted {name}"]["form"]),
            float(known[f"predicted {name}"]["us"]) / whole_us,
            float(known[f"timed {name}"]["median"]) / float(known[f"timed {name}"]["original"]),
        )
        for name in sorted(names, key=int)
    ]


def ordered(found: Sequence[Variant]) -> tuple[int, int]:
    """Number of pairs with different measurements, and of those that the predictions rank the same way."""
    pairs = [
        (one, other)
        for one, other in combinations(found, 2)
        if max(one.measured, other.measured) > (1 + APART) * min(one.measured, other.measured)
    ]
    right = sum((a.measured < b.measured) == (a.predicted < b.predicted) for a, b in pairs)
    return len(pairs), right


def page(known: Mapping[str, Sequence[Variant]], originals_us: Mapping[str, float], remark: str) -> str:
    """The page as Markdown."""
    rows: list[str] = []
    details: list[str] = []
    for target, found in known.items():
        pairs, right = ordered(found)
        sizes = 100 * np.abs([one.error for one in found])
        least, most = (pick(one.measured for one in found) for pick in (min, max))
        rows.append(
            f"| {target} | {len(found)} | {pairs} | {100 * right / max(1, pairs):.1f} % | "
            f"{np.median(sizes):.1f} % | {np.percentile(sizes, 95):.1f} % | {least:.2f} to {most:.2f} of "
            f"{time_words(originals_us[target])} |"
        )
        details += ["", f"## {target}", "", "| variant | form | predicted | measured | error |"]
        details += ["| --- | --- | --- | --- | --- |"]
        details += [
            f"| {one.name} | {one.form} | {one.predicted:.3f} | {one.measured:.3f} "
            f"| {100 * one.error:+.1f} % |"
            for one in sorted(found, key=lambda one: one.measured)
        ]
    said = f"{remark}\n" if remark else ""
    return PAGE_TEXT.format(remark=said, rows="\n".join(rows), details="\n".join(details) + "\n")


@click.command()
@click.option("-o", "--output", default="out/variants", show_default=True, type=click.Path(path_type=Path))
@click.option("--target", "targets", multiple=True, default=TARGETS, type=click.Choice(TARGETS))
@click.option("--count", default=50, show_default=True, help="Number of variants.")
@click.option(
    "--budget", "budget_s", default=600.0, show_default=True, help="Seconds of measuring operators."
)
@click.option("--remark", default="", help="A sentence on how it was run, for the page.")
@click.option("--page-only", is_flag=True, help="Write the page from what is known.")
def main(
    output: Path, targets: tuple[str, ...], count: int, budget_s: float, remark: str, page_only: bool
) -> None:
    """Measure missing results, then write the page."""
    for name in () if page_only else targets:
        folder = output / name
        folder.mkdir(parents=True, exist_ok=True)
        network = Network.of("tools/baselines/networks.py:mobilenet_v2", get_target(name))
        notes = Notebook(folder / "notes.json")
        with Store(folder / "table.sqlite") as store:
            report = calibrate(network.deployed, network.target, store, threads=THREADS, budget_s=budget_s)
            click.echo(f"{name}: {report.measured} operators measured, {report.left} left")
            predict_all(network, count, folder, store, notes)
        time_all(network, count, folder, notes)
    notebooks = {name: Notebook(output / name / "notes.json").known for name in TARGETS}
    known = {name: found for name, notes in notebooks.items() if (found := variants(notes))}
    originals = {
        name: float(
            np.median([e["original"] for key, e in notebooks[name].items() if key.startswith("timed ")])
        )
        for name in known
    }
    PAGE.write_text(page(known, originals, remark), encoding="utf-8")
    click.echo(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
