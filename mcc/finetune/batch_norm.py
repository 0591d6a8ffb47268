"""Batch-norm statistics, re-estimated after the structure of a network has changed."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from mcc.errors import DataError, GraphError
from mcc.ir import ops
from mcc.ir.feed import Feed, tensors_of
from mcc.ir.graph import Graph, calls, constant, operand

MEAN, VAR = 3, 4  # operands of batch_norm


def reestimate_batch_norm(graph: Graph, batches: Iterable[Feed]) -> int:
    """Replace the running mean and variance of every batch norm by averages over batches, in place.

    Pruned, sparsified or factorised layers change the distribution of the inputs of subsequent norms, and the
    running statistics do not fit any more; a pass over a little data corrects this (Li 2018, "Adaptive batch
    normalization"; Guo 2020, section 3.4). Step k has momentum 1/k, so that every batch has the same weight,
    and the old statistics none. Variances are means of the variances within batches, as in training.

    Args:
        graph: Canonical graph; without batch norms it is not changed and no batch is drawn.
        batches: Inputs [N, ...], N of at least 2, in float32; the same batches give the same statistics.

    Returns:
        The number of batches used.

    Raises:
        DataError: There are batch norms but no batch, or a batch has a single value per channel.
        GraphError: The statistics of a batch norm are computed in the graph and not stored.
    """
    norms = calls(graph, "batch_norm")
    if not norms:
        return 0
    for node in norms:
        for index in (MEAN, VAR):
            if operand(node, index).op != "get_attr":
                raise GraphError("its statistics are no stored constants", where=node.name)
    count = 0
    with torch.no_grad():
        for count, batch in enumerate(batches, start=1):
            dense = [
                x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x
                for x in tensors_of(batch)
            ]
            try:
                with ops.batch_statistics(momentum=1.0 / count):
                    graph(*dense)
            except ValueError as error:  # torch: "Expected more than 1 value per channel when training"
                raise DataError(
                    f"batch-norm statistics cannot be estimated: {error}", hint="give larger batches"
                ) from error
    if not count:
        raise DataError("batch-norm statistics need at least one batch")
    _check_finite(graph)
    return count


def _check_finite(graph: Graph) -> None:
    for node in calls(graph, "batch_norm"):
        for index in (MEAN, VAR):
            if not bool(torch.isfinite(constant(graph, operand(node, index))).all()):
                raise DataError("batch-norm statistics are not finite on the data", where=node.name)
