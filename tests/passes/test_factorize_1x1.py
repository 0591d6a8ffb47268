"""factorize-1x1: the best pair on the data, balanced, proved, and refused where it would not pay."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mcc.analysis.low_rank import factors
from mcc.analysis.second_moments import input_moments
from mcc.ir.graph import Graph, GraphBuilder, calls, constant, constants, run
from mcc.ir.interpreter import values_of
from mcc.ir.notes import annotate, note
from mcc.pass_api import PassContext
from mcc.pipeline import Pipeline, PipelineResult
from passes.factorize_1x1 import Factorize1x1


def network(out: int = 12, width: int = 16) -> Graph:
    torch.manual_seed(0)
    b = GraphBuilder()
    x = b.input("x", (1, 3, 6, 6))
    x = b.conv2d(x, b.constant("stem_w", torch.randn(width, 3, 3, 3)), None, name="stem", activation="relu")
    weight, bias = b.constant("w", torch.randn(out, width, 1, 1)), b.constant("b", torch.randn(out))
    return b.finish(b.conv2d(x, weight, bias, name="dense", activation="relu6"))


def samples(count: int = 2, batch: int = 4) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(3)
    return tuple(torch.randn(batch, 3, 6, 6, generator=generator) for _ in range(count))


def factorize(graph: Graph, ctx: PassContext | None = None, **options: float) -> PipelineResult:
    return Pipeline((Factorize1x1(**options),)).run(graph, ctx)


def test_a_pair_takes_the_place_of_the_layer() -> None:
    result = factorize(network(), rank=0.25)
    first, second = calls(result.graph)[1:]
    assert (first.name, second.name) == ("dense_v", "dense")
    assert constant(result.graph, "w_v").shape == (3, 16, 1, 1)
    assert constant(result.graph, "w_u").shape == (12, 3, 1, 1)
    assert "w" not in constants(result.graph)
    assert first.kwargs["activation"] == "none", "nothing stands between the halves"
    assert first.args[2] is None
    assert second.kwargs["activation"] == "relu6"
    assert note(first).rank == note(second).rank == 3
    assert note(first).origin == ("dense",)
    assert result.reports[0].worst is not None
    assert result.reports[0].worst < 1e-12


def test_full_rank_loses_nothing() -> None:
    weight = torch.randn(6, 9, 1, 1)
    moment = torch.cov(torch.randn(9, 50)).double()
    for u, v in (factors(weight, None, 6), factors(weight, moment, 6)):
        assert torch.allclose((u[:, :, 0, 0] @ v[:, :, 0, 0])[:, :, None, None], weight, atol=1e-5)


def test_without_data_it_is_the_truncated_svd() -> None:
    weight = torch.randn(8, 10, 1, 1, dtype=torch.float64)
    u, v = factors(weight, None, 3)
    error = (weight[:, :, 0, 0] - u[:, :, 0, 0] @ v[:, :, 0, 0]).square().sum()
    singular = torch.linalg.svdvals(weight[:, :, 0, 0])
    assert float(error) == pytest.approx(float(singular[3:].square().sum()))


def test_data_make_the_error_on_data_smaller() -> None:
    weight = torch.randn(8, 10, 1, 1, dtype=torch.float64)
    pixels = torch.diag(torch.logspace(0, -2, 10, dtype=torch.float64)) @ torch.randn(10, 400).double()
    moment = pixels @ pixels.T / 400

    def error(pair: tuple[Tensor, Tensor]) -> float:
        product = pair[0][:, :, 0, 0] @ pair[1][:, :, 0, 0]
        return float(((weight[:, :, 0, 0] - product) @ pixels).square().mean())

    aware, plain = error(factors(weight, moment, 3)), error(factors(weight, None, 3))
    assert aware < 0.8 * plain
    for seed in range(20):  # no other pair of the same rank is better
        other = factors(weight + 0.05 * torch.randn(8, 10, 1, 1, generator=_seeded(seed)).double(), moment, 3)
        assert error(other) >= aware


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_inner_channels_have_equal_energy_on_the_data() -> None:
    ctx = PassContext(samples())
    graph = factorize(network(), ctx, rank=0.25).graph
    values = torch.cat([values_of(graph, (batch,), ["dense_v"])["dense_v"] for batch in samples()])
    energy = values.double().square().mean((0, 2, 3))
    assert torch.allclose(energy, torch.ones(3, dtype=torch.float64), rtol=1e-4)


def test_moments_are_those_of_the_layers_input() -> None:
    graph = network()
    moment = input_moments(graph, [calls(graph)[1]], samples())["dense"]
    pixels = [values_of(graph, (batch,), ["stem"])["stem"].double() for batch in samples()]
    wanted = sum(torch.einsum("nihw,njhw->ij", p, p) for p in pixels) / sum(p.numel() / 16 for p in pixels)
    assert torch.allclose(moment, wanted)


def test_the_outputs_come_nearer_with_the_rank() -> None:
    graph, batch = network(), samples()[0]
    errors: list[float] = []
    for rank in (1, 2, 4, 6):
        annotate(calls(graph)[1], rank=rank)
        result = factorize(graph, PassContext(samples())).graph
        errors.append(float((run(result, batch)[0] - run(graph, batch)[0]).square().mean()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 3


def test_a_second_run_leaves_pairs_alone() -> None:
    once = factorize(network(), rank=0.25)
    assert not factorize(once.graph, rank=0.25).reports[0].changed
    assert not factorize(once.graph).reports[0].changed


def test_what_would_not_pay_is_refused_with_its_reason() -> None:
    graph = network(8, 8)
    result = factorize(graph, rank=0.5)
    reason = "a pair of rank 4 has as many operations as the dense 8 to 8"
    assert result.reports[0].refusals == (("dense", reason),)
    assert not result.reports[0].changed
    annotate(calls(graph)[1], rank=3)
    assert factorize(graph).reports[0].changed
    annotate(calls(graph)[1], frozen="by hand")
    assert factorize(graph).reports[0].refusals == (("dense", "by hand"),)


def test_shared_and_strided_layers_stay_dense() -> None:
    b = GraphBuilder()
    x, w = b.input("x", (1, 8, 4, 4)), b.constant("w", torch.randn(8, 8, 1, 1))
    shared = b.conv2d(b.conv2d(x, w, None), w, None)
    graph = b.finish(b.conv2d(shared, b.constant("v", torch.randn(8, 8, 1, 1)), None, stride=(2, 2)))
    assert not factorize(graph, rank=0.25).reports[0].changed


@pytest.mark.parametrize("rank", [-0.1, 1.1, float("nan")])
def test_options_are_checked(rank: float) -> None:
    with pytest.raises(ValueError, match="must lie in"):
        Factorize1x1(rank)
