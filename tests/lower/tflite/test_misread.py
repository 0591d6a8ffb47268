"""Weights are stored sparse only where no runtime computes wrong numbers from them."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import fx

from mcc.ir.graph import Graph, GraphBuilder
from mcc.ir.notes import SparseNote, annotate
from mcc.lower.tflite.reader import read_tflite
from mcc.lower.tflite.writer import to_tflite


def _network(*, stride: int, pool: bool) -> Graph:
    b = GraphBuilder()

    def conv(x: fx.Node, read: int, out: int, kernel: int, step: int, name: str) -> fx.Node:
        weight = b.constant(f"{name}_w", torch.randn(out, read, kernel, kernel))
        padding = (kernel // 2,) * 4
        return b.conv2d(x, weight, None, name=name, stride=(step, step), padding=padding)

    x = conv(b.input("x", (1, 3, 16, 16)), 3, 8, 3, stride, "stem")
    if pool:
        x = b.max_pool2d(x, kernel=(2, 2), stride=(2, 2), name="pool")
    x = conv(x, 8, 16, 1, 1, "thin")
    annotate(x, sparse=SparseNote(1, 0.9))
    head = b.constant("head", torch.randn(10, 16))
    return b.finish(b.linear(b.mean(x, axes=(2, 3)), head, None))


@pytest.mark.parametrize(
    ("stride", "pool", "sparse"), [(2, False, 1), (1, False, 1), (1, True, 1), (2, True, 0)]
)
def test_a_cluster_that_is_switched_off_is_stored_dense(
    stride: int, pool: bool, sparse: int, caplog: pytest.LogCaptureFixture
) -> None:
    # LiteRT.js 2.5.3 is off by a quarter of the output's range where the stem starts a cluster and the pool
    # ends it before its time; right where no cluster starts.
    with caplog.at_level(logging.WARNING):
        model = read_tflite(to_tflite(_network(stride=stride, pool=pool)))
    assert model.op_counts().get("DENSIFY", 0) == sparse
    assert bool(caplog.records) == (sparse == 0)
    assert all("pool is a max_pool2d" in record.getMessage() for record in caplog.records)
