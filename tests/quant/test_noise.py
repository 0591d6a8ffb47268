"""The check that does not trust a quantised graph: healthy networks pass, planted faults are named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import mcc.compress.strategies.int8_ptq as strategy
from mcc.cli import main
from mcc.ir.graph import Graph, calls, constant, copy_graph, is_constant, operand, run, set_buffer
from mcc.ir.storage import load_graph, save_graph
from mcc.pass_api import PassContext, apply_pass
from mcc.quant.noise import check_noise, is_integer, without_quantisers
from passes.insert_qdq import InsertQdq
from tests.compress import stand_ins
from tests.quant.detectors import HEADS, images
from tests.quant.graphs import mobile_net, residual_net


def networks() -> dict[str, Graph]:
    torch.manual_seed(0)
    return {
        "mobile": mobile_net(),
        "residual": residual_net(),
        **{name: make() for name, (make, _) in HEADS.items()},
    }


def quantised(graph: Graph) -> Graph:
    return apply_pass(InsertQdq(), graph, PassContext((images(64, 1),)))


def activations(graph: Graph) -> list[str]:
    found = calls(graph, "fake_quantize")
    return [q.name for q in found if q.kwargs["axis"] is None and not is_constant(operand(q, 0))]


def with_scale(graph: Graph, quantiser: str, factor: float, channel: int | None = None) -> Graph:
    """A copy in which the scale of one quantiser, or of one channel of it, is wrong by a factor."""
    broken = copy_graph(graph)
    node = next(n for n in calls(broken, "fake_quantize") if n.name == quantiser)
    scale = constant(broken, operand(node, 1)).detach().clone()
    if channel is None:
        scale *= factor
    else:
        scale[channel] *= factor
    set_buffer(broken, str(operand(node, 1).target), scale)
    return broken


@pytest.mark.slow
@pytest.mark.parametrize("name", networks())
def test_healthy_networks_pass_on_data_and_on_random_inputs(name: str) -> None:
    graph = quantised(networks()[name])
    on_data, on_noise = check_noise(graph, (images(32, 2),)), check_noise(graph)
    assert not on_data.lost
    assert not on_noise.lost
    assert on_data.compared_on == "32 calibration images"
    assert on_noise.compared_on == "32 random inputs"


@pytest.mark.slow
@pytest.mark.parametrize("factor", [64.0, 1 / 64])
@pytest.mark.parametrize("name", ["mobile", "residual", "pixels"])
def test_a_wrong_scale_of_any_branch_is_found_and_named(name: str, factor: float) -> None:
    """All readers of one scale are wrong together; the first of them in the graph is named."""
    graph = quantised(networks()[name])
    missed = []
    for quantiser in activations(graph):
        report = check_noise(with_scale(graph, quantiser, factor), (images(32, 2),))
        if not report.lost:
            missed.append(quantiser)
        else:
            assert report.failure() is not None
    # What hardly varies keeps its numbers on any grid that has one of its codes near them.
    assert len(missed) <= (1 if factor > 1 else 0), missed


@pytest.mark.slow
def test_a_wrong_zero_point_and_one_wrong_channel_of_a_weight_are_found() -> None:
    graph = quantised(networks()["residual"])
    broken = copy_graph(graph)
    node = next(n for n in calls(broken, "fake_quantize") if n.name == "conv2d_2_q")
    set_buffer(broken, str(operand(node, 2).target), torch.tensor(100, dtype=torch.int32))
    assert check_noise(broken, (images(32, 2),)).lost
    for factor in (64.0, 1 / 64):
        broken = with_scale(graph, "w3_q", factor, channel=5)
        (lost,) = check_noise(broken, (images(32, 2),)).lost[:1]
        assert "channel 5 of its weights" in lost.words


def test_without_quantisers_is_the_float_network() -> None:
    graph = networks()["mobile"]
    plain = without_quantisers(quantised(graph))
    assert not is_integer(plain)
    assert torch.equal(run(plain, images(4, 1))[0], run(graph, images(4, 1))[0])


# -- the three commands ------------------------------------------------------------------------------------


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A quantised network, one branch of which has a scale 64 times too narrow."""
    graph = quantised(networks()["residual"])
    path = tmp_path / "broken.mcc"
    save_graph(with_scale(graph, "conv2d_3_q", 1 / 64), path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("to", ["tflite", "onnx"])
def test_lower_refuses_and_warns(
    to: str, broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / f"model.{to}"
    words = ["lower", str(broken), "--to", to, "-o", str(out)]
    assert main.run(words) == 1
    assert "conv2d_3" in capsys.readouterr().err
    assert not out.exists()
    assert main.run([*words, "--allow-noise"]) == 0
    said = capsys.readouterr().err
    assert "warning: conv2d_3" in said
    assert "random inputs" in said
    assert out.exists()


def test_opt_refuses_and_warns(broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.mcc"
    words = ["opt", str(broken), "-p", "drop-identity", "-o", str(out)]
    assert main.run(words) == 1
    assert "conv2d_3" in capsys.readouterr().err
    assert not out.exists()
    assert main.run([*words, "--allow-noise"]) == 0
    assert "warning: conv2d_3" in capsys.readouterr().err


@pytest.mark.slow
def test_verify_does_not_trust_the_graph(
    broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file computes what its graph computes, and both are wrong."""
    out = tmp_path / "model.onnx"
    assert main.run(["lower", str(broken), "--to", "onnx", "-o", str(out), "--allow-noise", "-q"]) == 0
    capsys.readouterr()
    assert main.run(["verify", str(broken), str(out)]) == 1
    assert "conv2d_3" in capsys.readouterr().err
    assert main.run(["verify", str(broken), str(out), "--allow-noise"]) == 0
    assert "warning: conv2d_3" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("factor", [64.0, 1 / 64])
def test_compress_refuses_and_warns(
    factor: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = strategy.quantise

    def planted(*given: object) -> Graph:
        graph = plain(*given)  # pyright: ignore[reportArgumentType]
        return with_scale(graph, activations(graph)[2], factor)

    monkeypatch.setenv("MCC_CACHE_DIR", str(tmp_path / "table"))
    stand_ins.install(monkeypatch)
    monkeypatch.setattr(strategy, "quantise", planted)
    words = [
        "compress", stand_ins.MODEL, "--data", "digits", "--target", "litert-host", "--epochs", "0", "-q",
        "--speedup", "1.3x", "--strategies", "int8-ptq",
    ]  # fmt: skip
    assert main.run([*words, "-o", str(tmp_path / "refused")]) == 1
    assert "the integers lose the signal here" in capsys.readouterr().err
    assert main.run([*words, "-o", str(tmp_path / "warned"), "--allow-noise"]) == 0
    after = load_graph(tmp_path / "warned" / "after.mcc")
    assert is_integer(after)
    assert "the integers lose the signal here" in (tmp_path / "warned" / "report.json").read_text()
