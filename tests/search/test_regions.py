"""Regions: stretches between single values, each with layers of its own."""

from __future__ import annotations

from itertools import pairwise

import pytest

from mcc.compress.configurations import planned_integers
from mcc.ir.graph import Graph, calls, is_constant
from mcc.pipeline import deployment_form
from mcc.search.regions import precision_regions
from tests.search.networks import NETWORKS
from tests.search.test_problem import network


def whole(name: str) -> Graph:
    return deployment_form(network(name))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("most", [1, 3, 8])
def test_regions_hold_every_operator_once_and_meet_in_one_value(name: str, most: int) -> None:
    graph = whole(name)
    integer = planned_integers(graph)
    found = precision_regions(graph, integer, most)
    assert 1 <= len(found) <= most + 1
    computed = [n for n in calls(graph) if not all(is_constant(v) for v in n.all_input_nodes)]
    assert [node for region in found for node in region.nodes] == [node.name for node in computed]
    region_of = {node: region.name for region in found for node in region.nodes}
    assert len({region.name for region in found}) == len(found)
    for node in computed:
        crossing = {
            u.name for u in node.users if u.op != "output" and region_of[u.name] != region_of[node.name]
        }
        exits = {region.exit for region in found}
        assert not crossing or node.name in exits
    for before, after in pairwise(found):
        assert after.entry == before.exit


def test_each_region_has_a_layer_that_can_run_on_integers() -> None:
    graph = whole("mobile")
    integer = planned_integers(graph)
    found = precision_regions(graph, integer)
    assert len(found) > 2
    for region in found:
        first, last = region.name.split("..")
        assert {first, last} <= set(region.nodes) & integer


def test_without_integers_there_is_none() -> None:
    assert precision_regions(whole("mobile"), frozenset()) == ()


def test_a_residual_stream_is_not_cut_inside_a_block() -> None:
    graph = whole("residual")
    found = precision_regions(graph, planned_integers(graph))
    additions = {node.name for node in calls(graph, "add")}
    users = {node.name: node for node in calls(graph)}
    for region in found[:-1]:
        assert region.exit in additions or len(users[region.exit].users) == 1 or "relu" in region.exit
