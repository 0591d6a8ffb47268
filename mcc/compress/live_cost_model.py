"""The cost model of a job: the table of measured kernels, extended when a plan needs more."""

from __future__ import annotations

from collections.abc import Sequence

from mcc.calibrate.api import table_model, unmeasured
from mcc.calibrate.kernel_selection import calibrate
from mcc.calibrate.measure import measure
from mcc.calibrate.store import Store
from mcc.compress.job import Job
from mcc.cost_api import CostModel, Estimate, Kernel, Precision
from mcc.ir.graph import Graph
from mcc.search.space import Configuration

CALIBRATION_SECONDS = 90.0  # at most, before planning; kernels that a plan still lacks are measured then


class Costs:
    """Measured kernels of a job's target, and a cost model that is updated after every measurement.

    Args:
        job: The job, source of target, threads and progress.
        measures: Whether missing kernels are measured; if False, the table is used as it is.
    """

    def __init__(self, job: Job, *, measures: bool = True) -> None:
        self.job = job
        self.measures = measures
        self.store = Store()
        self.fingerprint = job.target.fingerprint(job.request.threads).key()
        self.model = Current()
        self.network: Graph | None = None
        self.refused: set[str] = set()  # kernels that cannot be measured alone: tried only once

    def calibrate(self, deployed: Graph, configurations: Sequence[Configuration]) -> None:
        """Measure the kernels of the network, at several widths and in every configuration, if unknown."""
        self.network = deployed
        if self.measures:
            calibrate(
                deployed,
                self.job.target,
                self.store,
                threads=self.job.request.threads,
                budget_s=CALIBRATION_SECONDS,
                progress=self.job.progress,
            )
        elif not self.store.known(self.fingerprint):
            raise unmeasured(self.job.target)
        self._renew()

    def ask(self, kernels: Sequence[Kernel]) -> bool:
        """Measure the kernels of a plan that are not measured yet; returns whether there were any."""
        if not self.measures:
            return False
        known = self.store.known(self.fingerprint)
        missing = {str(kernel): kernel for kernel in kernels if str(kernel) not in known}
        fresh = [kernel for name, kernel in missing.items() if name not in self.refused]
        if not fresh:
            return False
        measure(fresh, self.job.target, self.store, threads=self.job.request.threads)
        self.refused |= {str(kernel) for kernel in fresh} - self.store.known(self.fingerprint)
        self._renew()
        return True

    def dates(self) -> dict[str, str]:
        """Time of measurement of each kernel, ISO 8601 in UTC, by its name."""
        return {str(row.kernel): row.date for row in self.store.rows(self.fingerprint)}

    def _renew(self) -> None:
        assert self.network is not None, "calibrate comes first"
        self.model.use(table_model(self.network, self.store, self.fingerprint))


class Current:
    """A cost model that delegates to the newest one, so that tables built later see all measurements."""

    name = "lookup"

    def __init__(self) -> None:
        self._model: CostModel | None = None

    def use(self, model: CostModel) -> None:
        """Set the model to delegate to."""
        self._model = model

    @property
    def whole_error(self) -> float:
        """See `mcc.cost_api.CostModel.whole_error`."""
        assert self._model is not None
        return self._model.whole_error

    def kernel(self, kernel: Kernel) -> Estimate:
        """See `mcc.cost_api.CostModel.kernel`."""
        assert self._model is not None
        return self._model.kernel(kernel)

    def overhead(self, precision: Precision) -> Estimate:
        """See `mcc.cost_api.CostModel.overhead`."""
        assert self._model is not None
        return self._model.overhead(precision)
