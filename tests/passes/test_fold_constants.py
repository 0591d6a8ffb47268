"""fold-constants and drop-dead-code beyond their goldens."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import passes.fold_constants as subject
from mcc.errors import UsageError, VerificationError
from mcc.ir.graph import Graph, GraphBuilder, calls, constants, inputs
from mcc.pass_api import PassContext, apply_pass
from mcc.pipeline import Pipeline
from mcc.verify import check_pass
from passes.drop_dead_code import DropDeadCode
from passes.fold_constants import FoldConstants


def standardised(trains: bool = True) -> Graph:
    b = GraphBuilder()
    x = b.input("x", (1, 3, 4, 4))
    w = b.constant("w", torch.randn(4, 3, 1, 1), trains=trains)
    scaled = b.mul(w, b.constant("g", torch.randn(4, 1, 1, 1), trains=False))
    return b.finish(b.conv2d(x, scaled, None))


@pytest.mark.parametrize("trains", [True, False])
def test_a_folded_weight_trains_as_what_it_is_made_of_does(trains: bool) -> None:
    after = Pipeline((FoldConstants(),)).run(standardised(trains)).graph
    ((_, value),) = constants(after).items()
    assert isinstance(value, nn.Parameter) == trains
    assert len(calls(after)) == 1


def test_a_value_of_too_many_bytes_is_left_alone() -> None:
    b = GraphBuilder()
    x = b.input("x", (1, 3, 8, 8))
    wide = b.resize(b.constant("c", torch.randn(1, 3, 2, 2)), size=(8, 8), name="wide")
    graph = b.finish(b.add(x, wide))
    ctx = PassContext()
    assert len(calls(apply_pass(FoldConstants(), graph, ctx))) == 2
    assert ctx.refusals == [("wide", "its value takes 768 bytes, what it is made from 48")]
    assert len(calls(apply_pass(FoldConstants(growth=16), graph, PassContext()))) == 1
    with pytest.raises(UsageError, match="growth must be positive"):
        Pipeline.parse("fold-constants{growth=0}")


def test_a_wrong_value_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    real = subject.evaluate
    monkeypatch.setattr(subject, "evaluate", lambda graph, node: real(graph, node) * 1.01)
    before = standardised()
    after = apply_pass(FoldConstants(), before, PassContext())
    with pytest.raises(VerificationError, match="differs"):
        check_pass(FoldConstants(), before, after, PassContext())


def test_dead_code_goes_and_inputs_stay() -> None:
    b = GraphBuilder()
    x, y = b.input("x", (1, 3)), b.input("y", (1, 3))
    b.relu(b.linear(y, b.constant("dead", torch.randn(4, 3)), None))
    graph = b.finish(b.relu(x))
    result = Pipeline((DropDeadCode(),)).run(graph)
    assert [node.name for node in inputs(result.graph)] == ["x", "y"]
    assert list(constants(result.graph)) == []
    assert result.reports[0].counts == {"operators dropped": 2}
