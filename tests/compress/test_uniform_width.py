"""Narrowing every layer alike: the widest share that keeps the budgets, found with few measurements."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from mcc.analysis.sparse_cluster import find_sparse_cluster
from mcc.budget import Budget
from mcc.compress.build import Structure
from mcc.compress.configurations import planned_integers
from mcc.compress.planning import Planner
from mcc.compress.strategies.low_rank import low_rank_pays
from mcc.compress.strategies.sparse_1x1 import why_not_sparse
from mcc.compress.strategies.uniform_width import narrowed_uniformly, plan_uniform_width
from mcc.pipeline import deployment_form
from mcc.runtime.facts import TargetFacts
from mcc.search.tables import Setting
from tests.search.test_problem import MacsModel, network, sensitivities


def test_widths_are_shares_rounded_up_to_what_the_target_likes() -> None:
    widths = {"wide": 64, "narrow": 12, "tiny": 3}
    assert narrowed_uniformly(widths, 0.5, 8) == {"wide": 32, "narrow": 8}
    assert narrowed_uniformly(widths, 0.55, 8) == {"wide": 40, "narrow": 8}
    assert narrowed_uniformly(widths, 0.95, 8) == {}
    assert narrowed_uniformly(widths, 0.1, 1) == {"wide": 7, "narrow": 2, "tiny": 1}


DENSE = TargetFacts(False, "its kernels are dense", 1, 8, "int8", True)


class Plans:
    """A planner whose measured latencies are the predicted ones times a factor that nobody knows before."""

    cost_limit: float | None
    promises = Planner.promises

    def __init__(self, name: str, share: float, slower: float) -> None:
        graph = network(name)
        whole = deployment_form(graph)
        self.setting = Setting(
            whole, planned_integers(whole), find_sparse_cluster(whole), MacsModel(), sensitivities(graph), 4
        )
        self.budget = Budget(speedup=1 / share)
        self.slower = slower
        self.baseline_cost = self.plan_whole().speed.latency_us
        self.cost_limit = share * self.baseline_cost
        self.measured: list[Structure] = []

    def plan_whole(self, *_: Any) -> Any:
        from mcc.compress.configurations import structure_kernels
        from mcc.cost_sum import predict
        from mcc.search.space import Configuration

        raw = predict(self.setting.model, structure_kernels(self.setting.graph, Configuration(), DENSE)).cost
        return self.trial(Structure(), raw, 1.0)

    def trial(self, structure: Structure, us: float, factor: float) -> Any:
        limit = getattr(self, "cost_limit", None) or 0.0
        excess = us / limit if limit else math.inf
        speed = SimpleNamespace(latency_us=us, high_us=us)
        return SimpleNamespace(
            structure=structure,
            keeps_all=us <= limit,
            excess=excess,
            speed=speed,
            factor=factor,
            size_bytes=0,
            memory_bytes=0,
        )

    def measure(self, structure: Structure, predicted: float, raw: float, label: str) -> Any:
        self.measured.append(structure)
        return self.trial(structure, raw * self.slower, self.slower)


@pytest.mark.parametrize("slower", [0.9, 1.0, 1.2])
def test_the_widest_that_keeps_the_budget_is_found(slower: float) -> None:
    plans: Any = Plans("mobile", 0.6, slower)
    found = plan_uniform_width(plans, "even")
    assert found.keeps_all
    assert found.structure == plans.measured[-1]
    assert len(plans.measured) <= 4
    assert found.speed.latency_us > 0.75 * plans.cost_limit or slower != 1.0


def test_why_nothing_is_gained() -> None:
    plans: Any = Plans("residual", 0.5, 1.0)
    sparse = TargetFacts(True, "", 1, 8, "int8", True)
    assert why_not_sparse(plans, DENSE) == "Zeros save no time on this target: its kernels are dense."
    assert "stride (1, 1) in place of 2, so no cluster starts" in why_not_sparse(plans, sparse)
    assert low_rank_pays(plans) == "The network has no 1x1 convolution that a low-rank pair could replace."
    assert why_not_sparse(Plans("mobile", 0.5, 1.0), sparse) == ""  # pyright: ignore[reportArgumentType]
