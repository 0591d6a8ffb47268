"""From the raw outputs of a detector to its boxes: what an app has to do after the network, in NumPy.

`Decoder` holds all of its constants and can be written as JSON; `decode` needs nothing else but NumPy. The
graph ends before it, so that class logits and distances are quantised each with their own scale, and so that
runtimes without such operators run the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Coding = Literal["distances", "distribution", "centre"]
"""How boxes are coded in a map, in units of its stride, from the middle of each cell:
distances     left, top, right, bottom (FCOS, Tian 2019; YOLOv6)
distribution  the same, each as logits over 0, 1, 2, ... whose mean it is (GFL, Li 2020; YOLOv8)
centre        x, y from the corner of the cell, and logarithms of width and height (YOLOX, Ge 2021)
"""

LEAST_SCORE = 0.05  # RetinaNet's (Lin 2017, section 4.1), as are the next two
SUPPRESSED_IOU = 0.5
CANDIDATES = 1000
MOST_BOXES = 100  # of an image: what COCO's evaluation counts (Lin 2014)
VARIANCES = (0.1, 0.2)  # of SSD: offsets of centres and logarithms of sizes are divided by them (Liu 2016)
FARTHEST_LOG = 6.0  # e^6 cells or anchors: larger exponents, of untrained networks, would overflow


@dataclass(frozen=True)
class Channels:
    """Channels `first` to `first + count` of an output.

    Attributes:
        output: Place of the output.
    """

    output: int
    first: int
    count: int


@dataclass(frozen=True)
class Level:
    """Maps of one resolution of an anchor-free detector: outputs [N, channels, height, width].

    Attributes:
        stride: Pixels of the input for a cell, (vertical, horizontal).
        size: (height, width) of the maps.
        classes: Logits of the classes.
        boxes: Boxes, coded as `coding` says.
        objectness: Logit whose probability multiplies those of the classes; None: there is none.
    """

    stride: tuple[float, float]
    size: tuple[int, int]
    classes: Channels
    boxes: Channels
    coding: Coding = "distances"
    objectness: Channels | None = None


@dataclass(frozen=True)
class AnchorHead:
    """Outputs of an SSD-like detector: boxes [N, A, 4] and scores [N, A, classes], relative to anchors.

    Attributes:
        boxes, scores: Places of the outputs.
        anchors: A rows of x1, y1, x2, y2 in pixels of the input.
        background: Whether the first score is that of no object, so that scores are a softmax; else sigmoid.
        variances: For centres and for sizes.
    """

    boxes: int
    scores: int
    anchors: tuple[tuple[float, float, float, float], ...]
    background: bool
    variances: tuple[float, float] = VARIANCES


class Found(NamedTuple):
    """Boxes of one image, best first: corners [K, 4] in pixels of the input, scores [K], classes [K]."""

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: NDArray[np.int64]


@dataclass(frozen=True)
class Decoder:
    """Everything that turns raw outputs into boxes.

    Attributes:
        size: (height, width) of the network's input; boxes are cut off there.
        classes: Number of classes.
        levels: Of an anchor-free detector, finest first; () for one with anchors.
        anchors: Of a detector with anchors; None for an anchor-free one.
        least_score: Answers with a smaller probability are dropped.
        suppressed_iou: Of two boxes of one class that overlap more, the less probable one is dropped.
        candidates: Answers of an image that reach the suppression, the most probable ones.
        most: Boxes of an image that are left.
    """

    size: tuple[int, int]
    classes: int
    levels: tuple[Level, ...] = ()
    anchors: AnchorHead | None = None
    least_score: float = LEAST_SCORE
    suppressed_iou: float = SUPPRESSED_IOU
    candidates: int = CANDIDATES
    most: int = MOST_BOXES

    def to_json(self) -> dict[str, Any]:
        """The constants as JSON values."""
        return asdict(self)

    def decode(self, outputs: Sequence[Array]) -> list[Found]:
        """Boxes of each image.

        Args:
            outputs: All outputs of the network in their order, float32 [N, ...], channels first.
        """
        return [
            self._of_image([np.asarray(o[at], np.float32) for o in outputs]) for at in range(len(outputs[0]))
        ]

    def _of_image(self, outputs: Sequence[Array]) -> Found:
        scores, boxes = self._of_anchors(outputs) if self.anchors else self._of_levels(outputs)
        # A value that is not a number compares as false and is dropped here, and so are boxes without area.
        there = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        places, classes = np.nonzero((scores > self.least_score) & there[:, None])
        found = scores[places, classes]
        order = np.argsort(-found, kind="stable")[: self.candidates]
        kept = suppressed(boxes[places[order]], classes[order], self.suppressed_iou, self.most)
        order = order[kept]
        return Found(boxes[places[order]], found[order], classes[order].astype(np.int64))

    def _of_levels(self, outputs: Sequence[Array]) -> tuple[Array, Array]:
        """Probabilities [P, classes] and boxes [P, 4] of all cells."""
        scores: list[Array] = []
        boxes: list[Array] = []
        for level in self.levels:
            score = _sigmoid(_rows(outputs, level.classes))
            if level.objectness is not None:
                score = score * _sigmoid(_rows(outputs, level.objectness))
            scores.append(score)
            boxes.append(_corners(_rows(outputs, level.boxes), level))
        return np.concatenate(scores), self._cut(np.concatenate(boxes))

    def _of_anchors(self, outputs: Sequence[Array]) -> tuple[Array, Array]:
        head = self.anchors
        assert head is not None
        logits = outputs[head.scores]
        scores = _softmax(logits)[:, 1:] if head.background else _sigmoid(logits)
        anchors = np.asarray(head.anchors, np.float32)
        sides, middles = anchors[:, 2:] - anchors[:, :2], (anchors[:, :2] + anchors[:, 2:]) / 2
        coded, (near, far) = outputs[head.boxes], head.variances
        middle = middles + coded[:, :2] * near * sides
        half = sides * np.exp(np.minimum(coded[:, 2:] * far, FARTHEST_LOG)) / 2
        return scores, self._cut(np.concatenate([middle - half, middle + half], 1))

    def _cut(self, boxes: Array) -> Array:
        height, width = self.size
        return boxes.clip(0, np.array([width, height, width, height], np.float32)).astype(np.float32)


def centres(level: Level) -> tuple[Array, Array]:
    """Middles of the cells (x, y) [P, 2] in pixels, and the stride in x and y [2]."""
    height, width = level.size
    stride = np.array(level.stride[::-1], np.float32)
    y, x = np.mgrid[:height, :width]
    cells = np.stack([x.ravel(), y.ravel()], 1).astype(np.float32)
    return (cells + np.float32(0.5)) * stride, stride


def suppressed(boxes: Array, classes: Array, iou: float, most: int) -> NDArray[np.int64]:
    """Places of the boxes that are left by non-maximum suppression within each class, at most `most`.

    Args:
        boxes: [K, 4], most probable first.
    """
    areas = (boxes[:, 2] - boxes[:, 0]).clip(0) * (boxes[:, 3] - boxes[:, 1]).clip(0)
    left = np.ones(len(boxes), bool)
    kept: list[int] = []
    for place in range(len(boxes)):
        if not left[place]:
            continue
        kept.append(place)
        if len(kept) == most:
            break
        low = np.maximum(boxes[place, :2], boxes[place + 1 :, :2])
        high = np.minimum(boxes[place, 2:], boxes[place + 1 :, 2:])
        both = (high - low).clip(0).prod(1)
        either = areas[place] + areas[place + 1 :] - both
        left[place + 1 :] &= (both <= iou * either) | (classes[place + 1 :] != classes[place])
    return np.asarray(kept, np.int64)


def _rows(outputs: Sequence[Array], channels: Channels) -> Array:
    """[C, H, W] -> [H * W, count]."""
    chosen = outputs[channels.output][channels.first : channels.first + channels.count]
    return chosen.reshape(channels.count, -1).T


def _corners(coded: Array, level: Level) -> Array:
    points, stride = centres(level)
    if level.coding == "centre":
        middle = points + (coded[:, :2] - np.float32(0.5)) * stride
        half = np.exp(np.minimum(coded[:, 2:], FARTHEST_LOG)) * stride / 2
        return np.concatenate([middle - half, middle + half], 1)
    if level.coding == "distribution":
        shares = _softmax(coded.reshape(len(coded), 4, -1))
        coded = shares @ np.arange(shares.shape[2], dtype=np.float32)
    return np.concatenate([points - coded[:, :2] * stride, points + coded[:, 2:] * stride], 1)


def _sigmoid(x: Array) -> Array:
    return np.float32(0.5) * (np.tanh(np.float32(0.5) * x) + np.float32(1))


def _softmax(x: Array) -> Array:
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)
