"""Brings networks into the sparse path that it does not take as they are, and reports the cost.

Exact passes become a part of sparse plans. Passes that change the function slightly are left to the user: the
report names them, with the metric of the network after them, untrained.
"""

from __future__ import annotations

import numpy as np

from mcc.analysis.sparse_cluster import find_sparse_cluster
from mcc.compress.job import Job
from mcc.ir.feed import feed_of
from mcc.ir.graph import Graph, run
from mcc.pass_api import PassContext
from mcc.pipeline import Pipeline, RunOptions, deployment_form
from mcc.report.formatting import value_words
from mcc.report.sparse_path import EXACT, SparsePath, sparse_path
from mcc.runtime.facts import TargetFacts

JUDGED_IMAGES = 500  # of the validation split, for judging a pass that changes the function
BATCH = 50
OPENING = ("fold-pad", *EXACT)  # exact passes that may enable the sparse path


def exact_passes(graph: Graph, facts: TargetFacts) -> str:
    """The pipeline of exact passes that brings a network into the target's sparse path.

    Args:
        graph: The network as captured, its batch norms not folded: the passes run before the fine-tuning.

    Returns:
        The pipeline; empty if the target has no sparse path, the network is in it already, or these passes do
        not suffice.
    """
    if not facts.sparse_1x1:
        return ""
    used: list[str] = []
    for name in OPENING:
        if find_sparse_cluster(deployment_form(graph)).reason is None:
            break
        result = Pipeline.parse(name).run(graph, PassContext(), RunOptions(verify=False))
        if result.reports[0].changed:
            graph, used = result.graph, [*used, name]
    return ",".join(used) if find_sparse_cluster(deployment_form(graph)).reason is None else ""


def sparse_words(job: Job, passes: str) -> tuple[str, ...]:
    """Sentences for the report on a network that the target's sparse path does not take as it is.

    Args:
        passes: Passes at the start of sparse plans, from `exact_passes`.
    """
    facts = job.target.facts()
    if not facts.sparse_1x1:
        return ()
    deployed = deployment_form(job.graph)
    found = sparse_path(deployed, facts)
    if found.eligible:
        return ()
    if passes:
        return (
            f"Sparse plans begin with the passes '{passes}', which are exact: without them the sparse "
            f"path stays off ({found.why_not}).",
        )
    words = tuple(f"{s[0].upper()}{s[1:]}." for s in found.sentences())
    return words if found.pipeline is None or found.exact else (*words, _judged(job, deployed, found))


def _judged(job: Job, deployed: Graph, found: SparsePath) -> str:
    """The metric after the passes that change the function, before any training, and the original metric."""
    assert found.pipeline is not None
    changed = Pipeline.parse(found.pipeline).run(deployed, PassContext(), RunOptions(verify=False)).graph
    stage = "judge passes for the sparse path"
    job.progress(stage, 0, 2)
    now, then = _metric(job, deployed), _metric(job, changed)
    job.progress(stage, 2, 2)
    images, metric = min(JUDGED_IMAGES, len(job.data.validation)), job.task.metric
    return (
        f"Untrained, these passes take the {metric.name} on {images:,} validation images from "
        f"{value_words(metric, now)} to {value_words(metric, then)}."
    )


def _metric(job: Job, graph: Graph) -> float:
    """The task's metric of a graph in torch."""
    parts: list[np.ndarray] = []
    for batch in job.data.batches("validation", BATCH, augment=False, limit=JUDGED_IMAGES):
        made = [value.detach().numpy() for value in run(graph, feed_of(batch.inputs))]
        parts.append(job.task.measure(made, batch.targets))
    return job.task.figure(np.concatenate(parts))
