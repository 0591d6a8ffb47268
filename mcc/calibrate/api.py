"""Calibration and prediction with the user's own table, for commands."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import fx

from cost_models.lookup import LookupCostModel
from mcc.analysis.sparse_cluster import ZERO_SHARE, find_sparse_cluster
from mcc.calibrate import kernel_selection
from mcc.calibrate.kernel_selection import CalibrationReport
from mcc.calibrate.measure import Progress, input_name, silent
from mcc.calibrate.network_correction import family_name
from mcc.calibrate.store import Store
from mcc.cost_api import CostModel, Kernel, Precision, graph_kernels
from mcc.cost_sum import GraphCost, predict
from mcc.errors import UsageError
from mcc.ir.graph import Graph, GraphBuilder, calls, inputs, operand
from mcc.ir.notes import note, shape_of
from mcc.quant.regions import integer_nodes
from mcc.runtime.target import Target


def calibrate(
    target: Target,
    graph: Graph | None,
    *,
    budget_s: float = 300.0,
    threads: int = 1,
    progress: Progress = silent,
    seed: int = 0,
    table: Path | None = None,
) -> CalibrationReport:
    """Measure kernels for a network, or for common networks if none is given.

    Args:
        graph: Graph in deployment form, float.
        table: Path of the SQLite file; the user's own table if None.

    Raises:
        TargetError, DataError: As in `kernel_selection.calibrate`.
    """
    with Store(table) as store:
        networks = [graph] if graph is not None else common_networks()
        reports = [
            kernel_selection.calibrate(
                network, target, store, threads=threads, budget_s=budget_s / len(networks),
                choices=kernel_selection.choices_for(target, seed), progress=progress,
            )
            for network in networks
        ]  # fmt: skip
    return _joined(reports)


def _joined(reports: Sequence[CalibrationReport]) -> CalibrationReport:
    failed = dict(pair for report in reports for pair in report.failed)
    return CalibrationReport(
        measured=sum(r.measured for r in reports),
        known=sum(r.known for r in reports),
        left=sum(r.left for r in reports),
        failed=tuple(failed.items()),
        seconds=sum(r.seconds for r in reports),
        path=reports[0].path,
        stale=reports[-1].stale,
    )


def predict_graph(
    graph: Graph,
    target: Target,
    *,
    threads: int = 1,
    table: Path | None = None,
    model: CostModel | None = None,
) -> GraphCost:
    """Predicted cost of a graph in deployment form, float or quantised, from the table.

    Args:
        table: Path of the SQLite file; the user's own table if None.
        model: Cost model to use instead of the table.

    Raises:
        UsageError: Nothing was measured for the target yet.
        DataError: The table cannot be read.
    """
    model = model or measured_model(graph, target, threads=threads, table=table)
    kernels, first = network_kernels(graph, target)
    return predict(model, kernels, first)


def network_kernels(graph: Graph, target: Target) -> tuple[dict[str, Kernel], Precision]:
    """Kernels of a graph in deployment form on a target, by node name; and the precision of its input."""
    integer = {node.name for node in integer_nodes(graph)}
    kernels = graph_kernels(graph, integer, active_cluster(graph) if target.facts().sparse_1x1 else ())
    return kernels, "int8" if integer else "float"


def measured_model(
    graph: Graph, target: Target, *, threads: int = 1, table: Path | None = None
) -> LookupCostModel:
    """The cost model from the measurements of a target, with the overhead of this network's input.

    Raises:
        UsageError: Nothing was measured for the target yet, or only for another version of it.
        DataError: The table cannot be read.
    """
    fingerprint = target.fingerprint(threads).key()
    with Store(table) as store:
        stale = store.others(fingerprint)
        model = table_model(graph, store, fingerprint)
    if not model.rows:
        raise unmeasured(target, sum(stale.values()))
    return model


def unmeasured(target: Target, stale: int = 0) -> UsageError:
    """The error for a target without measurements; `stale` rows are of another version or device."""
    why = f"; {stale} rows of another version or device do not count" if stale else ""
    return UsageError(
        f"no operator was measured for {target.spec}{why}",
        hint=f"mcc calibrate --target {target.spec} --model MODEL",
    )


def table_model(graph: Graph, store: Store, fingerprint: str) -> LookupCostModel:
    """The cost model of a table, with the overhead of a network's input and the correction of its family."""
    return LookupCostModel.from_store(
        store, fingerprint, input_name(shape_of(inputs(graph)[0])), family_name(graph)
    )


def active_cluster(graph: Graph) -> tuple[str, ...]:
    """The nodes of the sparse cluster, if enough of its 1x1 weights are zero by their notes; else none."""
    cluster = find_sparse_cluster(graph)
    weights = zeros = 0.0
    for node in calls(graph, "conv2d"):
        if node.name in cluster.pointwise:
            elements = math.prod(shape_of(operand(node, 1)))
            sparse = note(node).sparse
            weights += elements
            zeros += elements * (sparse.sparsity if sparse is not None else 0.0)
    return cluster.nodes if zeros > ZERO_SHARE * weights else ()


# Expansion, channels, stride of inverted residuals, one of each kind of MobileNetV2 (Sandler 2018, table 2).
_INVERTED = ((1, 16, 1), (6, 24, 2), (6, 32, 2), (6, 64, 2), (6, 96, 1), (6, 160, 2), (6, 320, 1))
_BASIC = (64, 128, 256, 512)  # channels of the stages of ResNet-18 (He 2016)
_IMAGE = (1, 3, 224, 224)


def common_networks() -> list[Graph]:
    """Networks to measure if no model is given: a MobileNetV2 and a ResNet at 224 x 224."""
    return [_inverted_residuals(), _basic_blocks()]


def _inverted_residuals() -> Graph:
    net = _Convolutions()
    x = net.conv(net.b.input("image", _IMAGE), 32, 3, stride=2)
    for expansion, channels, stride in _INVERTED:
        made = net.conv(x, shape_of(x)[1] * expansion, 1)
        made = net.conv(made, shape_of(made)[1], 3, stride=stride, depthwise=True)
        x = net.conv(made, channels, 1, activation="none")
        if channels > 16:
            x = net.b.add(x, net.conv(net.conv(x, 6 * channels, 1), channels, 1, activation="none"))
    return net.head(net.conv(x, 1280, 1))


def _basic_blocks() -> Graph:
    net = _Convolutions()
    x = net.conv(net.b.input("image", _IMAGE), 64, 7, stride=2, activation="relu")
    x = net.b.max_pool2d(x, kernel=(3, 3), stride=(2, 2), padding=(1, 1, 1, 1))
    for channels in _BASIC:
        stride = 1 if channels == shape_of(x)[1] else 2
        short = x if stride == 1 else net.conv(x, channels, 1, stride=2, activation="none")
        made = net.conv(x, channels, 3, stride=stride, activation="relu")
        made = net.conv(made, channels, 3, activation="none")
        x = net.b.add(made, short, activation="relu")
    return net.head(x)


class _Convolutions:
    """Builder of convolutional networks with zero weights, of which only the shapes are used."""

    def __init__(self) -> None:
        self.b = GraphBuilder()
        self.count = 0

    def conv(
        self, x: fx.Node, channels: int, kernel: int, *, stride: int = 1, depthwise: bool = False,
        activation: str = "relu6",
    ) -> fx.Node:  # fmt: skip
        read = shape_of(x)[1]
        self.count += 1
        weight = torch.zeros(channels, 1 if depthwise else read, kernel, kernel)
        bias = self.b.constant(f"b{self.count}", torch.zeros(channels))
        return self.b.conv2d(
            x, self.b.constant(f"w{self.count}", weight), bias, stride=(stride, stride),
            padding=(kernel // 2,) * 4, groups=read if depthwise else 1, activation=activation,
        )  # fmt: skip

    def head(self, x: fx.Node, classes: int = 1000) -> Graph:
        channels = shape_of(x)[1]
        weight, bias = self.b.constant("w", torch.zeros(classes, channels)), torch.zeros(classes)
        pooled = self.b.mean(x, axes=(2, 3), keepdim=False)
        return self.b.finish(self.b.linear(pooled, weight, self.b.constant("b", bias)))
