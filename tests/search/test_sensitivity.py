"""Sensitivities: measured costs, the curve through them, their file, and the notes that widths become."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise
from math import log
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from mcc.analysis.channel_groups import analyse_channels
from mcc.analysis.remove_channels import zero_readers
from mcc.data.classification import TASK
from mcc.errors import DataError
from mcc.ir.graph import copy_graph, run
from mcc.ir.notes import note
from mcc.ir.text import print_graph
from mcc.search.sensitivity import Sensitivities, note_widths
from mcc.search.sensitivity_run import measure_sensitivities
from tests.search.networks import NETWORKS
from tests.search.test_problem import divergence, network, pruned, sensitivities


@pytest.fixture(scope="module")
def measured() -> tuple[Sensitivities, torch.Tensor, list[str]]:
    torch.manual_seed(3)
    batches = [(torch.randn(4, 3, 16, 16), torch.randint(0, 10, (4,))) for _ in range(2)]
    stages: list[str] = []
    found = measure_sensitivities(
        network("mobile"), batches, lambda o, t: F.cross_entropy(o[0], t), TASK.divergence, images=6,
        progress=lambda stage, share: stages.append(f"{stage} {share:.2f}"),
    )  # fmt: skip
    return found, torch.cat([x for x, _ in batches])[:6], stages


def test_divergence_by_hand() -> None:
    reference, output = torch.tensor([[0.0, 0.0]]), torch.tensor([[log(3.0), 0.0]])
    # Reference (1/2, 1/2), output (3/4, 1/4): 1/2 log(2/3) + 1/2 log 2.
    assert divergence([output], [reference]) == pytest.approx(0.5 * log(2 / 3) + 0.5 * log(2))
    assert divergence([output.repeat(5, 1)], [reference.repeat(5, 1)]) == pytest.approx(
        divergence([output], [reference])
    )
    assert divergence([output], [output]) == pytest.approx(0.0, abs=1e-12)
    assert divergence([output + 7.0], [output]) == pytest.approx(0.0, abs=1e-9)


def test_a_group_costs_what_its_weaker_channels_do(
    measured: tuple[Sensitivities, torch.Tensor, list[str]],
) -> None:
    found, x, stages = measured
    graph = network("mobile")
    analysis = analyse_channels(graph)
    reference = run(graph, x)
    assert set(found.reference) == {group.name for group in analysis.prunable()}
    for group in analysis.prunable():
        for costs, part in ((found.reference, 2), (found.narrow, 4)):
            private = copy_graph(graph)
            zero_readers(private, analysis, found.removed(group, round(group.width / part)))
            assert costs[group.name] == pytest.approx(max(divergence(run(private, x), reference), 1e-9))
        assert list(found.scores[group.name]) == sorted(found.scores[group.name])
        assert sorted(found.order[group.name]) == list(range(group.width))
    assert stages[-1].endswith("1.00")
    assert all(cost > 0 for ranks in found.ranks.values() for cost in ranks.values())


def test_the_curve_runs_through_the_measured_points(
    measured: tuple[Sensitivities, torch.Tensor, list[str]],
) -> None:
    found, _, _ = measured
    for group, scores in found.scores.items():
        levels = list(range(len(scores), 0, -1))
        costs = found.widths(group, levels)
        assert costs[0] == 0.0
        assert all(a < b for a, b in pairwise(costs))
        half = levels.index(max(1, round(len(scores) / 2)))
        assert costs[half] == pytest.approx(found.reference[group])
        quarter = costs[levels.index(max(1, round(len(scores) / 4)))]
        assert quarter == pytest.approx(found.narrow[group]) or quarter > found.narrow[group]
        assert found.widths(group, [levels[-1], levels[half]]) == [costs[-1], costs[half]]


@given(
    st.lists(st.floats(0, 10), min_size=1, max_size=40),
    st.floats(1e-9, 10),
    st.none() | st.floats(1e-9, 10),
)
def test_a_narrower_group_always_costs_more(scores: list[float], half: float, quarter: float | None) -> None:
    narrow = {} if quarter is None else {"g": quarter}
    known = Sensitivities(
        {"g": tuple(range(len(scores)))}, {"g": tuple(sorted(scores))}, {"g": half}, {}, narrow
    )
    costs = known.widths("g", range(len(scores), 0, -1))
    assert costs[0] == 0.0
    assert all(a < b for a, b in pairwise(costs))


def test_saved_ones_are_read_back(
    measured: tuple[Sensitivities, torch.Tensor, list[str]], tmp_path: Path
) -> None:
    found, _, _ = measured
    path = tmp_path / "sensitivities.json"
    found.save(path)
    assert Sensitivities.load(path) == found
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"order": {}}', '{"order": 3, "scores": {}}'])
def test_damaged_files_are_one_sentence(text: str, tmp_path: Path) -> None:
    path = tmp_path / "sensitivities.json"
    path.write_text(text)
    with pytest.raises(DataError, match="holds no sensitivities"):
        Sensitivities.load(path)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", NETWORKS)
def test_noted_widths_are_those_of_the_pruned_network(name: str, seed: int) -> None:
    graph, chance = network(name), random.Random(seed)
    groups = analyse_channels(graph).prunable()
    # A depthwise convolution of one channel is an ordinary one, whose ends are two groups.
    widths = {g.name: chance.randint(2, g.width) for g in groups}
    after = analyse_channels(pruned(graph, sensitivities(graph, seed), widths))
    assert {g.name: g.width for g in after.prunable()} == widths


@pytest.mark.parametrize("name", NETWORKS)
def test_full_width_notes_nothing(name: str) -> None:
    graph = network(name)
    private = copy_graph(graph)
    note_widths(private, sensitivities(graph), {g.name: g.width for g in analyse_channels(graph).groups})
    assert all(note(node).keep is None for node in private.graph.nodes)
    assert print_graph(private) == print_graph(graph)


def test_the_channels_that_go_are_the_least_important() -> None:
    graph = network("mobile")
    known = sensitivities(graph)
    group = analyse_channels(graph).prunable()[0]
    order = (5, 2, *(i for i in range(group.width) if i not in (2, 5)))
    private = copy_graph(graph)
    note_widths(
        private, replace(known, order={**known.order, group.name: order}), {group.name: group.width - 2}
    )
    (producer, *_) = group.producers
    keep = next(note(node).keep for node in private.graph.nodes if node.name == producer)
    assert keep == tuple(i for i in range(group.width) if i not in (2, 5))
