"""Batch-norm statistics re-estimated."""

from __future__ import annotations

import pytest
import torch

from mcc.errors import DataError
from mcc.finetune import reestimate_batch_norm
from mcc.ir.graph import Graph, GraphBuilder, constant, copy_graph, run


def normed(channels: int = 3) -> Graph:
    b = GraphBuilder()
    x = b.input("x", (1, channels, 4, 4))
    ones, zeros = torch.ones(channels), torch.zeros(channels)
    y = b.batch_norm(
        x,
        b.constant("gain", ones * 2),
        b.constant("shift", ones),
        b.constant("mean", zeros + 9, trains=False),
        b.constant("var", ones * 7, trains=False),
    )
    return b.finish(y)


def test_statistics_are_averages_over_batches() -> None:
    graph = normed()
    batches = [torch.randn(n, 3, 4, 4) * (i + 1) + i for i, n in enumerate((8, 8, 4))]
    assert reestimate_batch_norm(graph, iter(batches)) == 3
    means = torch.stack([batch.mean((0, 2, 3)) for batch in batches])
    variances = torch.stack([batch.transpose(0, 1).flatten(1).var(1) for batch in batches])  # unbiased
    assert torch.allclose(constant(graph, "mean"), means.mean(0), atol=1e-5)
    assert torch.allclose(constant(graph, "var"), variances.mean(0), rtol=1e-5)


def test_nothing_of_the_old_statistics_is_left_and_nothing_else_changes() -> None:
    graph = normed()
    batch = torch.randn(64, 3, 4, 4) * 3 + 5
    reestimate_batch_norm(graph, [batch])
    out = run(graph, batch)[0]
    assert torch.allclose(out.mean((0, 2, 3)), torch.ones(3), atol=1e-3)
    assert constant(graph, "gain").tolist() == [2, 2, 2]
    assert not constant(graph, "mean").requires_grad
    twin = normed()
    reestimate_batch_norm(twin, [batch])
    assert torch.equal(constant(graph, "var"), constant(twin, "var"))


def test_statistics_behind_a_change_see_the_new_numbers() -> None:
    """The second norm is fed by the first: both are estimated on what now reaches them."""
    b = GraphBuilder()
    x = b.input("x", (1, 2))
    values = {"gain": 1.0, "shift": 0.0, "mean": 3.0, "var": 4.0}
    for layer in ("a", "b"):
        args = [
            b.constant(f"{layer}_{k}", torch.full((2,), v), trains=k in ("gain", "shift"))
            for k, v in values.items()
        ]
        x = b.batch_norm(x, *args)
    graph = b.finish(x)
    reestimate_batch_norm(graph, [torch.randn(500, 2) * 5 + 1])
    assert torch.allclose(constant(graph, "b_mean"), torch.zeros(2), atol=1e-4)
    assert torch.allclose(constant(graph, "b_var"), torch.ones(2), atol=1e-2)


def test_without_norms_no_batch_is_drawn() -> None:
    b = GraphBuilder()
    graph = b.finish(b.relu(b.input("x", (1, 3))))

    def never():
        raise AssertionError("a batch was drawn")
        yield torch.zeros(1)

    assert reestimate_batch_norm(graph, never()) == 0


def test_unusable_batches_are_refused() -> None:
    with pytest.raises(DataError, match="at least one batch"):
        reestimate_batch_norm(normed(), [])
    with pytest.raises(DataError, match="not finite"):
        reestimate_batch_norm(normed(), [torch.full((4, 3, 4, 4), float("inf"))])
    b = GraphBuilder()
    flat = b.input("x", (1, 3))
    args = [b.constant(n, torch.ones(3), trains=False) for n in ("gain", "shift", "mean", "var")]
    graph = b.finish(b.batch_norm(flat, *args))
    before = copy_graph(graph)
    with pytest.raises(DataError, match="give larger batches"):
        reestimate_batch_norm(graph, [torch.ones(1, 3)])
    assert torch.equal(constant(before, "mean"), constant(graph, "mean"))
