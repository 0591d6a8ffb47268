"""Measurement of kernels by the runtime's own profile: many in one micro-network, one per branch.

Profiles are biased. XNNPACK truncates each operator's time to whole microseconds; onnxruntime's includes some
microseconds of profiling (see `excess`). The file is therefore also timed as a whole, without profiling, and
the difference is distributed over its operators by weight (equal for XNNPACK, the usual excess of an operator
of that kind for onnxruntime):

    latency = profiled + weight * (whole - bare inference - sum of the profile) / sum of weights

At most 2 us are added to an operator in this way. The rest of a larger difference scales all of them alike,
and widens their spread: otherwise a short operator would be given time of long ones.

All of this is for undisturbed inferences. A latency, however, is a median, and on a shared machine the two
differ: all rows of a file are raised by the ratio of the median of the whole to its 10th percentile, in the
least disturbed session. The ratio of the 90th to the 10th percentile is stored in the table as the spread:
the latency of any network may differ by as much from the sum of its kernels.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from mcc.calibrate.files import write_graph
from mcc.calibrate.micro import MicroNetwork, micro_network, takes_sink
from mcc.calibrate.profiler_overhead import kind_of
from mcc.calibrate.undisturbed import SESSIONS, undisturbed
from mcc.cost_api import Kernel, Measurement
from mcc.errors import TargetError
from mcc.runtime.session import OpTime
from mcc.runtime.target import Target

log = logging.getLogger(__name__)

REPEATS = 3  # profiles of a file, each in a new process
MOST_REPEATS = 6  # while the fastest of them...
AGREE = 0.03  # ...differ by more than this share, by a disturbance
PROFILE_S = 0.15  # of inferences in one profile
FEWEST_RUNS, MOST_RUNS = 10, 300
WHOLE_S = 1.0  # budget of timing a file as a whole
TENTHS = 2 * 1.2816  # standard deviations from the 10th to the 90th percentile of a normal variable
MOST_MISSING_US = 2.0  # more is missing per operator than truncation and its call take
LEAST_US = 0.02  # shorter times cannot be measured
SINK_KIND = "Mean"  # prefix of XNNPACK's names of it
MOST_KERNELS = 64  # in a file: about as many layers as a network has
MOST_MACS = 150_000_000  # in a file: some milliseconds
_PRODUCER = re.compile(r"kernel(\d+)_\d+_")
_KERNEL = re.compile(r"kernel(\d+)(?!\d)")


@dataclass(frozen=True)
class Shares:
    """Times of the operators of the kernels of a micro-network in a profile."""

    operators: tuple[tuple[OpTime, ...], ...]
    fused_us: tuple[float, ...]  # time that a fused kernel adds to the operator that it is fused into


@dataclass(frozen=True)
class Profiled:
    """Measurements of one file.

    Attributes:
        rows: One measurement for each kernel.
        spread: Standard deviation of the logarithm of the file's latency, in its least disturbed session.
    """

    rows: tuple[Measurement, ...]
    spread: float


def measure_profiled(
    kernels: Sequence[Kernel],
    target: Target,
    folder: Path,
    *,
    threads: int,
    bare_us: float,
    excess: Mapping[str, float] | None = None,
) -> Profiled:
    """Measure kernels of one precision, all in one file.

    Args:
        folder: Folder for the file.
        bare_us: Latency of an inference of a file without kernels.
        excess: Microseconds that the profile usually adds to an operator, by kind of kernel (see `excess`);
            equal for all if None.

    Raises:
        UnsupportedError: A kernel cannot be built in that precision; the message names it.
        TargetError: The runtime failed, or its profile cannot be matched with the kernels.
    """
    network = micro_network(kernels, blocked=target.facts().blocked_layout)
    file = write_graph(network.graph, target, folder / "micro")
    runs = _runs(kernels)
    repeats = 1 if target.unit.exact else REPEATS
    profiles = undisturbed_profiles(lambda: target.profile(file, threads=threads, runs=runs), repeats)
    shares = [_assign(network, ops, target) for ops in profiles]
    profiled = median(_total_us(ops) for ops in profiles)
    weight = sum(_weight(op, excess) for op in profiles[0])
    missing, least_disturbed = math.inf, None
    for _ in range(1 if target.unit.exact else SESSIONS):
        (whole,) = target.time([file], threads=threads, budget_s=WHOLE_S)
        least_disturbed = min(least_disturbed or whole, whole, key=lambda samples: samples.median_us)
        # The profile is of undisturbed inferences, so it is compared with the tenth percentile of the whole.
        missing = min(missing, (whole.p10_us - bare_us - profiled) / weight)
        if missing < MOST_MISSING_US and undisturbed(least_disturbed):
            break
    assert least_disturbed is not None
    typical = least_disturbed.median_us / least_disturbed.p10_us
    # An excess over truncation and calls belongs to no single operator: all of them ran slower alike.
    slower = max(0.0, missing - MOST_MISSING_US) * weight / profiled if profiled > 0 else 0.0
    missing = min(missing, MOST_MISSING_US)
    log.debug("%d operators, %.2f us beside the profile for each unit of weight", len(profiles[0]), missing)
    date = datetime.now(UTC).isoformat(timespec="seconds")
    measured: list[Measurement] = []
    for index, kernel in enumerate(kernels):
        us: list[float] = []
        for share in shares:
            own = sum(op.us + missing * _weight(op, excess) for op in share.operators[index])
            us.append(max(LEAST_US, own + share.fused_us[index]))
        middle, most = (value * (1.0 + slower) * typical for value in (median(us), max(us)))
        least = min(us) * typical
        measured.append(
            Measurement(kernel, middle, least, most, runs * repeats, date, least_disturbed.load.others_cores)
        )
    return Profiled(tuple(measured), math.log(least_disturbed.p90_us / least_disturbed.p10_us) / TENTHS)


def undisturbed_profiles(profile: Callable[[], list[OpTime]], wanted: int) -> list[list[OpTime]]:
    """The wanted number of profiles, repeated until the fastest agree, up to a limit.

    On a busy machine a whole profile can be slow; disturbances only add time.
    """
    taken: list[list[OpTime]] = []
    while True:
        taken.append(profile())
        fastest = sorted(taken, key=_total_us)[:wanted]
        agree = _total_us(fastest[-1]) <= (1 + AGREE) * _total_us(fastest[0])
        if len(taken) >= wanted and (agree or len(taken) >= MOST_REPEATS):
            return fastest


def _total_us(ops: Sequence[OpTime]) -> float:
    return sum(op.us for op in ops)


def _weight(op: OpTime, excess: Mapping[str, float] | None) -> float:
    return 1.0 if excess is None else excess[kind_of(op.kind)]


def _runs(kernels: Sequence[Kernel]) -> int:
    """Number of inferences in a profile, from a rough estimate of their time (30 GMAC/s and 10 GB/s)."""
    guess_s = sum(kernel.macs / 30e9 + kernel.bytes_moved / 10e9 for kernel in kernels)
    return int(min(MOST_RUNS, max(FEWEST_RUNS, PROFILE_S / max(guess_s, 1e-6))))


def _assign(network: MicroNetwork, ops: Sequence[OpTime], target: Target) -> Shares:
    return by_name(network, ops) if target.facts().named_profile else by_order(network, ops)


def by_order(network: MicroNetwork, ops: Sequence[OpTime]) -> Shares:
    """Shares from the order of operators: producers, the kernel's own, and the sink, branch after branch.

    Branches without a sink are last; each of them ends where the producers of the next begin. Raises
    TargetError if the kinds of operators do not form such branches.
    """
    sunk = sum(map(takes_sink, network.kernels))
    sinks = [index for index, op in enumerate(ops) if op.kind.startswith(SINK_KIND)][:sunk]
    if len(sinks) != sunk or not all(map(takes_sink, network.kernels[:sunk])):
        raise TargetError(f"{sunk} branches with sinks, but {len(sinks)} sinks in the profile")
    found, begin = list[tuple[OpTime, ...]](), 0
    for number, producers in enumerate(network.producers):
        first = begin + producers
        if number < sunk:
            end, after = sinks[number], sinks[number] + 1
        else:
            later = (index for index in range(first, len(ops)) if ops[index].kind == ops[0].kind)
            end = after = next(later, len(ops))
        if end <= first or {op.kind for op in ops[begin:first]} != {ops[0].kind}:
            raise TargetError("the operators of a branch are not those that were written")
        found.append(tuple(ops[first:end]))
        begin = after
    if begin != len(ops):
        raise TargetError(f"{len(ops) - begin} operators more than were written")
    return Shares(tuple(found), (0.0,) * len(found))


def by_name(network: MicroNetwork, ops: Sequence[OpTime]) -> Shares:
    """Shares from the names of operators; a kernel without one was fused into its producer.

    The cost of a fused one is that of the producer it was fused into, less that of the other producer. The
    fused operator has the name of one of both: if it is the kernel's, its producer is missing. Raises
    TargetError if there is no other producer.
    """
    own: dict[int, list[OpTime]] = {}
    before: dict[int, list[float]] = {}
    for op in ops:
        if found := _PRODUCER.match(op.name):
            before.setdefault(int(found[1]), []).append(op.us)
        elif found := _KERNEL.match(op.name):
            own.setdefault(int(found[1]), []).append(op)
    fused: list[float] = []
    for index, kernel in enumerate(network.kernels):
        producers = before.get(index, [])
        if index in own and network.twinned[index] and len(producers) == 1:
            producers = [producers[0], sum(op.us for op in own.pop(index))]
        if index not in own and len(producers) < 2:
            raise TargetError("its operator is not in the profile", where=str(kernel))
        fused.append(0.0 if index in own else max(producers) - min(producers))
    return Shares(tuple(tuple(own.get(index, ())) for index in range(len(fused))), tuple(fused))


def files_of(kernels: Sequence[Kernel]) -> list[list[Kernel]]:
    """Distribution of kernels over files: of one precision, few enough for a short inference, in order.

    Consecutive kernels (e.g. the layers of one network) then share a file, with caches in the same state as
    in that network. Within a file those without a sink are last.
    """
    files: list[list[Kernel]] = []
    latest: dict[str, list[Kernel]] = {}
    for kernel in kernels:
        file = latest.get(kernel.precision)
        if file is None or len(file) >= MOST_KERNELS or sum(k.macs for k in file) + kernel.macs > MOST_MACS:
            file = latest[kernel.precision] = []
            files.append(file)
        file.append(kernel)
    return [sorted(file, key=lambda kernel: not takes_sink(kernel)) for file in files]
