"""replace-activation beyond its goldens: the errors that it states, and that the proof bites."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from mcc.analysis import activation_approximations
from mcc.analysis.activation_approximations import STAND_INS, StandIn, Writer
from mcc.errors import UsageError, VerificationError
from mcc.ir.graph import Graph, GraphBuilder, calls, op_name
from mcc.pass_api import PassContext, apply_pass
from mcc.pipeline import Pipeline
from mcc.verify import check_pass
from passes.replace_activation import ReplaceActivation

LARGEST = {"silu": 0.1423, "gelu": 0.0687, "mish": 0.2013, "elu": 0.3679, "softplus": 0.6931}
"""Largest errors to four places, from torch's own functions on a fine grid."""


def network(op: str, **attributes: object) -> Graph:
    b = GraphBuilder()
    x = b.conv2d(b.input("x", (1, 3, 4, 4)), b.constant("w", torch.eye(3).reshape(3, 3, 1, 1)), None)
    return b.finish(b.call(op, x, name="act", **attributes))


@pytest.mark.parametrize(("op", "error"), LARGEST.items())
def test_the_largest_error_is_stated(op: str, error: float) -> None:
    ctx = PassContext()
    after = apply_pass(ReplaceActivation(), network(op), ctx)
    assert [(node, round(value, 4)) for node, _, value in ctx.measured] == [("act", error)]
    assert not calls(after, op)


def test_errors_on_data_are_those_of_the_data() -> None:
    batch = torch.linspace(-4, 4, 5 * 48).reshape(5, 3, 4, 4)
    ctx = PassContext((batch,))
    apply_pass(ReplaceActivation(), network("silu"), ctx)
    error, wanted = F.hardswish(batch) - F.silu(batch), F.silu(batch)
    _, largest, share = (value for _, _, value in ctx.measured)
    assert largest == pytest.approx(float(error.abs().max()), rel=1e-5)
    assert share == pytest.approx(float(error.norm() / wanted.norm()), rel=1e-5)


def test_a_fused_relu6_is_measured_where_it_stands() -> None:
    b = GraphBuilder()
    x = b.input("x", (1, 3, 4, 4))
    x = b.conv2d(x, b.constant("w", torch.eye(3).reshape(3, 3, 1, 1)), None, activation="relu6", name="act")
    ctx = PassContext((torch.full((2, 3, 4, 4), 7.5),))
    after = Pipeline((ReplaceActivation(of="relu6"),)).run(b.finish(x), ctx)
    assert calls(after.graph)[0].kwargs["activation"] == "relu"
    assert [value for _, _, value in after.reports[0].measured] == [math.inf, 1.5, 0.25]


def test_only_what_was_asked_for_is_replaced() -> None:
    b = GraphBuilder()
    x = b.silu(b.relu6(b.hardswish(b.gelu(b.input("x", (1, 4))))))
    graph = b.finish(x)
    names = {of: [op_name(n) for n in calls(apply_pass(ReplaceActivation(of=of), graph, PassContext()))]
             for of in ("int8", "relu6", "silu")}  # fmt: skip
    assert names["int8"] == ["mul", "hardswish", "mul", "hardswish", "relu6", "hardswish"]
    assert names["relu6"] == ["gelu", "hardswish", "relu", "silu"]
    assert names["silu"] == ["gelu", "hardswish", "relu6", "hardswish"]


def test_every_stand_in_equals_its_definition() -> None:
    for op in STAND_INS:
        step = ReplaceActivation(of=op)
        before = network(op)
        check_pass(step, before, apply_pass(step, before, PassContext()), PassContext())


def test_another_stand_in_than_the_stated_one_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def steeper(w: Writer, x: object) -> object:
        return w.call("hardswish", w.call("mul", x, w.number(1.01)))  # pyright: ignore

    wrong = StandIn(steeper, STAND_INS["silu"].spell)  # pyright: ignore
    monkeypatch.setitem(activation_approximations.STAND_INS, "silu", wrong)
    before = network("silu")
    after = apply_pass(ReplaceActivation(), before, PassContext())
    with pytest.raises(VerificationError, match="differs"):
        check_pass(ReplaceActivation(), before, after, PassContext())


def test_an_unknown_activation_is_wrong_use() -> None:
    with pytest.raises(UsageError, match="of must be int8 or one of silu"):
        Pipeline.parse("replace-activation{of=tanh}")
