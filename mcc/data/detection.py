"""Object detection: boxes with classes, read from the raw maps or the anchors of a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mcc.data.assignment import Assignment, by_overlap, task_aligned
from mcc.data.augment import Moves
from mcc.data.average_precision import THRESHOLDS, matched, mean_average_precision
from mcc.data.boxes import CLASS, CORNERS, ROW, Floats, array_overlaps, moved_boxes, overlap
from mcc.data.decoding import (
    FARTHEST_LOG,
    LEAST_SCORE,
    MOST_BOXES,
    SUPPRESSED_IOU,
    AnchorHead,
    Channels,
    Coding,
    Decoder,
    Found,
    Level,
    centres,
)
from mcc.data.heads import check_levels, recognised
from mcc.data.outputs import Output, named_output
from mcc.data.split import ImageSplit, Targets
from mcc.data.task import Outputs, Statistics, Task
from mcc.errors import DataError, UsageError
from mcc.metric import FRACTION, Metric

if TYPE_CHECKING:
    from mcc.data.module import DataModule

DETECTION = "detection"
MAP_50 = Metric("mAP@50", FRACTION)
BOX_GAIN = 2.0  # of the boxes' loss against that of the classes (TOOD, Feng 2021)
FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0  # Lin 2017
NEGATIVES = 3  # for each anchor that is responsible for a box (SSD, Liu 2016)
SHOWN_SCORE = 0.25  # what an app would show: the default of Ultralytics' predictors
SAME_BOX = 0.5  # IoU from which two networks mean the same object
TOLERATED = 1.0  # pixels that labelled boxes may reach over the border


class Dense(NamedTuple):
    """Answers of a network at all of its cells or anchors.

    Attributes:
        logits: [N, P, C] of classes; with `background`, [N, P, 1 + C], of which the first is no object.
        boxes: [N, P, 4] corners in pixels.
        objectness: [N, P] logits, or None.
    """

    logits: Tensor
    boxes: Tensor
    objectness: Tensor | None


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
        levels, anchors = ((), found) if isinstance(found, AnchorHead) else (found, None)
        decoder = Decoder(size, classes, levels, anchors, self.least_score, self.suppressed_iou)
        first = anchors.scores if anchors is not None else levels[0].classes.output
        bound = replace(self, output=first, decoder=decoder)
        if asked is not None and named_output(outputs, asked) not in bound.reads():
            raise UsageError(
                f"output {asked!r} holds neither classes nor boxes", where="--judge",
                hint="leave it out: a detector is judged by all of its heads",
            )  # fmt: skip
        return bound

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
                f"its pictures are kept at {split.source.shape[1:]} and the network takes {size}: boxes would "
                "be in other pixels",
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
        dense = _dense(outputs, decoder)
        if decoder.anchors is not None:
            return _anchor_loss(outputs, dense, decoder.anchors, targets)
        return _point_loss(dense, decoder.levels, targets)

    def divergence(self, outputs: Sequence[Tensor], reference: Sequence[Tensor]) -> Tensor:
        """KL of the classes and 1 - GIoU of the boxes, over the sum of the reference's confidence."""
        decoder = self._decoder
        background = decoder.anchors is not None and decoder.anchors.background
        one = _dense(outputs, decoder)
        other = Dense(*(None if value is None else value.detach() for value in _dense(reference, decoder)))
        confidence = _probabilities(other, background).amax(-1)
        confidence = confidence * (confidence > self.least_score)
        if background:
            left, right = torch.log_softmax(one.logits, -1), torch.log_softmax(other.logits, -1)
            apart = (right.exp() * (right - left)).sum()
        elif one.objectness is not None and other.objectness is not None:
            sure = other.objectness.sigmoid()[..., None]
            apart = (sure * _bernoulli(other.logits, one.logits)).sum()
            apart = apart + _bernoulli(other.objectness, one.objectness).sum()
        else:
            apart = _bernoulli(other.logits, one.logits).sum()
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
            f"its {self.metric.name} on {len(statistics):,} pictures is {100 * found:.2f} %, and answering the "
            f"boxes of another picture gives {100 * guessed:.2f} %"
        )

    def agreement(self, outputs: Outputs, reference: Outputs) -> Statistics:
        """[N] share of the boxes above `SHOWN_SCORE` that both have, with one class and IoU above a half."""
        pairs = zip(self.boxes(outputs), self.boxes(reference), strict=True)
        return np.array([_shared(_shown(one), _shown(other)) for one, other in pairs])


# -- answers -----------------------------------------------------------------------------------------------


def _dense(outputs: Sequence[Tensor], decoder: Decoder) -> Dense:
    """Answers of all cells or anchors; differentiable."""
    head = decoder.anchors
    if head is not None:
        anchors = outputs[head.boxes].new_tensor(head.anchors)
        return Dense(outputs[head.scores], _uncoded(outputs[head.boxes], anchors, head.variances), None)

    def rows(channels: Channels) -> Tensor:
        chosen = outputs[channels.output][:, channels.first : channels.first + channels.count]
        return chosen.flatten(2).transpose(1, 2)

    logits = torch.cat([rows(level.classes) for level in decoder.levels], 1)
    boxes = torch.cat([_corners(rows(level.boxes), level) for level in decoder.levels], 1)
    parts = [level.objectness for level in decoder.levels]
    there = [rows(part)[..., 0] for part in parts if part is not None]
    return Dense(logits, boxes, torch.cat(there, 1) if len(there) == len(parts) else None)


def _corners(coded: Tensor, level: Level) -> Tensor:
    """Corners [N, P, 4] of boxes as a level codes them; `mcc.data.decoding` has the same in NumPy."""
    points, stride = (coded.new_tensor(value) for value in centres(level))
    if level.coding == "centre":
        middle = points + (coded[..., :2] - 0.5) * stride
        half = coded[..., 2:].clamp(max=FARTHEST_LOG).exp() * stride / 2
        return torch.cat([middle - half, middle + half], -1)
    if level.coding == "distribution":
        shares = torch.softmax(coded.unflatten(-1, (4, -1)), -1)
        coded = shares @ torch.arange(shares.shape[-1], dtype=shares.dtype)
    return torch.cat([points - coded[..., :2] * stride, points + coded[..., 2:] * stride], -1)


def _uncoded(coded: Tensor, anchors: Tensor, variances: tuple[float, float]) -> Tensor:
    sides, middles = anchors[:, 2:] - anchors[:, :2], (anchors[:, :2] + anchors[:, 2:]) / 2
    middle = middles + coded[..., :2] * variances[0] * sides
    half = sides * (coded[..., 2:] * variances[1]).clamp(max=FARTHEST_LOG).exp() / 2
    return torch.cat([middle - half, middle + half], -1)


def _coded(corners: Tensor, anchors: Tensor, variances: tuple[float, float]) -> Tensor:
    """What an SSD-like head should answer for boxes [N, A, 4]."""
    sides, middles = anchors[:, 2:] - anchors[:, :2], (anchors[:, :2] + anchors[:, 2:]) / 2
    own, middle = corners[..., 2:] - corners[..., :2], (corners[..., :2] + corners[..., 2:]) / 2
    near = (middle - middles) / sides / variances[0]
    far = (own.clamp(min=1e-3) / sides).log() / variances[1]
    return torch.cat([near, far], -1)


def _probabilities(dense: Dense, background: bool) -> Tensor:
    """[N, P, C]."""
    if background:
        return torch.softmax(dense.logits, -1)[..., 1:]
    found = dense.logits.sigmoid()
    return found if dense.objectness is None else found * dense.objectness.sigmoid()[..., None]


def _bernoulli(one: Tensor, other: Tensor) -> Tensor:
    """KL(sigmoid(one) || sigmoid(other)) of logits, element by element."""
    share = one.sigmoid()
    yes = share * (functional.logsigmoid(one) - functional.logsigmoid(other))
    return yes + (1 - share) * (functional.logsigmoid(-one) - functional.logsigmoid(-other))


# -- losses ------------------------------------------------------------------------------------------------


def _chosen(targets: Tensor, assigned: Assignment) -> Tensor:
    """[N, P, 6] the target of each answer; any where there is none."""
    return targets.gather(1, assigned.box.clamp(min=0)[..., None].expand(-1, -1, ROW))


def _one_hot(own: Tensor, weight: Tensor, classes: int) -> Tensor:
    """[N, P, C] `weight` at the class of each answer's target."""
    return functional.one_hot(own[..., CLASS].clamp(min=0).long(), classes) * weight[..., None]


def _point_loss(dense: Dense, levels: Sequence[Level], targets: Tensor) -> Tensor:
    points, strides = (
        torch.cat(parts)
        for parts in zip(*(_points(level, dense.boxes) for level in levels), strict=True)
    )
    scores = _probabilities(dense, background=False).detach()
    assigned = task_aligned(scores, dense.boxes.detach(), points, strides, targets)
    own, taken = _chosen(targets, assigned), assigned.box >= 0
    wanted = _one_hot(own, assigned.quality, dense.logits.shape[-1])
    trained = (~assigned.left_out).to(dense.logits.dtype)
    scale = assigned.quality.sum().clamp(min=1)
    classes = functional.binary_cross_entropy_with_logits(dense.logits, wanted, reduction="none").sum(-1)
    if dense.objectness is not None:  # classes are those of an object that is there (YOLOX)
        there = functional.binary_cross_entropy_with_logits(
            dense.objectness, assigned.quality, reduction="none"
        )
        classes = classes * taken + there
    apart = 1 - overlap(dense.boxes, own[..., CORNERS], generalised=True)
    return ((classes * trained).sum() + BOX_GAIN * (apart * assigned.quality).sum()) / scale


def _points(level: Level, like: Tensor) -> tuple[Tensor, Tensor]:
    points, stride = (like.new_tensor(value) for value in centres(level))
    return points, stride.expand_as(points)


def _anchor_loss(outputs: Sequence[Tensor], dense: Dense, head: AnchorHead, targets: Tensor) -> Tensor:
    anchors = dense.boxes.new_tensor(head.anchors)
    assigned = by_overlap(anchors, targets)
    own, taken = _chosen(targets, assigned), assigned.box >= 0
    scale = taken.sum().clamp(min=1)
    wanted = _coded(own[..., CORNERS], anchors, head.variances)
    boxes = functional.smooth_l1_loss(outputs[head.boxes], wanted, reduction="none").sum(-1)
    boxes = torch.where(taken, boxes, torch.zeros_like(boxes)).sum()
    if head.background:
        number = torch.where(taken, own[..., CLASS].long() + 1, torch.zeros_like(assigned.box))
        classes = functional.cross_entropy(dense.logits.transpose(1, 2), number, reduction="none")
        trained = taken | _hardest(classes.detach(), taken, assigned.left_out)
        return ((classes * trained).sum() + boxes) / scale
    hot = _one_hot(own, taken.to(dense.logits.dtype), dense.logits.shape[-1])
    return ((_focal(dense.logits, hot).sum(-1) * ~assigned.left_out).sum() + boxes) / scale


def _hardest(classes: Tensor, taken: Tensor, left_out: Tensor) -> Tensor:
    """[N, A] the anchors without a box whose loss is greatest, `NEGATIVES` for each that has one."""
    ranks = classes.masked_fill(taken | left_out, -1.0).argsort(1, descending=True).argsort(1)
    most = (NEGATIVES * taken.sum(1, keepdim=True)).clamp(min=NEGATIVES)
    return (ranks < most) & ~taken & ~left_out


def _focal(logits: Tensor, wanted: Tensor) -> Tensor:
    share = logits.sigmoid()
    missed = share * (1 - wanted) + (1 - share) * wanted
    weight = FOCAL_ALPHA * wanted + (1 - FOCAL_ALPHA) * (1 - wanted)
    plain = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    return weight * missed**FOCAL_GAMMA * plain


# -- boxes of images ---------------------------------------------------------------------------------------


def _as_found(target: Floats) -> Found:
    """Labelled boxes as if they had been answered."""
    rows = target[target[:, CLASS] >= 0][:MOST_BOXES]
    return Found(rows[:, CORNERS], np.ones(len(rows), np.float32), rows[:, CLASS].astype(np.int64))


def _shown(found: Found) -> Found:
    return Found(*(value[found.scores > SHOWN_SCORE] for value in found))


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
