"""Networks that the sparse path does not take as they are: exact passes in the plan, others in the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import mcc
from mcc.analysis.sparse_cluster import find_sparse_cluster
from mcc.compress.build import Structure, restructure, sparse_form, sparse_layers
from mcc.compress.sparse_preparation import exact_passes
from mcc.frontend import load
from mcc.ir.graph import Graph, calls, constant, operand, run
from mcc.ir.notes import SparseNote
from mcc.lower.tflite.reader import read_tflite
from mcc.pipeline import deployment_form
from mcc.report.schema import Report, load_report
from mcc.runtime import get_target
from mcc.search.space import Configuration
from tests.compress import networks, stand_ins

WEB, HOST = get_target("litert-web:node").facts(), get_target("litert-host").facts()
LAYERS = ("wide", "head")


def graph_of(name: str) -> Graph:
    """A network of `tests.compress.networks` as captured."""
    return load(f"{networks.__file__}:{name}").graph


def thinned(graph: Graph) -> set[str]:
    """Convolutions most of whose weights are zero."""
    return {
        n.name for n in calls(graph, "conv2d") if (constant(graph, operand(n, 1)) == 0).float().mean() > 0.7
    }


@pytest.mark.parametrize(
    ("name", "passes"), [("convolution_head", "linear-head"), ("tiny", ""), ("same_stem", "")]
)
def test_exact_passes_are_found_where_they_suffice(name: str, passes: str) -> None:
    assert exact_passes(graph_of(name), WEB) == passes
    assert exact_passes(graph_of(name), HOST) == ""  # whose runtime has no sparse kernels


def test_a_sparse_structure_begins_with_its_passes() -> None:
    graph = graph_of("convolution_head")
    configuration = Configuration("float", SparseNote(1, 0.8), "linear-head")
    assert find_sparse_cluster(deployment_form(graph)).nodes == ()
    assert len(sparse_layers(graph, configuration.passes)) == len(LAYERS)
    built = restructure(graph, Structure(configuration), None, (), verify=True)
    deployed = deployment_form(built)
    cluster = find_sparse_cluster(deployed)
    assert cluster.reason is None
    assert set(cluster.pointwise) == thinned(deployed)
    assert len(cluster.pointwise) == len(LAYERS)
    dense = restructure(graph, Structure(), None, (), verify=True)
    assert not calls(dense, "linear")
    assert len(calls(built, "linear")) == 1
    x = torch.randn(2, 3, 32, 32)
    same = run(sparse_form(graph, configuration.passes), x)[0]
    assert torch.allclose(same, run(deployment_form(graph), x)[0], atol=1e-5)


def test_passes_belong_to_sparse_weights() -> None:
    with pytest.raises(ValueError, match="belong to sparse weights"):
        Configuration("float", None, "linear-head")
    structure = Structure(Configuration("float", SparseNote(1, 0.8), "linear-head"))
    assert Structure.from_json(json.loads(json.dumps(structure.as_json())), "plan.json") == structure


def compressed(name: str, folder: Path, patch: pytest.MonkeyPatch, **options: Any) -> Report:
    """A whole job for a target with sparse kernels whose times are made up."""
    stand_ins.install(patch, stand_ins.SparseStandIn())
    model = f"{networks.__file__}:{name}"
    return mcc.compress(model, "digits", "litert-host", epochs=0, out=folder, **options)


@pytest.mark.slow
def test_a_job_makes_sparse_plans_behind_exact_passes(
    tmp_path: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = compressed("convolution_head", tmp_path / "out", monkeypatch, size_bytes=12_000)
    said = [s for s in report.verdicts if "linear-head" in s]
    assert len(said) == 1
    assert said[0].startswith("Sparse plans begin with the passes 'linear-head', which are exact")
    by_name = {strategy.name: strategy for strategy in report.strategies}
    assert by_name["sparse-1x1"].keeps_budgets == {"size_bytes": True}
    state = tmp_path / "out/state"
    thin, original = (
        read_tflite(state / name / "model.tflite").op_counts() for name in ("sparse-1x1", "original")
    )
    assert thin["DENSIFY"] == len(LAYERS)
    assert thin["FULLY_CONNECTED"] == 1
    assert original["FULLY_CONNECTED"] == 0
    found = json.loads((state / "sparse-1x1/outcome.json").read_text())["structure"]
    assert found["passes"] == "linear-head"
    assert load_report(tmp_path / "out/report.json") == report


@pytest.mark.slow
def test_a_pass_that_changes_numbers_is_named_with_what_it_costs(
    tmp_path: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = compressed("same_stem", tmp_path / "out", monkeypatch, speedup=1.2)
    off, remedy, cost = report.verdicts[-3:]
    assert off.startswith("The sparse path stays off: ")
    assert "symmetrise-padding" in remedy
    assert remedy.endswith("change the function slightly: train after them.")
    assert cost.startswith("Untrained, these passes take the accuracy on 287 validation images from ")
    for path in (tmp_path / "out/state").glob("*/model.tflite"):
        assert read_tflite(path).op_counts()["PAD"] == 1  # the stem's own
    for path in (tmp_path / "out/state").glob("*/outcome.json"):
        assert json.loads(path.read_text())["structure"]["passes"] == ""
