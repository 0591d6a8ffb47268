"""Probes: what each measures, that results are kept and not measured twice, and the table made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mcc.analysis.channel_groups import analyse_channels
from mcc.compress.configurations import planned_integers
from mcc.data.classification import TASK
from mcc.ir.graph import calls, copy_graph, run
from mcc.ir.notes import SparseNote, annotate
from mcc.pass_api import PassContext
from mcc.pipeline import Pipeline, RunOptions, deployment_form
from mcc.search.importance import taylor_scores
from mcc.search.probes import Probe, ProbeFile, Subject, measure_there, outputs_in
from mcc.search.regions import precision_regions
from mcc.search.sensitivity import Sensitivities
from mcc.search.sensitivity_run import (
    FEWEST_IMAGES,
    MATTERS,
    MOST_IMAGES,
    Wanted,
    images_for,
    measure_sensitivities,
    meeting,
)
from mcc.search.tables import interactions
from tests.search.test_problem import divergence, network

IMAGES = 6


def _loss(outputs: tuple[Tensor, ...], target: Tensor) -> Tensor:
    return F.cross_entropy(outputs[0], target)


def batches() -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(3)
    return [(torch.randn(4, 3, 16, 16), torch.randint(0, 10, (4,))) for _ in range(2)]


def everything() -> Wanted:
    whole = deployment_form(network("mobile"))
    thin = tuple(node.name for node in calls(whole, "conv2d") if node.name in ("conv3", "conv5"))
    return Wanted(sparse=thin, integer=tuple(sorted(planned_integers(whole))))


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sensitivities, Path]:
    file = tmp_path_factory.mktemp("probes") / "known.jsonl"
    found = measure_sensitivities(
        network("mobile"), batches(), _loss, TASK.divergence, images=IMAGES, wanted=everything(), known=file
    )
    return found, file


def images() -> Tensor:
    return torch.cat([x for x, _ in batches()])[:IMAGES]


def test_zeros_cost_what_the_thinned_layer_does(measured: tuple[Sensitivities, Path]) -> None:
    found, _ = measured
    graph, x = network("mobile"), images()
    for name, costs in found.sparse.items():
        assert list(costs) == [0.7, 0.8, 0.9]
        for share, cost in costs.items():
            private = copy_graph(graph)
            annotate(next(n for n in calls(private) if n.name == name), sparse=SparseNote(1, share))
            thin = Pipeline.parse("sparsify-1x1").run(private, PassContext((x,)), RunOptions(verify=False))
            assert cost == pytest.approx(divergence(run(thin.graph, x), run(graph, x)), rel=1e-4)


def test_fitting_the_weights_that_stay_loses_less(measured: tuple[Sensitivities, Path]) -> None:
    found, _ = measured
    graph, x = network("mobile"), images()
    for name, costs in found.sparse.items():
        private = copy_graph(graph)
        annotate(next(n for n in calls(private) if n.name == name), sparse=SparseNote(1, 0.9))
        plain = Pipeline.parse("sparsify-1x1{refit=false}").run(private, options=RunOptions(verify=False))
        assert costs[0.9] < divergence(run(plain.graph, x), run(graph, x))


def test_noise_is_that_of_one_region_on_integers(measured: tuple[Sensitivities, Path]) -> None:
    found, _ = measured
    whole, x = deployment_form(network("mobile")), images()
    regions = precision_regions(whole, planned_integers(whole))
    assert list(found.noise) == [region.name for region in regions]
    for region in regions[:2]:
        private = copy_graph(whole)
        for node in calls(private):
            if node.name not in region.nodes:
                annotate(node, precision="float")
        quantised = Pipeline.parse("insert-qdq").run(private, PassContext((x,)), RunOptions(verify=False))
        inside = {n.name for n in calls(quantised.graph, "fake_quantize")}
        assert inside
        assert found.noise[region.name] == pytest.approx(
            max(1e-9, divergence(run(quantised.graph, x), run(whole, x))), rel=1e-3
        )


def test_pairs_are_those_whose_loss_is_not_the_sum(measured: tuple[Sensitivities, Path]) -> None:
    found, file = measured
    known = ProbeFile(file).known
    candidates = meeting(analyse_channels(network("mobile")))
    assert candidates
    for one, other in candidates:
        together = known[str(Probe("pair", (one, other)))]
        apart = found.reference[one] + found.reference[other]
        assert ((one, other) in found.pairs) == (abs(together - apart) > MATTERS * apart)
    for (one, other), correlation in found.pairs.items():
        together = known[str(Probe("pair", (one, other)))]
        a, b = found.reference[one], found.reference[other]
        most = a + b - 2 * (a * b) ** 0.5  # that two changes can mend of each other, to second order
        assert a + b + 2 * correlation * (a * b) ** 0.5 == pytest.approx(max(most, together))


def test_what_two_groups_lose_together_is_a_table() -> None:
    known = Sensitivities({}, {}, {}, {}, pairs={("a", "b"): -0.5, ("a", "fixed"): 1.0})
    levels = {"a": (8, 4), "b": (6, 3), "fixed": (5,)}
    losses = {"a": (0.0, 0.4), "b": (0.0, 0.9), "fixed": (0.0,)}
    (pair,) = interactions(known, levels, losses)
    assert {key: options[0].loss for key, options in pair.options.items()} == pytest.approx(
        {(8, 6): 0.0, (8, 3): 0.0, (4, 6): 0.0, (4, 3): -0.6}
    )


def test_nothing_is_measured_twice_and_a_cut_off_line_is_measured_again(
    measured: tuple[Sensitivities, Path], tmp_path: Path
) -> None:
    found, file = measured
    again = tmp_path / "known.jsonl"
    lines = file.read_text().splitlines()
    again.write_text("\n".join([*lines[:-1], lines[-1][: len(lines[-1]) // 2]]))
    asked: list[Probe] = []

    def runner(subject: Subject, probes: Any, done: Any) -> None:
        asked.extend(probes)
        for probe in probes:
            done(probe, subject.measure(probe))

    second = measure_sensitivities(
        network("mobile"),
        batches(),
        _loss,
        TASK.divergence,
        images=IMAGES,
        wanted=everything(),
        known=again,
        runner=runner,
    )
    assert second == found
    assert len(asked) == 1
    assert ProbeFile(again).known == ProbeFile(file).known


def test_a_subject_reads_back_and_measures_the_same(tmp_path: Path) -> None:
    graph = network("mobile")
    analysis = analyse_channels(graph)
    scores = taylor_scores(graph, analysis, batches(), _loss)
    order = {
        g.name: tuple(sorted(range(g.width), key=lambda i, g=g: scores[g.classes[i]]))
        for g in analysis.prunable()
    }
    subject = Subject(graph, images(), order, TASK.divergence)
    subject.save(tmp_path / "subject")
    probe = Probe("width", (analysis.prunable()[0].name,), 4)
    there = measure_there(tmp_path / "subject", {"kind": "width", "names": list(probe.names), "level": 4})
    assert subject.loss_of(probe, outputs_in(there)) == subject.measure(probe)


def test_large_images_are_fewer() -> None:
    assert images_for((1, 3, 32, 32)) == MOST_IMAGES
    assert images_for((1, 3, 224, 224)) == FEWEST_IMAGES
    assert FEWEST_IMAGES < images_for((1, 3, 96, 96)) < MOST_IMAGES
