"""Values of unlike ranges on one scale: boxes beside scores, dictated scales, slices; on three runtimes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mcc.errors import DataError
from mcc.ir.graph import Graph, GraphBuilder, calls, op_name, outputs, run
from mcc.ir.notes import annotate, shape_of
from mcc.lower.formats import get_format
from mcc.pass_api import PassContext, apply_pass
from mcc.quant.decoding import DECODES
from mcc.quant.regions import integer_nodes
from mcc.quant.simulator import flavour_of, simulate
from mcc.report.compare import compare_outputs
from mcc.report.measure import run_file
from mcc.runtime import get_target
from passes.insert_qdq import InsertQdq
from tests.quant.detectors import BOXES, HEADS, images, one_map, pixels_and_scores

RUNTIMES = {"litert-host": "tflite", "ort-host": "onnx", "executorch-host": "pte"}
BOX_SHARE = 0.01
SCORE = 0.02


def quantised(graph: Graph, seed: int = 1) -> tuple[Graph, PassContext]:
    ctx = PassContext((images(128, seed),))
    return apply_pass(InsertQdq(), graph, ctx), ctx


@pytest.mark.slow
@pytest.mark.parametrize("target", RUNTIMES)
@pytest.mark.parametrize("head", HEADS)
def test_a_head_adds_little_to_the_noise_of_its_convolutions(head: str, target: str, tmp_path: Path) -> None:
    """Held against the same network whose convolutions alone run on integers, and against float."""
    found = get_target(target)
    assert found.available().ok, "the tests' environment has all three runtimes, see tools/lib/setup.sh"
    make, axis = HEADS[head]
    graph, body = make(), make()
    for node in calls(body):
        if op_name(node) != "conv2d":
            annotate(node, precision="float")
    result, _ = quantised(graph)
    file = tmp_path / f"head.{RUNTIMES[target]}"
    file.write_bytes(get_format(RUNTIMES[target]).lower(result))
    x = images(32, 2)
    made = run_file(found, file, [x.numpy()], [shape_of(value) for value in outputs(graph)])
    (expected,) = simulate(result, [x], flavour=flavour_of(file.suffix))
    assert compare_outputs(made, [expected.numpy()], integer=False, tolerance=0.01).passed
    (wanted,), (plain,) = run(graph, x), simulate(quantised(body)[0], [x])
    value, wanted, plain = (t.movedim(axis, 1) for t in (torch.from_numpy(made[0]), wanted, plain))
    span = float(wanted[:, :BOXES].max() - wanted[:, :BOXES].min())
    added = (value - plain).abs()
    assert float(added[:, :BOXES].max()) < BOX_SHARE * span
    assert float(added[:, BOXES:].max()) < SCORE
    assert float((value - wanted)[:, :BOXES].square().mean().sqrt()) < BOX_SHARE / 2 * span
    assert float((value - wanted)[:, BOXES:].square().mean().sqrt()) < SCORE / 2


@pytest.mark.parametrize("gain", [40.0, 100.0, 300.0, 3000.0])
def test_a_join_of_unlike_ranges_stays_float_by_node(gain: float) -> None:
    result, ctx = quantised(pixels_and_scores(gain))
    refused = dict(ctx.refusals)
    assert list(refused) == ["pixels", "joined"]
    assert refused["pixels"] == DECODES
    assert "dB of signal to noise" in refused["joined"]
    assert "joined" not in {node.name for node in integer_nodes(result)}


def test_what_reads_such_a_join_stays_float_too_and_keeps_its_numbers() -> None:
    graph = pixels_and_scores(300.0, ends_in_conv=True)
    result, ctx = quantised(graph)
    assert dict(ctx.refusals)["last_map"] == "no grid of int8 holds what it reads from joined"
    x = images(16, 2)
    (wanted,), (made,) = run(graph, x), simulate(result, [x])
    assert float((made - wanted).square().mean()) < 1e-3 * float(wanted.square().mean())


@pytest.mark.parametrize("cut", [True, False])
def test_channels_of_unlike_ranges_in_one_map_keep_it_in_float(cut: bool) -> None:
    _, ctx = quantised(one_map(cut))
    assert "head_map" in dict(ctx.refusals)


def test_like_ranges_are_joined_on_integers() -> None:
    result, ctx = quantised(pixels_and_scores(1.0, "tanh"))
    refused = [reason for node, reason in ctx.refusals if node == "joined"]
    assert "joined" in {node.name for node in integer_nodes(result)} or refused == [
        "its parts have unlike scales: they are joined behind the dequantisation"
    ]


def test_a_dictated_scale_that_flattens_a_value_is_not_used() -> None:
    """A softmax over 900 places gives each about a thousandth, a quarter of the step of 1/256."""
    b = GraphBuilder()
    x = b.input("x", (1, 3, 32, 32))
    y = b.conv2d(x, b.constant("w", torch.full((1, 3, 3, 3), 0.02)), None)
    y = b.softmax(b.reshape(y, shape=(900,)), axis=1, name="attention")
    graph = b.finish(b.linear(y, b.constant("v", torch.randn(4, 900)), None))
    result, ctx = quantised(graph)
    assert "the scale that the runtime dictates" in dict(ctx.refusals)["attention"]
    (wanted,), (made,) = run(graph, images(8, 2)), simulate(result, [images(8, 2)])
    assert float((made - wanted).abs().max()) < 0.05 * float(wanted.abs().max())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_data_that_is_not_finite_names_the_value(bad: float) -> None:
    batch = images(4, 1)
    batch[1, 0, 3, 3] = bad
    with pytest.raises(DataError, match="not finite on the calibration data") as caught:
        apply_pass(InsertQdq(), pixels_and_scores(), PassContext((batch,)))
    assert caught.value.where == "x"


def test_an_overflow_names_the_value_in_which_it_shows() -> None:
    b = GraphBuilder()
    x = b.conv2d(b.input("x", (1, 3, 8, 8)), b.constant("w", torch.full((4, 3, 1, 1), 200.0)), None)
    graph = b.finish(b.conv2d(b.exp(x), b.constant("v", torch.randn(2, 4, 1, 1)), None, name="reads"))
    with pytest.raises(DataError, match="not finite") as caught:
        apply_pass(InsertQdq(), graph, PassContext((torch.ones(2, 3, 8, 8),)))
    assert caught.value.where == "exp"


def test_a_mask_of_attention_is_no_range_for_int8() -> None:
    b = GraphBuilder()
    x = b.conv2d(b.input("x", (1, 3, 8, 8)), b.constant("w", torch.randn(4, 3, 1, 1)), None)
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 4:] = torch.finfo(torch.float32).min / 2
    graph = b.finish(b.softmax(b.add(x, b.constant("mask", mask), name="masked"), axis=3))
    result, ctx = quantised_like(graph)
    assert "masked" in dict(ctx.refusals)
    x = torch.randn(4, 3, 8, 8)
    assert torch.allclose(simulate(result, [x])[0], run(graph, x)[0], atol=0.05)


def quantised_like(graph: Graph) -> tuple[Graph, PassContext]:
    ctx = PassContext((torch.randn((32, 3, 8, 8), generator=torch.Generator().manual_seed(1)),))
    return apply_pass(InsertQdq(), graph, ctx), ctx
