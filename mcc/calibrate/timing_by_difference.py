"""Measurement of kernels without the runtime's profile: the latency of many copies less that of one.

    A:  x --producer--> value --+--kernel 1--> sink --+        B:  the same with every sink after kernel 1
                                +--kernel 2--> sink --+--> sum
                                +--kernel n--> sink --+

    latency = (A - B) / (n - 1)

Both files have the same producer, number of sinks and sum; they take turns in one runner, so that changes of
the machine affect both alike. Inside XNNPACK's sparse clusters the producer is a stem (3x3, stride 2, 3
channels, padding 1), and every branch ends in a global mean, as required by the sparse path.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from mcc.calibrate.files import write_graph
from mcc.calibrate.replicated_kernels import copies_network
from mcc.cost_api import Kernel, Measurement
from mcc.errors import TargetError
from mcc.runtime.process import load
from mcc.runtime.samples import LoadWatch
from mcc.runtime.session import Runner
from mcc.runtime.target import Target

log = logging.getLogger(__name__)

WANTED_US = 500.0  # of all copies together: well above the runtime's own time
FEWEST, MOST = 4, 24  # copies
SAMPLE_US = 500.0  # far below the time slices of other processes, far above the clock's steps
SAMPLES = 8  # in a turn; their median excludes those that waited for the processor
ROUNDS = 5
ATTEMPTS = 3  # series of rounds, while...
UNSURE = 0.3  # ...10th and 90th percentile differ by more than this share of the median
WARM_US = 6_000.0  # until a file's code and data are in the caches
LEAST_US = 0.02
STEM_READS = 3  # channels; only the first operator of a sparse cluster reads as few
GMACS, GBYTES = 8.0, 4.0  # rough speed of a runtime without a profile (WebAssembly on one core)


def measure_differenced(
    kernels: Sequence[Kernel], target: Target, folder: Path, *, threads: int
) -> list[Measurement]:
    """Measure kernels one by one in one runner, or all at once on a simulated target.

    Raises:
        UnsupportedError: A kernel cannot be built in its precision and layout.
        TargetError: The runtime failed.
    """
    if target.unit.exact:
        return _counted(kernels, target, folder, threads)
    runner = target.start_runner()
    try:
        return [
            _measure(kernel, runner, 2 * index, target, folder, threads)
            for index, kernel in enumerate(kernels)
        ]
    finally:
        runner.close()


def _counted(kernels: Sequence[Kernel], target: Target, folder: Path, threads: int) -> list[Measurement]:
    """Exact costs: a file with two copies less one with one; for a stem, its share of the latter.

    A cluster has one stem, which is the first operator of its file.
    """
    stems = [kernel for kernel in kernels if _is_stem(kernel)]
    others = [kernel for kernel in kernels if not _is_stem(kernel)]
    files = [
        write_graph(copies_network(kernel, 2, distinct), target, folder / f"copies{index}-{distinct}")
        for index, kernel in enumerate(others)
        for distinct in (2, 1)
    ]
    costs = [samples.median_us for samples in target.time(files, threads=threads)] if files else []
    found = dict(
        zip(others, (two - one for two, one in zip(costs[::2], costs[1::2], strict=True)), strict=True)
    )
    for index, kernel in enumerate(stems):
        file = write_graph(copies_network(kernel, 2, 1), target, folder / f"stem{index}")
        found[kernel] = target.profile(file, threads=threads)[0].us
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return [_exactly(kernel, max(LEAST_US, found[kernel]), date) for kernel in kernels]


def _is_stem(kernel: Kernel) -> bool:
    first = kernel.operands[0]
    return kernel.layout == "nchw" and first is not None and first.shape[1] == STEM_READS


def _exactly(kernel: Kernel, cost: float, date: str) -> Measurement:
    return Measurement(kernel, cost, cost, cost, 1, date, 0.0)


def copies_of(kernel: Kernel) -> int:
    """Number of copies for a sufficiently long latency."""
    density = 1.0 - kernel.sparse.sparsity if kernel.sparse is not None else 1.0
    guess_us = kernel.macs * density / GMACS / 1e3 + kernel.bytes_moved / GBYTES / 1e3
    return int(min(MOST, max(FEWEST, math.ceil(WANTED_US / max(guess_us, 1e-3)))))


def difference(many: Sequence[float], one: Sequence[float], copies: int) -> tuple[float, float, float]:
    """Median, 10th and 90th percentile of the kernel's latency from paired rounds of both files.

    Args:
        many, one: Microseconds of the files with `copies` kernels and with one, by round.
    """
    each = (np.asarray(many) - np.asarray(one)) / (copies - 1)
    low, middle, high = (float(value) for value in np.percentile(each, [10, 50, 90]))
    return middle, low, high


def _measure(
    kernel: Kernel, runner: Runner, number: int, target: Target, folder: Path, threads: int
) -> Measurement:
    copies = copies_of(kernel)
    # A cluster has one stem, and LiteRT.js 2.5 refuses files whose clusters end in several pools, as with
    # several stems: a stem is timed outside a cluster.
    built = replace(kernel, layout="nhwc") if _is_stem(kernel) else kernel
    turns: list[_Turns] = []
    for place, distinct in enumerate((copies, 1)):
        network = copies_network(built, copies, distinct, blocked=target.facts().blocked_layout)
        file = write_graph(network, target, folder / f"copies{place}")
        load(runner, file, threads, number + place)
        turns.append(_Turns(runner, number + place, str(kernel)))
    watch = LoadWatch([runner.pid])
    rounds: list[list[float]] = []
    middle = low = high = 0.0
    for _ in range(ATTEMPTS):
        rounds += [[turn.take() for turn in turns] for _ in range(ROUNDS)]
        middle, low, high = difference([pair[0] for pair in rounds], [pair[1] for pair in rounds], copies)
        if high - low < UNSURE * middle:
            break
    others = watch.stop().others_cores
    if middle <= 0.0:
        raise TargetError("the time of many copies is that of one", where=str(kernel))
    date = datetime.now(UTC).isoformat(timespec="seconds")
    runs = len(rounds) * SAMPLES * sum(turn.repeats for turn in turns)
    return Measurement(kernel, max(LEAST_US, middle), max(0.0, low), max(LEAST_US, high), runs, date, others)


class _Turns:
    """One file in a runner with several files."""

    def __init__(self, runner: Runner, model: int, where: str) -> None:
        self.runner = runner
        self.model = model
        self.where = where
        once_us = max(self.take(1), 0.1)
        once_us = max(self.take(max(1, round(WARM_US / once_us / SAMPLES))), 0.1)
        self.repeats = max(1, round(SAMPLE_US / once_us))

    def take(self, repeats: int | None = None) -> float:
        """Microseconds per inference: the median of the samples of one turn, as for latencies."""
        request = {
            "op": "turn", "model": self.model, "settle": 1, "per_sample": repeats or self.repeats,
            "samples": SAMPLES,
        }  # fmt: skip
        answer, _ = self.runner.request(request, where=self.where)
        return float(np.median([float(value) for value in answer["us"]]))
