"""Boxes as corners x1, y1, x2, y2 in pixels: overlap, non-maximum suppression, and following moved images."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mcc.data.augment import Moves

Floats = NDArray[np.float32]

CLASS, IGNORED = 0, 5
CORNERS = slice(1, 5)
ROW = 6
"""Targets are float32 [N, M, 6]: class, x1, y1, x2, y2 in pixels of the network's input, and whether a box is
ignored (VOC's `difficult`, COCO's `iscrowd`). Images with fewer boxes are filled up with `NO_BOX`."""
NO_CLASS = -1.0
NO_BOX = (NO_CLASS, 0.0, 0.0, 0.0, 0.0, 0.0)
LEAST_SHARE = 0.25
"""Of a box's area that has to be left in a moved picture; of less, it is seldom clear what it shows."""
SMALLEST = 1e-7  # pixels^2, so that empty boxes divide nothing by zero


def areas(boxes: Tensor) -> Tensor:
    """[..., 4] -> [...]; 0 for boxes that are turned inside out."""
    sides = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)
    return sides[..., 0] * sides[..., 1]


def overlap(one: Tensor, other: Tensor, generalised: bool = False) -> Tensor:
    """Intersection over union of boxes [..., 4] that are broadcast; exactly 1 where they are equal.

        IoU = (I + e) / (U + e),   GIoU = IoU - (H - U) / (H + e)

    I is the intersection, U the union and H the area of the smallest box around both (Rezatofighi 2019).

    Args:
        generalised: GIoU, which has a gradient between boxes that do not touch.
    """
    low, high = torch.maximum(one[..., :2], other[..., :2]), torch.minimum(one[..., 2:], other[..., 2:])
    sides = (high - low).clamp(min=0)
    both = sides[..., 0] * sides[..., 1]
    either = areas(one) + areas(other) - both
    share = (both + SMALLEST) / (either + SMALLEST)
    if not generalised:
        return share
    outer = torch.maximum(one[..., 2:], other[..., 2:]) - torch.minimum(one[..., :2], other[..., :2])
    around = outer[..., 0] * outer[..., 1]
    return share - (around - either).clamp(min=0) / (around + SMALLEST)


def overlaps(one: Tensor, other: Tensor) -> Tensor:
    """IoU of every box of [..., K, 4] with every one of [..., M, 4]: [..., K, M]."""
    return overlap(one[..., :, None, :], other[..., None, :, :])


def array_overlaps(one: Floats, other: Floats) -> Floats:
    """`overlaps` of arrays; empty ones have none."""
    if not len(one) or not len(other):
        return np.zeros((len(one), len(other)), np.float32)
    return overlaps(torch.from_numpy(one), torch.from_numpy(other)).numpy()


def moved_boxes(targets: Floats, moves: Moves) -> Floats:
    """Targets [N, M, 6] of images that were moved: cut off at the picture's border.

    Boxes of which less than `LEAST_SHARE` of the area is left are removed. Columns of a mirrored image are
    counted from its other side: its pixel j shows column `right + width - 1 - j`.
    """
    height, width = moves.size
    found = targets.astype(np.float32, copy=True)
    left, top, right, bottom = (found[:, :, place].copy() for place in range(1, 5))
    aside, mirrored = moves.right[:, None].astype(np.float32), moves.mirrored[:, None]
    found[:, :, 1] = np.where(mirrored, aside + width - right, left - aside)
    found[:, :, 3] = np.where(mirrored, aside + width - left, right - aside)
    found[:, :, 2] = top - moves.down[:, None]
    found[:, :, 4] = bottom - moves.down[:, None]
    before = (right - left) * (bottom - top)
    found[:, :, [1, 3]] = found[:, :, [1, 3]].clip(0, width)
    found[:, :, [2, 4]] = found[:, :, [2, 4]].clip(0, height)
    after = (found[:, :, 3] - found[:, :, 1]) * (found[:, :, 4] - found[:, :, 2])
    lost = (targets[:, :, CLASS] < 0) | (after <= LEAST_SHARE * before)
    found[lost] = NO_BOX
    return found
