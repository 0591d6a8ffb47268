"""Selection of the kernels to measure for a model, such that a plan over its widths finds their costs."""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import fx

from cost_models.lookup import LookupCostModel
from mcc.analysis.channel_groups import ChannelAnalysis, analyse_channels
from mcc.analysis.sparse_cluster import find_sparse_cluster
from mcc.calibrate.measure import MeasureReport, Progress, measure, measure_again, measure_overhead, silent
from mcc.calibrate.network_correction import anchor
from mcc.calibrate.store import Store
from mcc.cost_api import Kernel, Precision, graph_kernels
from mcc.ir.channels import channel_axis
from mcc.ir.graph import Graph, calls, inputs, is_constant, operand
from mcc.ir.labels import LabelArray
from mcc.ir.notes import SparseNote, shape_of
from mcc.quant.placement import place
from mcc.runtime.target import Target

SEQUENCE_RANK = 3  # [N, T, C] and [N, C, L]
AGAIN_S = 60.0  # maximum for repeating measurements that may have been disturbed


@dataclass(frozen=True)
class Choices:
    """Choices of a plan that determine the kernels to measure.

    Attributes:
        ratios: Width ratios at which the whole network is measured.
        mixed: Number of networks with a random width of each channel group, drawn from `mixed_ratios`.
        multiple: Divisor of the widths if a group is wide enough; half of it otherwise.
        precisions: Precisions in which the network is measured.
        sparsities: Sparsities of 1x1 convolutions, if the target can gain from them.
    """

    ratios: tuple[float, ...] = (1.0, 0.75, 0.5, 0.25)
    mixed: int = 4
    mixed_ratios: tuple[float, ...] = (1.0, 0.75, 0.5, 0.375, 0.25, 0.125)
    multiple: int = 8
    precisions: tuple[Precision, ...] = ("float", "int8")
    sparsities: tuple[float, ...] = (0.7, 0.8, 0.9)
    seed: int = 0


@dataclass(frozen=True)
class CalibrationReport:
    """Result of a calibration; see `MeasureReport`.

    Attributes:
        path: Path of the table.
        stale: Number of rows of the same target for other versions or devices, by fingerprint.
    """

    measured: int
    known: int
    left: int
    failed: tuple[tuple[str, str], ...]
    seconds: float
    path: Path
    stale: Mapping[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            **dataclasses.asdict(self),
            "path": str(self.path),
            "failed": [list(pair) for pair in self.failed],
            "stale": dict(self.stale),
        }


def calibrate(
    graph: Graph,
    target: Target,
    store: Store,
    *,
    threads: int = 1,
    budget_s: float = 300.0,
    choices: Choices | None = None,
    progress: Progress = silent,
) -> CalibrationReport:
    """Measure the kernels of possible plans for this network on this target that the table lacks.

    Args:
        graph: Graph in deployment form, float.
        budget_s: Total seconds; the unpruned network is first, then narrower ones.

    Raises:
        TargetError: The target cannot be used here.
        DataError: The table cannot be written.
    """
    choices = choices or choices_for(target)
    begin = time.monotonic()
    for precision in choices.precisions:
        measure_overhead(shape_of(inputs(graph)[0]), precision, target, store, threads=threads)
    left_s = max(budget_s / 2, budget_s - (time.monotonic() - begin))  # excludes waiting for the machine
    kernels = kernels_for(graph, target, choices)
    report = measure(kernels, target, store, threads=threads, budget_s=left_s, progress=progress)
    if report.left == 0 and not target.unit.exact:  # counted kernels are exact, and so is their sum
        model = LookupCostModel.from_store(store, target.fingerprint(threads).key())
        asked = set(kernels)
        suspects = [kernel for kernel in model.suspects() if kernel in asked]
        rest_s = left_s - report.seconds
        if report.measured and suspects and rest_s > 0:
            measure_again(suspects, target, store, threads=threads, budget_s=min(AGAIN_S, rest_s))
        uniform = _assignments(graph, choices)[: len(choices.ratios)]
        anchor(graph, target, store, widths=uniform, precisions=choices.precisions, threads=threads)
    return _reported(report, target, store, threads)


def choices_for(target: Target, seed: int = 0) -> Choices:
    """The choices for a target: fewer widths if each is measured in many forms, kernel by kernel."""
    if target.facts().sparse_1x1:
        return Choices(ratios=(1.0, 0.5, 0.25), mixed=2, seed=seed)
    return Choices(seed=seed)


def _reported(report: MeasureReport, target: Target, store: Store, threads: int) -> CalibrationReport:
    return CalibrationReport(
        **dataclasses.asdict(report), path=store.path, stale=store.others(target.fingerprint(threads).key())
    )


def kernels_for(graph: Graph, target: Target, choices: Choices) -> list[Kernel]:
    """The kernels of a network at several widths, in all forms that the target can gain from.

    Networks are in order, the unpruned one first: kernels that run together are measured together.

    Args:
        graph: In deployment form, float.
    """
    dense, sparse = _forms(graph, target, choices)
    found: list[Kernel] = []
    for number, shapes in enumerate(_variants(graph, choices)):
        # All sparsities of the unpruned network; for the others they alternate.
        thin = sparse if number == 0 else sparse[number % len(sparse) :][:1] if sparse else []
        for kernels in (*dense, *thin):
            found += [_at(kernel, shapes[name]) for name, kernel in kernels.items()]
    return list(dict.fromkeys(found))


_Form = dict[str, Kernel]


def _forms(graph: Graph, target: Target, choices: Choices) -> tuple[list[_Form], list[_Form]]:
    """Kernels by node name for each precision, and inside a sparse cluster for each sparsity."""
    forms, thinned = list[_Form](), list[_Form]()
    for precision in choices.precisions:
        integer = [node.name for node in place(graph, precision).precision] if precision != "float" else []
        kernels = graph_kernels(graph, integer)
        if precision == "int7":
            kernels = {
                name: dataclasses.replace(k, precision="int7") if k.precision == "int8" else k
                for name, k in kernels.items()
            }
        forms.append(kernels)
    cluster = find_sparse_cluster(graph)
    if target.facts().sparse_1x1 and cluster.nodes:
        for sparsity in choices.sparsities:
            thin = SparseNote(target.facts().sparse_block, sparsity)
            kernels = graph_kernels(graph, cluster=cluster.nodes)
            thinned.append(
                {
                    name: dataclasses.replace(k, sparse=thin) if name in cluster.pointwise else k
                    for name, k in kernels.items()
                }
            )
    return forms, thinned


def _assignments(graph: Graph, choices: Choices) -> list[dict[str, int]]:
    """Numbers of channels in each group, for each uniform width, then for networks of mixed widths."""
    groups = {group.name: group.width for group in analyse_channels(graph).prunable()}
    generator = random.Random(choices.seed)
    ratios = [dict.fromkeys(groups, ratio) for ratio in choices.ratios]
    for _ in range(choices.mixed):
        ratios.append({name: generator.choice(choices.mixed_ratios) for name in groups})
    return [
        {name: rounded(groups[name], ratio, choices.multiple) for name, ratio in each.items()}
        for each in ratios
    ]


def _on_sequences(node: fx.Node) -> bool:
    return any(len(shape_of(value)) == SEQUENCE_RANK for value in (operand(node, 0), node))


_Shapes = tuple[tuple[tuple[int, ...] | None, ...], tuple[int, ...]]
"""Shapes of the operands of a kernel, None for an absent one, and of its result."""


def _at(kernel: Kernel, shapes: _Shapes) -> Kernel:
    """A kernel at other widths: by the channel axes of maps and vectors, else by the shapes of all operands.

    Sequences have their channels on axis 1 or 2, and recurrent layers constants of their own.
    """
    operands, output = shapes
    if any(len(shape) == SEQUENCE_RANK for shape in (*(o for o in operands[:1] if o), output)):
        return kernel.reshaped(operands, output)
    read = operands[0]
    assert read is not None
    return kernel.resized(read=read[channel_axis(read)], made=output[channel_axis(output)])


def _variants(graph: Graph, choices: Choices) -> list[dict[str, _Shapes]]:
    """Shapes of the operands and the result of each operator, for each measured width of the network."""
    analysis = analyse_channels(graph)
    return [
        {
            node.name: (
                tuple(
                    _shape(analysis, arg, widths) if isinstance(arg, fx.Node) else None
                    for arg in (node.args if _on_sequences(node) else node.args[:1])
                ),
                _shape(analysis, node, widths),
            )
            for node in calls(graph)
            if operand(node, 0).name in analysis.labels
        }
        for widths in _assignments(graph, choices)
    ]


def rounded(width: int, ratio: float, multiple: int) -> int:
    """A share of a width, rounded up to a multiple (to half of it where the group is narrow)."""
    step = multiple if width >= 4 * multiple else max(1, multiple // 2)
    return min(width, -(-max(1, round(width * ratio)) // step) * step)


def _shape(analysis: ChannelAnalysis, node: fx.Node, widths: Mapping[str, int]) -> tuple[int, ...]:
    """The shape of a value or constant when each group has the given width."""
    shape = shape_of(node)
    if is_constant(node):
        bound = analysis.bound(str(node.target))
        return tuple(
            _width(analysis, bound[axis], widths) if axis in bound else length
            for axis, length in enumerate(shape)
        )
    labels = analysis.labels.get(node.name)
    if labels is None:
        return shape
    vectors = [
        np.moveaxis(labels, axis, 0).reshape(labels.shape[axis], -1)[:, 0] for axis in range(len(shape))
    ]
    return tuple(
        _width(analysis, vector, widths) if vector.size == length > 1 else length
        for vector, length in zip(vectors, shape, strict=True)
    )


def _width(analysis: ChannelAnalysis, vector: LabelArray, widths: Mapping[str, int]) -> int:
    """Channels along an axis with these labels when each group has the given width."""
    total, rest = 0.0, int(vector.size)
    for group in analysis.prunable():
        count = int(np.isin(vector, group.classes).sum())
        rest -= count
        total += count / group.width * widths[group.name]
    return rest + round(total)
