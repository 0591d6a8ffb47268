"""Each layer in each form: which there are on which target, and what they cost."""

from __future__ import annotations

import pytest

from cost_models.roofline import RooflineCostModel
from mcc.cost_api import graph_kernels
from mcc.pipeline import deployment_form
from mcc.runtime.registry import get_target
from mcc.search.layer_alternatives import layer_forms, shown_rank
from mcc.search.tables import low_rank_pair
from tests.search.test_problem import network

MODEL = RooflineCostModel(10.0, 8.0)


def test_forms_are_those_that_the_target_has() -> None:
    graph = deployment_form(network("mobile"))
    kernels = graph_kernels(graph)
    kinds: dict[str, set[str]] = {}
    for target in ("litert-host", "litert-web"):
        found = layer_forms(graph, get_target(target), MODEL)
        kinds[target] = {name.split()[0] for layer in found for name in layer.forms}
        for layer in found:
            kernel = kernels[layer.node]
            assert layer.forms["float"] == MODEL.kernel(kernel)
            assert layer.forms["int8"].cost < layer.forms["float"].cost
            if kernel.op == "conv2d" and kernel.operands[1].shape[2:] == (1, 1):
                rank = shown_rank(kernel)
                pair = sum(MODEL.kernel(part).cost for part in low_rank_pair(kernel, rank))
                assert layer.forms[f"rank {rank}"].cost == pytest.approx(pair)
            else:
                assert not any(name.startswith("rank") for name in layer.forms)
    assert kinds == {
        "litert-host": {"float", "int8", "rank"},
        "litert-web": {"float", "int8", "rank", "sparse"},
    }
