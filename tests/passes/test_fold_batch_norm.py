"""fold-batch-norm beyond its goldens: reasons, folded numbers, and that the proof bites."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import passes.fold_batch_norm as subject
from mcc.errors import VerificationError
from mcc.ir.graph import Graph, GraphBuilder, calls, constants, run
from mcc.ir.text import parse_graph
from mcc.pass_api import PassContext, apply_pass
from mcc.verify import check_pass
from passes.fold_batch_norm import FoldBatchNorm

NORM = """
const @gain : f32[4] = seed(2)
const @shift : f32[4] = seed(3)
const @mean : f32[4] fixed = seed(4)
const @var : f32[4] fixed = full(0.5)
"""


def graph(body: str) -> Graph:
    return parse_graph("mcc 1\nconst @w : f32[4,4,1,1] = seed(1)\n" + NORM + body)


CONV = "%y = conv2d(%x, @w, none) {} : f32[1,4,5,5]\n"
FUSED = "%y = conv2d(%x, @w, none) {activation='relu'} : f32[1,4,5,5]\n"
FOLLOWS = "%n = batch_norm(%y, @gain, @shift, @mean, @var) {eps=1e-05} : f32[1,4,5,5]\n"
INPUT = "%x = input() {} : f32[1,4,5,5]\n"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (INPUT + FUSED + FOLLOWS + "return %n", "an activation stands between"),
        (INPUT + CONV + FOLLOWS + "return %n, %y", "y is read elsewhere, too"),
        (
            INPUT + "%y = relu(%x) {} : f32[1,4,5,5]\n" + FOLLOWS + "return %n",
            "no convolution or linear layer stands before it",
        ),
        (
            INPUT + "%y = relu(%x) {} : f32[1,4,5,5]\n" + FOLLOWS
            + "%z = conv2d(%n, @w, none) {padding=(0, 0, 0, 1)} : f32[1,4,5,6]\nreturn %z",
            "shift would be missing in the padding",
        ),
    ],
)  # fmt: skip
def test_reasons(body: str, reason: str) -> None:
    ctx = PassContext()
    before = graph(body)
    after = apply_pass(FoldBatchNorm(), before, ctx)
    assert [name for name, _ in ctx.refusals] == ["n"]
    assert reason in ctx.refusals[0][1]
    assert len(calls(after, "batch_norm")) == 1


def test_a_linear_layer_over_sequences_keeps_its_norm() -> None:
    b = GraphBuilder()
    x = b.input("x", (1, 4, 6))
    y = b.linear(x, b.constant("w", torch.randn(4, 6)), None)
    ones, zeros = torch.ones(4), torch.zeros(4)
    stats = [b.constant(name, value) for name, value in zip("gsmv", (ones, zeros, zeros, ones), strict=True)]
    ctx = PassContext()
    apply_pass(FoldBatchNorm(), b.finish(b.batch_norm(y, *stats)), ctx)
    assert "another axis" in ctx.refusals[0][1]


def test_numbers_of_a_network_stay() -> None:
    before = graph(INPUT + CONV + FOLLOWS + "return %n")
    after = apply_pass(FoldBatchNorm(), before, PassContext())
    x = torch.randn(3, 4, 5, 5)
    assert torch.allclose(run(before, x)[0], run(after, x)[0], rtol=0, atol=1e-5)
    assert set(constants(after)) == {"w", "y_bias"}


def test_a_drift_of_one_percent_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    right = subject.fold

    def wrong(graph: Graph, layer: torch.fx.Node, norm: torch.fx.Node) -> tuple[Tensor, Tensor]:
        weight, bias = right(graph, layer, norm)
        return weight * 1.01, bias

    monkeypatch.setattr(subject, "fold", wrong)
    before = graph(INPUT + CONV + FOLLOWS + "return %n")
    ctx = PassContext()
    after = apply_pass(FoldBatchNorm(), before, ctx)
    with pytest.raises(VerificationError, match="differs"):
        check_pass(FoldBatchNorm(), before, after, ctx)
