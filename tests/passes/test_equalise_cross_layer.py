"""equalise-cross-layer beyond its goldens: ranges, reasons, and that the proof bites."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import passes.equalise_cross_layer as subject
from mcc.analysis.scaling import channel_rows, scale_channels
from mcc.errors import VerificationError
from mcc.ir.graph import Graph, GraphBuilder, calls, constant, run
from mcc.ir.interpreter import values_of
from mcc.ir.notes import annotate
from mcc.pass_api import PassContext, apply_pass
from mcc.pipeline import Pipeline
from mcc.verify import check_pass
from passes.equalise_cross_layer import EqualiseCrossLayer

SPREAD = torch.tensor([1e-3, 0.02, 0.3, 1.0, 5.0, 60.0, 700.0, 1.5])


def network(activation: str = "relu", depthwise: bool = True) -> Graph:
    """Three layers whose eight inner channels differ in range by up to a million."""
    torch.manual_seed(0)
    b = GraphBuilder()
    x = b.input("x", (1, 3, 6, 6))
    wide = SPREAD.reshape(-1, 1, 1, 1)
    x = b.conv2d(
        x, b.constant("a_w", torch.randn(8, 3, 1, 1) * wide), b.constant("a_b", torch.randn(8) * SPREAD),
        activation=activation, name="a",
    )  # fmt: skip
    if depthwise:
        x = b.conv2d(x, b.constant("d_w", torch.randn(8, 1, 3, 3)), None, groups=8, name="d")
    return b.finish(
        b.conv2d(x, b.constant("c_w", torch.randn(4, 8, 1, 1) / wide.reshape(1, 8, 1, 1)), None, name="c")
    )


def spread(value: Tensor) -> float:
    """Largest over smallest magnitude of the channels of a value."""
    largest = value.abs().transpose(0, 1).flatten(1).amax(1)
    return float(largest.max() / largest.min())


@pytest.mark.parametrize("data", [False, True])
def test_ranges_of_channels_come_together(data: bool) -> None:
    batch = torch.randn(16, 3, 6, 6)
    ctx = PassContext((batch,) if data else ())
    before = network()
    after = Pipeline((EqualiseCrossLayer(),)).run(before, ctx).graph
    old, new = (values_of(graph, (batch,), ["a", "d"]) for graph in (before, after))
    assert spread(old["a"]) > 1e5
    assert spread(new["a"]) < 20
    assert spread(new["d"]) < 20
    for one, other in zip(run(before, batch), run(after, batch), strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-4)


def test_factors_are_powers_of_two_so_that_no_weight_is_rounded() -> None:
    before = network()
    after = apply_pass(EqualiseCrossLayer(), before, PassContext())
    for name in ("a_w", "a_b", "d_w", "c_w"):
        ratio = (constant(after, name) / constant(before, name)).detach().double()
        assert torch.equal(torch.log2(ratio), torch.round(torch.log2(ratio)))


@pytest.mark.parametrize(
    ("activation", "reason"),
    [
        ("relu6", "relu6 of a scaled value is no scaled relu6; replace-activation{of=relu6} replaces it"),
    ],
)
def test_relu6_is_left_alone_with_the_way_out(activation: str, reason: str) -> None:
    ctx = PassContext()
    after = apply_pass(EqualiseCrossLayer(), network(activation, depthwise=False), ctx)
    assert ctx.refusals[0] == ("a", reason)
    assert torch.equal(constant(after, "a_w"), constant(network(activation, depthwise=False), "a_w"))


def test_reasons() -> None:
    graph = network()
    annotate(calls(graph)[1], frozen="by hand")
    ctx = PassContext()
    apply_pass(EqualiseCrossLayer(), graph, ctx)
    assert ctx.refusals == [("a", "by hand"), ("d", "by hand"), ("c", "it is an output")]


def test_crossing_a_relu6_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The verifier is what stands between a wrong claim of exactness and the user."""
    before = network("relu6")
    real = subject.scaling_pairs

    def blind(graph: Graph, refuse: object) -> object:
        held = calls(graph)[0].kwargs
        calls(graph)[0].kwargs = {**held, "activation": "relu"}
        found = real(graph, lambda node, reason: None)
        calls(graph)[0].kwargs = held
        return found

    monkeypatch.setattr(subject, "scaling_pairs", blind)
    after = apply_pass(EqualiseCrossLayer(), before, PassContext())
    with pytest.raises(VerificationError, match="differs"):
        check_pass(EqualiseCrossLayer(), before, after, PassContext())


def test_a_forgotten_reader_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(layer: object, weight: Tensor, side: str, factor: Tensor) -> Tensor:
        return weight if side == "read" else scale_channels(layer, weight, side, factor)  # pyright: ignore

    monkeypatch.setattr(subject, "scale_channels", forgetful)
    monkeypatch.setattr(subject, "MAX_SWEEPS", 1)
    after = apply_pass(EqualiseCrossLayer(), network(), PassContext())
    with pytest.raises(VerificationError, match="differs"):
        check_pass(EqualiseCrossLayer(), network(), after, PassContext())


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("op", ["conv2d", "conv_transpose2d"])
def test_rows_and_factors_follow_the_groups(op: str, groups: int) -> None:
    """Scaling what writes channel c scales channel c of the result; likewise for what reads it."""
    torch.manual_seed(1)
    b = GraphBuilder()
    x = b.input("x", (1, 4, 5, 5), "f64")
    shape = (8, 4 // groups, 3, 3) if op == "conv2d" else (4, 8 // groups, 3, 3)
    held = b.constant("w", torch.randn(shape, dtype=torch.float64))
    graph = b.finish(b.call(op, x, held, None, groups=groups))
    (layer,), batch = calls(graph), torch.randn(2, 4, 5, 5, dtype=torch.float64)
    weight = constant(graph, "w").detach().clone()
    (plain,) = run(graph, batch)
    out, into = torch.rand(8, dtype=torch.float64) + 0.5, torch.rand(4, dtype=torch.float64) + 0.5
    constant(graph, "w").data = scale_channels(layer, weight, "written", out)
    assert torch.allclose(run(graph, batch)[0], plain * out.reshape(1, -1, 1, 1))
    constant(graph, "w").data = scale_channels(layer, weight, "read", 1 / into)
    assert torch.allclose(run(graph, batch * into.reshape(1, -1, 1, 1))[0], plain)
    assert channel_rows(layer, weight, "written").shape[0] == 8
    assert channel_rows(layer, weight, "read").shape[0] == 4
