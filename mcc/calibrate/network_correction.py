"""Correction of sums of kernels to the latencies of whole networks, timed at a few widths.

Between layers a runtime takes time outside the kernels: code and weights are less often in caches than in a
file of copies, and every operator is called. For each precision the kernels' latencies are corrected by

    corrected = factor * latency + offset * min(1, latency / 1 us)

by least squares over the network and uniformly narrower ones. The last factor excludes kernels that a runtime
fuses. A correction holds only for its family: networks that differ only in their channels.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from cost_models.lookup import LookupCostModel
from mcc.analysis.channel_groups import analyse_channels
from mcc.analysis.remove_channels import shrink
from mcc.calibrate.files import write_graph
from mcc.calibrate.measure import input_name, measure
from mcc.calibrate.store import Store, Whole
from mcc.calibrate.undisturbed import undisturbed_times
from mcc.cost_api import Precision, graph_kernels
from mcc.errors import MccError
from mcc.ir.graph import Graph, calls, copy_graph, inputs, op_name
from mcc.ir.notes import shape_of
from mcc.pass_api import PassContext
from mcc.pipeline import Pipeline, RunOptions
from mcc.quant.regions import integer_nodes
from mcc.runtime.target import Target

log = logging.getLogger(__name__)

ANCHOR_S = 1.5  # budget of timing all widths of one precision
FACTORS, OFFSETS = (0.5, 2.0), (-2.0, 2.0)  # beyond these, the cause is not the sum
CHANNEL_SETTINGS = ("groups", "shape", "start", "stop")  # attributes that may count channels
PRIOR = 0.03  # relative error that must be explained by a change of the factor by 1 or of the offset by 1 us


def anchor(
    graph: Graph,
    target: Target,
    store: Store,
    *,
    widths: Sequence[Mapping[str, int]],
    precisions: Sequence[Precision],
    threads: int = 1,
) -> None:
    """Time the network at some widths and store a correction for each precision that the table lacks.

    Args:
        graph: Graph in deployment form, float.
        widths: Number of channels in each group, for each network.

    Raises:
        TargetError, DataError: As `measure`.
    """
    fingerprint = target.fingerprint(threads).key()
    source = family_name(graph)
    held = {(row.quantity, row.precision, row.source) for row in store.wholes(fingerprint)}
    for precision in precisions:
        if ("correction", precision, source) in held:
            continue
        try:
            networks = [lowered_form(narrowed(graph, left), precision) for left in widths]
        except MccError as error:
            log.info("no correction for %s: %s", precision, error)
            continue
        _anchor_networks(networks, precision, target, store, threads=threads, source=source)


def family_name(graph: Graph) -> str:
    """Name in the table of the corrections of networks that differ from this one only in their channels.

    Quantisers are ignored: a network and its integer form are one family, with a correction each.
    """
    kept = [node for node in calls(graph) if op_name(node) != "fake_quantize"]
    lines = [str([shape_of(value)[2:] for value in inputs(graph)])]
    for node in kept:
        settings = sorted((k, v) for k, v in node.kwargs.items() if k not in CHANNEL_SETTINGS)
        lines.append(f"{op_name(node)} {settings} {shape_of(node)[2:]}")
    return "family " + hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _anchor_networks(
    networks: Sequence[Graph],
    precision: Precision,
    target: Target,
    store: Store,
    *,
    threads: int,
    source: str,
) -> None:
    """Time networks and store the correction of one precision that fits their sums best.

    Args:
        networks: Networks in the form that is lowered (see `lowered_form`); kernels that the table lacks are
            measured first.
        source: Name of the family of the correction.

    Raises:
        TargetError, DataError: As `measure`.
    """
    fingerprint = target.fingerprint(threads).key()
    kernels = [list(graph_kernels(g, [n.name for n in integer_nodes(g)]).values()) for g in networks]
    measure([kernel for each in kernels for kernel in each], target, store, threads=threads)
    with tempfile.TemporaryDirectory(prefix="mcc-anchor-") as folder:
        files = [write_graph(g, target, Path(folder) / f"network{i}") for i, g in enumerate(networks)]
        wholes = undisturbed_times(target, files, threads=threads, budget_s=ANCHOR_S)
    model = LookupCostModel(tuple(store.rows(fingerprint)))
    first = input_name(shape_of(inputs(networks[0])[0]))
    overhead = LookupCostModel.from_store(store, fingerprint, first).overhead(precision).cost
    tables = [[model.kernel(kernel).cost for kernel in each] for each in kernels]
    measured = [max(whole.median_us - overhead, 1.0) for whole in wholes]
    factor, offset = fit_correction(tables, measured)
    log.info("%s: factor %.3f, offset %.2f us, from %d networks", precision, factor, offset, len(networks))
    date = datetime.now(UTC).isoformat(timespec="seconds")
    store.set_whole(fingerprint, Whole("correction", precision, factor, *FACTORS, source, date))
    store.set_whole(fingerprint, Whole("offset", precision, offset, *OFFSETS, source, date))


def fit_correction(tables: Sequence[Sequence[float]], measured: Sequence[float]) -> tuple[float, float]:
    """Factor and offset (in microseconds) that minimise the relative error of the sums.

    Args:
        tables: Latencies of the kernels of each network, in microseconds.
        measured: Latencies of these networks without overhead, in microseconds.
    """
    rows = [[sum(us), sum(min(1.0, value) for value in us)] for us in tables]
    matrix = np.array(rows) / np.array(measured)[:, None]
    system = np.vstack([matrix, PRIOR * np.eye(2)])
    wanted = np.concatenate([np.ones(len(measured)), [PRIOR, 0.0]])
    (factor, offset), *_ = np.linalg.lstsq(system, wanted, rcond=None)
    return float(np.clip(factor, *FACTORS)), float(np.clip(offset, *OFFSETS))


def narrowed(graph: Graph, left: Mapping[str, int]) -> Graph:
    """A copy in which each channel group keeps the given number of its first channels. Raises Refusal."""
    copy = copy_graph(graph)
    analysis = analyse_channels(copy)
    removed = [
        label for group in analysis.prunable() for label in group.classes[left.get(group.name, group.width) :]
    ]
    shrink(copy, analysis, frozenset(removed))
    return copy


def lowered_form(graph: Graph, precision: Precision) -> Graph:
    """The graph in that precision, with ranges from random input, which do not affect latency."""
    if precision == "float":
        return graph
    generator = torch.Generator().manual_seed(0)
    batch = torch.randn(shape_of(inputs(graph)[0]), generator=generator)
    pipeline = Pipeline.parse(f"insert-qdq{{precision={precision} observer=minmax}}")
    return pipeline.run(graph, PassContext((batch,)), RunOptions(verify=False)).graph
