"""Recurrent layers behind convolutions: the numbers are those of PyTorch and onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch import Tensor, nn

from mcc.analysis.channel_groups import analyse_channels
from mcc.errors import MccError
from mcc.frontend import capture, load_model
from mcc.ir.graph import calls, run
from tests.frontend.constructs import Of
from tests.frontend.test_onnx_file import model

MAP = (1, 2, 4, 6)
WIDTH = 3 * 4  # channels times height


def _rows(s: Any, x: Tensor) -> Tensor:
    """[N, T, C * H], time along the width."""
    return s.conv(x).flatten(1, 2).permute(0, 2, 1)


def _batch_first(s: Any, x: Tensor) -> Tensor:
    return s.out(s.rnn(_rows(s, x))[0])


def _time_first(s: Any, x: Tensor) -> Tensor:
    return s.out(s.rnn(_rows(s, x).permute(1, 0, 2))[0])


def _last_state(s: Any, x: Tensor) -> Tensor:
    state = s.rnn(_rows(s, x))[1]
    return s.out(state[0][-1] if isinstance(state, tuple) else torch.cat((state[-2], state[-1]), 1))


def _zero_state(s: Any, x: Tensor) -> Tensor:
    y = _rows(s, x)
    return s.out(s.rnn(y, torch.zeros(1, y.shape[0], 5))[0][:, -1])


def _network(kind: type[nn.Module], function: Callable[..., Any], **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        torch.manual_seed(0)
        out = nn.Linear(10 if options.get("bidirectional") else 5, 7)
        return Of(function, conv=nn.Conv2d(2, 3, 3, padding=1), rnn=kind(WIDTH, 5, **options), out=out)

    return make


TORCH: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "lstm": (_network(nn.LSTM, _batch_first, batch_first=True), 0),
    "lstm, both directions, two layers": (
        _network(nn.LSTM, _batch_first, batch_first=True, bidirectional=True, num_layers=2),
        0,
    ),
    "lstm on [T, N, C]": (_network(nn.LSTM, _time_first), 1),
    "lstm without biases": (_network(nn.LSTM, _batch_first, batch_first=True, bias=False), 0),
    "last state of an lstm": (_network(nn.LSTM, _last_state, batch_first=True, num_layers=2), 0),
    "gru": (_network(nn.GRU, _batch_first, batch_first=True, num_layers=2, dropout=0.5), 0),
    "gru on [T, N, C], both directions": (_network(nn.GRU, _time_first, bidirectional=True), 1),
    "last states of a gru": (_network(nn.GRU, _last_state, batch_first=True, bidirectional=True), 0),
    "gru from a state of zeros": (_network(nn.GRU, _zero_state, batch_first=True), 0),
}


@pytest.mark.parametrize("name", list(TORCH))
def test_of_modules(name: str) -> None:
    factory, place = TORCH[name]
    module = factory().eval()
    graph = capture(module, (torch.zeros(MAP),))
    for batch in (1, 3):
        x = torch.randn(batch, *MAP[1:])
        with torch.no_grad():
            expected = module(x).movedim(place, 0)
        torch.testing.assert_close(run(graph, x)[0], expected, rtol=1e-5, atol=1e-6)


def _learned_state(s: Any, x: Tensor) -> Tensor:
    y = _rows(s, x)
    return s.rnn(y, s.out.weight[:1, :5].reshape(1, 1, 5).expand(1, y.shape[0], 5).contiguous())[0]


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "along the batch": (_network(nn.GRU, _batch_first), "runs along the batch axis.*batch_first"),
    "a learned state": (_network(nn.GRU, _learned_state, batch_first=True), "other than zero"),
    "the state of the cells": (
        _network(nn.LSTM, lambda s, x: s.rnn(_rows(s, x))[1][1][-1], batch_first=True),
        "second results",
    ),
    "a projected state": (
        _network(nn.LSTM, lambda s, x: s.rnn(_rows(s, x))[0], batch_first=True, proj_size=3),
        "proj_size",
    ),
    "an Elman layer": (_network(nn.RNN, _batch_first, batch_first=True), "aten.rnn_tanh.*--cut"),
}


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("name", list(REFUSED))
def test_refusals(name: str) -> None:
    factory, reason = REFUSED[name]
    with pytest.raises(MccError, match=reason):
        capture(factory().eval(), (torch.zeros(MAP),))


def _weights(op: str, ways: int, hidden: int = 5, width: int = 4) -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    rows = hidden * (4 if op == "LSTM" else 3)
    shapes = {"w": (ways, rows, width), "r": (ways, rows, hidden), "b": (ways, 2 * rows)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("op", ["LSTM", "GRU"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("batch", [1, "N"])
@pytest.mark.parametrize("last", [False, True], ids=["all", "last"])
def test_of_onnx(op: str, direction: str, batch: int | str, last: bool, tmp_path: Path) -> None:
    """Read as exporters write it; reading compares with onnxruntime."""
    ways = 2 if direction == "bidirectional" else 1
    options = {"linear_before_reset": int(not last)} if op == "GRU" else {}
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[2, 0, 1]),
        helper.make_node(
            op, ["t", "w", "r", "b"], ["y", "h"], name="rnn", hidden_size=5, direction=direction, **options
        ),
        helper.make_node(
            "Transpose", ["h" if last else "y"], ["out"], perm=[1, 0, 2] if last else [2, 0, 1, 3]
        ),
    ]
    path = tmp_path / "net.onnx"
    onnx.save(model(nodes, _weights(op, ways), (batch, 4, 6), outputs=("out",)), str(path))
    graph = load_model(str(path)).graph
    assert len(calls(graph, op.lower())) == ways


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"clip": 1.0}, "clip"), ({"activations": ["Relu", "Tanh", "Tanh"]}, "other activations")],
)
def test_onnx_refusals(options: dict[str, Any], reason: str, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[2, 0, 1]),
        helper.make_node("LSTM", ["t", "w", "r", "b"], ["y"], name="rnn", hidden_size=5, **options),
    ]
    path = tmp_path / "net.onnx"
    onnx.save(model(nodes, _weights("LSTM", 1), (1, 4, 6)), str(path))
    with pytest.raises(MccError, match=reason):
        load_model(str(path))


def test_features_may_go_and_units_stay() -> None:
    """The channels that a recurrent layer reads can be removed, those that it makes cannot."""
    graph = capture(TORCH["lstm"][0]().eval(), (torch.zeros(MAP),))
    analysis = analyse_channels(graph)
    read = analysis.group("conv")
    assert read.frozen is None
    assert read.width == 3
    assert read.readers == ("rnn",)
    assert all("rnn" not in group.producers for group in analysis.groups)
