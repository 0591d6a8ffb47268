"""Constants of `.pte` files: the runtime frees by name what XNNPACK has packed."""

from __future__ import annotations

import torch

from mcc.ir.graph import GraphBuilder, run
from mcc.lower.pte.writer import to_pte
from tests.lower.pte.running import infer


def test_a_constant_that_is_packed_and_read_is_stored_twice() -> None:
    """A bias is packed, an addend is read at every run: of one name, the second would be read when freed."""
    b = GraphBuilder()
    shared, weight = torch.randn(16), torch.randn(16, 6)
    bias = b.constant("bias", shared)
    y = b.linear(b.input("x", (1, 6)), b.constant("weight", weight), bias)
    graph = b.finish(
        b.linear(
            b.sigmoid(b.add(y, bias, activation="none")), b.constant("last", weight.T.contiguous()), None
        )
    )
    raw, x = to_pte(graph, via="direct"), torch.randn(1, 6)
    assert raw.count(shared.numpy().tobytes()) == 2
    assert raw.count(weight.numpy().tobytes()) == 1
    torch.testing.assert_close(torch.from_numpy(infer(raw, x)[0]), run(graph, x)[0], rtol=1e-5, atol=1e-5)
