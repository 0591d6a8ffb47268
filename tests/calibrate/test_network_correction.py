"""Which networks share a correction: those that differ in nothing but channels."""

from __future__ import annotations

import pytest

from mcc.calibrate.network_correction import family_name, lowered_form, narrowed
from mcc.ir.graph import Graph
from mcc.ir.text import parse_graph

MODEL = """mcc 1
const @w : f32[8,3,3,3] = seed(1)
const @d : f32[8,1,3,3] = seed(2)
const @p : f32[16,8,1,1] = seed(3)
const @v : f32[4,16] = seed(4)
const @b : f32[8] = seed(5)
const @b2 : f32[16] = seed(6)
const @c : f32[4] = seed(7)
%x = input() {} : f32[1,3,16,16]
%y = conv2d(%x, @w, @b) {STEM, groups=1, activation='relu'} : f32[1,8,8,8]
%t = conv2d(%y, @d, @b) {SAME, groups=8, activation='relu'} : f32[1,8,8,8]
%u = conv2d(%t, @p, @b2) {ONE, groups=1, activation='relu'} : f32[1,16,8,8]
%m = mean(%u) {axes=(2, 3), keepdim=False} : f32[1,16]
%z = linear(%m, @v, @c) {activation='none'} : f32[1,4]
return %z
"""
MODEL = (
    MODEL.replace("STEM", "stride=(2, 2), padding=(1, 1, 1, 1), dilation=(1, 1)")
    .replace("SAME", "stride=(1, 1), padding=(1, 1, 1, 1), dilation=(1, 1)")
    .replace("ONE", "stride=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1)")
)


@pytest.fixture
def graph() -> Graph:
    return parse_graph(MODEL)


def test_narrower_and_quantised_networks_are_of_the_family(graph: Graph) -> None:
    from mcc.analysis.channel_groups import analyse_channels

    groups = analyse_channels(graph).prunable()
    assert groups  # else nothing would be narrower
    narrow = narrowed(graph, {group.name: group.width // 2 for group in groups})
    assert family_name(narrow) == family_name(graph)
    assert family_name(lowered_form(graph, "int8")) == family_name(graph)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("activation='relu'} : f32[1,16,8,8]", "activation='relu6'} : f32[1,16,8,8]"),
        ("mean(%u) {axes=(2, 3), keepdim=False}", "amax(%u) {axes=(2, 3), keepdim=False}"),
        ("f32[8,1,3,3] = seed(2)", "f32[8,1,5,5] = seed(2)"),
    ],
)
def test_another_operator_activation_or_kernel_is_another_family(
    graph: Graph, before: str, after: str
) -> None:
    assert MODEL.count(before) == 1
    changed = MODEL.replace(before, after)
    if "5,5" in after:
        changed = changed.replace(
            "padding=(1, 1, 1, 1), dilation=(1, 1), groups=8",
            "padding=(2, 2, 2, 2), dilation=(1, 1), groups=8",
        )
    assert family_name(parse_graph(changed)) != family_name(graph)
