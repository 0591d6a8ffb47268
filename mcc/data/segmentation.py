"""Semantic segmentation: a class for each pixel, one of the network's outputs holds a logit map per class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mcc.data.answer import Answer
from mcc.data.augment import Moves
from mcc.data.outputs import Output, likely_output, listed, named_output
from mcc.data.shown import Pixels, Shown, painted
from mcc.data.split import Targets
from mcc.data.task import Outputs, Statistics, Task
from mcc.errors import DataError
from mcc.metric import FRACTION, Metric

if TYPE_CHECKING:
    from mcc.data.module import DataModule

SEGMENTATION = "segmentation"
IGNORED = 255
"""Class of the pixels that neither train nor count (VOC's border, Cityscapes' unlabelled)."""
MEAN_IOU = Metric("mean IoU", FRACTION)


@dataclass(frozen=True)
class Segmentation(Task):
    """Cross-entropy per pixel, mean intersection over union, and distillation per pixel (Liu 2019).

        loss = (1 - w) CE(student, mask) + w KL(softmax(teacher) || softmax(student)), means over pixels
        mean IoU = mean over classes c of sum |predicted c and labelled c| / sum |predicted c or labelled c|

    The sums run over all pictures, as in the VOC and Cityscapes benchmarks; pixels of the class `IGNORED` are
    left out; a class that is neither labelled nor predicted anywhere does not count. Maps smaller than the
    masks (of networks whose outputs are enlarged outside) are enlarged bilinearly first.

    Args:
        teacher_share: w.
        output: Place of the output that holds the logits, [N, classes, H, W].
    """

    teacher_share: float = 0.9
    name: str = SEGMENTATION
    metric: Metric = MEAN_IOU
    output: int = 0
    divergence_unit: ClassVar[str] = "nats"

    def __post_init__(self) -> None:
        if not 0 <= self.teacher_share <= 1:
            raise ValueError(f"teacher_share must lie in 0..1, not {self.teacher_share}")

    def bind(self, outputs: Sequence[Output], data: DataModule, asked: str | None = None) -> Segmentation:
        """The output [N, classes, H, W].

        Raises:
            DataError: No output, or not the one asked for, has a map for each class.
            UsageError: There is no such output, or several fit and names do not decide.
        """
        classes = len(data.class_names)
        fits = [place for place, output in enumerate(outputs) if _holds(output.shape, classes)]
        place = named_output(outputs, asked) if asked is not None else None
        if not fits or (place is not None and place not in fits):
            raise _misfit(outputs if place is None else [outputs[place]], data)
        if place is None:
            place = fits[0] if len(fits) == 1 else likely_output(outputs, fits)
        return replace(self, output=place)

    def check_targets(self, targets: Targets, part: str, data: DataModule) -> None:
        """Masks [N, H, W] of whole numbers below the number of classes, or `IGNORED`. Raises DataError."""
        if targets.ndim != 3 or targets.dtype.kind not in "iu":
            raise DataError(
                f"the {part} masks are {targets.dtype} {list(targets.shape)}", where=data.name,
                hint="give whole numbers [N, H, W], the class of each pixel",
            )  # fmt: skip
        classes = len(data.class_names)
        for place, mask in enumerate(targets):
            wrong = mask[(mask != IGNORED) & ((mask < 0) | (mask >= classes))]
            if len(wrong):
                raise DataError(
                    f"the mask of {part} picture {place} holds the class {int(wrong[0])} of {classes}",
                    where=data.name,
                    hint=f"number the classes from 0 to {classes - 1}; pixels of {IGNORED} are ignored",
                )

    def moved(self, targets: Targets, moves: Moves) -> NDArray[Any]:
        """Masks [N, H, W] of images that were moved; uncovered pixels are ignored."""
        return moves.apply(targets[:, None], (IGNORED,))[:, 0]

    def answer(self, data: DataModule) -> Answer:
        """One score per class and pixel."""
        return Answer("map")

    def loss(self, outputs: Sequence[Tensor], targets: Tensor) -> Tensor:
        """Mean cross-entropy of the labelled pixels; 0 where none is."""
        logits = _enlarged(outputs[self.output], targets.shape[1:])
        summed = functional.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")
        return summed / (targets != IGNORED).sum().clamp(min=1)

    def divergence(self, outputs: Sequence[Tensor], reference: Sequence[Tensor]) -> Tensor:
        """Mean over pixels of KL(softmax(reference) || softmax(outputs)), in nats."""
        left, right = (torch.log_softmax(values[self.output], 1) for values in (outputs, reference))
        summed = (right.exp() * (right - left)).sum(1)
        return summed.mean(dtype=torch.float64).clamp(min=0)

    def distillation_loss(
        self, outputs: Sequence[Tensor], teacher: Sequence[Tensor], targets: Tensor
    ) -> Tensor:
        """The loss above; `teacher` is not differentiated."""
        left, right = outputs[self.output], teacher[self.output].detach()
        soft = functional.kl_div(
            torch.log_softmax(left, 1), torch.log_softmax(right, 1), reduction="none", log_target=True
        ).sum(1)
        return (1 - self.teacher_share) * self.loss(outputs, targets) + self.teacher_share * soft.mean()

    def measure(self, outputs: Outputs, targets: Targets) -> Statistics:
        """[N, 2, classes]: pixels of each picture in the intersection and in the union of each class."""
        classes = outputs[self.output].shape[1]
        found = np.empty((len(targets), 2, classes))
        for place, (predicted, mask) in enumerate(
            zip(self.postprocess(outputs, targets.shape[1:]), targets, strict=True)
        ):
            counted = mask != IGNORED
            pairs = np.bincount(
                mask[counted].astype(np.int64) * classes + predicted[counted], minlength=classes * classes
            ).reshape(classes, classes)
            both = np.diag(pairs)
            found[place] = both, pairs.sum(0) + pairs.sum(1) - both
        return found

    def figure(self, statistics: Statistics) -> float:
        """Mean IoU of the pictures; 0 where no pixel is labelled."""
        both, either = statistics.sum(0)
        present = either > 0
        return float((both[present] / either[present]).mean()) if present.any() else 0.0

    def chance(
        self, statistics: Statistics, targets: Targets, class_names: Sequence[str], population: Targets
    ) -> str | None:
        """Held against calling every pixel the most frequent class, whose IoU is then its share of the pixels
        and that of all others 0."""
        counts = np.zeros(len(class_names), np.int64)
        for mask in targets:
            counts += np.bincount(mask[mask != IGNORED].astype(np.int64), minlength=len(class_names))
        present = int((counts > 0).sum())
        if not present:
            return "no pixel is labelled"
        frequent = int(counts.argmax())
        guessed = float(counts[frequent]) / int(counts.sum()) / present
        found = self.figure(statistics)
        if found > guessed:
            return None
        return (
            f"its {self.metric.name} on {len(statistics):,} pictures is {100 * found:.2f} %, and calling "
            f"every pixel {class_names[frequent]!r} gives {100 * guessed:.2f} %"
        )

    def shown(self, picture: Pixels, outputs: Outputs, class_names: Sequence[str]) -> Shown:
        """The picture under the colours of the likeliest classes."""
        return Shown("", painted(picture, self.postprocess(outputs, picture.shape[:2])[0], IGNORED))

    def shown_target(self, picture: Pixels, target: NDArray[Any], class_names: Sequence[str]) -> Shown:
        """The picture under the colours of its mask."""
        return Shown("", painted(picture, target, IGNORED))

    def agreement(self, outputs: Outputs, reference: Outputs) -> Statistics:
        """[N] share of the pixels of which both say the same class."""
        one, other = (values[self.output].argmax(1) for values in (outputs, reference))
        return (one == other).reshape(len(one), -1).mean(1)

    def postprocess(self, outputs: Outputs, size: Sequence[int]) -> NDArray[np.int64]:
        """The likeliest class of each pixel, [N, *size]; picture by picture, to save memory."""
        found = np.empty((len(outputs[self.output]), *size), np.int64)
        for place, logits in enumerate(outputs[self.output]):
            enlarged = _enlarged(torch.from_numpy(np.asarray(logits, np.float32))[None], size)
            found[place] = enlarged[0].argmax(0).numpy()
        return found


def _enlarged(logits: Tensor, size: Sequence[int]) -> Tensor:
    height, width = size
    if logits.shape[2:] == (height, width):
        return logits
    return functional.interpolate(logits, (height, width), mode="bilinear", align_corners=False)


def _holds(shape: Sequence[int], classes: int) -> bool:
    """Whether an output of that shape, with batch, is a map for each class."""
    return len(shape) == 4 and shape[1] == classes and prod(shape[2:]) > 1


def _misfit(outputs: Sequence[Output], data: DataModule) -> DataError:
    classes = len(data.class_names)
    if classes == 2 and any(_holds(output.shape, 1) for output in outputs):
        return DataError(
            f"has 2 classes and the network one map for both ({listed(outputs)})", where=data.name,
            hint="mcc reads a map per class: return torch.cat((-x, x), 1) / 2 of a single map of logits x",
        )  # fmt: skip
    return DataError(
        f"has {classes} classes, and no output of the network is a map for each of them ({listed(outputs)})",
        where=data.name,
        hint="use the data that the network was made for, and name all of its classes in classes.txt",
    )


TASK = Segmentation()
