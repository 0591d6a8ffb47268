"""The diff of graphs finds what was planted, and nothing else."""

import torch

from mcc.ir.diff import GraphDiff, NodeView, diff_graphs, diff_views, view_graph
from mcc.ir.graph import Graph, GraphBuilder, copy_graph, set_constant
from mcc.ir.notes import annotate


def network(
    *, width: int = 8, stride: int = 2, scale: float | None = None, norm: bool = True, extra: bool = False
) -> Graph:
    """Stem, batch norm, relu, 1x1, with parts that can be varied."""
    b = GraphBuilder()
    torch.manual_seed(0)
    x = b.input("x", (1, 3, 16, 16))
    y = b.conv2d(x, b.constant("stem_weight", torch.randn(width, 3, 3, 3)), None, name="stem",
                 stride=(stride, stride), padding=(1, 1, 1, 1))  # fmt: skip
    if norm:
        names = ("weight", "bias", "mean", "var")
        parts = [b.constant(f"norm_{n}", torch.ones(width), trains=False) for n in names]
        y = b.batch_norm(y, *parts, name="norm")
    if extra:
        y = b.hardswish(y, name="extra")
    y = b.relu(y, name="act")
    if scale is not None:
        y = b.fake_quantize(
            y,
            b.constant("act_scale", torch.tensor(scale), trains=False),
            b.constant("act_zero", torch.tensor(0, dtype=torch.int32), trains=False),
            name="act_q",
        )
    y = b.conv2d(y, b.constant("head_weight", torch.randn(4, width, 1, 1)), None, name="head")
    return b.finish(y)


def kinds(diff: GraphDiff) -> dict[str, set[str]]:
    """Kinds of change by node name, of the nodes that changed."""
    return {e.b.name: {c.kind for c in e.changes} for e in diff.entries if e.b and e.status == "changed"}


def names(diff: GraphDiff, status: str) -> list[str]:
    """Names of the nodes of a status, in order."""
    return [(e.b or e.a).name for e in diff.entries if e.status == status]  # pyright: ignore[reportOptionalMemberAccess]


def test_a_graph_does_not_differ_from_its_copy() -> None:
    graph = network(scale=0.1)
    diff = diff_graphs(graph, copy_graph(graph))
    assert diff.equal
    assert diff.to_text() == "no difference in 5 nodes\n"
    assert diff.counts() == {"added": 0, "removed": 0, "same": 5}


def test_reshaped() -> None:
    diff = diff_graphs(network(width=8), network(width=6))
    found = kinds(diff)
    assert "reshaped" in found["stem"]
    assert "reshaped" in found["head"]
    assert "x" not in found
    line = next(line for line in diff.to_text().splitlines() if line.startswith("~ stem"))
    assert "value f32[1,8,8,8] -> f32[1,6,8,8]" in line
    assert "weight [8,3,3,3] -> [6,3,3,3]" in line


def test_requantised() -> None:
    assert kinds(diff_graphs(network(), network(scale=0.1))) == {"act": {"requantised"}}
    diff = diff_graphs(network(scale=0.1), network(scale=0.2))
    assert kinds(diff) == {"act": {"requantised"}}
    assert "int8 scale 0.1 zero 0 -> int8 scale 0.2 zero 0" in diff.to_text()


def test_removed_and_added_without_rewiring_their_neighbours() -> None:
    folded = diff_graphs(network(), network(norm=False))
    assert names(folded, "removed") == ["norm"]
    assert kinds(folded) == {}
    assert [(e.b or e.a).name for e in folded.entries] == ["x", "stem", "norm", "act", "head"]  # pyright: ignore[reportOptionalMemberAccess]
    grown = diff_graphs(network(), network(extra=True))
    assert names(grown, "added") == ["extra"]
    assert kinds(grown) == {"act": {"rewired"}}


def test_other_attributes_and_other_weights() -> None:
    a, b = network(), network()
    set_constant(b, "stem_weight", torch.zeros(8, 3, 3, 3))
    assert kinds(diff_graphs(a, b)) == {"stem": {"weights"}}
    assert "0% zeros -> 100% zeros, other values" in diff_graphs(a, b).to_text()
    strided = diff_graphs(network(stride=2), network(stride=1))
    assert "attributes" in kinds(strided)["stem"]
    assert "stride (2,2) -> (1,1)" in strided.to_text()


def test_matched_by_origin_when_renamed() -> None:
    a, b = network(), network()
    for node in b.graph.nodes:
        if node.name == "stem":
            node.name = "stem_1"
            annotate(node, origin=("stem",))
    diff = diff_graphs(a, b)
    assert diff.equal
    assert names(diff, "added") == []


def test_one_layer_made_into_two_is_matched_once() -> None:
    a = [NodeView("x", "input", "t"), NodeView("conv", "conv2d", "t", ("x",), origin=("conv",))]
    b = [
        NodeView("x", "input", "t"),
        NodeView("conv_v", "conv2d", "t", ("x",), origin=("conv",)),
        NodeView("conv_u", "conv2d", "t", ("conv_v",), origin=("conv",)),
    ]
    diff = diff_views(a, b)
    assert [entry.status for entry in diff.entries] == ["same", "same", "added"]
    assert "+ conv_u  conv2d t  from conv" in diff.to_text()


def test_removed_nodes_stand_where_they_stood() -> None:
    a = [NodeView(name, "relu", "t") for name in "abcde"]
    b = [NodeView(name, "relu", "t") for name in "bxd"]
    found = [(entry.status, (entry.b or entry.a).name) for entry in diff_views(a, b).entries]  # pyright: ignore[reportOptionalMemberAccess]
    assert found == [
        ("removed", "a"), ("same", "b"), ("removed", "c"), ("added", "x"), ("same", "d"), ("removed", "e"),
    ]  # fmt: skip


def test_every_node_appears_once_in_either_direction() -> None:
    a, b = view_graph(network(width=8)), view_graph(network(width=6, norm=False, extra=True))
    for first, second in ((a, b), (b, a)):
        entries = diff_views(first, second).entries
        assert sorted(e.a.name for e in entries if e.a) == sorted(v.name for v in first)
        assert [e.b.name for e in entries if e.b] == [v.name for v in second]


def test_views_look_through_quantisers() -> None:
    views = {view.name: view for view in view_graph(network(scale=0.25))}
    assert "act_q" not in views
    assert views["head"].operands == ("act",)
    assert views["act"].quantised == "int8 scale 0.25 zero 0"
    assert views["stem"].constants[0].role == "weight"


def test_ten_thousand_nodes_are_quick_enough_to_wait_for() -> None:
    a = [NodeView(f"n{i}", "relu", "t", (f"n{i - 1}",)) for i in range(10_000)]
    b = [NodeView(f"m{i}", "relu", "t", (f"m{i - 1}",), origin=(f"n{i}",)) for i in range(10_000)]
    assert diff_views(a, b).counts()["same"] >= 9_999
