"""Measures and stores the sensitivities of a job; nothing is measured twice for one network and images."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path

from torch import Tensor

from mcc.calibrate.store import default_path
from mcc.compress.build import sparse_layers
from mcc.compress.job import Job
from mcc.data import BoundTask
from mcc.ir.feed import Feed, bytes_of
from mcc.ir.graph import Graph, constants
from mcc.ir.text import print_graph
from mcc.search.probes import by_pool, one_by_one
from mcc.search.sensitivity import Sensitivities
from mcc.search.sensitivity_run import Wanted, measure_sensitivities
from mcc.search.space import Configuration
from mcc.search.worker_pool import WorkerPool

FORMAT = 1  # version of the probes; files of other versions are ignored


def measured_sensitivities(
    job: Job,
    configurations: Sequence[Configuration],
    integer: Collection[str],
    pool: WorkerPool | None = None,
) -> Sensitivities:
    """Measure the sensitivities of the job's network that the configurations need.

    Results are stored beside the table of kernels (`MCC_CACHE_DIR`), one line each as soon as it is computed:
    they depend on network and images, not on a target, and an interrupted run continues from them.

    Args:
        integer: Nodes of the deployment form that can run on integers.
        pool: Worker pool for the probes; None: sequentially, in this process.
    """
    thinned = next(
        (configuration for configuration in configurations if configuration.sparse is not None),
        Configuration(),
    )
    sparse = thinned.sparse
    wanted = Wanted(
        sparse=() if sparse is None else sparse_layers(job.graph, thinned.passes),
        block=1 if sparse is None else sparse.block,
        integer=tuple(sorted(integer)) if any(r.precision != "float" for r in configurations) else (),
    )
    batches = job.labelled()
    job.progress("sensitivities", 0.0, 1.0)
    return measure_sensitivities(
        job.graph,
        batches,
        job.task.loss,
        job.task.divergence,
        wanted=wanted,
        known=_file_of(job.graph, batches, wanted, job.task),
        runner=one_by_one if pool is None else by_pool(pool),
        progress=lambda stage, share: job.progress(stage, share, 1.0),
    )


def _file_of(graph: Graph, batches: Sequence[tuple[Feed, Tensor]], wanted: Wanted, task: BoundTask) -> Path:
    """Path of the results for this network, these images and this task."""
    judged = f" output {task.output}" if task.output else ""
    found = hashlib.sha256(f"{FORMAT} {wanted.block}{judged} {print_graph(graph)}{task.identity}".encode())
    for name, value in sorted(constants(graph).items()):
        found.update(name.encode() + value.detach().contiguous().numpy().tobytes())
    for x, target in batches:
        found.update(bytes_of(x) + target.contiguous().numpy().tobytes())
    return default_path().with_name("sensitivities") / f"{found.hexdigest()[:32]}.jsonl"
