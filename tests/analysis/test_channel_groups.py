"""Channel groups: what is coupled, what must stay and why, on graphs written by hand."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import fx

from mcc.analysis.channel_groups import ChannelAnalysis, analyse_channels
from mcc.analysis.remove_channels import shrink
from mcc.errors import Refusal
from mcc.ir.channels import reshape_blocks
from mcc.ir.graph import Graph, GraphBuilder, calls, constant
from mcc.ir.labels import Labels
from mcc.ir.notes import annotate, shape_of
from mcc.pipeline import Pipeline

Build = Callable[["Net", fx.Node], fx.Node]


class Net(GraphBuilder):
    """A builder with random convolutions, 8 channels wide unless said otherwise."""

    def conv(self, x: fx.Node, name: str, out: int = 8, kernel: int = 1, **attributes: object) -> fx.Node:
        groups = attributes.get("groups", 1)
        assert isinstance(groups, int)
        weight = self.constant(f"{name}_w", torch.randn(out, shape_of(x)[1] // groups, kernel, kernel))
        return self.conv2d(x, weight, self.constant(f"{name}_b", torch.randn(out)), name=name, **attributes)


def response_norm(b: Net, x: fx.Node, axis: int) -> fx.Node:
    held = [b.constant(name, torch.randn(shape_of(x)[axis])) for name in ("gain", "shift")]
    return b.global_response_norm(x, *held, axis=axis)


def between(middle: Build, channels: int = 8) -> Graph:
    """stem (1x1, `channels` wide) -> middle -> last (1x1)."""
    b = Net()
    x = b.conv(b.input("x", (1, 3, 4, 4)), "stem", channels)
    return b.finish(b.conv(middle(b, x), "last", 4))


def analysed(graph: Graph) -> ChannelAnalysis:
    return analyse_channels(graph)


def reason(graph: Graph, group: str = "stem") -> str:
    found = analyse_channels(graph).group(group).frozen
    assert found is not None
    return found


def test_a_chain_is_one_group_per_width() -> None:
    graph = between(lambda b, x: b.conv(b.relu(x), "mid", 6))
    groups = {group.name: group for group in analyse_channels(graph).groups}
    assert set(groups) == {"stem", "mid", "last"}
    assert (groups["stem"].width, groups["stem"].producers, groups["stem"].readers) == (
        8,
        ("stem",),
        ("mid",),
    )
    assert (groups["mid"].width, groups["mid"].readers) == (6, ("last",))
    assert groups["last"].frozen == "is an output of the network"
    assert [group.name for group in analyse_channels(graph).prunable()] == ["stem", "mid"]


@pytest.mark.parametrize(
    ("middle", "width", "producers"),
    [
        (lambda b, x: b.add(x, b.conv(x, "mid")), 8, ("stem", "mid")),
        (lambda b, x: b.mul(x, b.conv(b.mean(x, axes=(2, 3), keepdim=True), "mid")), 8, ("stem", "mid")),
        (lambda b, x: b.conv(x, "mid", groups=8), 8, ("stem", "mid")),
        (lambda b, x: b.conv(x, "mid", 16, groups=8), 8, ("stem", "mid")),
        (lambda b, x: b.conv(x, "mid", groups=2), 4, ("stem",)),
        (lambda b, x: b.concat(x, x, axis=1), 8, ("stem",)),
        (lambda b, x: b.concat(x, x, axis=2), 8, ("stem",)),
        (lambda b, x: b.pixel_shuffle(x, factor=2), 2, ("stem",)),
        (lambda b, x: b.resize(x, size=(8, 8)), 8, ("stem",)),
        (lambda b, x: b.pad(x, padding=((0, 0), (0, 0), (1, 1), (2, 0))), 8, ("stem",)),
        (lambda b, x: b.prelu(x, b.constant("slope", torch.randn(8))), 8, ("stem",)),
        (lambda b, x: b.prelu(x, b.constant("slope", torch.randn(1))), 8, ("stem",)),
        (lambda b, x: b.softmax(x, axis=3), 8, ("stem",)),
        (lambda b, x: b.add(x, b.constant("shift", torch.randn(8, 1, 1))), 8, ("stem",)),
        (lambda b, x: b.add(b.constant("shift", torch.randn(1, 8, 4, 4)), x), 8, ("stem",)),
        (lambda b, x: b.mul(x, b.constant("map", torch.randn(4, 4))), 8, ("stem",)),
        (lambda b, x: b.transpose(b.transpose(x, perm=(0, 2, 3, 1)), perm=(0, 3, 1, 2)), 8, ("stem",)),
        (lambda b, x: b.group_norm(x, b.constant("g", torch.randn(8)), None, groups=4), 4, ("stem",)),
        (lambda b, x: b.group_norm(x, None, None, groups=8), 8, ("stem",)),
        (lambda b, x: response_norm(b, x, 1), 8, ("stem",)),
        (
            lambda b, x: b.transpose(
                response_norm(b, b.transpose(x, perm=(0, 2, 3, 1)), 3), perm=(0, 3, 1, 2)
            ),
            8,
            ("stem",),
        ),
        (lambda b, x: b.layer_norm(x, b.constant("g", torch.randn(4, 4)), None, axes=(2, 3)), 8, ("stem",)),
        (
            lambda b, x: b.conv_transpose2d(
                x, b.constant("t", torch.randn(8, 2, 3, 3)), None, groups=2, name="t"
            ),
            4,
            ("stem",),
        ),
        (
            lambda b, x: b.conv_transpose2d(
                x, b.constant("t", torch.randn(8, 1, 3, 3)), None, groups=8, name="t"
            ),
            8,
            ("stem",),
        ),
    ],
)
def test_what_is_coupled(middle: Build, width: int, producers: tuple[str, ...]) -> None:
    graph = between(middle)
    group = analysed(graph).group("stem")
    assert (group.width, group.producers, group.frozen) == (width, producers, None)
    Pipeline.parse("prune-channels{keep=0.5}").run(graph)


@pytest.mark.parametrize(
    ("middle", "why"),
    [
        (lambda b, x: b.softmax(x, axis=1), "softmax.*mixes channels without weights"),
        (lambda b, x: b.layer_norm(x, None, None, axes=(1, 2, 3)), "layer_norm.*mixes channels"),
        (lambda b, x: b.group_norm(x, None, None, groups=1), "group_norm.*mixes channels"),
        (lambda b, x: response_norm(b, x, 2), "global_response_norm.*mixes channels"),
        (lambda b, x: b.mul(x, b.mean(x, axes=(1,), keepdim=True)), "mean.*mixes channels"),
        (lambda b, x: b.matmul(x, b.transpose(x, perm=(0, 1, 3, 2))), "matmul.*mixes channels"),
        (lambda b, x: b.slice(x, axis=1, start=0, stop=8, step=2), "takes channels at a step"),
        (lambda b, x: b.max_pool2d(b.transpose(x, perm=(0, 2, 1, 3)), kernel=(3, 3), stride=(1, 1),
                                   padding=(1, 1, 1, 1)), "works across axes on which channels lie"),
        (lambda b, x: b.resize(b.transpose(x, perm=(0, 2, 1, 3)), size=(8, 4)), "works across axes"),
        (lambda b, x: b.mul(x, b.linear(b.conv(x, "mid"), b.constant("w", torch.randn(1, 4)), None)),
         "joins channels with an axis that holds none"),
        (lambda b, x: b.conv2d(x, b.neg(b.constant("w", torch.randn(8, 8, 1, 1))), None), "computed weight"),
    ],
)  # fmt: skip
def test_what_must_stay_and_why(middle: Build, why: str) -> None:
    graph = between(middle)
    assert re.search(why, reason(graph))
    assert not Pipeline.parse("prune-channels{keep=0.5}").run(graph).reports[0].counts["channels removed"]


def test_inputs_outputs_and_frozen_nodes_stay() -> None:
    b = Net()
    x = b.input("x", (1, 8, 4, 4))
    y = b.conv(x, "first")
    z = b.conv(b.add(y, x), "second")
    graph = b.finish(b.conv(z, "third"), z)
    assert reason(graph, "first") == "x is an input of the network"
    assert reason(graph, "second") == "is an output of the network"
    graph = between(lambda b, x: b.conv(x, "mid"))
    annotate(calls(graph)[1], frozen="calibrated by hand")
    assert reason(graph, "stem") == "mid is frozen: calibrated by hand"
    assert reason(graph, "mid") == "mid is frozen: calibrated by hand"


def test_what_nobody_reads_through_a_weight_stays() -> None:
    b = Net()
    x = b.conv(b.input("x", (1, 3, 4, 4)), "stem")
    graph = b.finish(b.mean(x, axes=(1, 2, 3), keepdim=True))
    assert reason(graph) == "mean (mean) mixes channels without weights"


def test_a_residual_around_a_norm_of_the_last_axis_says_why_it_stays() -> None:
    """Channels last: what is mixed lies on the last axis, and stays there."""
    b = Net()
    x = b.transpose(b.conv(b.input("x", (1, 3, 4, 4)), "stem"), perm=(0, 2, 3, 1))
    inner = b.layer_norm(x, None, None, axes=(3,), name="norm")
    y = b.linear(inner, b.constant("w", torch.randn(8, 8)), None, name="mlp")
    graph = b.finish(b.linear(b.add(x, y), b.constant("v", torch.randn(2, 8)), None))
    assert reason(graph) == "norm (layer_norm) mixes channels without weights"


def test_a_constant_read_in_two_ways_stays() -> None:
    """One weight in a convolution and as a plain value: the convolution alone must not shrink it."""
    b = Net()
    x = b.conv(b.input("x", (1, 3, 1, 1)), "stem", 4)
    w = b.constant("w", torch.randn(1, 4, 1, 1))
    both = b.add(b.conv2d(x, w, None), b.neg(w))
    graph = b.finish(both)
    assert "reads a constant" in reason(graph)
    b = Net()
    x = b.input("x", (1, 3, 1, 1))
    shared = b.constant("w", torch.randn(4, 1, 1, 1))
    y = b.conv2d(b.conv(x, "stem", 1), shared, None, name="dense")
    z = b.conv2d(b.conv(x, "other", 4), shared, None, groups=4, name="depthwise")
    graph = b.finish(b.conv(y, "end_a", 2), b.conv(z, "end_b", 2))
    assert "reads constant w in another way than" in reason(graph)
    Pipeline.parse("prune-channels{keep=0.5}").run(graph)


def test_scales_of_a_quantised_weight_go_with_its_channels() -> None:
    b = Net()
    x = b.input("x", (1, 3, 4, 4))
    w = b.constant("w", torch.randn(8, 3, 1, 1))
    scale, zero = b.constant("s", torch.rand(8) + 0.1, trains=False), torch.zeros(8, dtype=torch.int32)
    q = b.fake_quantize(w, scale, b.constant("z", zero, trains=False), qmin=-127, qmax=127, axis=0)
    graph = b.finish(b.conv(b.conv2d(x, q, None, name="stem"), "last", 4))
    result = Pipeline.parse("prune-channels{keep=0.5}").run(graph).graph
    assert [tuple(constant(result, name).shape) for name in ("w", "s", "z")] == [(4, 3, 1, 1), (4,), (4,)]


def test_slices_and_joins_follow_each_channel() -> None:
    def middle(b: Net, x: fx.Node) -> fx.Node:
        left = b.slice(x, axis=1, start=0, stop=3)
        right = b.conv(b.slice(x, axis=1, start=3, stop=8), "mid", 5)
        return b.concat(right, left, axis=1)

    analysis = analysed(between(middle))
    assert [(g.name, g.width, g.readers) for g in analysis.prunable()] == [
        ("stem", 3, ("last",)),
        ("stem.2", 5, ("mid",)),
        ("mid", 5, ("last",)),
    ]
    joined = analysis.labels["concat"].reshape(-1)
    assert joined[5:].tolist() == list(analysis.group("stem").classes)
    assert joined[:5].tolist() == list(analysis.group("mid").classes)


def test_flattened_channels_keep_all_their_pixels() -> None:
    b = Net()
    x = b.conv(b.input("x", (1, 3, 2, 3)), "stem", 4)
    x = b.linear(b.reshape(x, shape=(24,)), b.constant("w", torch.randn(5, 24)), None)
    graph = b.finish(x)
    analysis = analysed(graph)
    read = analysis.bound("w")[1].reshape(4, 6)
    assert (read == read[:, :1]).all()
    shrink(graph, analysis, frozenset([int(read[1, 0])]))
    assert constant(graph, "w").shape == (5, 18)
    assert calls(graph, "reshape")[0].kwargs["shape"] == (18,)


def test_a_value_never_loses_all_its_channels() -> None:
    """Both halves belong to one group; the weaker half would go as a whole."""
    b = Net()
    x = b.conv(b.input("x", (1, 3, 4, 4)), "stem")
    with torch.no_grad():
        b.module.stem_w[:4] *= 1e-3  # pyright: ignore
    low = b.max_pool2d(b.slice(x, axis=1, start=0, stop=4), kernel=(1, 1), stride=(1, 1))
    graph = b.finish(b.conv(b.concat(low, b.slice(x, axis=1, start=4, stop=8), axis=1), "last", 4))
    result = Pipeline.parse("prune-channels{keep=0.5}").run(graph).graph
    assert [shape_of(node)[1] for node in calls(result, "slice")] == [1, 4]
    analysis = analysed(graph)
    with pytest.raises(Refusal, match="would be left without channels"):
        shrink(graph, analysis, frozenset(analysis.group("stem").classes[:4]))


def test_labels_are_coupled_with_the_smaller_one_in_front() -> None:
    space = Labels()
    a, b = space.fresh((1, 3), 1), space.fresh((1, 3), 1)
    space.freeze(b[:, 1], "because")
    space.union(a, b)
    assert space.resolved()[b].tolist() == [[0, 1, 2]]
    assert [space.reason(label) for label in range(6)] == [None, "because", None, None, "because", None]
    assert len(space) == 6


@pytest.mark.parametrize(
    ("old", "new", "blocks"),
    [
        ((8, 4, 4), (2, 4, 4, 4), [([0], [0, 1]), ([1], [2]), ([2], [3])]),
        ((8, 4, 4), (128,), [([0, 1, 2], [0])]),
        ((8, 4, 4), (8, 16), [([0], [0]), ([1, 2], [1])]),
        ((6, 4), (4, 6), [([0, 1], [0, 1])]),
        ((8, 1, 1), (8,), [([0], [0]), ([1, 2], [])]),
        ((8,), (1, 8, 1), [([0], [0, 1]), ([], [2])]),
        ((2, 3, 4), (6, 4), [([0, 1], [0]), ([2], [1])]),
    ],
)
def test_reshapes_split_into_the_shortest_blocks(
    old: tuple[int, ...], new: tuple[int, ...], blocks: list[tuple[list[int], list[int]]]
) -> None:
    found = reshape_blocks(old, new)
    assert [axis for first, _ in found for axis in first] == list(range(len(old)))
    assert [axis for _, second in found for axis in second] == list(range(len(new)))
    for first, second in found:
        assert np.prod([old[i] for i in first]) == np.prod([new[i] for i in second])
    assert [block for block in found if np.prod([old[i] for i in block[0]]) > 1] == [
        block for block in blocks if np.prod([old[i] for i in block[0]]) > 1
    ]
