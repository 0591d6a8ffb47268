"""Measurement of kernels that a table lacks, in the target's own runtime."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from mcc.calibrate.files import write_graph
from mcc.calibrate.micro import single
from mcc.calibrate.profiler_overhead import profile_excess
from mcc.calibrate.store import Store, Whole
from mcc.calibrate.timing_by_difference import measure_differenced
from mcc.calibrate.timing_by_profile import MOST_KERNELS, Profiled, files_of, measure_profiled
from mcc.cost_api import Kernel, Measurement, Precision, kernel_of
from mcc.errors import MccError, TargetError, UnsupportedError
from mcc.ir.graph import Graph, GraphBuilder
from mcc.runtime.samples import LatencySamples
from mcc.runtime.target import Target

log = logging.getLogger(__name__)

AT_A_TIME = 8  # kernels in a runner measured by difference, with two files each
STATES = 1.4  # maximum ratio of a kernel's latencies in two sessions without disturbance
OVERHEAD_S = 0.5  # budget of timing the files for the overhead


_bare_facts: dict[str, tuple[bool, float]] = {}  # by fingerprint: starting a runner costs half a second


class Progress(Protocol):
    """Callback for the progress of measuring."""

    def __call__(self, stage: str, done: float, total: float, note: str = "") -> None:
        """Report the progress of a stage; done >= total ends it."""
        ...


def silent(stage: str, done: float, total: float, note: str = "") -> None:
    """A progress callback that does nothing."""


@dataclass(frozen=True)
class MeasureReport:
    """Result of a call of `measure`.

    Attributes:
        measured: Number of kernels measured now.
        known: Number of requested kernels already in the table.
        left: Number of kernels beyond the time budget.
        failed: Kernels that cannot be measured, with the reason.
        seconds: Duration.
    """

    measured: int
    known: int
    left: int
    failed: tuple[tuple[str, str], ...]
    seconds: float


def measure(
    kernels: Sequence[Kernel],
    target: Target,
    store: Store,
    *,
    threads: int = 1,
    budget_s: float = 300.0,
    progress: Progress = silent,
) -> MeasureReport:
    """Measure the kernels that the table lacks; the results of each file are stored when it is done.

    Args:
        kernels: Kernels by priority; neighbours in the list share a file.
        budget_s: Seconds of measuring after which no further file is started.

    Raises:
        TargetError: The target cannot be used here.
        DataError: The table cannot be written.
    """
    fingerprint = target.fingerprint(threads).key()
    known = store.known(fingerprint)
    asked = list(dict.fromkeys(kernels))
    fresh = [kernel for kernel in asked if str(kernel) not in known]
    run = _Run(target, store, fingerprint, threads)
    done, left = 0, 0
    with tempfile.TemporaryDirectory(prefix="mcc-micro-") as folder, target.measuring():
        begin = time.monotonic()  # excludes waiting for another measurement
        for file in run.begin(Path(folder), fresh):
            if time.monotonic() - begin > budget_s:
                left += len(file)
                continue
            progress("measuring operators", done, len(fresh), f"{len(file)} at a time")
            run.file(file)
            done += len(file)
    progress("measuring operators", len(fresh), len(fresh))
    seconds = time.monotonic() - begin
    return MeasureReport(run.measured, len(asked) - len(fresh), left, tuple(run.failed), seconds)


def measure_again(
    kernels: Sequence[Kernel],
    target: Target,
    store: Store,
    *,
    threads: int = 1,
    budget_s: float = 300.0,
    together: bool = False,
) -> list[tuple[Measurement, Measurement]]:
    """Measure kernels of the table again and keep the faster result: disturbances only add time.

    Args:
        budget_s: Seconds after which no further file is started.
        together: Whether kernels that share a file are kept or replaced together, by their sum. The minimum
            of two for each kernel by itself is slightly biased, since it also selects by chance.

    Returns:
        The old and the new row of each kernel that became faster.

    Raises:
        TargetError, DataError: As `measure`.
    """
    fingerprint = target.fingerprint(threads).key()
    asked = {str(kernel) for kernel in kernels}
    before = {str(row.kernel): row for row in store.rows(fingerprint) if str(row.kernel) in asked}
    run = _Run(target, store, fingerprint, threads)
    groups: list[list[str]] = []
    with tempfile.TemporaryDirectory(prefix="mcc-micro-") as folder, target.measuring():
        begin = time.monotonic()
        for file in run.begin(Path(folder), list(kernels)):
            if time.monotonic() - begin < budget_s:
                run.file(file)
            names = [str(kernel) for kernel in file if str(kernel) in before]
            groups += [names] if together and run.shared(file) else [[name] for name in names]
    after = {str(row.kernel): row for row in store.rows(fingerprint)}
    for names in groups:
        pairs = [(before[name], after[name]) for name in names]
        if all(one == other for one, other in pairs):
            continue  # no time was left, or it failed
        first = sum(one.latency_us for one, _ in pairs) <= sum(other.latency_us for _, other in pairs)
        store.add(fingerprint, [_widened(*pair) if first else _widened(*pair[::-1]) for pair in pairs])
    after = {str(row.kernel): row for row in store.rows(fingerprint)}
    return [(row, after[name]) for name, row in before.items() if after[name].latency_us < row.latency_us]


def _widened(kept: Measurement, other: Measurement) -> Measurement:
    """A measurement whose range is widened to another one of the same kernel, if plausible.

    The machine may be in the state of either. A time far above the other was disturbed.
    """
    high = max(kept.high_us, min(other.latency_us, STATES * kept.latency_us))
    return replace(kept, high_us=high)


class _Run:
    """One call of `measure`: by the runtime's profile if it has one, else by difference."""

    def __init__(self, target: Target, store: Store, fingerprint: str, threads: int) -> None:
        self.target = target
        self.store = store
        self.fingerprint = fingerprint
        self.threads = threads
        self.measured = 0
        self.failed: list[tuple[str, str]] = []
        self.folder = Path()
        self.profiled = False
        self.bare_us = 0.0
        self.spread = 0.0  # maximum of all files so far
        self.odd: set[tuple[str, str]] = set()  # kinds of kernels that the profile cannot measure

    def begin(self, folder: Path, kernels: list[Kernel]) -> list[list[Kernel]]:
        """Examine the runtime and group the kernels that are measured together. Raises TargetError."""
        self.folder = folder
        if not kernels:
            return []
        self.profiled, self.bare_us = self._bare(folder)
        apart = [kernel for kernel in kernels if self._by_difference(kernel)]
        together = [kernel for kernel in kernels if not self._by_difference(kernel)]
        size = MOST_KERNELS if self.target.unit.exact else AT_A_TIME
        pieces = [apart[at : at + size] for at in range(0, len(apart), size)]
        files = files_of(together)
        if self.profiled and self.target.facts().coarse_profile:
            # Convolutions, which take most of a network's time, are measured in less time than a profile.
            return [*pieces, *files]
        order = {kernel: place for place, kernel in enumerate(kernels)}
        return sorted([*files, *pieces], key=lambda file: min(order[kernel] for kernel in file))

    def _bare(self, folder: Path) -> tuple[bool, float]:
        """Whether the runtime has a profile, and the latency of a minimal network; cached in the process."""
        found = _bare_facts.get(self.fingerprint)
        if found is None:
            bare = write_graph(_bare(), self.target, folder / "bare")
            profiled, bare_us = has_profile(self.target, bare), 0.0
            if profiled:
                (samples,) = self.target.time([bare], threads=self.threads, budget_s=OVERHEAD_S)
                bare_us = samples.median_us
            found = _bare_facts[self.fingerprint] = profiled, bare_us
        return found

    def _by_difference(self, kernel: Kernel) -> bool:
        """Whether a kernel is measured by difference although the runtime has a profile.

        This holds inside a sparse cluster, since a file of branches is none, and for convolutions in
        onnxruntime, whose profile is too coarse for them; it merges equal operators, so that only kernels
        with weights can be copied.
        """
        weight = kernel.operands[1] if len(kernel.operands) > 1 else None
        weighted = weight is not None and weight.constant and len(weight.shape) > 1
        odd = _kind(kernel) in self.odd or kernel.layout == "nchw"
        return not self.profiled or odd or (self.target.facts().coarse_profile and weighted)

    def shared(self, kernels: list[Kernel]) -> bool:
        """Whether kernels are measured in one file at the same time."""
        return not self._by_difference(kernels[0])

    def file(self, kernels: list[Kernel]) -> None:
        """Measure kernels together.

        A failure is usually caused by one kind of operator: then each kind has a file of its own. Kinds that
        the profile cannot measure are measured by difference, from then on without another attempt.
        """
        odd = [kernel for kernel in kernels if _kind(kernel) in self.odd]
        if odd and len(odd) < len(kernels):
            self.file([kernel for kernel in kernels if _kind(kernel) not in self.odd])
            return self.file(odd)
        try:
            rows = self._measured(kernels)
        except (TargetError, UnsupportedError) as error:
            return self._failed(kernels, error)
        self.store.add(self.fingerprint, rows)
        self.measured += len(rows)
        return None

    def _failed(self, kernels: list[Kernel], error: MccError) -> None:
        kinds = {_kind(kernel) for kernel in kernels}
        if len(kinds) > 1:
            for kind in sorted(kinds):
                self.file([kernel for kernel in kernels if _kind(kernel) == kind])
        elif not self._by_difference(kernels[0]):
            log.info("%s by difference: %s", ", ".join(map(str, kernels)), error)
            self.odd |= kinds
            self.file(kernels)
        elif len(kernels) > 1:
            for kernel in kernels:
                self.file([kernel])
        else:
            log.info("%s cannot be measured: %s", kernels[0], error)
            self.failed.append((str(kernels[0]), str(error)))

    def _measured(self, kernels: list[Kernel]) -> list[Measurement]:
        if self._by_difference(kernels[0]):
            return measure_differenced(kernels, self.target, self.folder, threads=self.threads)
        excess = None
        if self.target.facts().coarse_profile:
            excess = profile_excess(kernels[0].precision, self.target, self.store, threads=self.threads)
        found = measure_profiled(
            kernels, self.target, self.folder, threads=self.threads, bare_us=self.bare_us, excess=excess
        )
        self._keep_spread(kernels[0].precision, found)
        return list(found.rows)

    def _keep_spread(self, precision: Precision, found: Profiled) -> None:
        """Store the latest spread of latencies on this machine, whose state changes from day to day."""
        self.spread = max(self.spread, found.spread)
        date = found.rows[0].date
        self.store.set_whole(
            self.fingerprint,
            Whole("spread", precision, self.spread, found.spread, self.spread, "files", date),
        )


def _kind(kernel: Kernel) -> tuple[str, str]:
    return kernel.op, kernel.precision


def has_profile(target: Target, file: Path) -> bool:
    """Whether the runtime times single operators, tested on a file."""
    try:
        target.profile(file, runs=1)
    except TargetError as error:
        log.info("no profile: %s", error)
        return False
    return True


def _bare() -> Graph:
    """A minimal network."""
    builder = GraphBuilder()
    return builder.finish(builder.call("abs", builder.input("x", (1, 8))))


def whole_latency(graph: Graph, target: Target, stem: Path, threads: int) -> LatencySamples:
    """Latency of a small graph, as a whole."""
    (samples,) = target.time([write_graph(graph, target, stem)], threads=threads, budget_s=OVERHEAD_S)
    return samples


def measure_overhead(
    shape: tuple[int, ...], precision: Precision, target: Target, store: Store, *, threads: int = 1
) -> Whole:
    """Measure and store the latency of a network outside its kernels: runtime calls and input conversion.

    It is the latency of a network of one cheap kernel, less that kernel's. An existing row of the table is
    not measured again.

    Args:
        shape: Shape of the network's input.
        precision: Precision of its first layer.

    Raises:
        TargetError, DataError: As `measure`.
    """
    fingerprint = target.fingerprint(threads).key()
    source = input_name(shape)
    for row in store.wholes(fingerprint):
        if (row.quantity, row.precision, row.source) == ("overhead", precision, source):
            return row
    kernel = overhead_kernel(shape, precision)
    measure([kernel], target, store, threads=threads)
    own = next(row.latency_us for row in store.rows(fingerprint) if str(row.kernel) == str(kernel))
    with tempfile.TemporaryDirectory(prefix="mcc-micro-") as folder, target.measuring():
        bare_us = whole_latency(_bare(), target, Path(folder) / "bare", threads).median_us
        samples = whole_latency(single(kernel), target, Path(folder) / "overhead", threads)
    value = max(bare_us, samples.median_us - own)
    date = datetime.now(UTC).isoformat(timespec="seconds")
    low, high = (max(0.0, bound - own) for bound in (samples.ci_low_us, samples.ci_high_us))
    whole = Whole("overhead", precision, value, low, high, source, date)
    store.set_whole(fingerprint, whole)
    return whole


def input_name(shape: tuple[int, ...]) -> str:
    """Name in the table of the overhead of networks with such an input."""
    return "input " + "x".join(map(str, shape))


def overhead_kernel(shape: tuple[int, ...], precision: Precision) -> Kernel:
    """The kernel of the network that shows the overhead, cheap and reading all of its input.

    Its mean over the image, or a softmax. Measured beside others, it takes no file of its own.
    """
    builder = GraphBuilder()
    x = builder.input("x", shape)
    if len(shape) == 4:
        node = builder.call("mean", x, axes=(2, 3), keepdim=True)
    else:
        node = builder.call("softmax", x, axis=len(shape) - 1)
    return kernel_of(node, precision=precision)
