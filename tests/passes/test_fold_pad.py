"""fold-pad beyond its goldens: the reasons, and that the proof bites."""

from __future__ import annotations

import pytest
import torch

import passes.fold_pad as subject
from mcc.errors import VerificationError
from mcc.ir.graph import Graph, GraphBuilder, calls
from mcc.pass_api import PassContext, apply_pass
from mcc.verify import check_pass
from passes.fold_pad import FoldPad


def build(padding: tuple[tuple[int, int], ...], mode: str = "constant", value: float = 0.0) -> Graph:
    b = GraphBuilder()
    x = b.input("x", (1, 4, 6, 6))
    p = b.pad(x, padding=padding, mode=mode, value=value, name="p")
    channels = 4 + sum(padding[1])
    return b.finish(b.conv2d(p, b.constant("w", torch.randn(2, channels, 3, 3)), None))


@pytest.mark.parametrize(
    ("padding", "mode", "value", "reason"),
    [
        (((0, 0), (0, 0), (1, 1), (1, 1)), "reflect", 0.0, "pads with 0 only"),
        (((0, 0), (0, 0), (1, 1), (1, 1)), "constant", 0.5, "pads with 0 only"),
        (((0, 0), (0, 2), (1, 1), (1, 1)), "constant", 0.0, "it pads channels"),
    ],
)
def test_reasons(padding: tuple[tuple[int, int], ...], mode: str, value: float, reason: str) -> None:
    before, ctx = build(padding, mode, value), PassContext()
    after = apply_pass(FoldPad(), before, ctx)
    assert ctx.refusals[0][0] == "p"
    assert reason in ctx.refusals[0][1]
    assert len(calls(after, "pad")) == 1
    check_pass(FoldPad(), before, after, ctx)


def test_a_swapped_side_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "_amounts", lambda source: ((0, 0), (0, 0), (1, 0), (1, 0)))
    before, ctx = build(((0, 0), (0, 0), (0, 1), (0, 1))), PassContext()
    after = apply_pass(FoldPad(), before, ctx)
    with pytest.raises(VerificationError, match="differs"):
        check_pass(FoldPad(), before, after, ctx)
