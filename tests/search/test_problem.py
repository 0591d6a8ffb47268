"""The kernels of a problem are those of the network that is really pruned."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mcc.analysis.channel_groups import analyse_channels
from mcc.analysis.pointwise import pointwise
from mcc.analysis.sparse_cluster import SparseCluster, find_sparse_cluster
from mcc.compress.build import Structure, restructure
from mcc.compress.configurations import planned_integers, structure_kernels
from mcc.cost_api import WHOLE_ERROR, Estimate, Kernel, Precision, graph_kernels
from mcc.data.classification import TASK
from mcc.ir.graph import Graph, copy_graph, operand
from mcc.ir.notes import SparseNote, shape_of
from mcc.pass_api import PassContext
from mcc.pipeline import Pipeline, RunOptions, deployment_form
from mcc.runtime.facts import TargetFacts
from mcc.search.problem import Problem
from mcc.search.regions import precision_regions
from mcc.search.sensitivity import Sensitivities, note_widths
from mcc.search.solver import Limits, Solution, solve
from mcc.search.space import Configuration, rank_levels
from mcc.search.tables import Setting, build_problem
from tests.search.networks import NETWORKS

SPARSE = TargetFacts(True, "sparse kernels", 1, 8, "int8", True)
DENSE = TargetFacts(False, "its kernels are dense", 1, 8, "int8", True)


class MacsModel:
    """A cost model by formula: so much for each operation and each byte."""

    name = "macs"
    whole_error = WHOLE_ERROR

    def kernel(self, kernel: Kernel) -> Estimate:
        return Estimate(1.0 + kernel.macs / 1000 + kernel.bytes_moved / 5000, 0.0, "fitted")

    def overhead(self, precision: Precision) -> Estimate:
        return Estimate(5.0, 0.0, "fitted")


def divergence(outputs: Sequence[Tensor], reference: Sequence[Tensor]) -> float:
    """Of a network for classes."""
    return float(TASK.divergence(outputs, reference))


@cache
def network(name: str) -> Graph:
    return NETWORKS[name]()


def sensitivities(graph: Graph, seed: int = 0) -> Sensitivities:
    """Random ones: any channels of a group may be the least important."""
    chance = random.Random(seed)
    groups = analyse_channels(graph).prunable()
    order = {g.name: tuple(chance.sample(range(g.width), g.width)) for g in groups}
    scores = {g.name: tuple(sorted(chance.random() for _ in range(g.width))) for g in groups}
    return Sensitivities(order, scores, {g.name: chance.random() for g in groups}, {})


def setting(graph: Graph, known: Sensitivities, multiple: int = 4) -> Setting:
    return Setting(
        deployment_form(graph), frozenset(), SparseCluster((), (), None), MacsModel(), known, multiple
    )


def predicted(problem: Problem, widths: dict[str, int]) -> dict[str, Kernel]:
    found: dict[str, Kernel] = {}
    for layer in problem.layers:
        option = layer.options[tuple(side.value(widths) for side in layer.sides)][0]
        (found[layer.node],) = option.kernels
    return found


def pruned(graph: Graph, known: Sensitivities, widths: dict[str, int]) -> Graph:
    private = copy_graph(graph)
    note_widths(private, known, widths)
    return Pipeline.parse("prune-channels").run(private, PassContext(), RunOptions(verify=False)).graph


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
@given(data=st.data())
@settings(max_examples=6)
def test_kernels_are_those_of_the_pruned_network(name: str, data: st.DataObject) -> None:
    graph = network(name)
    known = sensitivities(graph, data.draw(st.integers(0, 2**16)))
    problem = build_problem(setting(graph, known, multiple=1), Configuration(), widths=True, low_rank=False)
    assert problem.levels.keys() == known.order.keys()
    widths = {group: data.draw(st.sampled_from(levels)) for group, levels in problem.levels.items()}
    built = graph_kernels(deployment_form(pruned(graph, known, widths)))
    assert predicted(problem, widths) == built


CONFIGURATIONS = (
    Configuration("int8"),
    Configuration("int7"),
    Configuration("float", SparseNote(1, 0.8)),
    Configuration(),
)


@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=str)
@pytest.mark.parametrize("name", ["mobile", "residual", "gated"])
def test_kernels_are_those_of_the_candidate(name: str, configuration: Configuration) -> None:
    """All that a plan does: pruned, thinned, factorized, in deployment form, under its configuration.

    Regions that stay float and layers with more zeros than others are drawn as well.
    """
    graph, chance = network(name), random.Random(f"{name} {configuration}")
    known, whole = sensitivities(graph), deployment_form(graph)
    thin = {n.name: rank_levels(*shape_of(operand(n, 1))[:2]) for n in pointwise(whole)}
    ranks = {node: dict.fromkeys(levels, 0.1) for node, levels in thin.items() if levels}
    cluster = find_sparse_cluster(whole)
    if configuration.sparse and not cluster.nodes:
        configuration = Configuration()
    integer = planned_integers(whole)
    sparse = {node: {0.7: 0.1, 0.8: 0.2, 0.9: 0.3} for node in cluster.pointwise}
    noise = {region.name: 0.1 for region in precision_regions(whole, integer)}
    known = replace(known, ranks=ranks, sparse=sparse, noise=noise)
    made = Setting(whole, integer, cluster, MacsModel(), known, multiple=4)
    problem = build_problem(
        made, configuration, widths=True, low_rank=configuration.sparse is None, mixed=True
    )
    assert bool(problem.regions) == (configuration.precision != "float")
    pairs = 0
    for _ in range(3):
        widths = {group: chance.choice(levels) for group, levels in problem.levels.items()}
        keys = {layer.node: tuple(side.value(widths) for side in layer.sides) for layer in problem.layers}
        chosen = {layer.node: chance.choice(layer.options[keys[layer.node]]) for layer in problem.layers}
        forms = {name: widths.pop(name) for name in problem.regions}
        structure = Structure.of(problem, Solution(widths, chosen, 0.0, 0.0, 0.0, 0.0, forms))
        built = restructure(graph, structure, known, (torch.randn(2, 3, 16, 16),), verify=False)
        found = structure_kernels(deployment_form(built), structure.configuration, SPARSE)
        for node, option in chosen.items():
            if not option.kernels:
                continue  # a conversion between regions
            nodes = (node,) if option.rank is None else (f"{node}_v", node)
            assert tuple(found.pop(n) for n in nodes) == option.kernels
            pairs += option.rank is not None
        assert not found
    assert pairs or configuration.sparse or name != "mobile"


def test_the_whole_network_on_integers_costs_the_measured_noise_of_all_its_regions() -> None:
    graph = network("mobile")
    whole = deployment_form(graph)
    integer = planned_integers(whole)
    names = [region.name for region in precision_regions(whole, integer)]
    noise = {name: 0.1 * (index + 1) for index, name in enumerate(names)}
    known = replace(sensitivities(graph), noise=noise)
    made = Setting(whole, integer, find_sparse_cluster(whole), MacsModel(), known, multiple=4)

    def least_loss(configuration: Configuration, *, mixed: bool) -> float:
        problem = build_problem(made, configuration, widths=True, low_rank=False, mixed=mixed)
        solution = solve(problem, Limits())
        assert solution is not None
        return solution.loss

    assert least_loss(Configuration("int8"), mixed=False) == pytest.approx(sum(noise.values()))
    assert least_loss(Configuration("int8"), mixed=True) == pytest.approx(0.0)  # each region may stay float
    assert least_loss(Configuration(), mixed=False) == pytest.approx(0.0)


@pytest.mark.parametrize("name", NETWORKS)
def test_full_width_is_the_first_level_and_the_network_itself(name: str) -> None:
    graph = network(name)
    known = sensitivities(graph)
    problem = build_problem(setting(graph, known), Configuration(), widths=True, low_rank=False)
    whole = {group: levels[0] for group, levels in problem.levels.items()}
    assert whole == {g.name: g.width for g in analyse_channels(graph).prunable()}
    assert predicted(problem, whole) == graph_kernels(deployment_form(graph))


def test_zeros_change_no_kernel_where_the_target_has_no_sparse_ones() -> None:
    """One prediction for `litert-host` rested on sparse kernels that never run there: 2.2 times too fast."""
    whole, thin = deployment_form(network("mobile")), Configuration("float", SparseNote(1, 0.8))
    assert structure_kernels(whole, thin, DENSE) == structure_kernels(whole, Configuration(), DENSE)
    assert structure_kernels(whole, thin, SPARSE) != structure_kernels(whole, Configuration(), SPARSE)
