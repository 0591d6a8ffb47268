"""Where float64 rounds nowhere, and where that cannot be said."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import fx

from mcc.analysis.exactness import exact_on_integers
from mcc.ir.graph import Graph, GraphBuilder, run

Build = Callable[[GraphBuilder, fx.Node], fx.Node]


def graph_of(build: Build) -> Graph:
    b = GraphBuilder()
    return b.finish(build(b, b.input("x", (1, 4, 5, 5)))).double()


def weight(b: GraphBuilder, value: float = 3.0, out: int = 4) -> fx.Node:
    return b.constant(f"w{len(b.constants)}", torch.full((out, 4, 1, 1), value, dtype=torch.float64))


EXACT: list[Build] = [
    lambda b, x: b.conv2d(x, weight(b), None, activation="relu6"),
    lambda b, x: b.sub(b.neg(x), b.abs(x)),
    lambda b, x: b.clamp(b.mul(x, x), min=-2.0, max=1e999),
    lambda b, x: b.sum(b.matmul(x, x), axes=(1, 2, 3), keepdim=True),
    lambda b, x: b.max_pool2d(x, kernel=(2, 2), stride=(2, 2)),
    lambda b, x: b.pad(x, padding=((0, 0), (0, 0), (1, 1), (1, 1)), value=7.0),
]
ROUNDING: list[Build] = [
    lambda b, x: b.conv2d(x, weight(b, 0.3), None),
    lambda b, x: b.mean(x, axes=(2, 3)),
    lambda b, x: b.sigmoid(x),
    lambda b, x: b.div(x, x),
    lambda b, x: b.clamp(x, min=-0.3),
    lambda b, x: b.pad(x, padding=((0, 0), (0, 0), (1, 1), (1, 1)), value=0.1),
    lambda b, x: b.conv2d(b.conv2d(x, weight(b, 2.0**30), None), weight(b, 2.0**30), None),
    lambda b, x: b.mul(b.clamp(x, min=2.0**30), b.clamp(x, min=2.0**30)),
    # The difference is small, but what it is taken of is not.
    lambda b, x: b.sub(b.conv2d(x, weight(b, 2.0**52), None), b.conv2d(x, weight(b, 2.0**52 + 1), None)),
    lambda b, x: b.conv2d(x, weight(b, 2.0**52), None, activation="relu6"),
]


@pytest.mark.parametrize("build", EXACT, ids=range(len(EXACT)))
def test_integers_stay_integers(build: Build) -> None:
    graph = graph_of(build)
    assert exact_on_integers(graph, 3)
    values = run(graph, torch.randint(-3, 4, (2, 4, 5, 5)).double())[0]
    assert torch.equal(values, values.round())


@pytest.mark.parametrize("build", ROUNDING, ids=range(len(ROUNDING)))
def test_what_may_round_is_not_called_exact(build: Build) -> None:
    assert not exact_on_integers(graph_of(build), 3)


def test_the_bound_holds_for_all_partial_sums() -> None:
    """A sum that cancels in the end passes through numbers beyond 2**53 on its way."""

    def build(b: GraphBuilder, x: fx.Node) -> fx.Node:
        signs = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64).reshape(1, 4, 1, 1) * 2.0**51
        return b.conv2d(x, b.constant("w", signs), None)

    graph = graph_of(build)
    assert run(graph, torch.ones(1, 4, 5, 5, dtype=torch.float64))[0].abs().max() == 0
    assert not exact_on_integers(graph, 3)
    assert not exact_on_integers(graph, 1)
