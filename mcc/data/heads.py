"""Which outputs of a detector hold what: recognised from shapes and names, or stated by the user."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from mcc.data.decoding import AnchorHead, Channels, Coding, Level
from mcc.data.outputs import Output, listed
from mcc.errors import DataError, UsageError

Size = tuple[int, int]
Corners = tuple[float, float, float, float]

BOXES = re.compile(r"box|reg|dist|ltrb|loc|delta|offset")
CLASSES = re.compile(r"cls|class|score|logit|conf|prob|label")
OBJECTNESS = re.compile(r"obj|centerness|centreness|ctr")
SIDES = 4
MOST_STRIDE = 1024

STATE_HEADS = "state them in a task of your own: TASK = Detection(heads=(Level(...), ...)) (docs/data.md)"
WITHOUT_SUPPRESSION = (
    "export the network so that it returns the maps before decoding and non-maximum suppression; mcc and the "
    "app do both outside of the graph"
)


def recognised(
    outputs: Sequence[Output],
    classes: int,
    size: Size,
    anchors: Sequence[Corners],
    coding: Coding | None,
    where: str,
) -> tuple[Level, ...] | AnchorHead:
    """The heads of a detector with these outputs.

    Args:
        size: (height, width) of the network's input.
        anchors: Corners in pixels, for an SSD-like head; () for an anchor-free one.
        coding: How boxes of an anchor-free head are coded; None: as is usual for outputs of such channels.

    Raises:
        DataError: The outputs are none of a detector for so many classes.
        UsageError: Anchors are missing, or several outputs could be the same.
    """
    inside = _decoded_inside(outputs, classes)
    if inside:
        raise DataError(
            f"the network returns boxes that are decoded already ({listed(outputs, inside)})",
            where="model", hint=WITHOUT_SUPPRESSION,
        )  # fmt: skip
    if any(len(output.shape) == 3 and output.shape[2] == SIDES for output in outputs):
        return _of_anchors(outputs, classes, anchors, where)
    by_size: dict[Size, list[int]] = {}
    for place, output in enumerate(outputs):
        if len(output.shape) == 4 and min(output.shape) > 0:
            by_size.setdefault((output.shape[2], output.shape[3]), []).append(place)
    levels = [_level(outputs, places, classes, size, coding) for places in by_size.values()]
    found = sorted((level for level in levels if level is not None), key=lambda level: level.stride)
    if not found:
        raise misfit(outputs, classes, where)
    return tuple(found)


def check_levels(levels: Sequence[Level], outputs: Sequence[Output], classes: int, where: str) -> None:
    """Refuse heads that a user stated and that the outputs do not have. Raises DataError."""
    for number, level in enumerate(levels):
        parts = [level.classes, level.boxes, *([level.objectness] if level.objectness else [])]
        for part in parts:
            shape = outputs[part.output].shape if 0 <= part.output < len(outputs) else ()
            if len(shape) != 4 or shape[2:] != level.size or part.first + part.count > shape[1]:
                raise DataError(
                    f"head {number} reads channels {part.first} to {part.first + part.count} of output "
                    f"{part.output} with maps of {level.size[0]}x{level.size[1]} ({listed(outputs)})",
                    where=where,
                )
        if level.classes.count != classes or level.boxes.count % SIDES:
            raise DataError(
                f"head {number} has {level.classes.count} classes of {classes}, and "
                f"{level.boxes.count} channels for boxes",
                where=where,
            )


def misfit(outputs: Sequence[Output], classes: int, where: str) -> DataError:
    """That no outputs are those of a detector for the classes."""
    return DataError(
        f"has {classes} classes, and no outputs of the network are maps of {classes} class logits and 4 "
        f"distances, or of both in one ({listed(outputs)})",
        where=where,
        hint=f"use the data that the network was made for, or {STATE_HEADS}",
    )


def stride_of(size: Size, cells: Size) -> tuple[float, float] | None:
    """Pixels for a cell: the power of two that gives so many cells, rounded up, else the plain ratio.

    None where neither is the same in both directions.
    """
    stride = 1
    while stride <= MOST_STRIDE:
        if all(math.ceil(side / stride) == count for side, count in zip(size, cells, strict=True)):
            return float(stride), float(stride)
        stride *= 2
    ratios = size[0] / cells[0], size[1] / cells[1]
    return ratios if math.isclose(*ratios, rel_tol=0.01) else None


# -- anchor-free -------------------------------------------------------------------------------------------


def _level(
    outputs: Sequence[Output], places: Sequence[int], classes: int, size: Size, coding: Coding | None
) -> Level | None:
    """The head that outputs of one size make; None where they make none, as feature maps beside the heads."""
    cells = (outputs[places[0]].shape[2], outputs[places[0]].shape[3])
    stride = stride_of(size, cells)
    joined = [place for place in places if _joined(outputs[place].shape[1], classes)]
    pair = _pair(outputs, places, classes)
    if pair is None and not joined:
        return None
    if stride is None:
        height, width = size
        raise DataError(
            f"maps of {cells[0]}x{cells[1]} do not divide the input of {height}x{width} evenly",
            where="model", hint=STATE_HEADS,
        )  # fmt: skip
    if pair is not None:
        scores, boxes, objectness = pair
        count = outputs[boxes].shape[1]
        return Level(
            stride, cells, Channels(scores, 0, classes), Channels(boxes, 0, count),
            coding or ("distances" if count == SIDES else "distribution"),
            None if objectness is None else Channels(objectness, 0, 1),
        )  # fmt: skip
    if len(joined) > 1:
        raise UsageError(
            f"{len(joined)} outputs could hold the boxes: {listed(outputs, joined)}", where="model",
            hint=STATE_HEADS,
        )  # fmt: skip
    (place,) = joined
    count = outputs[place].shape[1] - classes
    if count == SIDES + 1:  # YOLOX's order: box, objectness, classes
        return Level(
            stride, cells, Channels(place, SIDES + 1, classes), Channels(place, 0, SIDES),
            coding or "centre", Channels(place, SIDES, 1),
        )  # fmt: skip
    usual: Coding = "distances" if count == SIDES else "distribution"
    return Level(stride, cells, Channels(place, count, classes), Channels(place, 0, count), coding or usual)


def _joined(channels: int, classes: int) -> bool:
    """Whether so many channels hold boxes and classes, with objectness or with distributions of distances."""
    rest = channels - classes
    return rest in (SIDES, SIDES + 1) or (rest >= 4 * SIDES and rest % SIDES == 0)


def _pair(
    outputs: Sequence[Output], places: Sequence[int], classes: int
) -> tuple[int, int, int | None] | None:
    """Outputs of one size that hold the classes, the boxes, and the objectness if there is one."""

    def among(kind: re.Pattern[str], fits: Sequence[int]) -> list[int]:
        named = [place for place in fits if kind.search(outputs[place].name.lower())]
        return named if len(named) == 1 else list(fits)

    channels = {place: outputs[place].shape[1] for place in places}
    boxes = [p for p in places if channels[p] == SIDES]
    boxes = boxes or [p for p in places if channels[p] >= 4 * SIDES and channels[p] % SIDES == 0]
    boxes = among(BOXES, boxes)
    scores = [p for p in places if channels[p] == classes and (p not in boxes or len(boxes) > 1)]
    scores = among(CLASSES, [p for p in scores if not OBJECTNESS.search(outputs[p].name.lower())] or scores)
    if len(scores) == 1:
        boxes = [place for place in boxes if place not in scores]
    if not boxes or not scores:
        return None
    if len(boxes) > 1 or len(scores) > 1:
        raise UsageError(
            f"{max(len(boxes), len(scores))} outputs could be the same: "
            f"{listed(outputs, sorted({*boxes, *scores}))}",
            where="model", hint=f"call them cls and box, or {STATE_HEADS}",
        )  # fmt: skip
    left = [p for p in places if channels[p] == 1 and p not in (*boxes, *scores)]
    objectness = [p for p in left if OBJECTNESS.search(outputs[p].name.lower())] or left
    return scores[0], boxes[0], objectness[0] if len(objectness) == 1 else None


# -- with anchors ------------------------------------------------------------------------------------------


def _of_anchors(
    outputs: Sequence[Output], classes: int, anchors: Sequence[Corners], where: str
) -> AnchorHead:
    boxes = [p for p, o in enumerate(outputs) if len(o.shape) == 3 and o.shape[2] == SIDES]
    if len(boxes) > 1:
        boxes = [p for p in boxes if BOXES.search(outputs[p].name.lower())] or boxes
    place = boxes[0]
    count = outputs[place].shape[1]
    scores = [
        p for p, o in enumerate(outputs)
        if p != place and len(o.shape) == 3 and o.shape[1] == count and o.shape[2] in (classes, classes + 1)
    ]  # fmt: skip
    if not scores:
        raise DataError(
            f"has {classes} classes, and no output holds {classes} or {classes + 1} scores for each of the "
            f"{count} boxes ({listed(outputs)})",
            where=where,
            hint="use the data that the network was made for",
        )
    if not anchors:
        raise UsageError(
            f"the network answers relative to {count} anchors ({listed(outputs)}), which are not known",
            where="model",
            hint="state them in a task of your own: TASK = Detection(anchors=...), [A, 4] corners in pixels",
        )
    if len(anchors) != count:
        raise DataError(
            f"the task has {len(anchors)} anchors and the network {count} boxes ({listed(outputs)})",
            where=where,
        )
    background = outputs[scores[0]].shape[2] == classes + 1
    return AnchorHead(place, scores[0], tuple(anchors), background)


def _decoded_inside(outputs: Sequence[Output], classes: int) -> list[int]:
    """Outputs that look decoded: TFLite's four behind a suppression, or one of rows with box and scores.

    Such rows are [K, 6], [K, 7] or [N, K, 6] behind a suppression, and [N, P, 4 + classes],
    [N, P, 5 + classes] or [N, 4 + classes, P] before it (YOLOv5 to 8 as they are exported).
    """
    shapes = [tuple(output.shape) for output in outputs]
    if any(
        len(shape) == 3 and shape[2] == SIDES and sum(other == shape[:2] for other in shapes) >= 2
        for shape in shapes
    ):
        return list(range(len(outputs)))
    rows = (6, 7, SIDES + classes, SIDES + 1 + classes)
    alone = len(shapes) == 1 and len(shapes[0]) in (2, 3)
    return [0] if alone and (shapes[0][-1] in rows or shapes[0][1] in rows) else []
