"""Measuring kernels that a table does not hold yet, in the target's own runtime."""

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

AT_A_TIME = 8  # kernels in a runner that are measured by difference: it holds two files for each
STATES = 1.4  # at most: latency of a kernel in one session over that in another, where nothing disturbed it
OVERHEAD_S = 0.5  # budget of timing the files that give the overhead


_bare_facts: dict[str, tuple[bool, float]] = {}  # by fingerprint: starting a runner costs half a second


class Progress(Protocol):
    """What measuring is given to say how far it is."""

    def __call__(self, stage: str, done: float, total: float, note: str = "") -> None:
        """Say how much of a stage is done; done >= total ends it."""
        ...


def silent(stage: str, done: float, total: float, note: str = "") -> None:
    """A progress that says nothing."""


@dataclass(frozen=True)
class MeasureReport:
    """What a call of `measure` did.

    Attributes:
        measured: kernels measured now.
        known: kernels of the request that the table held.
        left: kernels that the time budget did not suffice for.
        failed: kernels that cannot be measured, with the reason.
        seconds: that it took.
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
    """Measure the kernels that the table does not hold yet; each file of them is stored when it is done.

    Args:
        kernels: most wanted first; neighbours in the list share a file.
        budget_s: no file is begun after that many seconds of measuring.

    Raises:
        TargetError: the target cannot be used here.
        DataError: the table cannot be written.
    """
    fingerprint = target.fingerprint(threads).key()
    known = store.known(fingerprint)
    asked = list(dict.fromkeys(kernels))
    fresh = [kernel for kernel in asked if str(kernel) not in known]
    run = _Run(target, store, fingerprint, threads)
    done, left = 0, 0
    with tempfile.TemporaryDirectory(prefix="mcc-micro-") as folder, target.measuring():
        begin = time.monotonic()  # waiting for another measurement does not count
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
    """Measure kernels of the table once more and keep the faster of both: what disturbs only ever adds.

    Args:
        budget_s: no file is begun after that many seconds.
        together: whether kernels that share a file are kept or replaced together, by their sum. The faster of
            two for each alone is a little too fast when it is done for all: chance chooses, too.

    Returns:
        The row before and the row now of each kernel that became faster.

    Raises:
        TargetError, DataError: as `measure`.
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
            continue  # there was no time, or it failed
        first = sum(one.latency_us for one, _ in pairs) <= sum(other.latency_us for _, other in pairs)
        store.add(fingerprint, [_widened(*pair) if first else _widened(*pair[::-1]) for pair in pairs])
    after = {str(row.kernel): row for row in store.rows(fingerprint)}
    return [(row, after[name]) for name, row in before.items() if after[name].latency_us < row.latency_us]


def _widened(kept: Measurement, other: Measurement) -> Measurement:
    """A measurement with its spread up to another of the same kernel, where that is plausible.

    In which of both states the machine will be is not known. A time far above the other was disturbed.
    """
    high = max(kept.high_us, min(other.latency_us, STATES * kept.latency_us))
    return replace(kept, high_us=high)


class _Run:
    """One call of `measure`: by the runtime's profile where it has one, else by difference."""

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
        self.spread = 0.0  # the most of any file so far
        self.odd: set[tuple[str, str]] = set()  # kinds of kernels of which the profile cannot tell

    def begin(self, folder: Path, kernels: list[Kernel]) -> list[list[Kernel]]:
        """Look at the runtime, and say which kernels are measured together. Raises TargetError."""
        self.folder = folder
        if not kernels:
            return []
        self.profiled, self.bare_us = self._bare(folder)
        apart = [kernel for kernel in kernels if self._by_difference(kernel)]
        together = [kernel for kernel in kernels if not self._by_difference(kernel)]
        size = MOST_KERNELS if self.target.unit.exact else AT_A_TIME
        pieces = [apart[at : at + size] for at in range(0, len(apart), size)]
        order = {kernel: place for place, kernel in enumerate(kernels)}
        return sorted([*files_of(together), *pieces], key=lambda file: min(order[kernel] for kernel in file))

    def _bare(self, folder: Path) -> tuple[bool, float]:
        """Whether the runtime has a profile, and the latency of next to nothing; found once in a process."""
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
        """Whether a kernel is measured by difference, though the runtime has a profile.

        Inside a sparse cluster, since a file of branches is none. And convolutions in onnxruntime, whose
        profile is too coarse for them; it merges equal operators, so that only kernels with weights can be
        copied.
        """
        weight = kernel.operands[1] if len(kernel.operands) > 1 else None
        weighted = weight is not None and weight.constant and len(weight.shape) > 1
        odd = _kind(kernel) in self.odd or kernel.layout == "nchw"
        return not self.profiled or odd or (self.target.facts().coarse_profile and weighted)

    def shared(self, kernels: list[Kernel]) -> bool:
        """Whether kernels are measured in one file at the same moment."""
        return not self._by_difference(kernels[0])

    def file(self, kernels: list[Kernel]) -> None:
        """Measure kernels together.

        Where that fails, usually one kind of operator is at fault: each kind has a file of its own then. What
        the profile cannot tell is measured by difference, and such kinds at once from then on.
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
        """How much latencies spread on this machine, as it was last: its state changes from day to day."""
        self.spread = max(self.spread, found.spread)
        date = found.rows[0].date
        self.store.set_whole(
            self.fingerprint,
            Whole("spread", precision, self.spread, found.spread, self.spread, "files", date),
        )


def _kind(kernel: Kernel) -> tuple[str, str]:
    return kernel.op, kernel.precision


def has_profile(target: Target, file: Path) -> bool:
    """Whether the runtime times single operators, tried on a file."""
    try:
        target.profile(file, runs=1)
    except TargetError as error:
        log.info("no profile: %s", error)
        return False
    return True


def _bare() -> Graph:
    """A network of next to nothing."""
    builder = GraphBuilder()
    return builder.finish(builder.call("abs", builder.input("x", (1, 8))))


def whole_latency(graph: Graph, target: Target, stem: Path, threads: int) -> LatencySamples:
    """Latency of a small graph, as a whole."""
    (samples,) = target.time([write_graph(graph, target, stem)], threads=threads, budget_s=OVERHEAD_S)
    return samples


def measure_overhead(
    shape: tuple[int, ...], precision: Precision, target: Target, store: Store, *, threads: int = 1
) -> Whole:
    """Measure and store what belongs to no kernel of a network: the runtime, and converting its input.

    It is the latency of a network of one cheap kernel, without that kernel's. A row that the table holds is
    not measured again.

    Args:
        shape: of the network's input.
        precision: in which its first layer runs.

    Raises:
        TargetError, DataError: as `measure`.
    """
    fingerprint = target.fingerprint(threads).key()
    source = input_name(shape)
    for row in store.wholes(fingerprint):
        if (row.quantity, row.precision, row.source) == ("overhead", precision, source):
            return row
    kernel = _reader(shape, precision)
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
    """How the table names the overhead of networks with such an input."""
    return "input " + "x".join(map(str, shape))


def _reader(shape: tuple[int, ...], precision: Precision) -> Kernel:
    """A cheap kernel that reads all of a value: its mean over the image, or a softmax."""
    builder = GraphBuilder()
    x = builder.input("x", shape)
    if len(shape) == 4:
        node = builder.call("mean", x, axes=(2, 3), keepdim=True)
    else:
        node = builder.call("softmax", x, axis=len(shape) - 1)
    return kernel_of(node, precision=precision)
