"""The detection task: mAP against an independent implementation, losses, heads, moved boxes."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from mcc.data import DataModule, Preprocessing, bind_task, from_arrays, load_data
from mcc.data.augment import Augmentation
from mcc.data.average_precision import RECALLS, THRESHOLDS, average_precisions, matched
from mcc.data.boxes import NO_BOX, overlap
from mcc.data.decoding import Channels, Found, Level
from mcc.data.detection import Detection
from mcc.data.outputs import Named, Output
from mcc.errors import DataError, UsageError
from tests.data.detections import NAMES, SIZE, scene, write_roboflow

CLASSES = 3

# -- mean average precision --------------------------------------------------------------------------------


def random_boxes(chance: np.random.Generator, count: int) -> NDArray[np.float32]:
    low = chance.uniform(0, 60, (count, 2))
    return np.concatenate([low, low + chance.uniform(8, 40, (count, 2))], 1).astype(np.float32)


def random_set(seed: int, images: int = 6) -> tuple[list[Found], NDArray[np.float32]]:
    """Labelled boxes, some of them ignored, and answers near some of them."""
    chance = np.random.default_rng(seed)
    targets = np.tile(np.asarray(NO_BOX, np.float32), (images, 7, 1))
    found: list[Found] = []
    for image in range(images):
        count = int(chance.integers(0, 8))
        boxes = random_boxes(chance, count)
        targets[image, :count, 1:5] = boxes
        targets[image, :count, 0] = chance.integers(0, CLASSES - (seed % 2), count)
        targets[image, :count, 5] = chance.random(count) < 0.2
        near = (boxes + chance.normal(0, 3, boxes.shape)).astype(np.float32)
        near = np.concatenate([near, near[: count // 2] + 1, random_boxes(chance, 4)])
        classes = np.concatenate([targets[image, :count, 0], targets[image, : count // 2, 0], np.zeros(4)])
        # Tenths, so that scores are equal now and then.
        scores = np.sort(np.round(chance.random(len(near)), 1))[::-1].astype(np.float32)
        found.append(Found(near, scores, classes.astype(np.int64)))
    return found, targets


def share(box: Sequence[float], other: Sequence[float], crowd: bool) -> float:
    wide = min(box[2], other[2]) - max(box[0], other[0])
    high = min(box[3], other[3]) - max(box[1], other[1])
    if wide <= 0 or high <= 0:
        return 0.0
    one, two = ((b[2] - b[0]) * (b[3] - b[1]) for b in (box, other))
    return wide * high / (one if crowd else one + two - wide * high)


def second_average_precision(
    found: list[Found], targets: NDArray[np.float32], number: int, threshold: float
) -> float | None:
    """Average precision of a class, answer by answer, as the COCO paper describes it."""
    answers: list[tuple[float, bool]] = []
    total = 0
    for one, target in zip(found, targets, strict=True):
        rows = [[float(v) for v in row] for row in target if row[0] == number]
        total += sum(not row[5] for row in rows)
        used: set[int] = set()
        for box, score, said in zip(one.boxes.tolist(), one.scores.tolist(), one.classes, strict=True):
            if said != number:
                continue
            free = [
                (share(box, row[1:5], False), at)
                for at, row in enumerate(rows)
                if not row[5] and at not in used
            ]
            best, at = max(free, default=(0.0, -1), key=lambda pair: (pair[0], pair[1]))
            if best >= threshold:
                used.add(at)
                answers.append((score, True))
            elif not any(row[5] and share(box, row[1:5], True) >= threshold for row in rows):
                answers.append((score, False))
    if not total:
        return None
    answers.sort(key=lambda answer: -answer[0])  # stable
    points: list[tuple[float, float]] = []
    right = 0
    for place, (_, hit) in enumerate(answers, 1):
        right += hit
        points.append((right / total, right / place))
    return float(np.mean([max((p for r, p in points if r >= level), default=0.0) for level in RECALLS]))


@pytest.mark.parametrize("seed", range(6))
def test_average_precision_is_that_of_a_second_implementation(seed: int) -> None:
    found, targets = random_set(seed)
    rows = matched(found, targets, CLASSES)
    for place, threshold in enumerate(THRESHOLDS):
        expected = [second_average_precision(found, targets, number, threshold) for number in range(CLASSES)]
        given = average_precisions(rows, place)
        for one, other in zip(given, expected, strict=True):
            assert np.isnan(one) if other is None else one == pytest.approx(other, abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_figures_are_those_of_pycocotools(seed: int) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    found, targets = random_set(seed, 12)
    labelled, answered = [], []
    for image, (one, target) in enumerate(zip(found, targets, strict=True)):
        for number, x1, y1, x2, y2, crowd in target[target[:, 0] >= 0].tolist():
            box = [x1, y1, x2 - x1, y2 - y1]
            labelled.append({"id": len(labelled) + 1, "image_id": image, "category_id": int(number),
                             "bbox": box, "area": box[2] * box[3], "iscrowd": int(crowd)})  # fmt: skip
        for (x1, y1, x2, y2), score, number in zip(one.boxes.tolist(), one.scores, one.classes, strict=True):
            answered.append({"image_id": image, "category_id": int(number), "score": float(score),
                             "bbox": [x1, y1, x2 - x1, y2 - y1]})  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "info": {}, "images": [{"id": image} for image in range(12)], "annotations": labelled,
            "categories": [{"id": number} for number in range(CLASSES)],
        }  # type: ignore[assignment] # fmt: skip
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(answered), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    task = Detection()
    rows = matched(found, targets, CLASSES)
    assert task.figure(rows) == pytest.approx(float(evaluation.stats[1]), abs=1e-9)
    assert task.figures(rows)["mAP@[.5:.95]"] == pytest.approx(float(evaluation.stats[0]), abs=1e-9)


def test_a_resample_of_the_images_needs_no_further_matching() -> None:
    found, targets = random_set(3, 10)
    places = np.array([3, 3, 7, 0, 9, 1, 1, 1, 5, 2])
    task = Detection()
    again = matched([found[place] for place in places], targets[places], CLASSES)
    assert task.figure(matched(found, targets, CLASSES)[places]) == task.figure(again)
    score = task.summarise(matched(found, targets, CLASSES))
    assert 0 <= score.low < score.value < score.high <= 1


# -- binding -----------------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path) -> DataModule:
    folder = write_roboflow(tmp_path / "scenes", train=8, val=4, test=4)
    return load_data(f"detection:{folder}", preprocessing=Preprocessing())


def maps(*channels: int, names: Sequence[str] = (), batch: int = 1) -> list[Output]:
    """Outputs of so many channels at stride 8 and 16."""
    named = names or [f"out{place}" for place in range(len(channels))]
    return [
        Output(f"{name}_{stride}", (batch, count, SIZE[0] // stride, SIZE[1] // stride))
        for stride in (8, 16)
        for name, count in zip(named, channels, strict=True)
    ]


def bound(data: DataModule, outputs: Sequence[Output], task: Detection | None = None) -> Detection:
    found = (task or Detection()).bind(outputs, data)
    assert found.decoder is not None
    return found


def test_recognises_heads_by_shape(data: DataModule) -> None:
    task = bound(data, maps(2, 4))
    assert [level.stride for level in task.decoder.levels] == [(8, 8), (16, 16)]  # type: ignore[union-attr]
    assert task.reads() == (0, 1, 2, 3)
    joined = bound(data, maps(6))
    assert joined.decoder.levels[1].classes == Channels(1, 4, 2)  # type: ignore[union-attr]
    with_object = bound(data, maps(7))
    level = with_object.decoder.levels[0]  # type: ignore[union-attr]
    assert (level.coding, level.objectness, level.classes) == ("centre", Channels(0, 4, 1), Channels(0, 5, 2))
    apart = bound(data, maps(4, 2, 1, names=("reg", "cls", "obj")))
    assert apart.decoder.levels[0].objectness == Channels(2, 0, 1)  # type: ignore[union-attr]
    spread = bound(data, maps(2, 64))
    assert spread.decoder.levels[0].coding == "distribution"  # type: ignore[union-attr]
    beside = bound(data, [Output("features", (1, 40, 4, 6)), *maps(2, 4)])
    assert beside.reads() == (1, 2, 3, 4)


def test_strides_of_sizes_that_are_rounded_up(data: DataModule) -> None:
    """A map of 8 rows of 240 has the stride 32, not 30."""
    from mcc.data.heads import stride_of

    assert stride_of((240, 320), (8, 10)) == (32, 32)
    assert stride_of((96, 96), (16, 16)) == (6, 6)
    assert stride_of((96, 96), (16, 12)) is None


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        (maps(3, 4), "no outputs of the network are maps of 2 class logits and 4 distances"),
        ([Output("out", (1, 2))], "no outputs of the network are maps"),
        ([Output("boxes", (1, 9, 4)), Output("classes", (1, 9)), Output("scores", (1, 9)), Output("n", (1,))],
         "decoded already.*before decoding and non-maximum suppression"),
        ([Output("out", (1, 300, 6))], "decoded already"),
        ([Output("out", (1, 6, 8400))], "decoded already"),
        ([Output("selected", (100, 7))], "decoded already"),
        ([Output("boxes", (1, 50, 4)), Output("scores", (1, 50, 3))], "50 anchors.*are not known"),
        ([Output("boxes", (1, 50, 4)), Output("scores", (1, 50, 9))], "no output holds 2 or 3 scores"),
        ([*maps(2, 4), Output("more", (1, 2, 4, 6))], "2 outputs could be the same"),
        ([Output("cls", (1, 2, 5, 6)), Output("box", (1, 4, 5, 6))], "do not divide the input"),
    ],
)  # fmt: skip
def test_other_outputs_are_refused(data: DataModule, outputs: list[Output], said: str) -> None:
    with pytest.raises((DataError, UsageError), match=said):
        bind_task(data, outputs)


def test_stated_heads_are_checked(data: DataModule) -> None:
    levels = tuple(
        Level((float(stride), float(stride)), (SIZE[0] // stride, SIZE[1] // stride),
              Channels(place, 1, 2), Channels(place, 3, 4))
        for place, stride in enumerate((8, 16))
    )  # fmt: skip
    task = bound(data, maps(7), Detection(heads=levels))
    assert task.decoder.levels == levels  # type: ignore[union-attr]
    with pytest.raises(DataError, match="head 1 reads channels 3 to 7 of output 1"):
        bound(data, [maps(7)[0], maps(6)[1]], Detection(heads=levels))


def test_judging_an_output_that_is_no_head(data: DataModule) -> None:
    with pytest.raises(UsageError, match="holds neither classes nor boxes"):
        bind_task(data, [Output("features", (1, 40, 4, 6)), *maps(2, 4)], judge="features")


# -- answers -----------------------------------------------------------------------------------------------


def exact(
    task: Detection, outputs: Sequence[Output], targets: NDArray[np.float32]
) -> list[NDArray[np.float32]]:
    """Raw maps that say just the labelled boxes, at the finest level."""
    level = task.decoder.levels[0]  # type: ignore[union-attr]
    values = [np.full((len(targets), *o.shape[1:]), -12, np.float32) for o in outputs]
    for value, output in zip(values, outputs, strict=True):
        if output.shape[1] == 4:
            value[:] = 1
    for image, target in enumerate(targets):
        for number, x1, y1, x2, y2, _ in target[target[:, 0] >= 0]:
            column, row = int((x1 + x2) / 2 // 8), int((y1 + y2) / 2 // 8)
            x, y = (column + 0.5) * 8, (row + 0.5) * 8
            values[level.classes.output][image, int(number), row, column] = 6
            values[level.boxes.output][image, :, row, column] = [
                (x - x1) / 8, (y - y1) / 8, (x2 - x) / 8, (y2 - y) / 8
            ]  # fmt: skip
    return values


def test_right_and_guessed_answers(data: DataModule) -> None:
    outputs, targets = maps(2, 4), data.test.targets
    task = bound(data, outputs)
    values = exact(task, outputs, targets)
    statistics = task.measure(Named(values, outputs), targets)
    assert task.figure(statistics) == 1.0
    assert task.figures(statistics) == {"mAP@[.5:.95]": 1.0}
    assert task.chance(statistics, targets, NAMES, targets) is None
    silent = task.measure(Named([np.full_like(v, -12) for v in values], outputs), targets)
    said = task.chance(silent, targets, NAMES, targets)
    assert said is not None
    assert "boxes of another picture" in said
    assert np.array_equal(task.agreement(Named(values, outputs), Named(values, outputs)), np.ones(4))
    assert task.agreement(Named(values, outputs), Named([-v for v in values], outputs)).max() < 1


CODINGS = {
    "distances": (2, 4),
    "joined": (6,),
    "centre": (7,),
    "distribution": (2, 32),
    "objectness": (2, 4, 1),
}


@pytest.mark.parametrize("coding", CODINGS)
def test_tensors_and_arrays_are_decoded_alike(data: DataModule, coding: str) -> None:
    """Boxes that train are the boxes that are measured."""
    from mcc.data.detection_losses import dense_answers, probabilities

    outputs = maps(*CODINGS[coding])
    task = bound(data, outputs, Detection(least_score=0.0, suppressed_iou=1.0))
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(1, *output.shape[1:], generator=generator) for output in outputs]
    dense = dense_answers(values, task.decoder)  # type: ignore[arg-type]
    limit = torch.tensor([SIZE[1], SIZE[0], SIZE[1], SIZE[0]])
    boxes = torch.minimum(dense.boxes[0].clamp(min=0), limit).numpy()
    scores = probabilities(dense, background=False)[0].numpy()
    found = replace(task.decoder, most=1000).decode([value.numpy() for value in values])[0]  # type: ignore[type-var]
    assert len(found.boxes)
    there = (boxes[:, 2:] > boxes[:, :2]).all(1)
    expected = np.sort(scores[there].ravel())[::-1]
    assert found.scores == pytest.approx(expected[: len(found.scores)], abs=1e-5)
    for box, score, number in zip(found.boxes, found.scores, found.classes, strict=True):
        place = int(np.abs(scores[:, number] - score).argmin())
        assert box == pytest.approx(boxes[place], abs=1e-3)


def test_suppression_keeps_the_best_of_each_class() -> None:
    from mcc.data.decoding import suppressed

    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [1, 0, 11, 10], [20, 0, 30, 10]], np.float32)
    assert suppressed(boxes, np.array([0, 0, 1, 0]), 0.5, 100).tolist() == [0, 2, 3]
    assert suppressed(boxes, np.array([0, 0, 1, 0]), 0.5, 2).tolist() == [0, 2]
    assert suppressed(boxes, np.array([0, 0, 1, 0]), 0.9, 100).tolist() == [0, 1, 2, 3]


def test_the_decoder_can_be_written_as_json(data: DataModule) -> None:
    import json

    raw = json.loads(json.dumps(bound(data, maps(2, 4)).decoder.to_json()))  # type: ignore[union-attr]
    assert raw["levels"][0]["stride"] == [8, 8]
    assert (raw["suppressed_iou"], raw["size"], raw["classes"]) == (0.5, list(SIZE), 2)


# -- losses ------------------------------------------------------------------------------------------------


ANCHORS = [
    [x + 4 - side / 2, y + 4 - side / 2, x + 4 + side / 2, y + 4 + side / 2]
    for y in range(0, SIZE[0], 8) for x in range(0, SIZE[1], 8) for side in (8, 12)
]  # fmt: skip


class Tiny(nn.Module):
    """A detector of one or two levels, or with anchors: `channels` of its outputs."""

    def __init__(self, channels: Sequence[int], anchors: int = 0) -> None:
        super().__init__()
        self.channels, self.anchors = channels, anchors
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, 32, 3, 1, 1), nn.BatchNorm2d(32), nn.ReLU(),
        )  # fmt: skip
        self.heads = nn.ModuleList(nn.Conv2d(32, count * max(1, anchors), 1) for count in channels)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        y = self.body(x)
        found = [head(y) for head in self.heads]
        if not self.anchors:
            return found
        return [
            v.permute(0, 2, 3, 1).reshape(len(v), -1, count)
            for v, count in zip(found, self.channels, strict=True)
        ]


def outputs_of(net: nn.Module) -> list[Output]:
    with torch.inference_mode():
        return [Output(f"o{at}", tuple(v.shape)) for at, v in enumerate(net.eval()(torch.zeros(1, 3, *SIZE)))]


KINDS: dict[str, tuple[tuple[int, ...], int, Detection]] = {
    "distances": ((2, 4), 0, Detection()),
    "centre": ((7,), 0, Detection()),
    "distribution": ((2, 32), 0, Detection()),
    "softmax": ((4, 3), 2, Detection(anchors=ANCHORS)),
    "focal": ((4, 2), 2, Detection(anchors=ANCHORS)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_training_on_a_few_pictures_finds_their_boxes(data: DataModule, kind: str) -> None:
    torch.manual_seed(0)
    channels, anchors, task = KINDS[kind]
    net = Tiny(channels, anchors)
    task = bound(data, outputs_of(net), task)
    batch = next(data.batches("train", 8, augment=False))
    images, targets = torch.from_numpy(batch.inputs), torch.from_numpy(batch.targets)  # type: ignore[arg-type]
    optimiser = torch.optim.Adam(net.train().parameters(), 5e-3)
    losses: list[float] = []
    for _ in range(80):
        loss = task.loss(net(images), targets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    with torch.inference_mode():
        values = [value.numpy() for value in net(images)]
    assert task.figure(task.measure(Named(values, outputs_of(net)), batch.targets)) > 0.6


@pytest.mark.parametrize("kind", KINDS)
def test_divergence(data: DataModule, kind: str) -> None:
    """0 where equal, above 0 elsewhere, and following its gradient leads back."""
    torch.manual_seed(1)
    channels, anchors, task = KINDS[kind]
    net = Tiny(channels, anchors)
    task = bound(data, outputs_of(net), task)
    reference = [value + 1 for value in net(torch.rand(2, 3, *SIZE))]
    assert task.divergence(reference, reference).item() == 0.0
    other = [(value + torch.randn_like(value)).detach().requires_grad_() for value in reference]
    before = task.divergence(other, reference)
    before.backward()
    assert before.item() > 0.05
    grads = [value.grad for value in other]
    assert all(grad is not None and bool(torch.isfinite(grad).all()) and bool(grad.any()) for grad in grads)
    after = task.divergence([v - 0.01 * g for v, g in zip(other, grads, strict=True)], reference)  # type: ignore[operator]
    assert after.item() < before.item()


def test_an_ignored_box_neither_trains_nor_counts(data: DataModule) -> None:
    outputs = maps(2, 4)
    task = bound(data, outputs)
    targets = data.test.targets[:1].copy()
    targets[0, 1:] = NO_BOX
    targets[0, 0, 5] = 1
    values = exact(task, outputs, data.test.targets[:1])
    assert task.figure(task.measure(Named(values, outputs), targets)) == 0.0  # no box is left to be found
    logits = [torch.from_numpy(v).requires_grad_() for v in values]
    task.loss(logits, torch.from_numpy(targets)).backward()
    x1, y1, x2, y2 = targets[0, 0, 1:5]
    column, row = int((x1 + x2) / 2 // 8), int((y1 + y2) / 2 // 8)
    assert logits[0].grad is not None
    assert not logits[0].grad[0, :, row, column].any()


def test_no_boxes_at_all_still_train(data: DataModule) -> None:
    for channels, anchors, task in KINDS.values():
        net = Tiny(channels, anchors)
        task = bound(data, outputs_of(net), task)
        loss = task.loss(net.train()(torch.rand(2, 3, *SIZE)), torch.tensor([[NO_BOX], [NO_BOX]]))
        loss.backward()
        assert 0 < loss.item() < 1000


def test_overlap() -> None:
    one = torch.tensor([[0.0, 0, 10, 10]])
    others = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [20, 0, 30, 10]])
    assert overlap(one, others).tolist() == pytest.approx([1, 1 / 3, 0], abs=1e-6)
    assert overlap(one, others, generalised=True).tolist() == pytest.approx([1, 1 / 3, -1 / 3], abs=1e-6)


# -- moved pictures ----------------------------------------------------------------------------------------


def test_boxes_follow_their_pictures() -> None:
    """Each box still surrounds just the pixels of its rectangle."""
    count = 30
    pictures = np.zeros((count, 1, *SIZE), np.uint8)
    targets = np.tile(np.asarray(NO_BOX, np.float32), (count, 3, 1))
    for image in range(count):
        for place, (number, x1, y1, x2, y2) in enumerate(scene(image)[1]):
            targets[image, place] = (number, x1, y1, x2, y2, 0)
            pictures[image, 0, int(y1) : int(y2), int(x1) : int(x2)] = place + 1
    moves = Augmentation(7, mirror=True).moves(SIZE, np.arange(count), seed=1, epoch=4)
    assert moves.mirrored.any()
    assert not moves.mirrored.all()
    shown, found = moves.apply(pictures, (0,)), Detection().moved(targets, moves)
    kept = lost = 0
    for image in range(count):
        for place in range(3):
            y, x = np.nonzero(shown[image, 0] == place + 1)
            number, x1, y1, x2, y2, _ = found[image, place]
            if number >= 0:
                assert (x1, y1, x2, y2) == (x.min(), y.min(), x.max() + 1, y.max() + 1)
                assert number == targets[image, place, 0]
                kept += 1
            elif targets[image, place, 0] >= 0:
                before = (targets[image, place, 3:5] - targets[image, place, 1:3]).prod()
                assert len(x) <= 0.25 * before
                lost += 1
    assert kept > 40
    assert lost


# -- bad targets -------------------------------------------------------------------------------------------


def arrays(rows: Any, **options: Any) -> DataModule:
    images = np.random.default_rng(0).integers(0, 255, (6, 3, *SIZE), np.uint8)
    targets = np.tile(np.asarray((0, 4, 4, 20, 20, 0), np.float32), (6, 1, 1))
    wrong = targets.copy()
    wrong[3, 0] = rows
    return from_arrays(
        (images[:4], wrong[:4]), (images[4:], targets[4:]), class_names=NAMES, task="detection", **options
    )


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ((2, 4, 4, 20, 20, 0), "a box of train picture 3 has the class 2 of 2"),
        ((0.5, 4, 4, 20, 20, 0), "has the class 0.5"),
        ((0, 20, 4, 20, 20, 0), r"picture 3 is \(20, 4, 20, 20\), which is empty"),
        ((0, 4, 4, 60, 20, 0), "not in the picture"),
    ],
)
def test_bad_boxes_are_refused(row: tuple[float, ...], said: str) -> None:
    with pytest.raises(DataError, match=said):
        bind_task(arrays(row), maps(2, 4))


def test_other_targets_and_sizes_are_refused() -> None:
    images = np.zeros((4, 3, *SIZE), np.uint8) + 60 * np.arange(4, dtype=np.uint8)[:, None, None, None]
    labels = from_arrays(
        (images[:2], np.zeros(2)), (images[2:], np.zeros(2)), class_names=NAMES, task="detection"
    )
    with pytest.raises(DataError, match=r"give float32 \[N, M, 6\]"):
        bind_task(labels, maps(2, 4))
    with pytest.raises(DataError, match="boxes would be in other pixels"):
        bind_task(arrays((0, 4, 4, 20, 20, 0), input_shape=(3, 64, 96)), maps(2, 4))


def test_a_part_without_boxes_is_refused() -> None:
    images = np.random.default_rng(0).integers(0, 255, (6, 3, *SIZE), np.uint8)
    targets = np.tile(np.asarray((0, 4, 4, 20, 20, 0), np.float32), (6, 1, 1))
    targets[4:] = NO_BOX
    data = from_arrays(
        (images[:2], targets[:2]), (images[2:4], targets[2:4]), validation=(images[4:], targets[4:]),
        class_names=NAMES, task="detection",
    )  # fmt: skip
    with pytest.raises(DataError, match="no validation picture has a box"):
        bind_task(data, maps(2, 4))
