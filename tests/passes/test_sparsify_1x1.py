"""sparsify-1x1: how many weights become zero, which, in what pattern, and which layers are left alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mcc.analysis.thinning import thin, zero_count
from mcc.errors import VerificationError
from mcc.ir.graph import Graph, GraphBuilder, calls, constant, set_constant
from mcc.ir.notes import SparseNote, annotate, note
from mcc.pass_api import PassContext
from mcc.pipeline import Pipeline, PipelineResult
from passes.sparsify_1x1 import Sparsify1x1


def network(out: int = 8, **attributes: object) -> Graph:
    torch.manual_seed(0)
    b = GraphBuilder()
    x = b.input("x", (1, 4, 6, 6))
    x = b.conv2d(x, b.constant("w", torch.randn(out, 4, 1, 1)), None, name="thin", **attributes)
    return b.finish(b.conv2d(x, b.constant("v", torch.randn(2, out, 3, 3)), None, name="wide"))


def sparsify(graph: Graph, **options: float) -> PipelineResult:
    return Pipeline((Sparsify1x1(**options),)).run(graph)  # pyright: ignore


def zeros(graph: Graph, name: str) -> float:
    return float((constant(graph, name) == 0).double().mean())


weights = st.builds(
    lambda out, width, seed: torch.randn(out, width, 1, 1, generator=torch.Generator().manual_seed(seed)),
    st.integers(1, 9), st.integers(1, 6), st.integers(0, 99),
)  # fmt: skip
wishes = st.builds(SparseNote, st.sampled_from([1, 2, 4]), st.floats(0.0, 1.0))


@given(weights, wishes)
def test_the_weakest_blocks_go_and_the_others_are_untouched(weight: torch.Tensor, wanted: SparseNote) -> None:
    thinned = thin(weight, wanted)
    kept = thinned != 0
    assert torch.equal(thinned[kept], weight[kept])
    assert int((~kept).sum()) >= zero_count(weight, wanted)
    energy: list[tuple[float, bool]] = []
    for start in range(0, weight.shape[0], wanted.block):
        rows = slice(start, start + wanted.block)
        for column in range(weight.shape[1]):
            stays = kept[rows, column].flatten()
            assert bool(stays.all()) or not bool(stays.any()), "a block is kept or dropped as a whole"
            energy.append((float(weight[rows, column].double().square().sum()), bool(stays.all())))
    dropped = [value for value, stays in energy if not stays]
    assert len(dropped) == int(len(energy) * wanted.sparsity)
    assert max(dropped, default=0.0) <= min((v for v, stays in energy if stays), default=float("inf"))
    assert torch.equal(thin(thinned, wanted), thinned)


def test_equal_weights_are_thinned_from_the_back() -> None:
    thinned = thin(torch.ones(2, 4, 1, 1), SparseNote(1, 0.5))[:, :, 0, 0]
    assert thinned.tolist() == [[1, 1, 1, 1], [0, 0, 0, 0]]


def test_the_share_of_zeros_is_noted_and_counted() -> None:
    result = sparsify(network(), sparsity=0.75, block=2)
    assert zeros(result.graph, "w") == 0.75
    assert note(calls(result.graph)[0]).sparse == SparseNote(2, 0.75)
    assert result.reports[0].counts == {"weights zeroed": 24}
    assert result.reports[0].worst is None
    assert not sparsify(result.graph, sparsity=0.75, block=2).reports[0].changed


def test_a_note_goes_before_the_option() -> None:
    graph = network()
    annotate(calls(graph)[0], sparse=SparseNote(1, 0.25))
    assert zeros(sparsify(graph, sparsity=0.75).graph, "w") == 0.25
    assert zeros(sparsify(graph).graph, "w") == 0.25
    assert zeros(sparsify(network()).graph, "w") == 0.0


@pytest.mark.parametrize("attributes", [{"stride": (2, 2)}, {"padding": (1, 1, 1, 1)}])
def test_what_no_runtime_runs_sparse_is_left_alone(attributes: dict[str, object]) -> None:
    result = sparsify(network(**attributes), sparsity=0.5)
    assert zeros(result.graph, "w") == 0.0
    reason = "no runtime runs a strided, padded or grouped 1x1 sparse"
    assert result.reports[0].refusals == (("thin", reason),)
    graph = network(**attributes)
    annotate(calls(graph)[0], sparse=SparseNote(1, 0.5))
    assert note(calls(sparsify(graph).graph)[0]).sparse is None


def test_frozen_layers_and_halves_of_pairs_are_left_alone() -> None:
    graph = network()
    annotate(calls(graph)[0], frozen="by hand")
    result = sparsify(graph, sparsity=0.5)
    assert zeros(result.graph, "w") == 0.0
    assert result.reports[0].refusals == (("thin", "by hand"),)
    graph = network()
    annotate(calls(graph)[0], rank=2)
    assert zeros(sparsify(graph, sparsity=0.5).graph, "w") == 0.0


def test_missing_zeros_are_caught() -> None:
    graph = sparsify(network(), sparsity=0.5).graph
    Sparsify1x1().ensures(graph)
    value = constant(graph, "w").detach().clone()
    value[value == 0] = 1e-9
    set_constant(graph, "w", value)
    with pytest.raises(VerificationError, match=r"thin: has 0.0% zeros, noted 50.0%"):
        Sparsify1x1().ensures(graph)


@pytest.mark.parametrize("option", [{"sparsity": 1.5}, {"sparsity": -0.1}, {"block": 3}])
def test_options_are_checked(option: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        Sparsify1x1(**option)  # pyright: ignore


def test_nothing_is_drawn() -> None:
    ctx = PassContext()
    state = ctx.generator.get_state()
    Sparsify1x1(sparsity=0.5).run(network(), ctx)
    assert torch.equal(ctx.generator.get_state(), state)
