"""prune-channels: which channels go, what notes decide, and what is left alone."""

from __future__ import annotations

import pytest
import torch
from torch import fx

from mcc.analysis.channel_groups import analyse_channels
from mcc.errors import Refusal
from mcc.ir.graph import Graph, GraphBuilder, calls, constant, run
from mcc.ir.notes import annotate, note, shape_of
from mcc.ir.text import print_graph
from mcc.pipeline import Pipeline, PipelineResult, RunOptions
from passes.prune_channels import PruneChannels, channel_norms
from tests.property.networks import chain, resnet50, tree


def network(widths: tuple[int, ...] = (8, 6)) -> Graph:
    """Convolutions 3x3 in a row with biases, a linear layer behind the mean."""
    torch.manual_seed(0)
    b = GraphBuilder()
    x = b.input("x", (1, 3, 6, 6))
    for index, width in enumerate(widths):
        weight = b.constant(f"w{index}", torch.randn(width, shape_of(x)[1], 3, 3))
        bias = b.constant(f"b{index}", torch.randn(width))
        x = b.conv2d(x, weight, bias, name=f"conv{index}", padding=(1, 1, 1, 1), activation="relu")
    x = b.mean(x, axes=(2, 3), keepdim=False)
    return b.finish(b.linear(x, b.constant("fc", torch.randn(5, widths[-1])), None, name="head"))


def named(graph: Graph, name: str) -> fx.Node:
    return next(node for node in graph.graph.nodes if node.name == name)


def prune(graph: Graph, **options: float) -> PipelineResult:
    return Pipeline((PruneChannels(**options),)).run(graph)  # pyright: ignore


def widths(graph: Graph) -> list[int]:
    return [shape_of(node)[1] for node in calls(graph, "conv2d")]


@pytest.mark.parametrize(
    ("keep", "rounding", "left"),
    [
        (1.0, 1, [8, 6]),
        (0.5, 1, [4, 3]),
        (0.75, 1, [6, 4]),
        (0.01, 1, [1, 1]),
        (0.5, 4, [4, 4]),
        (0.6, 4, [8, 4]),
        (0.5, 8, [8, 6]),
    ],
)
def test_widths_are_shares_rounded_up(keep: float, rounding: int, left: list[int]) -> None:
    assert widths(prune(network(), keep=keep, round=rounding).graph) == left


def test_channels_that_are_tied_together_are_left_alone_with_the_operator_that_ties_them() -> None:
    """Group norm as exporters to ONNX write it: the maps of each group in one row."""
    b = GraphBuilder()
    x = b.conv2d(b.input("x", (1, 3, 6, 6)), b.constant("w", torch.randn(8, 3, 1, 1)), None, name="first")
    rows = b.reshape(x, shape=(2, 144), name="rows")
    normal = b.group_norm(rows, None, None, groups=2, eps=1e-5)
    back = b.reshape(normal, shape=(8, 6, 6))
    graph = b.finish(b.conv2d(back, b.constant("v", torch.randn(4, 8, 1, 1)), None, name="last"))
    result = prune(graph, keep=0.5)
    assert widths(result.graph) == [8, 4]
    reason = dict(result.reports[0].refusals)["first"]
    assert reason == "its 8 channels are tied together by rows: all of them would have to go"


def test_the_weakest_channels_go() -> None:
    graph = network()
    with torch.no_grad():
        constant(graph, "w0")[[1, 4]] *= 1e-3
        constant(graph, "w1")[:, [1, 4]] *= 1e-3
    kept = constant(graph, "w0")[[0, 2, 3, 5, 6, 7]]
    result = prune(graph, keep=0.75).graph
    assert torch.equal(constant(result, "w0"), kept)
    assert torch.equal(constant(result, "b0"), constant(graph, "b0")[[0, 2, 3, 5, 6, 7]])


def test_norms_count_making_and_reading_weights_alike() -> None:
    graph = network()
    analysis = analyse_channels(graph)
    norms = channel_norms(graph, analysis)
    made = constant(graph, "w0").double().square().sum((1, 2, 3))
    read = constant(graph, "w1").double().square().sum((0, 2, 3))
    wanted = (made / made.mean() + read / read.mean()).sqrt()
    found = torch.tensor([norms[label] for label in analysis.group("conv0").classes])
    assert torch.allclose(found.double(), wanted)


def test_equal_channels_go_from_the_back() -> None:
    graph = network()
    for name in ("w0", "w1"):
        with torch.no_grad():
            constant(graph, name).fill_(1.0)
    first = constant(graph, "b0")[:4].detach().clone()
    assert torch.equal(constant(prune(graph, keep=0.5).graph, "b0"), first)


def test_notes_say_which_channels_stay() -> None:
    graph = network()
    annotate(named(graph, "conv0"), keep=(1, 2, 7))
    result = prune(graph).graph
    assert torch.equal(constant(result, "b0"), constant(graph, "b0")[[1, 2, 7]])
    assert note(named(result, "conv0")).pruned_from == 8
    assert note(named(result, "conv0")).keep is None
    assert note(named(result, "conv1")).pruned_from is None
    assert widths(result) == [3, 6]


def test_what_a_note_decided_no_option_decides_again() -> None:
    graph = network()
    annotate(named(graph, "conv0"), keep=tuple(range(8)))
    step = PruneChannels(keep=0.5)
    result = Pipeline((step,)).run(graph).graph
    assert widths(result) == [8, 3]
    assert note(named(result, "conv0")).pruned_from == 8
    assert widths(Pipeline((step,)).run(result).graph) == [8, 3]


def test_where_notes_disagree_what_any_of_them_keeps_stays() -> None:
    torch.manual_seed(0)
    b = GraphBuilder()
    x = b.conv2d(b.input("x", (1, 3, 4, 4)), b.constant("v", torch.randn(4, 3, 1, 1)), None, name="stem")
    y = b.conv2d(x, b.constant("w", torch.randn(4, 4, 1, 1)), None, name="branch")
    graph = b.finish(b.conv2d(b.add(x, y), b.constant("u", torch.randn(2, 4, 1, 1)), None))
    annotate(named(graph, "stem"), keep=(0, 1))
    annotate(named(graph, "branch"), keep=(1, 2))
    result = prune(graph).graph
    assert torch.equal(constant(result, "v"), constant(graph, "v")[:3])


@pytest.mark.parametrize("keep", [(8,), (0, 99)])
def test_a_note_of_a_channel_that_is_not_there_is_refused(keep: tuple[int, ...]) -> None:
    graph = network()
    annotate(named(graph, "conv0"), keep=keep)
    with pytest.raises(Refusal, match=f"conv0: notes channel {keep[-1]} as kept, but has 8"):
        prune(graph)


def test_notes_on_frozen_groups_change_nothing() -> None:
    graph = network()
    annotate(named(graph, "head"), keep=(0,))
    result = prune(graph)
    assert shape_of(named(result.graph, "head")) == (1, 5)
    assert ("head", "is an output of the network") in result.reports[0].refusals


def test_pruned_weights_train_and_statistics_do_not() -> None:
    b = GraphBuilder()
    x = b.conv2d(b.input("x", (1, 3, 4, 4)), b.constant("w", torch.randn(4, 3, 1, 1)), None)
    rows = [b.constant(f"n{i}", torch.rand(4) + 0.5, trains=i < 2) for i in range(4)]
    graph = b.finish(b.conv2d(b.batch_norm(x, *rows), b.constant("u", torch.randn(2, 4, 1, 1)), None))
    result = prune(graph, keep=0.5).graph
    assert {name for name, _ in result.named_parameters()} == {"w", "n0", "n1", "u"}
    assert {name for name, _ in result.named_buffers()} == {"n2", "n3"}
    run(result, torch.randn(3, 3, 4, 4))
    sum(value.sum() for value in result(torch.randn(2, 3, 4, 4))).backward()
    assert all(value.grad is not None for value in result.parameters())


def test_a_pruned_network_is_pruned_once_only() -> None:
    step = Pipeline((PruneChannels(keep=0.5),))
    once = step.run(network())
    twice = step.run(once.graph)
    assert not twice.reports[0].changed
    assert print_graph(twice.graph) == print_graph(once.graph)


@pytest.mark.parametrize("option", [{"keep": 0.0}, {"keep": 1.5}, {"keep": float("nan")}, {"round": 0}])
def test_options_are_checked(option: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        PruneChannels(**option)  # pyright: ignore


# -- large networks ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("make", [chain, tree])
def test_a_thousand_operators_are_pruned_and_proved(make: object) -> None:
    graph = (chain if make is chain else tree)(1000)
    report = prune(graph, keep=0.5).reports[0]
    assert report.changed
    assert report.worst is not None
    assert report.worst < 1e-9


@pytest.mark.slow
def test_resnet50_is_pruned_and_proved() -> None:
    graph = resnet50()
    before = sum(value.numel() for value in graph.parameters())
    result = prune(graph, keep=0.5)
    after = sum(value.numel() for value in result.graph.parameters())
    assert after < 0.35 * before
    assert result.reports[0].worst is not None
    assert [refusal[0] for refusal in result.reports[0].refusals] == ["linear"]


@pytest.mark.slow
@pytest.mark.parametrize("make", [chain, tree])
def test_ten_thousand_operators_are_pruned(make: object) -> None:
    graph = (chain if make is chain else tree)(10_000)
    result = Pipeline((PruneChannels(keep=0.5),)).run(graph, options=RunOptions(verify=False))
    assert result.reports[0].counts["channels removed"] > 0
