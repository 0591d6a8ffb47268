"""decompose beyond its goldens: every recipe, integer kernels afterwards, and that the proof bites."""

from __future__ import annotations

import pytest
import torch

from mcc.analysis import decompositions
from mcc.analysis.decompositions import RECIPES, Recipe
from mcc.errors import UsageError, VerificationError
from mcc.ir.graph import Graph, GraphBuilder, add_constant, calls, op_name
from mcc.pass_api import PassContext, apply_pass
from mcc.pipeline import Pipeline
from mcc.quant.regions import INTEGER_KERNELS, integer_nodes
from mcc.verify import check_pass
from passes.decompose import SETS, Decompose
from tests.property.graphs import RECIPES as GRAPH_RECIPES
from tests.property.graphs import Maker, Seeded


def graph_with(op: str, seed: int) -> Graph | None:
    """A small random graph around one operator; None where the random recipe could not place it."""
    m = Maker(Seeded(seed))
    m.pool.append(m.b.input("x", (1, 4, 5, 5)))
    GRAPH_RECIPES[op](m)
    if m.pool[-1].op != "call_function":
        return None
    return m.b.finish(m.pool[-1])


@pytest.mark.parametrize("op", RECIPES)
def test_every_recipe_equals_its_operator(op: str) -> None:
    done = 0
    for seed in range(12):
        graph = graph_with(op, seed)
        if graph is None:
            continue
        step = Decompose(of=op)
        after = apply_pass(step, graph, PassContext())
        check_pass(step, graph, after, PassContext())
        done += len(calls(after)) > len(calls(graph)) or not calls(after, op)
    assert done, "no random graph gave the recipe anything to do"


def test_what_int8_takes_apart_gains_integer_kernels() -> None:
    """Each of the set has no integer kernel, and runs on integers once it is taken apart."""
    assert not set(SETS["int8"]) & set(INTEGER_KERNELS)
    for op in SETS["int8"]:
        b = GraphBuilder()
        x = b.conv2d(b.input("x", (1, 3, 6, 6)), b.constant("w", torch.randn(4, 3, 1, 1)), None)
        rows = [b.constant(f"c{i}", torch.rand(4) + 0.5) for i in range(4)]
        held = {"prelu": rows[:1], "batch_norm": rows}.get(op, [])
        x = b.conv2d(b.identity(b.call(op, x, *held)), b.constant("v", torch.randn(4, 4, 1, 1)), None)
        graph = b.finish(x)
        apart = apply_pass(Decompose(), graph, PassContext())
        after = Pipeline.parse("insert-qdq").run(apart, PassContext((torch.randn(8, 3, 6, 6),))).graph
        floats = [
            n.name for n in calls(after) if op_name(n) != "fake_quantize" and n not in integer_nodes(after)
        ]
        assert floats == [], op


def test_softplus_does_not_overflow() -> None:
    b = GraphBuilder()
    graph = b.finish(b.softplus(b.input("x", (1, 3))))
    after = apply_pass(Decompose(of="all"), graph, PassContext())
    (value,) = after(torch.tensor([[-1e4, 0.0, 1e4]]))
    assert torch.allclose(value, torch.tensor([[0.0, 0.6931472, 1e4]]))


def test_a_wrong_recipe_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(r: Recipe, x: object) -> object:
        held = add_constant(r.graph, r.node, "factor", torch.tensor(1.01, dtype=torch.float32))
        return r.call("mul", r.call("mul", x, r.call("sigmoid", x)), held)  # pyright: ignore

    monkeypatch.setitem(decompositions.RECIPES, "silu", wrong)  # pyright: ignore
    b = GraphBuilder()
    before = b.finish(b.silu(b.input("x", (1, 3))))
    after = apply_pass(Decompose(), before, PassContext())
    with pytest.raises(VerificationError, match="differs"):
        check_pass(Decompose(), before, after, PassContext())


def test_an_operator_that_is_made_of_nothing_is_wrong_use() -> None:
    with pytest.raises(UsageError, match="of must be one of int8, norms, all, hardsigmoid"):
        Pipeline.parse("decompose{of=conv3d}")
