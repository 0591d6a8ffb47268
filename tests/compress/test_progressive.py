"""Going to the budget in steps: weights come back to their places, and losses are measured around what is."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch

import mcc
from mcc.analysis.channel_groups import analyse_channels
from mcc.analysis.remove_channels import zero_readers
from mcc.compress.build import Structure, restructure
from mcc.compress.progressive import left_share, removed_classes, written_back
from mcc.ir.graph import constants, copy_graph, run, set_constant
from mcc.report.schema import load_report
from mcc.search.sensitivity import Sensitivities
from tests.compress import stand_ins
from tests.search.networks import NETWORKS
from tests.search.test_problem import network, sensitivities


@pytest.mark.parametrize("name", NETWORKS)
def test_what_was_trained_comes_back_to_the_channels_that_stayed(name: str) -> None:
    graph, known = network(name), sensitivities(network(name))
    analysis = analyse_channels(graph)
    widths = {group.name: max(2, group.width // 2) for group in analysis.prunable()}
    small = restructure(graph, Structure(widths=widths), known, (), verify=False)
    for place, value in constants(small).items():  # as if trained
        if value.is_floating_point():
            set_constant(small, place, value.detach() * 1.5 + 0.01)
    whole = written_back(graph, small, widths, known)
    zero_readers(whole, analysis, removed_classes(analysis, widths, known))
    x = torch.randn(2, *next(iter(graph.graph.nodes)).meta["mcc"].type.shape[1:])
    for one, other in zip(run(whole, x), run(small, x), strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


def test_what_is_written_back_unchanged_changes_nothing() -> None:
    graph, known = network("mobile"), sensitivities(network("mobile"))
    widths = {group.name: group.width // 2 for group in analyse_channels(graph).prunable()}
    small = restructure(graph, Structure(widths=widths), known, (), verify=False)
    whole = written_back(copy_graph(graph), small, widths, known)
    before, after = dict(constants(graph)), dict(constants(whole))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_costs_run_through_the_measured_widths() -> None:
    points = {8: 0.0, 6: 0.02, 4: 0.01, 2: 0.3}  # at 4 narrowing had cost less than at 6: noise
    known = Sensitivities({"g": tuple(range(8))}, {"g": (1.0,) * 8}, {"g": 1.0}, {}, points={"g": points})
    costs = dict(zip(range(8, 0, -1), known.widths("g", range(8, 0, -1)), strict=True))
    assert costs[8] == 0.0
    assert costs[7] == pytest.approx(0.01)
    assert costs[6] == pytest.approx(0.02)
    assert costs[2] == pytest.approx(0.3)
    assert costs[1] == pytest.approx(0.3 + 0.145)
    assert all(a < b for a, b in pairwise(costs[w] for w in range(8, 0, -1)))


def test_the_images_of_the_steps_are_counted_in() -> None:
    assert left_share(1) == 1.0
    assert left_share(3) == pytest.approx(0.8)


@pytest.mark.slow
def test_a_job_goes_to_its_budget_in_steps(
    tmp_path: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_ins.install(monkeypatch)
    seen: list[str] = []
    report = mcc.compress(
        stand_ins.MODEL, "digits", "litert-host", out=tmp_path / "out", speedup=1.5, epochs=0.5, steps=3,
        progress=lambda stage, done, total, note="": seen.append(stage),
    )  # fmt: skip
    assert report.met == {"speedup": True}
    joint = load_report(tmp_path / "out/report.json").strategies[-1]
    assert "The budget was approached in 3 steps." in joint.notes
    assert joint.keeps_budgets == {"speedup": True}
    steps = [stage for stage in dict.fromkeys(seen) if "-step-" in stage]
    assert steps == ["fine-tune joint-step-1", "fine-tune joint-step-2"]
    assert "re-measure sensitivities" in seen
