"""A detector's answers at all cells or anchors as tensors, and the losses that train them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from mcc.data.assignment import Assignment, by_overlap, task_aligned
from mcc.data.boxes import CLASS, CORNERS, ROW, overlap
from mcc.data.decoding import FARTHEST_LOG, AnchorHead, Channels, Decoder, Level, centres

BOX_GAIN = 2.0  # of the boxes' loss against that of the classes (TOOD, Feng 2021)
FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0  # Lin 2017
NEGATIVES = 3  # for each anchor that is responsible for a box (SSD, Liu 2016)


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


# -- answers -----------------------------------------------------------------------------------------------


def dense_answers(outputs: Sequence[Tensor], decoder: Decoder) -> Dense:
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


def probabilities(dense: Dense, background: bool) -> Tensor:
    """[N, P, C]."""
    if background:
        return torch.softmax(dense.logits, -1)[..., 1:]
    found = dense.logits.sigmoid()
    return found if dense.objectness is None else found * dense.objectness.sigmoid()[..., None]


def bernoulli(one: Tensor, other: Tensor) -> Tensor:
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


def point_loss(dense: Dense, levels: Sequence[Level], targets: Tensor) -> Tensor:
    """The loss of an anchor-free detector, see `mcc.data.detection.Detection`."""
    points, strides = (
        torch.cat(parts) for parts in zip(*(_points(level, dense.boxes) for level in levels), strict=True)
    )
    scores = probabilities(dense, background=False).detach()
    assigned = _assigned(scores, dense.boxes.detach(), points, strides, targets)
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


def _assigned(scores: Tensor, boxes: Tensor, points: Tensor, strides: Tensor, targets: Tensor) -> Assignment:
    """`task_aligned` image by image: every box is compared with every cell, which takes memory."""
    each = [
        task_aligned(scores[[image]], boxes[[image]], points, strides, targets[[image]])
        for image in range(len(targets))
    ]
    return Assignment(*(torch.cat(parts) for parts in zip(*each, strict=True)))


def _points(level: Level, like: Tensor) -> tuple[Tensor, Tensor]:
    points, stride = (like.new_tensor(value) for value in centres(level))
    return points, stride.expand_as(points)


def anchor_loss(outputs: Sequence[Tensor], dense: Dense, head: AnchorHead, targets: Tensor) -> Tensor:
    """The loss of an SSD-like detector, see `mcc.data.detection.Detection`."""
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
