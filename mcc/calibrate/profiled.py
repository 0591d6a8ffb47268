"""Measuring kernels by the runtime's own profile: many in one micro-network, each in its branch.

Profiles are not the truth yet. XNNPACK cuts each operator's time down to whole microseconds; onnxruntime's
includes some two microseconds of profiling. Both average out in one figure for each file, what an operator of
the profile is short of or beyond its share of the whole, unprofiled inference; it is given back to all alike:

    latency = profiled + operators * (whole - overhead - sum of the profile) / operators of the file
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from mcc.calibrate.files import write_graph
from mcc.calibrate.micro import MicroNetwork, micro_network, takes_sink
from mcc.cost_api import Kernel, Measurement
from mcc.errors import TargetError
from mcc.runtime.target import OpTime, Target

log = logging.getLogger(__name__)

REPEATS = 3  # profiles of a file, each in a fresh process
PROFILE_S = 0.15  # of inferences in one profile
FEWEST_RUNS, MOST_RUNS = 10, 300
WHOLE_S = 1.0  # budget of timing a file as a whole
LEAST_US = 0.02  # what is shorter than that cannot be told from nothing
MOST_KERNELS = 64  # in a file: about as many layers as a network has
MOST_MACS = 150_000_000  # in a file: some milliseconds
_PRODUCER = re.compile(r"kernel(\d+)_\d+_")
_KERNEL = re.compile(r"kernel(\d+)(?!\d)")


@dataclass(frozen=True)
class Shares:
    """What a profile says about the kernels of a micro-network: microseconds and operators of each."""

    us: tuple[float, ...]
    operators: tuple[int, ...]


def measure_profiled(
    kernels: Sequence[Kernel], target: Target, folder: Path, *, threads: int, overhead_us: float
) -> list[Measurement]:
    """Measure kernels of one precision, all in one file.

    Args:
        folder: for the file.
        overhead_us: of an inference of a file without kernels.

    Raises:
        UnsupportedError: a kernel that cannot be built in that precision, named.
        TargetError: the runtime failed, or its profile cannot be matched with the kernels.
    """
    network = micro_network(kernels, blocked=target.format == "onnx")
    file = write_graph(network.graph, target, folder / "micro")
    runs = _runs(kernels)
    shares, sums, counts = list[Shares](), list[float](), list[int]()
    for _ in range(REPEATS):
        ops = target.profile(file, threads=threads, runs=runs)
        shares.append(_assign(network, ops, target))
        sums.append(sum(op.us for op in ops))
        counts.append(len(ops))
    (whole,) = target.time([file], threads=threads, budget_s=WHOLE_S)
    missing = (whole.median_us - overhead_us - median(sums)) / counts[0]
    log.debug("%d operators, %.2f us each beside the profile", counts[0], missing)
    date = datetime.now(UTC).isoformat(timespec="seconds")
    measured: list[Measurement] = []
    for index, kernel in enumerate(kernels):
        each = [max(LEAST_US, s.us[index] + missing * s.operators[index]) for s in shares]
        measured.append(
            Measurement(
                kernel, median(each), min(each), max(each), runs * REPEATS, date, whole.load.others_cores
            )
        )
    return measured


def _runs(kernels: Sequence[Kernel]) -> int:
    """Inferences in a profile, from a rough guess of their length (30 GMAC/s and 10 GB/s)."""
    guess_s = sum(kernel.macs / 30e9 + kernel.bytes_moved / 10e9 for kernel in kernels)
    return int(min(MOST_RUNS, max(FEWEST_RUNS, PROFILE_S / max(guess_s, 1e-6))))


def _assign(network: MicroNetwork, ops: Sequence[OpTime], target: Target) -> Shares:
    return by_name(network, ops) if target.format == "onnx" else by_order(network, ops)


def by_order(network: MicroNetwork, ops: Sequence[OpTime]) -> Shares:
    """Shares from the order of operators: producers, the kernel's own, and the sink, branch after branch.

    Raises TargetError when the kinds of operators do not fall into such branches.
    """
    if len(network.kernels) == 1:
        ends = [len(ops) - int(takes_sink(network.kernels[0]))]
    else:
        ends = [index for index, op in enumerate(ops) if op.kind == ops[-1].kind]
    if len(ends) != len(network.kernels):
        raise TargetError(f"{len(network.kernels)} branches, but {len(ends)} sinks in the profile")
    us, counts, begin = list[float](), list[int](), 0
    for producers, end in zip(network.producers, ends, strict=True):
        if end - begin <= producers or {op.kind for op in ops[begin : begin + producers]} != {ops[0].kind}:
            raise TargetError("the operators of a branch are not those that were written")
        own = ops[begin + producers : end]
        us.append(sum(op.us for op in own))
        counts.append(len(own))
        begin = end + 1
    return Shares(tuple(us), tuple(counts))


def by_name(network: MicroNetwork, ops: Sequence[OpTime]) -> Shares:
    """Shares from the names of operators; a kernel without one was fused into its producer.

    The cost of a fused one is that of the producer it was fused into, less that of the other producer. Raises
    TargetError where there is no other one.
    """
    own: dict[int, list[float]] = {}
    before: dict[int, list[float]] = {}
    for op in ops:
        if found := _PRODUCER.match(op.name):
            before.setdefault(int(found[1]), []).append(op.us)
        elif found := _KERNEL.match(op.name):
            own.setdefault(int(found[1]), []).append(op.us)
    us, counts = list[float](), list[int]()
    for index, kernel in enumerate(network.kernels):
        if index in own:
            us.append(sum(own[index]))
            counts.append(len(own[index]))
            continue
        producers = before.get(index, [])
        if len(producers) < 2:
            raise TargetError("its operator is not in the profile", where=str(kernel))
        us.append(max(producers) - min(producers))
        counts.append(0)
    return Shares(tuple(us), tuple(counts))


def files_of(kernels: Sequence[Kernel], target: Target) -> list[list[Kernel]]:
    """Kernels in files: of one precision, few enough for a short inference, in the order given.

    Kernels given one after the other (the layers of one network, say) then share a file, and caches are as
    full as in that network. Where a profile has no names, kernels that take no sink stand alone.
    """
    files: list[list[Kernel]] = []
    latest: dict[str, list[Kernel]] = {}
    for kernel in kernels:
        if target.format != "onnx" and not takes_sink(kernel):
            files.append([kernel])
            continue
        file = latest.get(kernel.precision)
        if file is None or len(file) >= MOST_KERNELS or sum(k.macs for k in file) + kernel.macs > MOST_MACS:
            file = latest[kernel.precision] = []
            files.append(file)
        file.append(kernel)
    return files
