"""Networks with several inputs: calibrated, lowered, verified, evaluated and compressed with all of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mcc
from mcc.cli.main import run as command
from mcc.data import load_data
from mcc.errors import DataError, UsageError
from mcc.frontend.load import load_model
from mcc.ir.feed import Several, feed_of, joined, tensors_of
from mcc.ir.graph import run, taken_by
from mcc.pass_api import PassContext
from mcc.pipeline import Pipeline
from mcc.quant.noise import check_noise
from tests.compress import stand_ins, two_inputs

FILE = two_inputs.__file__
MODEL = f"{FILE}:network"
TAKEN = {"picture": (1, 3, 16, 12), "facts": (1, 4)}


@pytest.mark.parametrize("form", ["by_name", "by_position"])
def test_data_gives_inputs_in_the_order_of_the_network(form: str) -> None:
    graph = load_model(MODEL).graph
    assert taken_by(graph) == TAKEN
    data = load_data(f"{FILE}:{form}", input_shape=taken_by(graph))
    batch = next(data.batches("validation", 8))
    assert isinstance(batch.inputs, tuple)
    assert [array.shape for array in batch.inputs] == [(8, 3, 16, 12), (8, 4)]
    made = run(graph, feed_of(batch.inputs))[0]
    assert np.array_equal(made.argmax(1).numpy(), batch.targets), "the module's classes are the network's"


@pytest.mark.parametrize("form", ["by_name", "by_position"])
def test_integers_are_calibrated_on_all_inputs(form: str) -> None:
    graph = load_model(MODEL).graph
    data = load_data(f"{FILE}:{form}", input_shape=taken_by(graph))
    feeds = tuple(feed_of(batch.inputs) for batch in data.batches("calibration", 32))
    result = Pipeline.parse("fold-batch-norm,fuse-activation,insert-qdq").run(graph, PassContext(feeds)).graph
    report = check_noise(result, tensors_of(feeds[0]))
    assert report.failure() is None
    wrong = Several((tensors_of(feeds[0])[0], tensors_of(feeds[0])[1] / 100))
    other = (
        Pipeline.parse("fold-batch-norm,fuse-activation,insert-qdq").run(graph, PassContext((wrong,))).graph
    )
    assert check_noise(other, tensors_of(feeds[0])).failure() is not None, "the second input is looked at"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tflite", "onnx"])
def test_the_commands_take_several_inputs(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data", f"{FILE}:by_name"]
    graph, file = tmp_path / "net.mcc", tmp_path / f"net.{kind}"
    steps = "fold-batch-norm,fuse-activation,insert-qdq"
    assert command(["opt", MODEL, "-p", steps, *data, "-o", str(graph)]) == 0
    assert command(["lower", str(graph), "--to", kind, "-o", str(file), *data]) == 0
    assert command(["verify", str(graph), str(file), *data]) == 0
    capsys.readouterr()
    target = "litert-host" if kind == "tflite" else "ort-host"
    assert command(["evaluate", str(graph), *data, "--target", target, "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert entry["accuracy"] > 0.8
    assert command(["inspect", MODEL, *data]) == 0


@pytest.mark.slow
def test_a_job_compresses_a_network_with_several_inputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_ins.install(monkeypatch)
    report = mcc.compress(
        MODEL, f"{FILE}:by_name", "litert-host", out=tmp_path / "out", speedup="1.3x", epochs=1,
        strategies=["uniform-width", "int8-ptq"],
    )  # fmt: skip
    assert report.baseline.validation is not None
    assert report.baseline.validation.value == 1
    by_name = {one.name: one for one in report.strategies}
    narrow, integer = by_name["uniform-width"], by_name["int8-ptq"]
    assert narrow.size_bytes < report.baseline.size_bytes
    assert integer.validation is not None
    assert integer.validation.value > 0.8


# -- refusals ----------------------------------------------------------------------------------------------


def test_pictures_of_a_folder_are_one_input() -> None:
    with pytest.raises(UsageError, match=r"supplies one input, and the network takes 2 \(picture, facts\)"):
        load_data("digits", input_shape=TAKEN)


def test_inputs_that_do_not_fit_are_named() -> None:
    data = two_inputs.by_name()
    with pytest.raises(
        DataError, match=r"gives inputs of facts \[4\], picture .* takes picture .*, speed \[4\]"
    ):
        data.for_inputs({"picture": (1, 3, 16, 12), "speed": (1, 4)})
    with pytest.raises(DataError, match="the network takes"):
        data.for_inputs((1, 3, 16, 12))
    with pytest.raises(DataError, match="the network takes"):
        two_inputs.by_position().for_inputs(dict(reversed(TAKEN.items())))


class Wrong(two_inputs.Examples):
    """Examples with a fault."""

    def __init__(self, fault: str) -> None:
        super().__init__(8, 0, named=fault != "position")
        self.fault = fault

    def inputs(self, index: Any) -> Any:
        found = super().inputs(index)
        if isinstance(found, tuple):
            return found[:1]
        held = dict(found)
        if self.fault == "name":
            held["fact"] = held.pop("facts")
        elif self.fault == "shape":
            held["facts"] = held["facts"][:, :3]
        elif self.fault == "kind":
            held["facts"] = held["facts"].astype(np.float64)
        else:
            held["facts"] = np.full_like(held["facts"], np.nan)
        return held


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("name", "inputs of the test split are .'fact', 'picture'., not a dictionary with facts, picture"),
        ("position", "inputs of the test split are 1, not 2 arrays"),
        ("shape", r"test split, facts come as \[2, 3\], not as \[2, 4\]"),
        ("kind", "test split, facts are float64, not an array of float32"),
        ("finite", "test split, facts hold values that are not finite"),
    ],
)
def test_faults_of_one_input_are_named(fault: str, sentence: str) -> None:
    data = two_inputs.by_position() if fault == "position" else two_inputs.by_name()
    with pytest.raises(DataError, match=sentence):
        replace(data, test=Wrong(fault))


def test_batches_of_several_inputs_are_cut_and_joined() -> None:
    feed = Several((torch.arange(6.0).reshape(6, 1), torch.arange(12.0).reshape(6, 2)))
    assert [len(part) for part in feed.split(4)] == [4, 2]
    again = joined(feed.split(4))
    assert all(torch.equal(a, b) for a, b in zip(tensors_of(again), tensors_of(feed), strict=True))
    assert [tensor.dtype for tensor in tensors_of(feed[:2].double())] == [torch.float64] * 2
