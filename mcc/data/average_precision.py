"""Mean average precision as COCO defines it: matched by pycocotools, put together for any set of images.

pycocotools decides for each image which boxes are right; that is kept as an array with a row for each image,
so that the metric of a resample of the images (a bootstrap) needs no further matching. The last step,
`COCOeval.accumulate`, is repeated here on those rows; the tests hold it against the library's own.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcc.data.boxes import CLASS, CORNERS, IGNORED, Floats
from mcc.data.decoding import MOST_BOXES, Found

THRESHOLDS = np.linspace(0.5, 0.95, 10)  # of the IoU (Lin 2014)
RECALLS = np.linspace(0.0, 1.0, 101)  # at which the precision is read
AT_50 = 0
_SCORE, _OUTCOMES = 1, 2
_RIGHT, _WRONG, _LEFT_OUT = 1.0, 0.0, -1.0
_NO_CLASS = -1.0


def matched(found: Sequence[Found], targets: Floats, classes: int) -> NDArray[np.float64]:
    """[N, MOST_BOXES + classes, 2 + thresholds] of each image what average precision is made of.

    The first rows are the boxes found: class, score, and for each threshold 1 right, 0 wrong or -1 left out,
    because it lies in an ignored box. The last rows hold the number of boxes of each class to be found.

    Args:
        targets: [N, M, 6].
    """
    rows = np.full((len(found), MOST_BOXES + classes, _OUTCOMES + len(THRESHOLDS)), _LEFT_OUT)
    rows[:, :MOST_BOXES, CLASS] = _NO_CLASS
    for image, target in enumerate(targets):
        counted = target[(target[:, CLASS] >= 0) & (target[:, IGNORED] == 0), CLASS].astype(int)
        rows[image, MOST_BOXES:] = np.bincount(counted, minlength=classes)[:, None]
    used = [0] * len(found)
    for one in _evaluated(found, targets, classes):
        if one is None:
            continue
        image, count = int(one["image_id"]), len(one["dtScores"])
        first = used[image]
        used[image] = first + count
        place = rows[image, first : first + count]
        place[:, CLASS], place[:, _SCORE] = one["category_id"], one["dtScores"]
        right = np.where(np.asarray(one["dtMatches"]) > 0, _RIGHT, _WRONG)
        place[:, _OUTCOMES:] = np.where(np.asarray(one["dtIgnore"]), _LEFT_OUT, right).T
    return rows


def average_precisions(rows: NDArray[np.float64], threshold: int = AT_50) -> NDArray[np.float64]:
    """[classes] average precision at the threshold of that place; not a number for classes without boxes."""
    answers, counts = rows[:, :MOST_BOXES], rows[:, MOST_BOXES:, 0].sum(0)
    classes, scores = answers[:, :, CLASS].ravel(), answers[:, :, _SCORE].ravel()
    outcomes = answers[:, :, _OUTCOMES + threshold].ravel()
    found = np.full(len(counts), np.nan)
    for number, count in enumerate(counts):
        if not count:
            continue
        own = (classes == number) & (outcomes != _LEFT_OUT)
        order = np.argsort(-scores[own], kind="mergesort")
        right = np.cumsum(outcomes[own][order])
        precision = right / np.arange(1, len(right) + 1)
        precision = np.maximum.accumulate(precision[::-1])[::-1]
        reached = np.searchsorted(right / count, RECALLS, side="left")
        found[number] = np.append(precision, 0.0)[reached].mean()
    return found


def mean_average_precision(rows: NDArray[np.float64], thresholds: Sequence[int] = (AT_50,)) -> float:
    """Mean over the classes that have boxes, and over the thresholds of those places; 0 without boxes."""
    each = np.stack([average_precisions(rows, threshold) for threshold in thresholds])
    there = ~np.isnan(each[0])
    return float(each[:, there].mean()) if there.any() else 0.0


def _evaluated(found: Sequence[Found], targets: Floats, classes: int) -> list[dict[str, Any] | None]:
    """What `COCOeval.evaluate` says of every image and class."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    images = [{"id": place} for place in range(len(found))]
    categories = [{"id": number} for number in range(classes)]
    labelled: list[dict[str, Any]] = []
    for image, target in enumerate(targets):
        for row in target[target[:, CLASS] >= 0]:
            # Numbered from 1: the library takes the number 0 of a match as none.
            labelled.append(
                _annotation(len(labelled) + 1, image, row[CORNERS], int(row[CLASS]), int(row[IGNORED] != 0))
            )
    answered: list[dict[str, Any]] = []
    for image, one in enumerate(found):
        for box, score, number in zip(one.boxes, one.scores, one.classes, strict=True):
            answer = _annotation(len(answered) + 1, image, box, int(number), 0)
            answered.append({**answer, "score": float(score)})
    with redirect_stdout(io.StringIO()):  # it prints what it does
        both = [COCO(), COCO()]
        for coco, annotations in zip(both, (labelled, answered), strict=True):
            dataset: Any = {"images": images, "categories": categories, "annotations": annotations}
            coco.dataset = dataset
            coco.createIndex()
        evaluation = COCOeval(both[0], both[1], "bbox")
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [MOST_BOXES]
        evaluation.params.iouThrs = THRESHOLDS
        evaluation.evaluate()
    results: Any = evaluation.evalImgs
    return results


def _annotation(number: int, image: int, corners: Floats, category: int, crowd: int) -> dict[str, Any]:
    left, top, right, bottom = (float(value) for value in corners)
    return {
        "id": number, "image_id": image, "category_id": category, "iscrowd": crowd,
        "bbox": [left, top, right - left, bottom - top], "area": (right - left) * (bottom - top),
    }  # fmt: skip
