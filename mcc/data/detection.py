"""Object detection: boxes with classes, read from the raw maps or the anchors of a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from mcc.data.answer import Answer
from mcc.data.augment import Moves
from mcc.data.average_precision import THRESHOLDS, matched, mean_average_precision
from mcc.data.boxes import CLASS, CORNERS, ROW, Floats, array_overlaps, moved_boxes, overlap
from mcc.data.decoding import (
    LEAST_SCORE,
    MOST_BOXES,
    SUPPRESSED_IOU,
    AnchorHead,
    Coding,
    Decoder,
    Found,
    Level,
)
from mcc.data.detection_losses import (
    anchor_loss,
    bernoulli,
    dense_answers,
    point_loss,
    probabilities,
)
from mcc.data.heads import check_levels, recognised
from mcc.data.outputs import Output, named_output
from mcc.data.shown import Pixels, Shown, boxed
from mcc.data.split import ImageSplit, Targets
from mcc.data.task import Outputs, Statistics, Task
from mcc.errors import DataError, UsageError
from mcc.metric import FRACTION, Metric

if TYPE_CHECKING:
    from mcc.data.module import DataModule

DETECTION = "detection"
MAP_50 = Metric("mAP@50", FRACTION)
SHOWN_SCORE = 0.25  # what an app would show: the default of Ultralytics' predictors
SAME_BOX = 0.5  # IoU from which two networks mean the same object
TOLERATED = 1.0  # pixels that labelled boxes may reach over the border


@dataclass(frozen=True)
class Detection(Task):
    """Boxes of an anchor-free (YOLO, FCOS) or an SSD-like detector; mAP@50 as COCO defines it; distillation.

    Anchor-free, with task-aligned assignment (Feng 2021), q the quality that a cell should score:

        loss = sum BCE(class, q) / sum q + 2 sum q (1 - GIoU) / sum q

    With anchors, matched by IoU: softmax cross-entropy with the hardest negatives (Liu 2016) where there is a
    background score, else focal loss (Lin 2017), and smooth L1 of the coded boxes. Distillation adds

        w (sum KL(teacher || student) + sum c (1 - GIoU)) / sum c

    over the classes of all cells, c the teacher's confidence where it is above `least_score`.

    Args:
        teacher_share: w; the loss has the share 1 - w then.
        output: Place of the first output that holds class logits.
        heads: Levels of an anchor-free detector; (): recognised from the outputs' shapes and names.
        anchors: [A, 4] corners in pixels, of an SSD-like detector.
        coding: How an anchor-free detector codes boxes; None: as is usual for its outputs, see `Coding`.
        least_score, suppressed_iou: See `Decoder`.
        decoder: What the outputs mean; made by `bind`.
    """

    teacher_share: float = 0.5
    name: str = DETECTION
    metric: Metric = MAP_50
    output: int = 0
    heads: tuple[Level, ...] = ()
    anchors: Any = ()
    coding: Coding | None = None
    least_score: float = LEAST_SCORE
    suppressed_iou: float = SUPPRESSED_IOU
    decoder: Decoder | None = None
    divergence_unit: ClassVar[str] = "nats"

    def __post_init__(self) -> None:
        if not 0 <= self.teacher_share <= 1:
            raise ValueError(f"teacher_share must lie in 0..1, not {self.teacher_share}")
        given = np.asarray(self.anchors, np.float64)
        if given.size and (given.ndim != 2 or given.shape[1] != 4 or (given[:, 2:] <= given[:, :2]).any()):
            raise UsageError(
                "anchors are not rows of x1, y1, x2, y2 in pixels", where="Detection", hint="give [A, 4]"
            )
        corners = tuple(tuple(float(v) for v in row) for row in given) if given.size else ()
        object.__setattr__(self, "anchors", corners)

    # -- binding -------------------------------------------------------------------------------------------

    def bind(self, outputs: Sequence[Output], data: DataModule, asked: str | None = None) -> Detection:
        """The outputs that hold classes and boxes.

        Raises:
            DataError: The outputs are not those of a detector for the classes of the data.
            UsageError: Names and shapes do not decide, or anchors are missing.
        """
        classes = len(data.class_names)
        size = data.first_shape[1], data.first_shape[2]
        if self.heads:
            check_levels(self.heads, outputs, classes, data.name)
        found = self.heads or recognised(outputs, classes, size, self.anchors, self.coding, data.name)
        levels = () if isinstance(found, AnchorHead) else found
        anchors = found if isinstance(found, AnchorHead) else None
        decoder = Decoder(size, classes, levels, anchors, self.least_score, self.suppressed_iou)
        first = found.scores if isinstance(found, AnchorHead) else found[0].classes.output
        bound = replace(self, output=first, decoder=decoder)
        if asked is not None and named_output(outputs, asked) not in bound.reads():
            raise UsageError(
                f"output {asked!r} holds neither classes nor boxes", where="--judge",
                hint="leave it out: a detector is judged by all of its heads",
            )  # fmt: skip
        return bound

    def answer(self, data: DataModule) -> Answer:
        """Boxes, with the constants that decode them."""
        return Answer("boxes", boxes=self._decoder.to_json())

    def reads(self) -> tuple[int, ...]:
        """Places of all outputs with classes, boxes and objectness."""
        decoder = self._decoder
        if decoder.anchors is not None:
            return decoder.anchors.scores, decoder.anchors.boxes
        parts = [part for level in decoder.levels for part in (level.classes, level.boxes, level.objectness)]
        return tuple(dict.fromkeys(part.output for part in parts if part is not None))

    @property
    def _decoder(self) -> Decoder:
        if self.decoder is None:
            raise UsageError("is not bound to the outputs of a network", where=f"task {self.name}")
        return self.decoder

    # -- targets -------------------------------------------------------------------------------------------

    def check_targets(self, targets: Targets, part: str, data: DataModule) -> None:
        """Rows of class, corners and whether ignored, [N, M, 6], inside the pictures. Raises DataError."""
        if targets.ndim != 3 or targets.shape[2] != ROW or targets.dtype.kind != "f":
            raise DataError(
                f"the {part} boxes are {targets.dtype} {list(targets.shape)}", where=data.name,
                hint="give float32 [N, M, 6]: class (-1: none), x1, y1, x2, y2 in pixels, ignored (0 or 1)",
            )  # fmt: skip
        size = data.first_shape[1], data.first_shape[2]
        split = data.split(part)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        if isinstance(split, ImageSplit) and split.source.shape[1:] != size:
            raise DataError(
                f"its pictures are kept at {split.source.shape[1:]} and the network takes {size}: boxes "
                "would be in other pixels",
                where=data.name, hint="give pictures of the network's size, with boxes in its pixels",
            )  # fmt: skip
        classes = len(data.class_names)
        image, place = np.nonzero(targets[:, :, CLASS] != -1)
        if not len(image):
            raise DataError(f"no {part} picture has a box", where=data.name, hint="label some of them")
        rows = targets[image, place]
        wrong = (rows[:, CLASS] < 0) | (rows[:, CLASS] >= classes) | (rows[:, CLASS] % 1 != 0)
        if wrong.any():
            at = int(wrong.argmax())
            raise DataError(
                f"a box of {part} picture {image[at]} has the class {rows[at, CLASS]:g} of {classes}",
                where=data.name, hint=f"number the classes from 0 to {classes - 1}; -1 fills up",
            )  # fmt: skip
        corners = rows[:, CORNERS]
        most = np.array([size[1], size[0], size[1], size[0]], np.float32) + TOLERATED
        wrong = (corners[:, 2:] <= corners[:, :2]).any(1) | (corners < -TOLERATED).any(1)
        wrong |= (corners > most).any(1)
        if wrong.any():
            at = int(wrong.argmax())
            said = ", ".join(f"{value:g}" for value in corners[at])
            raise DataError(
                f"a box of {part} picture {image[at]} is ({said}), which is empty or not in the picture",
                where=data.name, hint=f"give x1 < x2 <= {size[1]} and y1 < y2 <= {size[0]}, in pixels",
            )  # fmt: skip

    def moved(self, targets: Targets, moves: Moves) -> Floats:
        """Boxes of images that were moved, cut off at the border; those that are mostly gone are removed."""
        return moved_boxes(targets, moves)

    # -- training ------------------------------------------------------------------------------------------

    def loss(self, outputs: Sequence[Tensor], targets: Tensor) -> Tensor:
        """The loss above."""
        decoder = self._decoder
        dense = dense_answers(outputs, decoder)
        if decoder.anchors is not None:
            return anchor_loss(outputs, dense, decoder.anchors, targets)
        return point_loss(dense, decoder.levels, targets)

    def divergence(self, outputs: Sequence[Tensor], reference: Sequence[Tensor]) -> Tensor:
        """KL of the classes and 1 - GIoU of the boxes, over the sum of the reference's confidence."""
        decoder = self._decoder
        background = decoder.anchors is not None and decoder.anchors.background
        one = dense_answers(outputs, decoder)
        other = dense_answers([value.detach() for value in reference], decoder)
        confidence = probabilities(other, background).amax(-1)
        confidence = confidence * (confidence > self.least_score)
        if background:
            left, right = torch.log_softmax(one.logits, -1), torch.log_softmax(other.logits, -1)
            apart = (right.exp() * (right - left)).sum()
        elif one.objectness is not None and other.objectness is not None:
            sure = other.objectness.sigmoid()[..., None]
            apart = (sure * bernoulli(other.logits, one.logits)).sum()
            apart = apart + bernoulli(other.objectness, one.objectness).sum()
        else:
            apart = bernoulli(other.logits, one.logits).sum()
        boxes = (confidence * (1 - overlap(one.boxes, other.boxes, generalised=True))).sum()
        scale = confidence.sum().clamp(min=len(one.logits))
        return ((apart + boxes) / scale).clamp(min=0)

    def distillation_loss(
        self, outputs: Sequence[Tensor], teacher: Sequence[Tensor], targets: Tensor
    ) -> Tensor:
        """Both, by `teacher_share`."""
        share = self.teacher_share
        return (1 - share) * self.loss(outputs, targets) + share * self.divergence(outputs, teacher)

    # -- metric --------------------------------------------------------------------------------------------

    def boxes(self, outputs: Outputs) -> list[Found]:
        """Boxes of each image, after non-maximum suppression."""
        return self._decoder.decode(outputs)

    def measure(self, outputs: Outputs, targets: Targets) -> Statistics:
        """Of each image its boxes, which of them are right, and how many there are to be found."""
        return matched(self.boxes(outputs), targets, self._decoder.classes)

    def figure(self, statistics: Statistics) -> float:
        """mAP@50 of the images."""
        return mean_average_precision(statistics)

    def figures(self, statistics: Statistics) -> dict[str, float]:
        """mAP@[.5:.95] of the images, COCO's main figure."""
        return {"mAP@[.5:.95]": mean_average_precision(statistics, range(len(THRESHOLDS)))}

    def chance(
        self, statistics: Statistics, targets: Targets, class_names: Sequence[str], population: Targets
    ) -> str | None:
        """Held against answering the boxes of another picture: what boxes look like without looking."""
        found = self.figure(statistics)
        guesses = [_as_found(target) for target in np.roll(targets, 1, 0)]
        guessed = self.figure(matched(guesses, targets, len(class_names))) if len(targets) > 1 else 0.0
        if found > guessed:
            return None
        return (
            f"its {self.metric.name} on {len(statistics):,} pictures is {100 * found:.2f} %, and answering "
            f"the boxes of another picture gives {100 * guessed:.2f} %"
        )

    def shown(self, picture: Pixels, outputs: Outputs, class_names: Sequence[str]) -> Shown:
        """The boxes above `SHOWN_SCORE` in the picture, and their number."""
        return _drawn(picture, _shown(self.boxes(outputs)[0]), class_names)

    def shown_target(self, picture: Pixels, target: Floats, class_names: Sequence[str]) -> Shown:
        """The labelled boxes in the picture, and their number."""
        return _drawn(picture, _as_found(target), class_names)

    def agreement(self, outputs: Outputs, reference: Outputs) -> Statistics:
        """[N] share of the boxes above `SHOWN_SCORE` that both have, with one class and IoU above a half."""
        pairs = zip(self.boxes(outputs), self.boxes(reference), strict=True)
        return np.array([_shared(_shown(one), _shown(other)) for one, other in pairs])


# -- boxes of images ---------------------------------------------------------------------------------------


def _as_found(target: Floats) -> Found:
    """Labelled boxes as if they had been answered."""
    rows = target[target[:, CLASS] >= 0][:MOST_BOXES]
    return Found(rows[:, CORNERS], np.ones(len(rows), np.float32), rows[:, CLASS].astype(np.int64))


def _drawn(picture: Pixels, found: Found, names: Sequence[str]) -> Shown:
    drawn = boxed(picture, found.boxes, found.classes.tolist(), names)
    return Shown(f"{len(found.boxes)} boxes", drawn)


def _shown(found: Found) -> Found:
    shown = found.scores > SHOWN_SCORE
    return Found(found.boxes[shown], found.scores[shown], found.classes[shown])


def _shared(one: Found, other: Found) -> float:
    """2 |both| / (|one| + |other|), each box paired once; 1 where neither has any."""
    if not len(one.boxes) and not len(other.boxes):
        return 1.0
    shares = array_overlaps(one.boxes, other.boxes)
    shares[one.classes[:, None] != other.classes[None, :]] = 0
    both = 0
    while shares.size and shares.max() > SAME_BOX:
        first, second = np.unravel_index(int(shares.argmax()), shares.shape)
        shares[first], shares[:, second] = 0, 0
        both += 1
    return 2 * both / (len(one.boxes) + len(other.boxes))


TASK = Detection()
