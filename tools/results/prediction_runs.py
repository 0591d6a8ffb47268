"""Measures and times networks for the page on predictions; each step is stored when it is done."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click

from cost_models.lookup import LookupCostModel
from mcc.calibrate.api import active_cluster
from mcc.calibrate.files import write_graph
from mcc.calibrate.measure import input_name, measure, measure_again, measure_overhead
from mcc.calibrate.network_correction import lowered_form
from mcc.calibrate.store import Store
from mcc.calibrate.undisturbed import undisturbed_times
from mcc.cost_api import Kernel, Precision, graph_kernels
from mcc.cost_sum import predict
from mcc.files import write_beside
from mcc.ir.graph import Graph, inputs
from mcc.ir.notes import shape_of
from mcc.quant.regions import integer_nodes
from mcc.runtime.samples import LatencySamples
from mcc.runtime.target import Target

THREADS = 1
ROUNDS_S = 4.0  # of timing a few networks in turns


@dataclass(frozen=True)
class Subject:
    """A network in one precision.

    Attributes:
        name: Unique name.
        precision: Precision of the lowered network.
        make: Builds it in deployment form.
    """

    name: str
    precision: Precision
    make: Callable[[], Graph]


class Notebook:
    """A JSON file of known results, written at every addition."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}

    def keep(self, key: str, value: Any) -> None:
        """Add or replace an entry."""
        self.known[key] = value
        text = json.dumps(self.known, indent=1)
        write_beside(self.path, lambda p: p.write_text(text, encoding="utf-8"))


@dataclass(frozen=True)
class Bench:
    """Measures on one target and stores the results."""

    target: Target
    store: Store
    notes: Notebook
    folder: Path

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the measurements."""
        return self.target.fingerprint(THREADS).key()

    def kernels(self, graph: Graph) -> list[Kernel]:
        """Kernels of a network in deployment form."""
        cluster = active_cluster(graph) if self.target.facts().sparse_1x1 else ()
        return list(graph_kernels(graph, [n.name for n in integer_nodes(graph)], cluster).values())

    def measure(self, subjects: Sequence[Subject]) -> None:
        """Measure the missing kernels of some networks, all of one precision together."""
        left = [s for s in subjects if f"kernels {s.name}" not in self.notes.known]
        for precision in dict.fromkeys(subject.precision for subject in left):
            group = [subject for subject in left if subject.precision == precision]
            graphs = [subject.make() for subject in group]
            for shape in {shape_of(inputs(graph)[0]) for graph in graphs}:
                measure_overhead(shape, precision, self.target, self.store, threads=THREADS)
            kernels = [kernel for graph in graphs for kernel in self.kernels(graph)]
            report = measure(kernels, self.target, self.store, threads=THREADS)
            self._look_again(set(kernels))
            for subject in group:
                self.notes.keep(f"kernels {subject.name}", {"together": len(group), **asdict(report)})

    def _look_again(self, kernels: set[Kernel]) -> None:
        """Repeat measurements that may have been disturbed."""
        model = LookupCostModel.from_store(self.store, self.fingerprint)
        suspects = [kernel for kernel in model.suspects() if kernel in kernels]
        faster = measure_again(suspects, self.target, self.store, threads=THREADS) if suspects else []
        if suspects:
            click.echo(f"measured {len(suspects)} kernels again: {len(faster)} became faster")

    def predict(self, subject: Subject, column: str, *, without_own: bool) -> None:
        """Store the prediction of a network, once.

        Args:
            without_own: Whether to predict as if none of its own kernels had been measured.
        """
        key = f"{column} {subject.name}"
        if key in self.notes.known:
            return
        assert f"time {subject.name}" not in self.notes.known, "predictions come before timing"
        latency, error = predicted(self, subject.make(), subject.precision, without_own=without_own)
        self.notes.keep(key, {"latency_us": latency, "error_us": error})

    def time(self, subjects: Sequence[Subject]) -> None:
        """Time the networks that were not timed yet; repeat disturbed measurements.

        The fastest session of a network counts: disturbances only increase times.
        """
        left = [subject for subject in subjects if f"time {subject.name}" not in self.notes.known]
        files = [write_graph(s.make(), self.target, self.folder / s.name) for s in left]
        taken = undisturbed_times(self.target, files, threads=THREADS, budget_s=ROUNDS_S) if files else []
        for subject, samples in zip(left, taken, strict=True):
            self.notes.keep(f"time {subject.name}", timed(samples))


def timed(samples: LatencySamples) -> dict[str, Any]:
    """The stored form of a measured latency."""
    return {
        **samples.as_json(),
        "ci95": [samples.ci_low_us, samples.ci_high_us],
        "others_cores": samples.load.others_cores,
    }


def predicted(bench: Bench, graph: Graph, precision: Precision, *, without_own: bool) -> tuple[float, float]:
    """Microseconds predicted for a network, and one standard deviation; see `Bench.predict`."""
    source = input_name(shape_of(inputs(graph)[0]))
    kernels = bench.kernels(graph)
    model = model_without({str(k) for k in kernels} if without_own else set(), bench, source)
    cost = predict(model, {str(index): kernel for index, kernel in enumerate(kernels)}, precision)
    return cost.cost, cost.error


def model_without(hidden: set[str], bench: Bench, source: str) -> LookupCostModel:
    """The cost model of the table without some kernels' rows."""
    whole = LookupCostModel.from_store(bench.store, bench.fingerprint, source)
    return replace(whole, rows=tuple(row for row in whole.rows if str(row.kernel) not in hidden))


def subjects_of(name: str, make: Callable[[], Graph], precisions: Sequence[Precision]) -> list[Subject]:
    """A network in several precisions."""

    def lowered(precision: Precision) -> Callable[[], Graph]:
        return lambda: lowered_form(make(), precision)

    return [Subject(f"{name}-{precision}", precision, lowered(precision)) for precision in precisions]
