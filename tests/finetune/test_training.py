"""The parts of a training step: arithmetic, quantisers, scales, zeros, learning rate, checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import fx

from mcc.errors import UsageError
from mcc.finetune import FineTuneSettings, SparsityRamp
from mcc.finetune.arithmetic import choose_arithmetic, evaluate, float32_conv2d, training_copy
from mcc.finetune.checkpoint import Checkpoint, fingerprint, load, save
from mcc.finetune.fake_quantize import PART, quantise
from mcc.finetune.scales import follow_weights, keep_above, learnable_scales, make_learnable, weight_scales_of
from mcc.finetune.sparsity import SparseWeights
from mcc.finetune.trainer import learning_rate
from mcc.ir import ops
from mcc.ir.graph import Graph, GraphBuilder, calls, constant, constants, operand
from mcc.ir.notes import SparseNote, annotate
from mcc.pass_api import PassContext, apply_pass
from passes.fold_batch_norm import FoldBatchNorm
from passes.fuse_activation import FuseActivation
from passes.insert_qdq import InsertQdq
from passes.sparsify_1x1 import Sparsify1x1
from tests.finetune.networks import network, same


def quantised(seed: int = 0, **options: str) -> Graph:
    graph = apply_pass(
        FuseActivation(), apply_pass(FoldBatchNorm(), network(seed), PassContext()), PassContext()
    )
    batch = torch.rand(32, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 4 - 1
    return apply_pass(InsertQdq(**options), graph, PassContext((batch,)))


# -- quantisers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zero", [-128, -100, 0, 5])
@pytest.mark.parametrize("activation", ["none", "relu", "relu6"])
@pytest.mark.parametrize("scale", [0.011, 6 / 255, 0.05])
def test_the_training_quantiser_equals_the_operator(zero: int, activation: str, scale: float) -> None:
    """Values to the bit."""
    x = torch.randn(8, 6, 9, 9, generator=torch.Generator().manual_seed(zero + 200)) * 4
    s, z = torch.tensor(scale), torch.tensor(zero, dtype=torch.int32)
    left, right = x.clone().requires_grad_(), x.clone().requires_grad_()
    expected = ops.fake_quantize(ops.activate(left, activation), s, z, qmin=-128, qmax=127, axis=None)
    found = quantise(right, s, z, qmin=-128, qmax=127, axis=None, activation=activation)
    assert torch.equal(expected, found)
    weight = torch.randn(x.shape)
    (expected * weight).sum().backward()
    (found * weight).sum().backward()
    assert left.grad is not None
    assert right.grad is not None
    # The operator's gradient is divided by the scale and multiplied again: the last bit may differ.
    assert torch.allclose(left.grad, right.grad, rtol=1e-6, atol=0)


def test_large_values_are_quantised_part_by_part() -> None:
    x = torch.randn(9, 8, 64, 64).contiguous(memory_format=torch.channels_last)
    assert x.numel() > 2 * PART
    s, z = torch.tensor(0.03), torch.tensor(-7, dtype=torch.int32)
    found = quantise(x, s, z, qmin=-128, qmax=127, axis=None)
    assert torch.equal(found, ops.fake_quantize(x, s, z, qmin=-128, qmax=127, axis=None))
    assert found.stride() == x.stride()


def test_weights_are_quantised_per_channel() -> None:
    w = torch.randn(5, 4, 3, 3)
    s, z = w.abs().amax((1, 2, 3)) / 100, torch.zeros(5, dtype=torch.int32)  # 100: some weights are clipped
    left, right = w.clone().requires_grad_(), w.clone().requires_grad_()
    expected = ops.fake_quantize(left, s, z, qmin=-63, qmax=63, axis=0)
    found = quantise(right, s, z, qmin=-63, qmax=63, axis=0)
    assert torch.equal(expected, found)
    expected.square().sum().backward()
    found.square().sum().backward()
    assert left.grad is not None
    assert right.grad is not None
    assert torch.allclose(left.grad, right.grad, rtol=1e-6, atol=0)
    assert bool((right.grad == 0).any())


def test_a_learned_scale_gets_the_operators_gradient_times_the_gain() -> None:
    x = torch.randn(4, 10) * 5
    z = torch.tensor(-20, dtype=torch.int32)
    left, right = torch.tensor(0.04, requires_grad=True), torch.tensor(0.04, requires_grad=True)
    ops.fake_quantize(x, left, z, qmin=-128, qmax=127, axis=None).square().sum().backward()
    quantise(x, right, z, qmin=-128, qmax=127, axis=None).square().sum().backward()
    assert left.grad is not None
    assert right.grad is not None
    gain = (10 * (127 + 20)) ** -0.5
    assert float(right.grad) == pytest.approx(float(left.grad) * gain, rel=1e-4)


# -- arithmetic ---------------------------------------------------------------------------------------------


def test_the_training_copy_computes_the_same() -> None:
    graph = quantised()
    copy = training_copy(graph, "float32")
    x = torch.rand(16, 1, 8, 8)
    expected, found = graph(x)[0], evaluate(copy, x, "float32")[0]
    # Layouts may sum in another order, which moves a value across a rounding border now and then.
    step = constant(graph, operand(calls(graph, "fake_quantize")[-1], 1))
    assert bool(((expected - found).abs() <= 4 * step).all())
    assert {str(n.target) for n in graph.graph.nodes} != {str(n.target) for n in copy.graph.nodes}
    assert same(graph, quantised())


def test_strided_depthwise_convolutions_stay_in_float32() -> None:
    copy = training_copy(network(), "bfloat16")
    kept = [n.name for n in copy.graph.nodes if n.target is float32_conv2d]
    assert kept == ["deep"]
    values = evaluate(copy, torch.rand(4, 1, 8, 8), "bfloat16")
    assert values[0].dtype == torch.float32
    sum(v.sum() for v in values).backward()  # pyright: ignore
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in copy.parameters())


def test_operators_that_bfloat16_harms_stay_in_float32() -> None:
    b = GraphBuilder()
    x = b.input("x", (1, 4))
    graph = b.finish(b.softmax(x, axis=1))
    assert choose_arithmetic("auto", graph) == "float32"
    assert choose_arithmetic("bfloat16", graph) == "bfloat16"
    with pytest.raises(UsageError, match="float64"):
        choose_arithmetic("float64", graph)  # pyright: ignore


# -- scales -------------------------------------------------------------------------------------------------


def test_weight_scales_follow_the_weights() -> None:
    graph = quantised()
    entries = weight_scales_of(graph)
    assert len(entries) == len([n for n in calls(graph, "fake_quantize") if n.kwargs["axis"] == 0])
    before = {e.scale: constant(graph, e.scale).clone() for e in entries}
    follow_weights(graph, entries)
    assert all(torch.allclose(constant(graph, n), v, rtol=1e-5) for n, v in before.items())
    with torch.no_grad():
        constant(graph, entries[0].weight).mul_(3)
    follow_weights(graph, entries)
    assert torch.allclose(constant(graph, entries[0].scale), before[entries[0].scale] * 3, rtol=1e-5)
    assert torch.allclose(constant(graph, entries[1].scale), before[entries[1].scale], rtol=1e-5)


def test_a_clip_chosen_at_the_start_is_kept() -> None:
    graph = quantised(weights="mse", precision="int7")
    entry = weight_scales_of(graph)[0]
    assert float(entry.clips.min()) < 1
    before = constant(graph, entry.scale).clone()
    follow_weights(graph, (entry,))
    assert torch.allclose(constant(graph, entry.scale), before, rtol=1e-5)


def test_the_bias_floor_holds_while_weights_shrink() -> None:
    graph = quantised()
    entry = next(e for e in weight_scales_of(graph) if e.biases)
    bias, source = entry.biases[0]
    with torch.no_grad():
        constant(graph, entry.weight).mul_(1e-12)
    follow_weights(graph, (entry,))
    product = constant(graph, entry.scale).double() * float(constant(graph, source))
    assert bool((constant(graph, bias).detach().double().abs() <= product * 2**30 * (1 + 1e-5)).all())


def test_scales_that_may_learn() -> None:
    graph = quantised()
    names = learnable_scales(graph)
    assert "x_scale" not in names
    assert not any(name.startswith("stem_w") for name in names)
    least = make_learnable(graph, names)
    assert set(names) <= {n for n, _ in graph.named_parameters()}
    with torch.no_grad():
        constant(graph, names[0]).fill_(-1)
    keep_above(graph, least)
    assert constant(graph, names[0]).item() == pytest.approx(least[names[0]])


# -- zeros --------------------------------------------------------------------------------------------------


def pointwise(graph: Graph, name: str) -> fx.Node:
    return next(n for n in graph.graph.nodes if n.name == name)


def test_masks_hold() -> None:
    graph = apply_pass(Sparsify1x1(sparsity=0.75), network(), PassContext())
    zeros = {
        n: constant(graph, n).detach() == 0 for n in ("wide_w", "thin_w", "wide2_w", "thin2_w", "last_w")
    }
    sparse = SparseWeights(graph, None)
    assert set(sparse.masks) == set(zeros)
    with torch.no_grad():
        for value in constants(graph).values():
            value.add_(1)
    sparse.apply(graph, 1, 10)
    for name, zero in zeros.items():
        assert torch.equal(constant(graph, name) == 0, zero)
    assert bool((constant(graph, "stem_w") != 0).all())  # not sparse: untouched


@pytest.mark.parametrize("block", [1, 2])
def test_a_ramp_ends_at_the_noted_sparsity(block: int) -> None:
    graph = network()
    annotate(pointwise(graph, "wide"), sparse=SparseNote(block, 0.8))
    sparse = SparseWeights(graph, SparsityRamp(until=0.5, every=4))
    shares: list[float] = []
    for step in range(1, 41):
        with torch.no_grad():
            constant(graph, "wide_w").add_(torch.randn(24, 8, 1, 1) * 1e-3)
        sparse.apply(graph, step, 40)
        shares.append(float((constant(graph, "wide_w").detach() == 0).double().mean()))
    assert shares == sorted(shares)
    assert shares[2] == 0
    assert 0 < shares[3] < 0.8
    assert shares[19] == shares[-1] == pytest.approx(0.8, abs=0.02)
    rows = (constant(graph, "wide_w")[:, :, 0, 0] == 0).reshape(-1, block, 8)
    assert bool((rows.all(1) == rows.any(1)).all())


def test_the_ramp_is_cubic() -> None:
    ramp = SparsityRamp(until=0.5)
    assert [ramp.share(s, 100) for s in (0, 25, 50, 99)] == pytest.approx([0, 1 - 0.5**3, 1, 1])
    with pytest.raises(ValueError, match="until"):
        SparsityRamp(until=0)


# -- schedule and checkpoints --------------------------------------------------------------------------------


def test_the_learning_rate_rises_and_falls() -> None:
    settings = FineTuneSettings(images=64 * 100, warmup=0.1)
    rates = [learning_rate(settings, 1.0, step) for step in range(100)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 <= rates[-1] < 1e-3


def test_checkpoints_are_taken_up_by_their_own_run_alone(tmp_path: Path) -> None:
    path = tmp_path / "state" / "float.safetensors"
    tensors = {"value.w": torch.randn(3), "mask.w": torch.tensor([True, False, True])}
    save(path, "run", Checkpoint(7, tensors))
    found = load(path, "run")
    assert found is not None
    assert found.step == 7
    assert all(torch.equal(found.tensors[name], value) for name, value in tensors.items())
    assert load(path, "another") is None
    assert load(tmp_path / "missing", "run") is None
    assert [p.name for p in path.parent.iterdir()] == ["float.safetensors"]
    for damage in (path.read_bytes()[:-5], b"", b"\xff" * 64):
        path.write_bytes(damage)
        assert load(path, "run") is None


def test_the_fingerprint_sees_what_decides_a_run() -> None:
    base = FineTuneSettings()
    graph = network()
    prints = {
        fingerprint(graph, None, "data", base, "float32"),
        fingerprint(graph, graph, "data", base, "float32"),
        fingerprint(graph, None, "other", base, "float32"),
        fingerprint(graph, None, "data", FineTuneSettings(images=1), "float32"),
        fingerprint(graph, None, "data", base, "bfloat16"),
        fingerprint(network(1), None, "data", base, "float32"),
    }
    assert len(prints) == 6
    rarely = FineTuneSettings(checkpoint_seconds=1e9)
    assert fingerprint(graph, None, "data", rarely, "float32") in prints


def test_settings_refuse_what_cannot_be() -> None:
    for wrong in ({"images": -1}, {"batch_size": 1}, {"float_share": 1.5}, {"learning_rate": 0.0}):
        with pytest.raises(ValueError, match=r"\w"):
            FineTuneSettings(**wrong)  # pyright: ignore
