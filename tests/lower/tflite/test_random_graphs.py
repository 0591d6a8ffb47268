"""Random chains of operators: layouts, reshapes and transposes in any order leave the numbers alone."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx

from mcc.ir.graph import Graph, GraphBuilder, run
from mcc.ir.notes import shape_of
from mcc.lower.tflite.writer import to_tflite
from tests.lower.tflite.quantising import quantised
from tests.lower.tflite.running import execute

Draw = st.DrawFn
Step = Callable[[GraphBuilder, fx.Node, Draw, int], fx.Node | None]


def _weight(b: GraphBuilder, name: str, *shape: int) -> fx.Node:
    return b.constant(name, torch.randn(shape) * math.prod(shape[1:]) ** -0.5)


def _conv(b: GraphBuilder, x: fx.Node, draw: Draw, n: int) -> fx.Node | None:
    shape = shape_of(x)
    if len(shape) != 4:
        return None
    k, s = draw(st.sampled_from([1, 3])), draw(st.sampled_from([1, 2]))
    groups = shape[1] if draw(st.booleans()) else 1
    channels = shape[1] if groups > 1 else draw(st.integers(1, 6))
    w = _weight(b, f"w{n}", channels, shape[1] // groups, k, k)
    act = draw(st.sampled_from(["none", "relu"]))
    return b.conv2d(x, w, None, stride=(s, s), padding=(k // 2,) * 4, groups=groups, activation=act)


def _linear(b: GraphBuilder, x: fx.Node, draw: Draw, n: int) -> fx.Node:
    return b.linear(x, _weight(b, f"w{n}", draw(st.integers(1, 6)), shape_of(x)[-1]), None)


def _transpose(b: GraphBuilder, x: fx.Node, draw: Draw, n: int) -> fx.Node:
    rank = len(shape_of(x))
    return b.transpose(x, perm=(0, *draw(st.permutations(range(1, rank)))))


def _reshape(b: GraphBuilder, x: fx.Node, draw: Draw, n: int) -> fx.Node:
    lengths = shape_of(x)[1:]
    cuts = sorted(draw(st.lists(st.integers(0, len(lengths)), max_size=2)))
    parts = [lengths[i:j] for i, j in zip([0, *cuts], [*cuts, len(lengths)], strict=True)]
    return b.call("reshape", x, shape=tuple(math.prod(part) for part in parts))


def _split_channels(b: GraphBuilder, x: fx.Node, draw: Draw, n: int) -> fx.Node | None:
    shape = shape_of(x)
    if shape[1] % 2 or len(shape) > 4:
        return None
    return b.call("reshape", x, shape=(2, shape[1] // 2, *shape[2:]))


def _slice(b: GraphBuilder, x: fx.Node, draw: Draw, n: int) -> fx.Node:
    shape = shape_of(x)
    axis = draw(st.integers(1, len(shape) - 1))
    start = draw(st.integers(0, shape[axis] - 1))
    stop = draw(st.integers(start + 1, shape[axis]))
    return b.slice(x, axis=axis, start=start, stop=stop, step=draw(st.integers(1, 2)))


def _pixels(b: GraphBuilder, x: fx.Node, draw: Draw, n: int) -> fx.Node | None:
    if len(shape_of(x)) != 4:
        return None
    for axis in (2, 3):
        x = b.slice(x, axis=axis, start=0, stop=shape_of(x)[axis], step=2)
    return x


def _pad(b: GraphBuilder, x: fx.Node, draw: Draw, n: int) -> fx.Node | None:
    rank = len(shape_of(x))
    if rank > 4:
        return None
    amounts = [(draw(st.integers(0, 1)), draw(st.integers(0, 1))) for _ in range(rank - 1)]
    return b.pad(x, padding=((0, 0), *amounts))


def _mean(b: GraphBuilder, x: fx.Node, draw: Draw, n: int) -> fx.Node:
    rank = len(shape_of(x))
    axes = draw(st.lists(st.integers(1, rank - 1), min_size=1, max_size=2, unique=True))
    keep = True if len(axes) == rank - 1 else draw(st.booleans())
    return b.mean(x, axes=tuple(axes), keepdim=keep)


def _softmax(b: GraphBuilder, x: fx.Node, draw: Draw, n: int) -> fx.Node:
    return b.softmax(x, axis=draw(st.integers(1, len(shape_of(x)) - 1)))


def _add_constant(b: GraphBuilder, x: fx.Node, draw: Draw, n: int) -> fx.Node:
    shape = [1, *(length if draw(st.booleans()) else 1 for length in shape_of(x)[1:])]
    return b.add(x, b.constant(f"c{n}", torch.randn(shape)), activation="relu")


def _add_self(b: GraphBuilder, x: fx.Node, draw: Draw, n: int) -> fx.Node:
    """A value joined with its own twin in another layout."""
    rank = len(shape_of(x))
    perm = (0, *draw(st.permutations(range(1, rank))))
    back = tuple(perm.index(axis) for axis in range(rank))
    return b.add(x, b.relu(b.transpose(b.transpose(x, perm=perm), perm=back)))


def _concat(b: GraphBuilder, x: fx.Node, draw: Draw, n: int) -> fx.Node:
    return b.concat(x, b.relu(x), axis=draw(st.integers(1, len(shape_of(x)) - 1)))


def _pool(b: GraphBuilder, x: fx.Node, draw: Draw, n: int) -> fx.Node | None:
    if len(shape_of(x)) != 4:
        return None
    return b.max_pool2d(x, kernel=(3, 3), stride=(2, 2), padding=(1, 1, 1, 1))


def _relu(b: GraphBuilder, x: fx.Node, draw: Draw, n: int) -> fx.Node:
    return b.relu(x)


STEPS: list[Step] = [
    _conv,
    _linear,
    _transpose,
    _reshape,
    _split_channels,
    _slice,
    _pixels,
    _pad,
    _mean,
    _softmax,
    _add_constant,
    _add_self,
    _concat,
    _pool,
    _relu,
]


@st.composite
def graphs(draw: Draw) -> Graph:
    torch.manual_seed(draw(st.integers(0, 9)))
    b = GraphBuilder()
    x = b.input("x", (1, draw(st.integers(1, 4)), draw(st.integers(1, 5)), draw(st.integers(1, 5))))
    for n in range(draw(st.integers(1, 7))):
        step = draw(st.sampled_from(STEPS))
        if len(shape_of(x)) > 1 and math.prod(shape_of(x)) < 1000:
            x = step(b, x, draw, n) or x
    return b.finish(b.exp(b.clamp(x, min=-2.0, max=2.0)))


def _input(graph: Graph) -> torch.Tensor:
    shape = shape_of(next(iter(graph.graph.nodes)))
    return torch.randn(2, *shape[1:], generator=torch.Generator().manual_seed(0))


@pytest.mark.slow
@settings(max_examples=150)
@given(graphs())
def test_float_equals_torch(graph: Graph) -> None:
    x = _input(graph)
    expected = run(graph, x)[0].numpy()
    got = execute(to_tflite(graph), [x.numpy()])[0]
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() < 1e-4 * max(np.ptp(expected), 1.0)


@pytest.mark.slow
@settings(max_examples=100)
@given(graphs())
def test_int8_follows_the_fake_quantised_graph(graph: Graph) -> None:
    x = _input(graph)
    fake = quantised(graph, x)
    expected = run(fake, x)[0].numpy()
    got = execute(to_tflite(fake), [x.numpy()])[0]
    assert got.shape == expected.shape
    # A value in the wrong place is off by about the range; ties that round apart stay within a few steps.
    assert np.abs(got - expected).mean() < 0.03 * max(np.ptp(expected), 1.0)
