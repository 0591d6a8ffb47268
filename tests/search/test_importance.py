"""Taylor scores against hand computation and against small steps of the readers' weights."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mcc.analysis.channel_groups import ChannelAnalysis, analyse_channels
from mcc.analysis.remove_channels import zero_readers
from mcc.ir.graph import Graph, GraphBuilder, constant, copy_graph, run
from mcc.search.importance import removal_costs, taylor_scores, weakest
from tests.search.test_problem import network


def _half_square(outputs: tuple[Tensor, ...], target: Tensor) -> Tensor:
    return (0.5 * (outputs[0].flatten(1).sum(1) - target) ** 2).mean()


def test_scores_are_those_computed_by_hand() -> None:
    b = GraphBuilder()
    x = b.input("x", (1, 1, 1, 1))
    weight = b.constant("w", torch.tensor([2.0, -1.0]).reshape(2, 1, 1, 1))
    h = b.relu(b.conv2d(x, weight, b.constant("bias", torch.tensor([0.5, 1.0])), name="first"))
    reading = b.constant("v", torch.tensor([3.0, 4.0]).reshape(1, 2, 1, 1))
    graph = b.finish(b.conv2d(h, reading, None))
    images, targets = torch.tensor([1.0, 0.5, 3.0]), torch.tensor([1.0, 2.0, 0.0])
    # h = relu(2 x + 0.5), relu(1 - x); y = 3 h0 + 4 h1; d = y - target; change = d * v_i * h_i.
    # x = 1:   h = 2.5, 0    y = 7.5  d = 6.5   changes 48.75, 0
    # x = 0.5: h = 1.5, 0.5  y = 6.5  d = 4.5   changes 20.25, 9
    # x = 3:   h = 6.5, 0    y = 19.5 d = 19.5  changes 380.25, 0
    by_hand = [(48.75**2 + 20.25**2 + 380.25**2) / 3, (0 + 9.0**2 + 0) / 3]
    analysis = analyse_channels(graph)
    for split in ([3], [1, 2]):
        batches = zip(images.reshape(-1, 1, 1, 1).split(split), targets.split(split), strict=True)
        scores = taylor_scores(graph, analysis, batches, _half_square)
        classes = analysis.group("first").classes
        assert [scores[label] for label in classes] == pytest.approx(by_hand)


def _per_image(graph: Graph, x: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(graph(x)[0], target, reduction="none").detach()


def _fade(graph: Graph, analysis: ChannelAnalysis, label: int, step: float) -> Graph:
    """The graph with all weights through which a class is read made smaller by a share."""
    faded, zero = copy_graph(graph).double(), copy_graph(graph).double()
    zero_readers(zero, analysis, frozenset({label}))
    for name in {b.constant for b in analysis.bindings if b.role == "reads"}:
        before = constant(faded, name)
        with torch.no_grad():
            before.add_(constant(zero, name) - before, alpha=step)
    return faded


@pytest.mark.parametrize("name", ["mobile", "residual", "concatenated", "flattened", "gated", "shuffled"])
def test_scores_are_squared_slopes_of_fading_a_channel(name: str) -> None:
    graph = network(name)
    analysis = analyse_channels(graph)
    shape = next(iter(graph.graph.nodes)).meta["mcc"].type.shape
    x, target = torch.randn(4, *shape[1:], dtype=torch.float64), torch.randint(0, 10, (4,))
    double = copy_graph(graph).double()
    scores = taylor_scores(double, analysis, [(x, target)], lambda o, t: F.cross_entropy(o[0], t))
    step = 1e-6
    for group in analysis.prunable():
        label = group.classes[len(group.classes) // 2]
        # Both sides of the kink that a clamp may have right here.
        up, down = (_per_image(_fade(graph, analysis, label, s), x, target) for s in (step, -step))
        slope = (up - down) / (2 * step)
        assert scores[label] == pytest.approx(float(slope.square().mean()), rel=1e-4, abs=1e-9)


def test_an_unread_channel_costs_nothing() -> None:
    graph = network("mobile")
    analysis = analyse_channels(graph)
    dead = analysis.prunable()[0].classes[3]
    private = copy_graph(graph)
    zero_readers(private, analysis, frozenset({dead}))
    batch = [(torch.randn(2, 3, 16, 16), torch.tensor([1, 2]))]
    scores = taylor_scores(private, analysis, batch, lambda o, t: F.cross_entropy(o[0], t))
    assert scores[dead] == 0.0
    classes = analysis.prunable()[0].classes
    alive = [label for label in classes if scores[label] > 0]
    assert alive
    assert dead in weakest(classes, scores, len(alive))


def test_scoring_leaves_the_graph_alone() -> None:
    graph = network("residual")
    x = torch.randn(2, 3, 16, 16)
    before = run(graph, x)[0]
    taylor_scores(
        graph, analyse_channels(graph), [(x, torch.tensor([0, 1]))], lambda o, t: F.cross_entropy(o[0], t)
    )
    assert torch.equal(run(graph, x)[0], before)
    assert all(p.requires_grad and p.grad is None for p in graph.parameters())


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=12))
def test_removing_more_costs_more(values: list[float]) -> None:
    scores = dict(enumerate(values))
    classes = tuple(scores)
    levels = tuple(range(len(classes), 0, -1))
    costs = removal_costs(classes, scores, levels)
    assert costs[0] == 0.0
    assert all(a < b for a, b in pairwise(costs))
    # Least first: convex in the number of channels that go.
    steps = [b - a for a, b in pairwise(costs)]
    assert all(a <= b * (1 + 1e-9) + 1e-9 for a, b in pairwise(steps))


@given(st.lists(st.floats(0, 10), min_size=2, max_size=12), st.data())
def test_the_weakest_go_first_and_ties_are_settled(values: list[float], data: st.DataObject) -> None:
    scores = dict(enumerate(values))
    keep = data.draw(st.integers(1, len(values)))
    gone = weakest(tuple(scores), scores, keep)
    assert len(gone) == len(values) - keep
    stays = [values[i] for i in scores if i not in gone]
    assert max((values[i] for i in gone), default=0.0) <= min(stays)
    assert gone == weakest(tuple(reversed(tuple(scores))), scores, keep)
