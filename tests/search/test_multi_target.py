"""One problem for several targets: what is shared stays, with the cost on each."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mcc.analysis.sparse_cluster import find_sparse_cluster
from mcc.compress.configurations import planned_integers
from mcc.cost_api import Estimate, Kernel, Precision
from mcc.errors import UsageError
from mcc.ir.notes import SparseNote
from mcc.pipeline import deployment_form
from mcc.search.multi_target import joined
from mcc.search.problem import Problem
from mcc.search.solver import Limits, solve
from mcc.search.space import Configuration
from mcc.search.tables import Setting, build_problem
from tests.search.test_problem import MacsModel, network, sensitivities


class DepthwiseIsSlow(MacsModel):
    """A target on which depthwise convolutions cost ten times as much, and dense ones half."""

    def kernel(self, kernel: Kernel) -> Estimate:
        groups = int(dict(kernel.attributes).get("groups", 1))
        share = 10.0 if groups > 1 else 0.5
        return Estimate(share * super().kernel(kernel).cost, 0.0, "fitted")

    def overhead(self, precision: Precision) -> Estimate:
        return Estimate(1.0, 0.0, "fitted")


def problems(multiples: tuple[int, int] = (4, 4)) -> list[Problem]:
    graph = network("mobile")
    whole = deployment_form(graph)
    cluster = find_sparse_cluster(whole)
    known = replace(sensitivities(graph), sparse={name: {0.7: 0.1, 0.8: 0.2} for name in cluster.pointwise})
    found: list[Problem] = []
    for model, multiple in zip((MacsModel(), DepthwiseIsSlow()), multiples, strict=True):
        setting = Setting(whole, planned_integers(whole), cluster, model, known, multiple)
        found.append(build_problem(setting, Configuration(), widths=True, low_rank=False))
    return found


def whole_us(problem: Problem) -> float:
    return problem.overhead_cost + sum(layer.options[max(layer.options)][0].cost for layer in problem.layers)


def test_the_budget_is_kept_on_both_and_costs_at_least_what_each_does() -> None:
    one, other = problems()
    both = joined([one, other])
    halves = [0.5 * whole_us(problem) for problem in (one, other)]
    shared = solve(both, Limits(halves[0], None, (halves[1],)))
    assert shared is not None
    assert shared.cost <= halves[0]
    assert shared.more_costs[0] <= halves[1]
    for problem, limit in zip((one, other), halves, strict=True):
        alone = solve(problem, Limits(limit))
        assert alone is not None
        assert shared.loss >= alone.loss - 1e-6
    first = solve(one, Limits(halves[0]))
    assert first is not None
    # What is best for the first alone misses the budget of the other: the joint plan is another one.
    assert first.widths != shared.widths


def test_each_option_holds_what_it_costs_on_the_other() -> None:
    one, other = problems()
    there = {layer.node: layer for layer in other.layers}
    for layer in joined([one, other]).layers:
        for key, options in layer.options.items():
            assert options[0].more_costs == (there[layer.node].options[key][0].cost,)
    assert joined([one, other]).more_overhead_costs == (1.0,)


def test_only_widths_that_both_know_are_left() -> None:
    one, other = problems((4, 8))
    both = joined([one, other])
    for name, levels in both.levels.items():
        assert set(levels) == set(one.levels[name]) & set(other.levels[name])
        assert len(both.losses[name]) == len(levels)
    with pytest.raises(UsageError, match="the targets share no width"):
        joined([one, replace(other, levels=dict.fromkeys(other.levels, (1,)))])


def test_zeros_cost_the_dense_layer_where_no_kernel_uses_them() -> None:
    graph = network("mobile")
    whole = deployment_form(graph)
    cluster = find_sparse_cluster(whole)
    assert cluster.nodes
    known = replace(sensitivities(graph), sparse={name: {0.7: 0.1, 0.8: 0.2} for name in cluster.pointwise})
    setting = Setting(whole, frozenset(), cluster, MacsModel(), known, 4)
    sparse = build_problem(
        setting, Configuration("float", SparseNote(1, 0.7)), widths=False, low_rank=False, mixed=True
    )
    dense = build_problem(setting, Configuration(), widths=False, low_rank=False)
    there = {layer.node: layer for layer in dense.layers}
    thin = [layer for layer in joined([sparse, dense]).layers if layer.node in cluster.pointwise]
    assert thin
    for layer in thin:
        for key, options in layer.options.items():
            assert options[0].sparsity == 0.7
            assert {option.more_costs for option in options} == {(there[layer.node].options[key][0].cost,)}
