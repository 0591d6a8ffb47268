"""What must hold for every graph, tried on random ones over the whole op table."""

from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from mcc.analysis.channel_groups import ChannelAnalysis, analyse_channels
from mcc.errors import Refusal, VerificationError
from mcc.ir.canonical import check_shapes, check_structure
from mcc.ir.graph import (
    Graph,
    clean,
    constant,
    constants,
    copy_graph,
    infer,
    inputs,
    outputs,
    run,
    set_constant,
)
from mcc.ir.notes import annotate, note, shape_of
from mcc.ir.table import TABLE
from mcc.ir.text import parse_graph, print_graph, text_constants
from mcc.pass_api import Pass, PassContext, apply_pass
from mcc.pipeline import Pipeline, RunOptions, differs
from mcc.verify import check_pass, relative_difference
from passes.prune_channels import PruneChannels
from tests.property.graphs import (
    RECIPES,
    Seeded,
    batch_of,
    graphs,
    noted_graphs,
    random_graph,
    seeded_graph,
    with_keep_notes,
)

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
many = settings(max_examples=120, suppress_health_check=SLOW)
some = settings(max_examples=40, suppress_health_check=SLOW)


def frozen_text(graph: Graph) -> list[str]:
    text = print_graph(graph).splitlines()
    return [line for line in text if "frozen=" in line]


def snapshot(graph: Graph) -> tuple[str, dict[str, torch.Tensor]]:
    return print_graph(graph), {name: value.detach().clone() for name, value in constants(graph).items()}


def same(graph: Graph, taken: tuple[str, dict[str, torch.Tensor]]) -> bool:
    text, values = taken
    now = constants(graph)
    return print_graph(graph) == text and all(torch.equal(now[name], values[name]) for name in values)


def proved(step: Pass, graph: Graph) -> Graph:
    """The graph after a pass, every check made; graphs without a finite output are none to prove."""
    ctx = PassContext()
    after = apply_pass(step, graph, ctx)
    try:
        check_pass(step, graph, after, ctx)
    except VerificationError as error:
        if "no output is finite" not in error.message:
            raise
        assume(False)
    return after


# -- the graphs themselves ---------------------------------------------------------------------------------


def test_there_is_a_recipe_for_every_operator() -> None:
    assert set(RECIPES) == set(TABLE)


@pytest.mark.slow
def test_seeded_graphs_reach_every_operator_and_are_always_the_same() -> None:
    seen: set[str] = set()
    for seed in range(200):
        graph = seeded_graph(seed, steps=12)
        seen |= {node.target.__name__ for node in graph.graph.nodes if node.op == "call_function"}
    assert seen == set(TABLE)
    assert print_graph(seeded_graph(7)) == print_graph(seeded_graph(7))


@pytest.mark.slow
@many
@given(graphs())
def test_random_graphs_are_canonical_and_declare_what_they_compute(graph: Graph) -> None:
    check_structure(graph)
    check_shapes(graph)
    for value, node in zip(run(graph, *batch_of(graph, 1)), outputs(graph), strict=True):
        assert tuple(value.shape) == shape_of(node)
    taken = print_graph(graph)
    assert print_graph(infer(graph)) == taken


@pytest.mark.slow
@many
@given(graphs())
def test_print_and_parse_are_inverse(graph: Graph) -> None:
    printed = print_graph(graph)
    again = parse_graph(printed, text_constants(graph))
    assert print_graph(again) == printed
    assert not differs(graph, again)


@some
@given(graphs(), st.integers(2, 3))
def test_a_batch_gives_what_its_samples_give(graph: Graph, length: int) -> None:
    batch = batch_of(graph, length)
    together = run(graph, *batch)
    single = [run(graph, *(value[i : i + 1] for value in batch)) for i in range(length)]
    for index, value in enumerate(together):
        assert value.shape[0] == length
        alone = torch.cat([outs[index] for outs in single])
        # float32 sums in another order: 2**-24 times a few hundred terms and ten operators
        assert quantises(graph) or relative_difference(value, alone) < 1e-3


def quantises(graph: Graph) -> bool:
    """Whether a rounding can turn the last bit of a sum into a whole step."""
    return any(getattr(node.target, "__name__", "") == "fake_quantize" for node in graph.graph.nodes)


# -- copies ------------------------------------------------------------------------------------------------


def spoil(graph: Graph) -> None:
    """Change everything about a graph that can be changed in place."""
    for name in constants(graph):
        with torch.no_grad():
            constant(graph, name).zero_()
    for node in graph.graph.nodes:
        annotate(node, frozen="spoilt")
        if node.op == "call_function":
            node.kwargs = {}


@some
@given(noted_graphs())
def test_a_copy_is_equal_and_independent(graph: Graph) -> None:
    taken = snapshot(graph)
    twin = copy_graph(graph)
    assert same(twin, taken)
    for (name, value), (other, copied) in zip(graph.named_parameters(), twin.named_parameters(), strict=True):
        assert name == other
        assert value.requires_grad == copied.requires_grad
        assert value.data_ptr() != copied.data_ptr() or not value.numel()
    spoil(twin)
    assert same(graph, taken)


@some
@given(noted_graphs())
def test_graphs_survive_deepcopy_and_pickle(graph: Graph) -> None:
    taken = snapshot(graph)
    batch = batch_of(graph, 2)
    for other in (copy.deepcopy(graph), pickle.loads(pickle.dumps(graph))):  # noqa: S301 - our own bytes
        assert same(other, taken)
        check_structure(other)
        for first, second in zip(run(graph, *batch), run(other, *batch), strict=True):
            assert torch.equal(first, second) or bool(torch.isnan(first).any())
        spoil(other)
        assert same(graph, taken)


# -- channels ----------------------------------------------------------------------------------------------


def consistent(graph: Graph, analysis: ChannelAnalysis) -> None:
    """Labels fit the values and constants they index; groups partition what producers make."""
    for node in graph.graph.nodes:
        if node.name in analysis.labels:
            lengths = analysis.labels[node.name].shape
            assert len(lengths) == len(shape_of(node))
            assert all(n in (1, m) for n, m in zip(lengths, shape_of(node), strict=True))
    for binding in analysis.bindings:
        assert constant(graph, binding.constant).shape[binding.axis] == binding.labels.size
    in_groups = [label for group in analysis.groups for label in group.classes]
    assert len(in_groups) == len(set(in_groups))
    assert len({group.name for group in analysis.groups}) == len(analysis.groups)


@pytest.mark.slow
@many
@given(noted_graphs())
def test_channels_that_must_stay_are_frozen_with_their_reason(graph: Graph) -> None:
    analysis = analyse_channels(graph)
    consistent(graph, analysis)
    prunable = {label for group in analysis.prunable() for label in group.classes}
    for node in (*inputs(graph), *outputs(graph)):
        assert prunable.isdisjoint(analysis.labels[node.name].reshape(-1).tolist())
    for node in graph.graph.nodes:
        if note(node).frozen is None or node.name not in analysis.labels:
            continue
        for held in (node, *node.all_input_nodes):
            if held.name in analysis.labels:
                assert prunable.isdisjoint(analysis.labels[held.name].reshape(-1).tolist())
    assert all(group.frozen or group.readers for group in analysis.groups)
    assert all(group.frozen is None or " " in group.frozen for group in analysis.groups)


@pytest.mark.slow
@some
@given(noted_graphs(), st.sampled_from([1.0, 0.7, 0.5, 0.2]), st.sampled_from([1, 2]))
def test_pruning_equals_its_twin_and_a_second_run_changes_nothing(
    graph: Graph, keep: float, rounding: int
) -> None:
    taken = snapshot(graph)
    step = PruneChannels(keep=keep, round=rounding)
    try:
        after = proved(step, graph)
    except Refusal as refusal:
        assert "without channels" in refusal.message or "as kept, but has" in refusal.message  # noqa: PT017
        return
    assert same(graph, taken)
    assert frozen_text(after) == frozen_text(graph)
    again = Pipeline((step,)).run(after, options=RunOptions(verify=False)).graph
    assert not differs(after, again)
    assert print_graph(clean(copy_graph(after))) == print_graph(after)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(300))
def test_pruning_of_seeded_graphs(seed: int) -> None:
    graph = with_keep_notes(random_graph(Seeded(seed), steps=16), Seeded(-seed))
    try:
        proved(PruneChannels(keep=0.6), graph)
    except Refusal as refusal:
        assert "without channels" in refusal.message or "as kept, but has" in refusal.message  # noqa: PT017


@dataclass(frozen=True)
class Drift(Pass):
    """Makes one constant 1 % larger and says that nothing changed."""

    name: ClassVar[str] = "drift"
    which: str = ""

    def run(self, graph: Graph, ctx: PassContext) -> None:
        set_constant(graph, self.which, constant(graph, self.which).detach() * 1.01)


def shown(graph: Graph, other: Graph, seed: int) -> float:
    """Largest relative difference of two graphs on one sample."""
    sample = batch_of(graph, 1, seed)
    pairs = zip(run(other, *sample), run(graph, *sample), strict=True)
    return max(relative_difference(x, y) for x, y in pairs)


@some
@given(graphs(), st.integers(0, 1000))
def test_a_drift_that_shows_anywhere_is_caught(graph: Graph, number: int) -> None:
    """Wherever half of some samples show it. (A quantiser may round it away, an activation may be dead.)"""
    names = [name for name, value in constants(graph).items() if value.is_floating_point()]
    assume(names)
    step = Drift(names[number % len(names)])
    drifted = apply_pass(step, graph, PassContext())
    shows = [shown(graph, drifted, seed) for seed in range(8)]
    assume(sum(1e-4 < share < float("inf") for share in shows) >= 4)
    try:
        Pipeline((step,)).run(graph)
    except VerificationError:
        return
    raise AssertionError(f"a drift of {max(shows):.1%} in {step.which} went through:\n{print_graph(graph)}")
