"""The passes that bring networks into XNNPACK's sparse path, beyond their goldens; what inspect says."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor, fx

import passes.fold_hardsigmoid
import passes.grow_kernel
import passes.linear_head
import passes.symmetrise_padding
from mcc.analysis.sparse_cluster import find_sparse_cluster
from mcc.errors import VerificationError
from mcc.ir.graph import Graph, GraphBuilder, calls, constant, operand, run, set_constant
from mcc.ir.notes import shape_of
from mcc.pass_api import Pass, PassContext, apply_pass
from mcc.pipeline import Pipeline
from mcc.report.sparse_path import sparse_path
from mcc.runtime import get_target
from mcc.verify import check_pass
from passes.fold_hardsigmoid import FoldHardsigmoid
from passes.grow_kernel import GrowKernel
from passes.linear_head import LinearHead
from passes.symmetrise_padding import SymmetrisePadding

SYMMETRIC, SAME = (1, 1, 1, 1), (0, 1, 0, 1)


def network(
    *,
    stem: tuple[int, ...] = SYMMETRIC,
    deep: tuple[int, ...] = SYMMETRIC,
    gate: str = "",
    head: str = "linear",
    side: int = 3,
) -> Graph:
    """Stem, 1x1, depthwise of stride 2, gate, 1x1, pool, head: eligible unless an option says otherwise."""
    b = GraphBuilder()

    def conv(x: fx.Node, out: int, kernel: int, name: str, **options: object) -> fx.Node:
        groups = int(str(options.get("groups", 1)))
        values = torch.randn(out, shape_of(x)[1] // groups, kernel, kernel)
        # Gates must not saturate: a mistake in one would not show.
        weight = b.constant(f"{name}_w", values / values[0].numel() ** 0.5)
        return b.conv2d(x, weight, b.constant(f"{name}_b", torch.randn(out)), name=name, **options)

    x = b.input("x", (1, 3, 32, 32))
    x = conv(x, 8, 3, "stem", stride=(2, 2), padding=stem, activation="relu6")
    x = conv(x, 12, 1, "thin", activation="relu6")
    x = conv(x, 12, side, "deep", stride=(2, 2), padding=deep, groups=12, activation="relu6")
    if head == "none":
        return b.finish(x)
    if gate:
        pooled = b.mean(x, axes=(2, 3), keepdim=True, name="squeeze")
        opened = conv(conv(pooled, 4, 1, "narrow", activation="relu"), 12, 1, "widen")
        x = b.mul(x, b.call(gate, opened, name="gate"), name="gated")
    x = conv(x, 16, 1, "last", activation="relu6")
    if head == "linear":
        x = b.mean(x, axes=(2, 3), keepdim=False, name="pool")
        return b.finish(b.linear(x, b.constant("head", torch.randn(5, 16)), None, name="scores"))
    x = b.mean(x, axes=(2, 3), keepdim=True, name="pool")
    return b.finish(b.reshape(conv(x, 5, 1, "scores"), shape=(5,), name="flat"))


def gated() -> Graph:
    return network(gate="hardsigmoid")


WEB = get_target("litert-web:node").facts()
INELIGIBLE: dict[str, tuple[Callable[[], Graph], str, bool]] = {
    "head": (lambda: network(head="conv"), "linear-head", True),
    "gate": (gated, "fold-hardsigmoid", True),
    "depthwise": (lambda: network(deep=SAME), "grow-kernel", True),
    "stem": (lambda: network(stem=SAME), "symmetrise-padding", False),
    "wide": (lambda: network(deep=(1, 2, 1, 2), side=5), "symmetrise-padding", False),
}


@pytest.mark.parametrize("name", INELIGIBLE)
def test_the_remedy_that_is_named_makes_the_network_eligible(name: str) -> None:
    make, remedy, exact = INELIGIBLE[name]
    graph = make()
    found = sparse_path(graph, WEB)
    assert not found.eligible
    assert found.pipeline is not None
    assert remedy in found.pipeline.split(",")
    assert found.exact is exact
    assert ("are exact" in found.sentences()[1]) is exact
    # The whole pipeline is proved against exact twins here.
    mended = Pipeline.parse(found.pipeline).run(graph, PassContext()).graph
    assert find_sparse_cluster(mended).reason is None
    assert find_sparse_cluster(mended).pointwise == found.convolutions
    value = torch.randn(2, 3, 32, 32)
    same = torch.allclose(run(graph, value)[0], run(mended, value)[0], atol=1e-3)
    assert same is exact


def test_no_remedy_is_promised_where_there_is_none() -> None:
    found = sparse_path(network(gate="softplus"), WEB)
    assert found.pipeline is None
    assert found.sentences() == (f"the sparse path stays off: {found.why_not}",)
    assert found.why_not is not None
    assert found.why_not.startswith("gate is a softplus")


def test_an_eligible_network_and_a_target_without_sparse_kernels() -> None:
    graph = network()
    set_constant(graph, "thin_w", torch.zeros(12, 8, 1, 1))
    found = sparse_path(graph, WEB)
    assert found.eligible
    assert found.zero_share == pytest.approx(96 / (96 + 192))
    assert "all 2 1x1 convolutions together, if more than 67% of their weights are zero (now 33%)" in str(
        found.sentences()
    )
    host = sparse_path(graph, get_target("litert-host").facts())
    assert not host.eligible
    assert "never on x86 with AVX" in host.sentences()[0]


def test_made_symmetric_a_network_does_what_it_did_for_an_image_moved_by_its_steps() -> None:
    """Steps of 1 and 2 pixels: the result for an image is the old one for it moved by 3, off the border."""
    before = network(stem=SAME, deep=(1, 2, 1, 2), side=5, head="none")
    after = apply_pass(SymmetrisePadding(), before, PassContext())
    image = torch.randn(1, 3, 32, 32)
    moved = torch.nn.functional.pad(image, (3, 0, 3, 0))[:, :, :32, :32]
    inside = (..., slice(2, 6), slice(2, 6))
    torch.testing.assert_close(run(after, image)[0][inside], run(before, moved)[0][inside])
    assert not torch.allclose(run(after, image)[0][inside], run(before, image)[0][inside], atol=1e-2)


def _no_three(graph: Graph, source: fx.Node) -> None:
    """A gate without its three."""


def _swapped(node: fx.Node) -> tuple[int, ...]:
    top, bottom, left, right = node.kwargs["padding"]  # type: ignore[misc]
    return bottom, top, right, left


def _shifted(self: Pass, before: Graph, ctx: PassContext) -> Graph:
    """A twin that claims that nothing changes."""
    return before


@pytest.mark.parametrize(
    ("step", "make", "module", "name", "broken"),
    [
        (GrowKernel(), lambda: network(deep=SAME), passes.grow_kernel, "_padding", _swapped),
        (FoldHardsigmoid(), gated, passes.fold_hardsigmoid, "_raise_bias", _no_three),
        (SymmetrisePadding(), lambda: network(stem=SAME), SymmetrisePadding, "reference", _shifted),
    ],
)  # fmt: skip
def test_the_proof_bites(
    step: Pass,
    make: Callable[[], Graph],
    module: ModuleType,
    name: str,
    broken: object,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, ctx = make(), PassContext()
    check_pass(step, before, apply_pass(step, before, ctx), ctx)
    monkeypatch.setattr(module, name, broken)
    after = apply_pass(step, before, ctx)
    with pytest.raises(VerificationError, match=r"differs|was not grown|another size"):
        check_pass(step, before, after, ctx)


def test_a_drifting_head_is_caught() -> None:
    before, ctx = network(head="conv"), PassContext()
    after = apply_pass(LinearHead(), before, ctx)
    check_pass(LinearHead(), before, after, ctx)
    weight = operand(calls(after, "linear")[0], 1)
    set_constant(after, str(weight.target), constant(after, weight).detach() * 1.01)
    with pytest.raises(VerificationError, match="differs"):
        check_pass(LinearHead(), before, after, ctx)


REASONS: dict[str, tuple[Pass, Callable[[], Graph], str, str]] = {
    "gate": (LinearHead(), lambda: network(gate="sigmoid"), "squeeze", "gate for a map"),
    "wide": (
        GrowKernel(), lambda: network(deep=(1, 2, 1, 2), side=5), "deep", "beyond a window of 5x5",
    ),
    "far": (SymmetrisePadding(), lambda: network(stem=(0, 2, 0, 2)), "stem", "more than 1 on a side"),
}  # fmt: skip


@pytest.mark.parametrize("case", REASONS)
def test_reasons(case: str) -> None:
    step, make, node, reason = REASONS[case]
    ctx = PassContext()
    before = make()
    after = apply_pass(step, before, ctx)
    check_pass(step, before, after, ctx)
    assert ctx.refusals[0][0] == node
    assert reason in ctx.refusals[0][1]


def test_what_is_read_elsewhere_keeps_its_hardsigmoid() -> None:
    b = GraphBuilder()
    x = b.input("x", (1, 4, 8, 8))

    def weight(name: str) -> fx.Node:
        return b.constant(name, torch.randn(4, 4, 1, 1))

    source = b.conv2d(x, weight("w"), None, name="source")
    gate = b.hardsigmoid(source, name="gate")
    product = b.mul(x, gate, name="product")
    graph = b.finish(b.conv2d(product, weight("v"), None), b.neg(product))
    ctx = PassContext()
    apply_pass(FoldHardsigmoid(), graph, ctx)
    assert ctx.refusals == [("gate", "product is read by neg, which is neither convolution nor linear")]
    value: Tensor = torch.randn(1, 4, 8, 8)
    assert len(run(graph, value)) == 2
