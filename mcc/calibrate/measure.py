"""Measuring kernels that a table does not hold yet, in the target's own runtime."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from mcc.calibrate.files import write_graph
from mcc.calibrate.micro import single
from mcc.calibrate.profiled import files_of, measure_profiled
from mcc.calibrate.store import Store, Whole
from mcc.cost_api import Kernel, Precision, kernel_of
from mcc.errors import TargetError, UnsupportedError
from mcc.ir.graph import Graph, GraphBuilder
from mcc.runtime.lock import measuring
from mcc.runtime.samples import LatencySamples
from mcc.runtime.target import Target

log = logging.getLogger(__name__)

OVERHEAD_S = 0.5  # budget of timing the files that give the overhead


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
        budget_s: no file is begun after that many seconds.

    Raises:
        TargetError: the target cannot be used here.
        DataError: the table cannot be written.
    """
    begin = time.monotonic()
    fingerprint = target.fingerprint(threads).key()
    known = store.known(fingerprint)
    asked = list(dict.fromkeys(kernels))
    fresh = [kernel for kernel in asked if str(kernel) not in known]
    run = _Run(target, store, fingerprint, threads)
    files, done, left = _files(fresh, target), 0, 0
    with tempfile.TemporaryDirectory(prefix="mcc-micro-") as folder, measuring():
        while files:
            file = files.pop(0)
            if time.monotonic() - begin > budget_s:
                left += len(file)
                continue
            progress("measuring operators", done, len(fresh), f"{len(file)} in a file")
            run.file(file, Path(folder))
            done += len(file)
    progress("measuring operators", len(fresh), len(fresh))
    seconds = time.monotonic() - begin
    return MeasureReport(run.measured, len(asked) - len(fresh), left, tuple(run.failed), seconds)


def _files(kernels: Sequence[Kernel], target: Target) -> list[list[Kernel]]:
    return files_of(kernels, target)


class _Run:
    def __init__(self, target: Target, store: Store, fingerprint: str, threads: int) -> None:
        self.target = target
        self.store = store
        self.fingerprint = fingerprint
        self.threads = threads
        self.measured = 0
        self.failed: list[tuple[str, str]] = []
        self.bare_us: float | None = None

    def file(self, kernels: list[Kernel], folder: Path) -> None:
        """Measure the kernels of one file; where that fails, those of both halves of it."""
        try:
            if self.bare_us is None:
                self.bare_us = bare_latency(self.target, folder, self.threads)
            rows = measure_profiled(
                kernels, self.target, folder, threads=self.threads, overhead_us=self.bare_us
            )
        except (TargetError, UnsupportedError) as error:
            if len(kernels) == 1:
                log.info("%s cannot be measured: %s", kernels[0], error)
                self.failed.append((str(kernels[0]), str(error)))
                return
            middle = len(kernels) // 2
            self.file(kernels[:middle], folder)
            self.file(kernels[middle:], folder)
            return
        self.store.add(self.fingerprint, rows)
        self.measured += len(rows)


def bare_latency(target: Target, folder: Path, threads: int) -> float:
    """Microseconds of an inference of next to nothing: what the runtime itself takes."""
    builder = GraphBuilder()
    graph = builder.finish(builder.call("abs", builder.input("x", (1, 8))))
    return whole_latency(graph, target, folder / "bare", threads).median_us


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
    with tempfile.TemporaryDirectory(prefix="mcc-micro-") as folder, measuring():
        bare_us = bare_latency(target, Path(folder), threads)
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
