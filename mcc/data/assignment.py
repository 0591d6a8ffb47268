"""Which answers of a detector are responsible for which boxes in training."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mcc.data.boxes import CLASS, CORNERS, IGNORED, overlaps

CLOSEST = 10  # answers for each box that train (TOOD, Feng 2021, gives 13; YOLOv8 10)
SCORE_POWER, IOU_POWER = 0.5, 6.0  # of the alignment (YOLOv8's; TOOD gives 1 and 6)
MATCHED, UNMATCHED = 0.5, 0.4  # IoU with an anchor (SSD, Liu 2016; RetinaNet, Lin 2017)


class Assignment(NamedTuple):
    """For every answer of every image.

    Attributes:
        box: [N, P] Place of the target that it is responsible for; -1: for none.
        quality: [N, P] What its class should score, 0 to 1.
        left_out: [N, P] Whether it does not train, as inside of ignored boxes.
    """

    box: Tensor
    quality: Tensor
    left_out: Tensor


def real(targets: Tensor) -> Tensor:
    """[N, M] which targets are boxes to be found."""
    return (targets[..., CLASS] >= 0) & (targets[..., IGNORED] == 0)


@torch.no_grad()
def task_aligned(
    scores: Tensor, boxes: Tensor, points: Tensor, strides: Tensor, targets: Tensor
) -> Assignment:
    """Answers whose class and box agree best with a target, of those whose cell lies inside (Feng 2021).

        alignment = score^a IoU^b;   quality = alignment / greatest alignment * greatest IoU, for each box

    A box in which no cell has its middle takes the cells whose middle is less than a stride from its own.

    Args:
        scores: [N, P, C] probabilities.
        boxes: [N, P, 4] corners.
        points: [P, 2] middles of cells; `strides` [P, 2].
        targets: [N, M, 6].
    """
    there = real(targets)
    corners = targets[..., CORNERS]
    shared = overlaps(corners, boxes)  # [N, M, P]
    classes = targets[..., CLASS].clamp(min=0).long()
    said = scores.transpose(1, 2).gather(1, classes[..., None].expand(-1, -1, scores.shape[1]))
    inside = _inside(corners, points)
    middle = (corners[..., :2] + corners[..., 2:]) / 2
    near = ((middle[:, :, None] - points).abs() < strides).all(-1)
    inside = torch.where(inside.any(-1, keepdim=True), inside, near) & there[..., None]
    alignment = said**SCORE_POWER * shared.clamp(0, 1) ** IOU_POWER * inside
    best = alignment.topk(min(CLOSEST, alignment.shape[-1]), -1)
    chosen = torch.zeros_like(inside).scatter(-1, best.indices, True) & inside
    # An answer chosen for several boxes is responsible for the one that it overlaps most.
    weight = torch.where(chosen, shared + 1, torch.zeros_like(shared))
    greatest, box = weight.max(1)
    taken = greatest > 0
    own = chosen & (box[:, None] == torch.arange(targets.shape[1])[None, :, None])
    aligned = alignment * own
    peak = aligned.amax(-1, keepdim=True).clamp(min=1e-9)
    reached = (shared * own).amax(-1, keepdim=True)
    quality = (aligned / peak * reached).amax(1).clamp(0, 1)
    ignored = (targets[..., CLASS] >= 0) & (targets[..., IGNORED] != 0)
    left_out = (_inside(corners, points) & ignored[..., None]).any(1) & ~taken
    return Assignment(torch.where(taken, box, -1), quality * taken, left_out)


@torch.no_grad()
def by_overlap(anchors: Tensor, targets: Tensor) -> Assignment:
    """Anchors that overlap a target by `MATCHED` or more, and the best one for each target (Liu 2016).

    Those between `UNMATCHED` and `MATCHED`, and those that overlap ignored boxes, do not train.

    Args:
        anchors: [A, 4] corners.
    """
    there = real(targets)
    every = overlaps(targets[..., CORNERS], anchors)  # [N, M, A]
    shared = every * there[..., None]
    greatest, box = shared.max(1)
    taken = greatest >= MATCHED
    best = shared.max(-1).indices  # [N, M]
    for place in range(targets.shape[1]):
        rows = torch.nonzero(there[:, place])[:, 0]
        box[rows, best[rows, place]] = place
        taken[rows, best[rows, place]] = True
    ignored = (targets[..., CLASS] >= 0) & (targets[..., IGNORED] != 0)
    crowd = ((every >= MATCHED) & ignored[..., None]).any(1)
    left_out = ((greatest >= UNMATCHED) | crowd) & ~taken
    return Assignment(torch.where(taken, box, -1), taken.float(), left_out)


def _inside(corners: Tensor, points: Tensor) -> Tensor:
    """[N, M, P] whether points lie inside boxes [N, M, 4]."""
    low, high = corners[:, :, None, :2], corners[:, :, None, 2:]
    return ((points > low) & (points < high)).all(-1)
