"""Overhead of a runtime's profiler on the operators that it times.

onnxruntime records the shapes of all operands inside the interval that it reports, which takes some
microseconds, more for more operands. It is measured once for each kind of kernel, on chains of copies:

    excess = mean of the profile - (latency of a long chain - latency of a short one) / (copies between them)
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from mcc.calibrate.files import write_graph
from mcc.calibrate.micro import chain
from mcc.calibrate.store import Store, Whole
from mcc.cost_api import Kernel, OperandShape, Precision
from mcc.runtime.target import Target

LONG, SHORT = 34, 2
CHAIN_S = 0.6  # budget of timing both chains
RUNS = 200
SHAPE = (1, 32, 8, 8)  # a kernel of about a microsecond, with caches as between small layers

OTHERS = "max_pool2d"
KINDS = {
    "conv2d": ("Conv", "QLinearConv", "ConvTranspose", "Gemm", "QGemm", "MatMul", "QLinearMatMul"),
    "add": ("Add", "Sub", "Mul", "Div", "Concat", "QLinearAdd", "QLinearMul", "QLinearConcat"),
    OTHERS: (),
}


def kind_of(operator: str) -> str:
    """The kernel that represents an operator of onnxruntime, with about as many operands."""
    return next((kind for kind, operators in KINDS.items() if operator in operators), OTHERS)


def profile_excess(
    precision: Precision, target: Target, store: Store, *, threads: int = 1
) -> Mapping[str, float]:
    """Microseconds that a profile adds to an operator, by kind of kernel; measured if the table lacks them.

    Raises:
        TargetError, DataError: As `measure`.
    """
    fingerprint = target.fingerprint(threads).key()
    found = {
        row.source: row.value
        for row in store.wholes(fingerprint)
        if (row.quantity, row.precision) == ("excess", precision)
    }
    for kind in KINDS:
        if kind not in found:
            low, value, high = _measure(_kernel(kind, precision), target, threads)
            date = datetime.now(UTC).isoformat(timespec="seconds")
            store.set_whole(fingerprint, Whole("excess", precision, value, low, high, kind, date))
            found[kind] = value
    return found


def _kernel(kind: str, precision: Precision) -> Kernel:
    x, channels = OperandShape(SHAPE), SHAPE[1]
    if kind == "conv2d":
        weight, bias = OperandShape((channels, channels, 1, 1), True), OperandShape((channels,), True)
        conv = {"stride": (1, 1), "padding": (0,) * 4, "dilation": (1, 1), "groups": 1, "activation": "relu"}
        return Kernel("conv2d", (x, weight, bias), SHAPE, tuple(conv.items()), precision)
    if kind == "add":
        return Kernel("add", (x, x), SHAPE, (("activation", "none"),), precision)
    pool = {"kernel": (3, 3), "stride": (1, 1), "padding": (1,) * 4, "dilation": (1, 1)}
    return Kernel("max_pool2d", (x,), SHAPE, tuple(pool.items()), precision)


def _measure(kernel: Kernel, target: Target, threads: int) -> tuple[float, float, float]:
    """Lower bound, value and upper bound of the excess for one kernel, in microseconds."""
    with tempfile.TemporaryDirectory(prefix="mcc-micro-") as folder, target.measuring():
        files = [write_graph(chain(kernel, n), target, Path(folder) / f"chain{n}") for n in (SHORT, LONG)]
        short, long = target.time(files, threads=threads, budget_s=CHAIN_S)
        ops = target.profile(files[1], threads=threads, runs=RUNS)
    own = [op.us for op in ops if op.name.startswith("kernel")]
    profiled = sum(own) / LONG  # a long chain has no other operators of these names
    true = (long.median_us - short.median_us) / (LONG - SHORT)
    least = (long.ci_low_us - short.ci_high_us) / (LONG - SHORT)
    most = (long.ci_high_us - short.ci_low_us) / (LONG - SHORT)
    return profiled - most, profiled - true, profiled - least
