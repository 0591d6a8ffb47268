"""drop-identity beyond its goldens: near misses stay."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import fx

import passes.drop_identity as subject
from mcc.errors import VerificationError
from mcc.ir.graph import GraphBuilder, calls
from mcc.pass_api import PassContext, apply_pass
from mcc.verify import check_pass
from passes.drop_identity import DropIdentity

NEAR_MISSES: dict[str, Callable[[GraphBuilder, fx.Node], fx.Node]] = {
    "slice": lambda b, x: b.slice(x, axis=1, start=0, stop=3),
    "strided slice": lambda b, x: b.slice(x, axis=2, start=0, stop=4, step=2),
    "transpose of equal axes": lambda b, x: b.transpose(x, perm=(0, 1, 3, 2)),
    "reshape": lambda b, x: b.reshape(x, shape=(16, 4)),
    "pool with stride": lambda b, x: b.max_pool2d(x, kernel=(1, 1), stride=(2, 2)),
    "pool with kernel": lambda b, x: b.avg_pool2d(x, kernel=(3, 3), stride=(1, 1), padding=(1, 1, 1, 1)),
    "relu6 behind relu": lambda b, x: b.relu6(b.relu(x)),
    "relu behind leaky relu": lambda b, x: b.relu(b.leaky_relu(x)),
    "half-open clamp": lambda b, x: b.clamp(x, min=-1.0),
    "concat": lambda b, x: b.concat(x, x, axis=1),
}


@pytest.mark.parametrize("name", list(NEAR_MISSES))
def test_near_misses_stay(name: str) -> None:
    b = GraphBuilder()
    x = b.input("x", (1, 4, 4, 4))
    before, ctx = b.finish(b.neg(NEAR_MISSES[name](b, x))), PassContext()
    after = apply_pass(DropIdentity(), before, ctx)
    assert len(calls(after)) == len(calls(before))
    assert not ctx.counts
    check_pass(DropIdentity(), before, after, ctx)


def test_transposes_are_composed() -> None:
    b = GraphBuilder()
    x = b.input("x", (1, 2, 3, 4))
    y = b.transpose(b.transpose(x, perm=(0, 2, 3, 1)), perm=(0, 3, 2, 1))
    before, ctx = b.finish(b.neg(y)), PassContext()
    after = apply_pass(DropIdentity(), before, ctx)
    assert [node.kwargs["perm"] for node in calls(after, "transpose")] == [(0, 1, 3, 2)]
    check_pass(DropIdentity(), before, after, ctx)


def test_dropping_an_activation_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(subject._SAME, "relu", lambda node, shape: True)
    b = GraphBuilder()
    before, ctx = b.finish(b.neg(b.relu(b.input("x", (1, 4))))), PassContext()
    after = apply_pass(DropIdentity(), before, ctx)
    with pytest.raises(VerificationError, match="differs"):
        check_pass(DropIdentity(), before, after, ctx)


def test_deep_chains_vanish_in_one_run() -> None:
    b = GraphBuilder()
    x = b.input("x", (1, 4))
    for _ in range(50):
        x = b.identity(b.reshape(x, shape=(2, 2) if len(b.graph.nodes) % 4 == 1 else (4,)))
    after = apply_pass(DropIdentity(), b.finish(b.neg(x)), PassContext())
    assert len(calls(after)) <= 2
