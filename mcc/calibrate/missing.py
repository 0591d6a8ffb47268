"""Measurement of the kernels that a prediction of one network lacks, within seconds."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cost_models.lookup import LookupCostModel
from mcc.calibrate.api import network_kernels, table_model
from mcc.calibrate.measure import Progress, measure, measure_again, measure_overhead, overhead_kernel, silent
from mcc.calibrate.store import Store
from mcc.cost_api import Kernel
from mcc.cost_sum import kind_of
from mcc.errors import TargetError
from mcc.ir.graph import Graph, inputs
from mcc.ir.notes import shape_of
from mcc.runtime.target import Target

log = logging.getLogger(__name__)

QUICK_S = 30.0  # of measuring for one prediction: an acceptable wait before a table is printed
KERNEL_S = (
    0.2  # of measuring one kernel (docs/results/calibration.md: 0.16 s in LiteRT, 0.2 s in onnxruntime)
)


@dataclass(frozen=True)
class Filled:
    """Result of measuring for a prediction.

    Attributes:
        measured, left: Numbers of kernels measured now, and left for lack of time.
        failed: Kernels that cannot be measured alone, with the reason.
        seconds: Duration.
        why_not: Reason why nothing more could be measured; empty if there is none.
    """

    measured: int = 0
    left: int = 0
    failed: tuple[tuple[str, str], ...] = ()
    seconds: float = 0.0
    why_not: str = ""


def fill(
    graph: Graph,
    target: Target,
    *,
    threads: int = 1,
    budget_s: float = QUICK_S,
    table: Path | None = None,
    progress: Progress = silent,
) -> Filled:
    """Measure the kernels of a network that the table lacks, the most valuable first if time is short.

    A target that cannot be used here is no error: `why_not` gives the reason, and the table is unchanged.

    Args:
        graph: Graph in deployment form, float or quantised.
        budget_s: Seconds after which no further file of kernels is started.
        table: Path of the SQLite file; the user's own table if None.

    Raises:
        DataError: The table cannot be read or written.
    """
    state = target.available()
    if not state.ok:
        return Filled(why_not=f"{target.spec} cannot be used here: {state.reason}")
    with Store(table) as store:
        try:
            return _fill(graph, target, store, threads, budget_s, progress)
        except TargetError as error:
            return Filled(why_not=str(error))


def _fill(
    graph: Graph, target: Target, store: Store, threads: int, budget_s: float, progress: Progress
) -> Filled:
    fingerprint = target.fingerprint(threads).key()
    kernels, precision = network_kernels(graph, target)
    shape = shape_of(inputs(graph)[0])
    known = store.known(fingerprint)
    lacking = [kernel for kernel in kernels.values() if str(kernel) not in known]
    if not lacking:
        measure_overhead(shape, precision, target, store, threads=threads)
        return Filled()
    own = list(dict.fromkeys(lacking))
    # Layers of one network in their order share files, so that caches are in the same state as in the
    # network; if there is no time for all, the most valuable are first.
    if len(own) * KERNEL_S > budget_s:
        own = by_value(lacking, table_model(graph, store, fingerprint))
    wanted = list(dict.fromkeys([*own, overhead_kernel(shape, precision)]))
    report = measure(wanted, target, store, threads=threads, budget_s=budget_s, progress=progress)
    measure_overhead(shape, precision, target, store, threads=threads)
    left_s = budget_s - report.seconds
    if report.measured and left_s > 0 and not target.unit.exact:
        # In another session the machine may be faster: disturbances only add time.
        measure_again(wanted, target, store, threads=threads, budget_s=left_s, together=True)
    now = store.known(fingerprint)
    measured = sum(str(kernel) in now for kernel in own)
    failed = tuple((name, reason) for name, reason in report.failed if name in set(map(str, own)))
    return Filled(measured, len(own) - measured - len(failed), failed, report.seconds)


def by_value(kernels: Sequence[Kernel], model: LookupCostModel) -> list[Kernel]:
    """Each kernel once, the most valuable first.

    First the most expensive kernel of each kind that was never measured, then by the contribution of the
    kernel's error to that of the network: errors of a kernel that occurs several times add up.

    Args:
        kernels: Kernels of the network, with repetitions.
        model: Cost model from earlier measurements.
    """
    counts = Counter(kernels)
    at_stake = {kernel: count * model.kernel(kernel).error for kernel, count in counts.items()}
    order = sorted(counts, key=lambda kernel: -at_stake[kernel])
    unseen = [kernel for kernel in order if model.kernel(kernel).source == "roofline"]
    first = {kind_of(kernel): kernel for kernel in reversed(unseen)}
    ahead = sorted(first.values(), key=lambda kernel: -at_stake[kernel])
    return list(dict.fromkeys([*ahead, *order]))
