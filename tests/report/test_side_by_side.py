"""Test pictures in the report: which are shown, and that they show what the networks say."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mcc.data import DataModule, Output, Preprocessing, bind_task, from_arrays
from mcc.data.boxes import NO_BOX
from mcc.data.detection import Detection
from mcc.data.segmentation import Segmentation
from mcc.data.shown import colour
from mcc.ir.graph import Graph, GraphBuilder, outputs
from mcc.ir.notes import shape_of
from mcc.lower.tflite.writer import to_tflite
from mcc.report.side_by_side import LOOKED_AT, SHOWN, SideBySide, View, side_by_side
from mcc.runtime import get_target

SIZE = (16, 24)
OWN = Preprocessing((0.5,), (0.25,), channels="bgr")


def pixels(view: View) -> np.ndarray:
    raw = base64.b64decode(view.image.removeprefix("data:image/jpeg;base64,"))
    return np.asarray(Image.open(io.BytesIO(raw)), int)


def network(kind: str, shift: float) -> Graph:
    """A network that says how red a picture is: of class 0, 1 or 2; `shift` favours the last."""
    b = GraphBuilder()
    weight = torch.zeros(3, 3, 1, 1)
    weight[0, 2], weight[1, 1], weight[2, 0] = 1.0, 1.0, 1.0  # blue is first
    x = b.conv2d(
        b.input("x", (1, 3, *SIZE)), b.constant("w", weight), b.constant("b", torch.tensor([0, 0, shift]))
    )
    if kind == "classification":
        return b.finish(b.mean(x, axes=(2, 3), keepdim=False))
    if kind == "segmentation":
        return b.finish(x)
    cells = b.avg_pool2d(x, kernel=(8, 8), stride=(8, 8), padding=(0, 0, 0, 0), count_include_pad=True)
    sides = b.constant("s", torch.zeros(4, 3, 1, 1))
    return b.finish(cells, b.conv2d(cells, sides, b.constant("t", torch.full((4,), 0.4))))


def data(kind: str) -> DataModule:
    """Pictures of one colour: red, green and blue by turns."""
    count = 90
    images = np.full((count, 3, *SIZE), 30, np.uint8)
    images[np.arange(count), np.arange(count) % 3] = 200
    classes = np.arange(count) % 3
    boxes = np.tile(np.array(NO_BOX, np.float32), (count, 2, 1))
    boxes[:, 0] = [[label, 2, 2, 14, 14, 0] for label in classes]
    targets = {
        "classification": classes, "detection": boxes,
        "segmentation": np.broadcast_to(classes[:, None, None], (count, *SIZE)).astype(np.uint8).copy(),
    }[kind]  # fmt: skip
    task = {"classification": None, "segmentation": Segmentation(), "detection": Detection()}[kind]
    return from_arrays(
        (images, targets), (images.copy(), targets), class_names=("red", "green", "blue"), preprocessing=OWN,
        **({"task": task} if task else {}),
    )  # fmt: skip


def shown(folder: Path, kind: str, shift: float) -> SideBySide:
    """Pictures of a network and of one that favours blue."""
    graphs = [network(kind, 0.0), network(kind, shift)]
    files = [folder / "one.tflite", folder / "other.tflite"]
    for file, graph in zip(files, graphs, strict=True):
        file.write_bytes(to_tflite(graph))
    given = tuple(Output(f"o{i}", shape_of(node)) for i, node in enumerate(outputs(graphs[0])))
    module = data(kind)
    found = side_by_side(get_target("litert-host"), *files, module, bind_task(module, given), given)
    assert found is not None
    return found


@pytest.mark.filterwarnings("ignore:.*training")  # the same pictures in all parts, on purpose
def test_pictures_whose_class_changed_are_shown(tmp_path: Path) -> None:
    found = shown(tmp_path, "classification", 9.0)  # everything is blue now
    assert len(found.examples) == SHOWN
    assert f"of the first {min(LOOKED_AT, 45)} test pictures" in found.words
    for example in found.examples:
        (view,) = example.views
        middle = pixels(view)[100, 100]
        label = ("red", "green", "blue")[int(middle.argmax())]
        assert label != "blue"
        assert view.caption.startswith(f"labelled: {label}; original: {label} ")
        assert "compressed: blue 100 %" in view.caption
        assert sorted(middle) == pytest.approx([30, 30, 200], abs=4)


def test_no_picture_is_shown_where_no_class_changed(tmp_path: Path) -> None:
    found = shown(tmp_path, "classification", 0.0)
    assert found.examples == ()
    assert "answer alike on all" in found.words


def test_masks_lie_over_the_picture_in_the_colours_of_their_classes(tmp_path: Path) -> None:
    found = shown(tmp_path, "segmentation", 9.0)
    example = found.examples[0]
    assert [view.caption for view in example.views] == ["labelled", "original", "compressed"]
    label = int(data("segmentation").test.targets[example.number][0, 0])
    for view, said in zip(example.views, (label, label, 2), strict=True):
        plain = np.full(3, 30)
        plain[label] = 200
        wanted = 0.4 * plain + 0.6 * np.array(colour(said))
        assert pixels(view)[100, 100] == pytest.approx(wanted, abs=5)


def test_boxes_are_drawn_where_they_are(tmp_path: Path) -> None:
    found = shown(tmp_path, "detection", 9.0)
    example = found.examples[0]
    assert [view.caption.split(":")[0] for view in example.views] == ["labelled", "original", "compressed"]
    label = int(data("detection").test.targets[example.number][0, 0])
    drawn = pixels(example.views[0])
    times = drawn.shape[0] // SIZE[0]
    edge = drawn[2 * times + 1, 8 * times]  # upper side of the labelled box
    assert np.abs(edge - np.array(colour(label))).max() < 60
    assert "blue" not in example.views[0].caption
