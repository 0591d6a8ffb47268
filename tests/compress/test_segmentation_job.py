"""A segmenter goes through `mcc compress` to a report that speaks of mean IoU."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from mcc.cli import main
from mcc.data import Preprocessing, load_data
from mcc.report.schema import load_report
from tests.compress import stand_ins

NETWORK = """
import torch
from torch import nn
from mcc.data import Preprocessing

def layer(inputs, outputs, kernel=3, stride=1, groups=1):
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fine = nn.Sequential(layer(3, 16, 3, 2), layer(16, 32, 1))
        self.coarse = nn.Sequential(layer(32, 32, 3, 2, 32), layer(32, 48, 1), layer(48, 32, 1))
        self.head, self.beside = nn.Conv2d(32, 3, 1), nn.Conv2d(32, 3, 1)

    def forward(self, x):
        fine = self.fine(x)
        coarse = self.coarse(fine)
        joined = fine + nn.functional.interpolate(coarse, fine.shape[2:], mode="bilinear")
        out = nn.functional.interpolate(self.head(joined), x.shape[2:], mode="bilinear")
        return {"aux": self.beside(coarse), "out": out}

def network():
    return Net(), torch.zeros(1, 3, 24, 32), Preprocessing((0.5,), (0.25,))
"""
COLOURS = np.array([[110, 150, 200], [120, 110, 90], [200, 60, 50]])


def write_scenes(folder: Path) -> None:
    """Sky, ground and a ball, under noise."""
    rows, columns = np.mgrid[:24, :32]
    for part, count, first in (("train", 96, 0), ("val", 16, 1000), ("test", 24, 2000)):
        for name in ("images", "masks"):
            (folder / part / name).mkdir(parents=True)
        for number in range(count):
            chance = np.random.default_rng(first + number)
            mask = (rows > chance.integers(10, 18)).astype(np.uint8)
            far = (rows - chance.integers(5, 19)) ** 2 + (columns - chance.integers(5, 27)) ** 2
            mask[far < chance.integers(3, 5) ** 2] = 2
            shown = (COLOURS[mask] + chance.normal(0, 25, (24, 32, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(shown).save(folder / part / "images" / f"{number}.png")
            Image.fromarray(mask).save(folder / part / "masks" / f"{number}.png")
    (folder / "classes.txt").write_text("sky\nground\nball\n")


def write_network(folder: Path) -> None:
    """The network and its weights after a short training."""
    (folder / "net.py").write_text(NETWORK)
    space: dict[str, object] = {"__name__": "net"}
    exec(compile(NETWORK, "net.py", "exec"), space)
    torch.manual_seed(0)
    net = space["Net"]()  # type: ignore[operator]
    data = load_data(f"segmentation:{folder / 'scenes'}", preprocessing=Preprocessing((0.5,), (0.25,)))
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    for batch in data.training(32, seed=0, steps=60):
        loss = torch.nn.functional.cross_entropy(
            net(torch.from_numpy(batch.inputs))["out"], torch.from_numpy(batch.targets), ignore_index=255
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    save_file(net.state_dict(), folder / "net.safetensors")


@pytest.mark.slow
def test_a_segmenter_is_compressed_to_a_report_of_its_mean_iou(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MCC_CACHE_DIR", str(tmp_path / "table"))
    monkeypatch.chdir(tmp_path)
    stand_ins.install(monkeypatch)
    write_scenes(tmp_path / "scenes")
    write_network(tmp_path)
    words = [
        "compress",
        "net.py:network",
        "--weights",
        "net.safetensors",
        "--data",
        "segmentation:scenes",
        "--target",
        "litert-host",
        "--speedup",
        "1.3x",
        "--max-drop",
        "5",
        "--epochs",
        "2",
        "--strategies",
        "int8-ptq,channel-pruning,joint",
        "-o",
        "out",
    ]
    assert main.run(words) == 0
    printed = capsys.readouterr().out
    report = load_report(tmp_path / "out/report.json")
    raw = json.loads((tmp_path / "out/report.json").read_text())
    assert {s.name for s in report.strategies} >= {"original", "int8-ptq", "channel-pruning", "joint"}
    for strategy in report.strategies:
        assert strategy.metric is not None
        assert (strategy.metric.name, strategy.metric.unit) == ("mean IoU", "fraction")
        assert 0.5 < strategy.metric.low < strategy.metric.value < strategy.metric.high <= 1
    assert "accuracy" not in json.dumps(raw["strategies"])
    assert "mean IoU" in printed
    page = (tmp_path / "out/report.html").read_text()
    assert "mean IoU" in page
    assert page.count("<figure><img") == 3 * 6

    # The figure of the file, run here by another program.
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(tmp_path / "out/model.tflite"))
    interpreter.allocate_tensors()
    (taken,), given = interpreter.get_input_details(), interpreter.get_output_details()
    place = next(one["index"] for one in given if one["shape"][1:3].tolist() == [24, 32])
    counts = np.zeros((3, 3))
    app = runpy.run_path(str(tmp_path / "out/app/model.py"))
    for picture in sorted((tmp_path / "scenes/test/images").glob("*")):
        # As one product and one sum, as mcc does: a rounding apart, an int8 input is a step apart.
        x = np.asarray(Image.open(picture)).astype(np.float32) * np.float32(1 / 63.75) - np.float32(2)
        assert taken["dtype"] == np.float32
        interpreter.set_tensor(taken["index"], x[None])
        interpreter.invoke()
        predicted = interpreter.get_tensor(place)[0].argmax(-1)
        with Image.open(picture) as opened:
            np.testing.assert_array_equal(app["Model"]().answer(opened), predicted)
        mask = np.asarray(Image.open(tmp_path / "scenes/test/masks" / picture.name))
        np.add.at(counts, (mask, predicted), 1)
    shares = np.diag(counts) / (counts.sum(0) + counts.sum(1) - np.diag(counts))
    assert report.compressed.metric is not None
    assert report.compressed.metric.value == pytest.approx(shares.mean(), abs=1e-9)
