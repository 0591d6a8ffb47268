"""The session that commands on a model, data and target share: `compress`, `plan`, multi-target plans.

    with opened(request, Place(folder)) as session:
        planner = session.planner()

A session holds the job and its folder, the lowered original and its bench, the live cost model, the
configurations that target and network allow, and the worker pool. The folder's lock is always released, also
after an error.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mcc.calibrate.api import predict_graph
from mcc.compress.bench import Bench
from mcc.compress.build import sparse_form, write_file
from mcc.compress.configurations import available_configurations, planned_integers, target_cluster
from mcc.compress.job import Job, Place, open_job
from mcc.compress.job_sensitivities import measured_sensitivities
from mcc.compress.live_cost_model import Costs
from mcc.compress.measurement_store import MeasuredFiles
from mcc.compress.planning import Planner
from mcc.compress.request import Request
from mcc.compress.sparse_preparation import exact_passes
from mcc.errors import DataError
from mcc.ir.storage import save_graph
from mcc.lower.formats import get_format
from mcc.pipeline import deployment_form
from mcc.report.doubt import chance_sentence
from mcc.search.sensitivity import Sensitivities
from mcc.search.space import Configuration
from mcc.search.tables import Setting
from mcc.search.worker_pool import make_pool

log = logging.getLogger(__name__)


@contextmanager
def opened(
    request: Request,
    place: Place,
    *,
    measures: bool = True,
    plan_file: Path | None = None,
    check: Callable[[Job], None] | None = None,
) -> Generator[Session]:
    """Open a session on a request, with exclusive use of the folder.

    Args:
        measures: Whether the target is measured; if False, plans use the lookup table as it is.
        plan_file, check: See `mcc.compress.job.open_job`.

    Raises:
        MccError: As `open_job`.
    """
    job = open_job(request, place, plan_file=plan_file, check=check)
    try:
        yield Session(job, measures=measures)
    finally:
        job.release()


class Session:
    """A job with its lowered original, the available configurations, and all measurements.

    Args:
        job: The job, loaded, with its folder taken.
        measures: See `opened`.
    """

    def __init__(self, job: Job, *, measures: bool = True) -> None:
        self.job = job
        self.measures = measures
        self.calibration = job.calibration()
        self.deployed = deployment_form(job.graph)
        self.integer = planned_integers(self.deployed, self.calibration)
        self.passes = exact_passes(job.graph, job.target.facts())
        self.cluster = target_cluster(sparse_form(job.graph, self.passes), job.target.facts())
        with job.stage("lower the original"):
            self.baseline = write_file(
                self.deployed, job.target, job.folder / "baseline", job.data, job.task.output
            )
            save_graph(job.graph, job.folder / "before.mcc", self.notes)
        shared = MeasuredFiles(job.target.fingerprint(job.request.threads).key())
        self.bench = Bench(
            job.target, job.request.threads, self.baseline, job.state / "measurements.json", shared,
            task=job.task, outputs=job.outputs,
        )  # fmt: skip
        self.at_chance = self._doubt_original()
        self.costs = Costs(job, measures=measures)
        self.pool = make_pool(job.request.workers, job.request.ray)

    @property
    def notes(self) -> dict[str, Any]:
        """Metadata of the job's .mcc files, beside the graph."""
        return {"preprocessing": self.job.data.preprocessing.to_json(), "judged": self.job.task.output}

    @property
    def configurations(self) -> tuple[Configuration, ...]:
        """Configurations that the target and the network allow."""
        return available_configurations(self.cluster, self.integer, self.job.target.facts(), self.passes)

    def planner(self) -> Planner:
        """Measure the inputs of planning: the baseline, the kernels, the sensitivities."""
        job = self.job
        baseline_us = self._original_cost() if self.measures else 0.0
        with job.stage("calibrate"):
            self.costs.calibrate(self.deployed, self.configurations)
        if not self.measures:
            baseline_us = predict_graph(self.deployed, job.target, model=self.costs.model).cost
        with job.stage("sensitivities"):
            sensitivities = self._sensitivities()
        setting = Setting(
            self.deployed, self.integer, self.cluster, self.costs.model, sensitivities,
            job.target.facts().channel_multiple,
            get_format(job.target.format).storage,
        )  # fmt: skip
        return Planner(
            job.graph, setting, self.bench, job.cost_budget, job.data, self.calibration,
            job.state / "trials", baseline_us, self.costs.ask, job.task.output, times=self.measures,
        )  # fmt: skip

    def _doubt_original(self) -> bool:
        """Whether the original is at chance level; the warning is given before the long work starts."""
        job = self.job
        stage = f"validation {job.task.metric.name} of the original"
        with job.stage(stage):
            job.progress(stage, 0, 1)
            chance = self.bench.chance(self.baseline, job.data, "validation")
            job.progress(stage, 1, 1)
        if chance is not None:
            job.warn(chance_sentence("The original", chance, job.circumstances()))
        for sentence in job.warnings:
            log.warning("%s", sentence)
        return chance is not None

    def _original_cost(self) -> float:
        """Measured cost of the original, in the target's unit."""
        with self.job.stage("measure the original"):
            self.job.progress("measure the original", 0, 1)
            found = self.bench.original().latency_us
            self.job.progress("measure the original", 1, 1)
        return found

    def _sensitivities(self) -> Sensitivities:
        path = self.job.state / "sensitivities.json"
        if path.exists():
            try:
                return Sensitivities.load(path)
            except DataError as error:
                log.warning("%s: measured again", error.message if error.where is None else error)
        found = measured_sensitivities(self.job, self.configurations, self.integer, self.pool)
        found.save(path)
        return found
