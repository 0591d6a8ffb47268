"""fuse-activation beyond its goldens: every operator, the reasons, and that the proof bites."""

from __future__ import annotations

import pytest
import torch

import passes.fuse_activation as subject
from mcc.errors import VerificationError
from mcc.ir.graph import Graph, GraphBuilder, calls
from mcc.ir.table import TABLE
from mcc.pass_api import PassContext, apply_pass
from mcc.verify import check_pass
from passes.fuse_activation import FuseActivation

FUSES = [name for name, row in TABLE.items() if row.fuses_activation]


def build(op: str, clamp: str) -> Graph:
    b = GraphBuilder()
    shape = (1, 4) if op == "linear" else (1, 4, 6, 6)
    x = b.input("x", shape)
    if op in ("add", "sub", "mul", "div"):
        y = b.call(op, x, b.exp(x))
    else:
        weight = torch.randn(4, 4) if op == "linear" else torch.randn(4, 4, 3, 3)
        y = b.call(op, x, b.constant("w", weight), None)
    return b.finish(b.clamp(y, min=0.0, max=6.0) if clamp == "clamp" else b.call(clamp, y))


@pytest.mark.parametrize("clamp", ["relu", "relu6", "clamp"])
@pytest.mark.parametrize("op", FUSES)
def test_every_operator_that_fuses(op: str, clamp: str) -> None:
    before, ctx = build(op, clamp), PassContext()
    after = apply_pass(FuseActivation(), before, ctx)
    last = calls(after)[-1]
    assert last.kwargs["activation"] == ("relu" if clamp == "relu" else "relu6")
    assert ctx.counts["activations fused"] == 1
    check_pass(FuseActivation(), before, after, ctx)


def test_the_reason_for_a_value_read_twice() -> None:
    b = GraphBuilder()
    y = b.neg(b.add(b.input("x", (1, 4)), b.constant("c", torch.ones(4)), name="y"))
    source = y.args[0]
    ctx = PassContext()
    apply_pass(FuseActivation(), b.finish(y, b.relu(source, name="z")), ctx)
    assert ctx.refusals == [("z", "y is read elsewhere, too")]


def test_a_wrong_clamp_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "activation_of", lambda node: "relu" if node.name == "relu6" else None)
    b = GraphBuilder()
    x = b.input("x", (1, 4, 8, 8))
    y = b.conv2d(x, b.constant("w", 9 * torch.randn(4, 4, 1, 1)), None)
    before, ctx = b.finish(b.relu6(y)), PassContext()
    after = apply_pass(FuseActivation(), before, ctx)
    with pytest.raises(VerificationError, match="differs"):
        check_pass(FuseActivation(), before, after, ctx)
