"""A detector goes through `mcc compress` to a report that speaks of mAP, and keeps its outputs' names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from mcc.cli import main
from mcc.data import Output, Preprocessing, bind_task, load_data
from mcc.data.decoding import Decoder
from mcc.data.detection import Detection
from mcc.report.judge import judge_file
from mcc.report.schema import load_report
from mcc.runtime.registry import get_target
from tests.compress import stand_ins
from tests.data.detections import SIZE, write_roboflow

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
        self.stem = nn.Sequential(layer(3, 16, 3, 2), layer(16, 32, 3, 2))
        self.fine = nn.Sequential(layer(32, 32, 3, 2, 32), layer(32, 48, 1), layer(48, 48))
        self.coarse = nn.Sequential(layer(48, 48, 3, 2, 48), layer(48, 48, 1))
        self.cls, self.box = (
            nn.ModuleList(nn.Conv2d(48, count, 1) for _ in range(2)) for count in (2, 4)
        )

    def forward(self, x):
        fine = self.fine(self.stem(x))
        maps = {8: fine, 16: self.coarse(fine)}
        found = {}
        for place, (stride, y) in enumerate(maps.items()):
            found[f"cls_{stride}"], found[f"box_{stride}"] = self.cls[place](y), self.box[place](y)
        return found

def network():
    return Net(), torch.zeros(1, 3, 32, 48), Preprocessing((0.5,), (0.25,))
"""
NAMES = ["cls_8", "box_8", "cls_16", "box_16"]


def write_network(folder: Path) -> None:
    """The network and its weights after a short training with the task's own loss."""
    (folder / "net.py").write_text(NETWORK)
    space: dict[str, Any] = {"__name__": "net"}
    exec(compile(NETWORK, "net.py", "exec"), space)
    torch.manual_seed(0)
    net = space["Net"]()
    data = load_data(f"detection:{folder / 'scenes'}", preprocessing=Preprocessing((0.5,), (0.25,)))
    with torch.inference_mode():
        shapes = {name: tuple(v.shape) for name, v in net.eval()(torch.zeros(1, 3, *SIZE)).items()}
    task = bind_task(data, [Output(name, shape) for name, shape in shapes.items()]).task
    net.train()
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    for batch in data.training(16, seed=0, steps=250):
        outputs = list(net(torch.from_numpy(batch.inputs)).values())
        loss = task.loss(outputs, torch.from_numpy(batch.targets))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    save_file(net.state_dict(), folder / "net.safetensors")


def coco_figure(answers: list[dict[str, Any]], path: Path) -> float:
    """mAP@50 by pycocotools from files alone."""
    import contextlib
    import io

    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(path))
        coco.dataset.setdefault("info", {})
        for number, one in enumerate(coco.dataset["annotations"], 1):
            one["id"] = number  # the library takes a match with the box 0 for none
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(answers), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[1])


@pytest.mark.slow
def test_a_detector_is_compressed_to_a_report_of_its_map(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MCC_CACHE_DIR", str(tmp_path / "table"))
    monkeypatch.chdir(tmp_path)
    stand_ins.install(monkeypatch)
    write_roboflow(tmp_path / "scenes", train=128, val=24, test=32)
    write_network(tmp_path)
    words = [
        "compress", "net.py:network", "--weights", "net.safetensors", "--data", "detection:scenes",
        "--target", "litert-host", "--speedup", "1.3x", "--max-drop", "8", "--epochs", "20",
        "--strategies", "int8-ptq,channel-pruning,joint", "-o", "out",
    ]  # fmt: skip
    assert main.run(words) == 0
    printed = capsys.readouterr().out
    report = load_report(tmp_path / "out/report.json")
    raw = json.loads((tmp_path / "out/report.json").read_text())
    assert {s.name for s in report.strategies} >= {"original", "int8-ptq", "channel-pruning", "joint"}
    for strategy in report.strategies:
        assert strategy.metric is not None
        assert (strategy.metric.name, strategy.metric.unit) == ("mAP@50", "fraction")
        assert 0.5 < strategy.metric.low < strategy.metric.value <= strategy.metric.high <= 1
        assert strategy.metrics is not None
        assert 0.2 < strategy.metrics["mAP@[.5:.95]"] < strategy.metric.value
    assert "accuracy" not in json.dumps(raw["strategies"])
    assert "mAP@50" in printed
    assert "mAP@50" in (tmp_path / "out/report.html").read_text()

    # The figure of the file, run here by another program; its outputs have the author's names and order.
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(tmp_path / "out/model.tflite"))
    assert [one["name"] for one in interpreter.get_output_details()] == NAMES
    runner = interpreter.get_signature_runner()
    ((taken, form),) = runner.get_input_details().items()
    assert form["dtype"] == np.float32
    decoder = _decoder(tmp_path)
    file = tmp_path / "scenes/test/_annotations.coco.json"
    answers: list[dict[str, Any]] = []
    for image in json.loads(file.read_text())["images"]:
        picture = np.asarray(Image.open(file.parent / image["file_name"]))
        x = picture.astype(np.float32) * np.float32(1 / 63.75) - np.float32(2)
        given = runner(**{taken: x[None]})
        values = [given[name].transpose(0, 3, 1, 2) for name in NAMES]
        found = decoder.decode(values)[0]
        for (x1, y1, x2, y2), score, number in zip(
            found.boxes.tolist(), found.scores, found.classes, strict=True
        ):
            answers.append(
                {"image_id": image["id"], "category_id": int(number) + 1, "score": float(score),
                 "bbox": [x1, y1, x2 - x1, y2 - y1]}
            )  # fmt: skip
    assert report.compressed.metric is not None
    assert report.compressed.metric.value == pytest.approx(coco_figure(answers, file), abs=1e-9)


def _decoder(folder: Path) -> Decoder:
    data = load_data(f"detection:{folder / 'scenes'}", preprocessing=Preprocessing((0.5,), (0.25,)))
    shapes = [(1, 2, 4, 6), (1, 4, 4, 6), (1, 2, 2, 3), (1, 4, 2, 3)]
    outputs = [Output(name, shape) for name, shape in zip(NAMES, shapes, strict=True)]
    task = bind_task(data, outputs).task
    assert isinstance(task, Detection)
    assert task.decoder is not None
    return task.decoder


def test_outputs_keep_their_names_and_order_in_onnx(tmp_path: Path) -> None:
    import onnx

    (tmp_path / "net.py").write_text(NETWORK)
    file = tmp_path / "net.onnx"
    assert main.run(["lower", "--to", "onnx", f"{tmp_path / 'net.py'}:network", "-o", str(file)]) == 0
    assert [output.name for output in onnx.load(str(file)).graph.output] == NAMES


HEADS = """
import torch
from torch import nn
from mcc.data import Preprocessing
from mcc.data.detection import Detection

ANCHORS = [
    [x + 4 - side / 2, y + 4 - side / 2, x + 4 + side / 2, y + 4 + side / 2]
    for y in range(0, 32, 8) for x in range(0, 48, 8) for side in (8, 12)
]

class Net(nn.Module):
    def __init__(self, counts):
        super().__init__()
        self.body = nn.Sequential(*(nn.Conv2d(3 if i == 0 else 16, 16, 3, 2, 1) for i in range(3)))
        self.heads = nn.ModuleList(nn.Conv2d(16, count, 1) for count in counts)

    def forward(self, x):
        y = self.body(x)
        return [head(y) for head in self.heads]

class Ssd(Net):
    def forward(self, x):
        boxes, scores = super().forward(x)
        rows = [(boxes, 4), (scores, 3)]
        boxes, scores = (v.permute(0, 2, 3, 1).reshape(len(x), -1, count) for v, count in rows)
        return {"scores": scores, "boxes": boxes}

def made(net):
    torch.manual_seed(0)
    for value in net.parameters():
        nn.init.normal_(value, 0, 0.2)
    return net.eval(), torch.zeros(1, 3, 32, 48), Preprocessing((0.5,), (0.25,))

def separate(): return made(Net((4, 2)))
def objectness(): return made(Net((2, 1, 4)))
def joined(): return made(Net((7,)))
def distribution(): return made(Net((2, 32)))
def anchors(): return made(Ssd((8, 6)))

TASK = Detection(anchors=ANCHORS)
"""


@pytest.mark.parametrize("kind", ["separate", "objectness", "joined", "distribution", "anchors"])
def test_files_answer_as_the_module(tmp_path: Path, kind: str) -> None:
    """Axes, order and names of outputs in files of both layouts, whatever the heads."""
    (tmp_path / "heads.py").write_text(HEADS)
    space: dict[str, Any] = {"__name__": "heads"}
    exec(compile(HEADS, "heads.py", "exec"), space)
    net, _, preprocessing = space[kind]()
    scenes = write_roboflow(tmp_path / "scenes", train=4, val=4, test=6)
    data = load_data(f"detection:{scenes}", preprocessing=preprocessing)
    batch = next(data.batches("test", 6))
    with torch.inference_mode():
        found = net(torch.from_numpy(batch.inputs))
    values = found if isinstance(found, dict) else {f"o{at}": value for at, value in enumerate(found)}
    outputs = [Output(name, (1, *value.shape[1:])) for name, value in values.items()]
    task = f"{tmp_path / 'heads.py'}:TASK" if kind == "anchors" else None
    expected = bind_task(data, outputs, task=task).measure(
        [value.numpy() for value in values.values()], batch.targets
    )
    assert (expected[:, :100, 0] >= 0).any()
    for suffix, target in (("tflite", "litert-host"), ("onnx", "ort-host")):
        file = tmp_path / f"{kind}.{suffix}"
        words = ["lower", f"{tmp_path / 'heads.py'}:{kind}", "--to", suffix, "-o", str(file)]
        assert main.run(words) == 0
        judged = judge_file(get_target(target), file, data, task=task)
        assert sorted(judged.reads) == list(range(len(outputs)))
        scores = judged.statistics[:, :100, 1]
        assert scores == pytest.approx(expected[:, :100, 1], abs=1e-4)
        assert judged.statistics.sum() == pytest.approx(expected.sum(), rel=1e-4)
