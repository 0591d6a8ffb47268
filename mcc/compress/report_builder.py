"""Builds the report from outcomes: figures of every strategy, decisions per layer, checks of the file."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mcc.compress.bench import Bench, period_words
from mcc.compress.configurations import structure_kernels, target_cluster
from mcc.compress.job import Job
from mcc.compress.outcome import Outcome
from mcc.compress.speed import Speed
from mcc.cost_api import CostModel, Kernel, graph_kernels
from mcc.distribution import VERSION
from mcc.errors import NotFiniteError, VerificationError
from mcc.ir import table
from mcc.ir.feed import arrays_of, feed_of, tensors_of
from mcc.ir.graph import Graph, calls, constants, outputs, run
from mcc.ir.notes import note, shape_of, type_of
from mcc.lower.formats import get_format
from mcc.pipeline import deployment_form
from mcc.quant.noise import IMAGES, NoiseReport, check_noise
from mcc.quant.params import is_fake_quantize
from mcc.quant.simulator import flavour_of, simulate
from mcc.report.compare import Array, Comparison, compare_outputs
from mcc.report.figures import metric_fields
from mcc.report.kernels import against_reference, sparse_kernels
from mcc.report.layers import kind_words
from mcc.report.measure import Shape, run_file
from mcc.report.schema import Cost, Decision, Latency, Precision, StrategyResult
from mcc.runtime.facts import TargetFacts
from mcc.runtime.target import Target
from mcc.search.space import Configuration

CHECK_IMAGES = 64
SHARE_IMAGES = 1000  # images needed to tell whether 99.5 % of the classes agree


def macs_of(graph: Graph) -> int:
    """Multiply-accumulates of one inference."""
    total = 0
    for node in calls(graph):
        types = [type_of(arg) if isinstance(arg, torch.fx.Node) else None for arg in node.args]
        total += table.row_of(node).macs(types, dict(node.kwargs), type_of(node))
    return total


def params_of(graph: Graph) -> int:
    """Number of non-zero weights, without quantisation parameters and batch-norm statistics."""
    trains = dict(graph.named_parameters(recurse=False))
    return sum(int((value != 0).sum()) for name, value in constants(graph).items() if name in trains)


def latency_of(speed: Speed) -> Latency:
    """A measured speed as an entry of the report."""
    return Latency(
        median=speed.latency_us, p10=speed.p10_us, p90=speed.p90_us, runs=speed.runs,
        ci95=(speed.low_us, speed.high_us),
    )  # fmt: skip


def speed_figure(target: Target, speed: Speed) -> dict[str, Any]:
    """`latency_us`, or `model_cycles` for targets that count cycles."""
    if target.unit.exact:
        return {target.unit.key: target.unit.raw(speed.latency_us)}
    return {target.unit.key: latency_of(speed)}


def predicted_figure(target: Target, cost: float | None) -> dict[str, Any]:
    """`predicted_latency_us` or `predicted_model_cycles`."""
    return {f"predicted_{target.unit.key}": None if cost is None else target.unit.raw(cost)}


def result_of(job: Job, bench: Bench, outcome: Outcome, speed: Speed) -> StrategyResult:
    """All figures of a strategy except the test metric, which is computed once, after the choice.

    A strategy with non-finite outputs has no metric, a note that says so, and cannot be chosen.
    """
    found: dict[str, Any] = {}
    notes = outcome.notes
    try:
        found = metric_fields("validation_metric", bench.figure(outcome.file, job.data, "validation"))
    except NotFiniteError as error:
        if outcome.name == "original":
            raise
        notes = (*notes, f"It has no {job.task.metric.name}: {error.message}.")
    return StrategyResult(
        name=outcome.name,
        **found,
        **speed_figure(job.target, speed),
        size_bytes=outcome.file.stat().st_size,
        peak_memory_bytes=bench.final_memory(outcome.file),
        macs=macs_of(outcome.graph),
        params=params_of(outcome.graph),
        speedup=speed.speedup,
        speedup_ci95=speed.speedup_ci95,
        **predicted_figure(job.target, outcome.predicted_cost),
        notes=notes,
    )


def tested(result: StrategyResult, bench: Bench, job: Job, file: Path) -> StrategyResult:
    """A result with its metric on the test split; computed after every choice was made."""
    if result.validation is None:  # its outputs are not finite
        return result
    further = bench.figures(file, job.data, "test")
    found = metric_fields("metric", bench.figure(file, job.data, "test"))
    return result.model_copy(update=found | ({"metrics": further} if further else {}))


def decisions_of(
    job: Job, outcome: Outcome, model: CostModel, integer: frozenset[str], dates: Mapping[str, str]
) -> tuple[Decision, ...]:
    """One decision for each layer with weights, with its predicted cost before and after.

    Args:
        integer: Nodes of the delivered graph that run as integer kernels.
        dates: Times of the kernels' measurements, by name.
    """
    before = deployment_form(job.graph)
    facts = job.target.facts()
    kernels = structure_kernels(before, Configuration(), facts)
    after = {node.name: node for node in calls(outcome.graph) if not is_fake_quantize(node)}
    changed = final_kernels(outcome.graph, outcome.structure.configuration, integer, facts)
    found: list[Decision] = []
    for node in calls(before):
        if table.row_of(node).scales != "weighted" or node.name not in after:
            continue
        pair = [name for name in (f"{node.name}_v", node.name) if name in changed]
        now, said = after[node.name], note(after[node.name])
        precision: Precision = outcome.structure.configuration.precision if node.name in integer else "float"
        kind = "sparse" if said.sparse else "low-rank" if len(pair) > 1 else "dense"
        found.append(
            Decision(
                node=node.name,
                kind=kind_words(node),
                channels_before=shape_of(node)[1],
                channels_after=shape_of(now)[1],
                implementation=kind,
                sparsity=said.sparse.sparsity if said.sparse else 0.0,
                block=said.sparse.block if said.sparse else None,
                rank=said.rank if kind == "low-rank" else None,
                precision=precision,
                cost_before=_cost(job.target, model, [kernels[node.name]], dates),
                cost_after=_cost(job.target, model, [changed[name] for name in pair], dates),
            )
        )
    return tuple(found)


def final_kernels(
    graph: Graph, configuration: Configuration, integer: frozenset[str], facts: TargetFacts
) -> dict[str, Kernel]:
    """Kernels of a delivered graph on a target, quantised or not."""
    return graph_kernels(graph, integer, target_cluster(graph, facts).nodes if configuration.sparse else ())


def _cost(target: Target, model: CostModel, kernels: Sequence[Kernel], dates: Mapping[str, str]) -> Cost:
    estimates = [model.kernel(kernel) for kernel in kernels]
    measured = all(estimate.source == "measured" for estimate in estimates)
    figures: dict[str, Any] = {target.unit.key: target.unit.raw(sum(e.cost for e in estimates))}
    days = [dates[str(kernel)] for kernel in kernels if str(kernel) in dates]
    when = period_words(days) if measured and days else None
    return Cost(**figures, source="measured" if measured else "fitted", measured_on=when)


def check_file(job: Job, outcome: Outcome, *, allow_noise: bool = False) -> dict[str, str]:
    """Compare the delivered file, run in the target's runtime, with its graph and with reference kernels.

    The graph of an integer file is compared with its float weights, too.

    Args:
        allow_noise: Whether a signal lost by quantisation is only a warning of the report.

    Returns:
        The checks, as text.

    Raises:
        VerificationError: A float file differs beyond float rounding, an integer file agrees with the integer
            simulator on too few images, its graph loses the signal of its float weights, or fewer sparse
            kernels ran than the file has sparse weights.
    """
    integer = bool(calls(outcome.graph, "fake_quantize"))
    shapes = [shape_of(value) for value in outputs(outcome.graph)]
    x, got, found = _compared(job, outcome, shapes, integer, CHECK_IMAGES)
    if integer and not found.passed:  # one image in 64 is more than the share of classes that may differ
        x, got, found = _compared(job, outcome, shapes, integer, SHARE_IMAGES)
    worst = "a value that is not finite" if found.worst is None else f"{found.worst:.2g} of the output range"
    words = f"{found.inputs} images, {found.equal:.2%} of the outputs equal, largest difference {worst}"
    if not found.passed:
        raise VerificationError(f"is not what its graph computes ({words})", where=outcome.file.name)
    checks = {"integer simulator" if integer else "graph in torch": words}
    checks.update(_check_signal(job, outcome, allow_noise) if integer else {})
    return {**checks, **_check_kernels(job.target, outcome.file, x, shapes, got, integer)}


def _check_signal(job: Job, outcome: Outcome, allow_noise: bool) -> dict[str, str]:
    """Compare a result's quantised graph with the float network of the same weights, on calibration images.

    Pruning and training change the outputs on purpose and are judged by the metric; the loss of signal by
    quantising the resulting network is judged here. With `allow_noise` the report carries a warning.
    """
    report = signal_of(job, outcome.graph)
    failure = report.failure()
    if failure is not None and not allow_noise:
        raise failure
    if failure is not None:
        job.warn(f"{failure.where}: {failure.message}.")
    return {"signal to noise": report.words}


def signal_of(job: Job, graph: Graph) -> NoiseReport:
    """Signal that a quantised graph keeps of its float weights, on calibration images of a job."""
    batch = next(iter(job.data.batches("calibration", IMAGES, limit=IMAGES)))
    flavour = flavour_of(get_format(job.target.format).suffix)
    return check_noise(graph, tensors_of(feed_of(batch.inputs)), flavour=flavour)


def _compared(
    job: Job, outcome: Outcome, shapes: Sequence[Shape], integer: bool, images: int
) -> tuple[tuple[Array, ...], list[Array], Comparison]:
    """Validation images, the file's outputs for them in the target's runtime, and their comparison."""
    batch = next(iter(job.data.batches("validation", images, limit=images)))
    x = tuple(np.asarray(array, np.float32) for array in arrays_of(batch.inputs))
    tensors = [torch.from_numpy(array) for array in x]
    if integer:
        expected = simulate(outcome.graph, tensors, flavour=flavour_of(outcome.file.suffix))
    else:
        expected = run(outcome.graph, *tensors)
    got = run_file(job.target, outcome.file, x, shapes, threads=job.request.threads)
    return (
        x,
        got,
        compare_outputs(
            got, [value.numpy() for value in expected], integer=integer, agree=job.task.agreement
        ),
    )


def _check_kernels(
    target: Target,
    file: Path,
    x: Sequence[Array],
    shapes: Sequence[Shape],
    got: Sequence[Array],
    integer: bool,
) -> dict[str, str]:
    """Checks against reference kernels on the target, and the number of sparse kernels run, if available."""
    checks: dict[str, str] = {}
    # The integer simulator is the stricter reference of integers: reference kernels round differently.
    slow = None if integer else against_reference(target, file, x, shapes, got)
    if slow is not None:
        words = f"{slow.inputs} images, largest difference {slow.worst:.2g} of the output range"
        if not slow.passed:
            raise VerificationError(
                f"differs from {target.name}'s reference kernels ({words})", where=file.name
            )
        checks["reference kernels"] = words
    sparse = sparse_kernels(target, file)
    if sparse is not None:
        if not sparse.passed:
            raise VerificationError(f"does not run as planned: {sparse.words}", where=file.name)
        checks["sparse kernels"] = sparse.words
    return checks


def versions_of(job: Job) -> dict[str, str]:
    """Versions of the packages and runtimes of the run."""
    found = {"python": platform.python_version(), "mcc": VERSION}
    for package in ("torch", "numpy", "scipy"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "unknown"
    found[job.target.runtime] = job.target.runtime_version()
    return found
