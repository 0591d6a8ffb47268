"""Classification: one class for each image, one of the network's outputs holds a logit per class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mcc.data.answer import Answer
from mcc.data.interval import Interval, paired_proportions, wilson
from mcc.data.outputs import Output, likely_output, listed, named_output
from mcc.data.parts import check_labels
from mcc.data.shown import Pixels, Shown
from mcc.data.task import CLASSIFICATION, Outputs, Score, Statistics, Targets, Task
from mcc.errors import DataError
from mcc.metric import ACCURACY, Metric

if TYPE_CHECKING:
    from mcc.data.module import DataModule

TELLING = 8
"""Images of one class, all right, and none of any other: fewer would happen to a network that guesses."""

Value = TypeVar("Value", Tensor, NDArray[np.float32])


@dataclass(frozen=True)
class Prediction:
    """What a network says of one example: names, best first, and how likely it holds each."""

    labels: tuple[str, ...]
    shares: tuple[float, ...]


@dataclass(frozen=True)
class Classification(Task):
    """Cross-entropy, accuracy, and distillation by softened logits (Hinton 2015).

        loss = (1 - w) CE(student, target) + w T² KL(softmax(teacher / T) || softmax(student / T))

    Args:
        temperature: T; T² keeps the gradient's size as T varies (Hinton 2015, section 2.1).
        teacher_share: w.
        label_smoothing: part of each target spread over all classes (Szegedy 2016), in `loss` only:
            a teacher's outputs are smooth already.
        output: place of the output that holds the logits.
    """

    temperature: float = 4.0
    teacher_share: float = 0.9
    label_smoothing: float = 0.0
    name: str = CLASSIFICATION
    metric: Metric = ACCURACY
    output: int = 0
    divergence_unit: ClassVar[str] = "nats"

    def __post_init__(self) -> None:
        if self.temperature <= 0 or not 0 <= self.teacher_share <= 1 or not 0 <= self.label_smoothing < 1:
            raise ValueError(f"{self} has a value that cannot be")

    def bind(self, outputs: Sequence[Output], data: DataModule, asked: str | None = None) -> Classification:
        """The output with one logit per class, [N, classes], further axes of length one allowed.

        Raises:
            DataError: no output, or not the one asked for, has such a shape.
            UsageError: there is no such output, or several fit and names do not decide.
        """
        classes = len(data.class_names)
        fits = [i for i, output in enumerate(outputs) if _holds(output.shape, classes)]
        if asked is not None:
            place = named_output(outputs, asked)
            if place not in fits:
                raise self._misfit([outputs[place]], data)
        elif not fits:
            raise self._misfit(outputs, data)
        else:
            place = fits[0] if len(fits) == 1 else likely_output(outputs, fits)
        return replace(self, output=place)

    def _misfit(self, outputs: Sequence[Output], data: DataModule) -> DataError:
        classes = len(data.class_names)
        if classes == 2 and any(_holds(output.shape, 1) for output in outputs):
            return DataError(
                f"has 2 classes and the network one score for both ({listed(outputs)})",
                where=data.name,
                hint="mcc reads a score per class: return torch.cat((-x, x), 1) / 2 of a single logit x",
            )
        return DataError(
            f"has {classes} classes, and no output of the network has a score for each ({listed(outputs)})",
            where=data.name,
            hint="use the data that the network was made for",
        )

    def check_targets(self, targets: Targets, part: str, data: DataModule) -> None:
        """One class for each input, [N], from 0 to the number of classes less one. Raises DataError."""
        check_labels(targets, part, data.name, len(data.class_names))

    def _logits(self, outputs: Sequence[Value]) -> Value:
        """[N, classes] of the output that is judged."""
        value = outputs[self.output]
        return value if value.ndim == 2 else value.reshape(len(value), -1)

    def answer(self, data: DataModule) -> Answer:
        """One score per class."""
        return Answer("classes")

    def loss(self, outputs: Sequence[Tensor], targets: Tensor) -> Tensor:
        """Cross-entropy of logits [N, classes] with labels [N]."""
        return torch.nn.functional.cross_entropy(
            self._logits(outputs), targets, label_smoothing=self.label_smoothing
        )

    def divergence(self, outputs: Sequence[Tensor], reference: Sequence[Tensor]) -> Tensor:
        """Mean KL(softmax(reference) || softmax(outputs)), in nats."""
        left, right = (torch.log_softmax(self._logits(values).double(), 1) for values in (outputs, reference))
        return torch.nn.functional.kl_div(left, right, log_target=True, reduction="batchmean")

    def distillation_loss(
        self, outputs: Sequence[Tensor], teacher: Sequence[Tensor], targets: Tensor
    ) -> Tensor:
        """The loss above; `teacher` is not differentiated."""
        soft = torch.nn.functional.kl_div(
            torch.log_softmax(self._logits(outputs) / self.temperature, 1),
            torch.log_softmax(self._logits(teacher).detach() / self.temperature, 1),
            reduction="batchmean",
            log_target=True,
        )
        hard = torch.nn.functional.cross_entropy(self._logits(outputs), targets)
        return (1 - self.teacher_share) * hard + self.teacher_share * self.temperature**2 * soft

    def measure(self, outputs: Outputs, targets: Targets) -> Statistics:
        """[N] 1.0 where the greatest logit is the label's; where a logit is not a number, 0.0."""
        logits = self._logits(outputs)
        right = (logits.argmax(1) == targets) & np.isfinite(logits).all(1)
        return right.astype(np.float64)

    def summarise(self, statistics: Statistics) -> Score:
        """Accuracy with Wilson's interval."""
        return self.score(wilson(int(statistics.sum()), len(statistics)), len(statistics))

    def difference(self, first: Statistics, second: Statistics) -> Interval:
        """Score interval of the difference of two accuracies in pairs (Newcombe 1998)."""
        return paired_proportions(first, second)

    def chance(
        self,
        statistics: Statistics,
        targets: Targets,
        class_names: Sequence[str],
        population: Targets,
    ) -> str | None:
        """Held against guessing among the classes, and against always answering the most frequent one.

        The lower end of Wilson's 95 % interval has to be above both. A network that answers one class always
        is right for exactly the images of that class, whatever its accuracy.
        """
        found = wilson(int(statistics.sum()), len(statistics))
        classes = len(class_names)
        shares = np.bincount(population, minlength=classes) / len(population)
        frequent = int(shares.argmax())
        images = f"{len(statistics):,} images"
        figure = f"its {self.metric.name} on {images} is {100 * found.value:.2f} %"
        always = _only_class(statistics, targets)
        if always is not None:
            return f"{figure}, for it answers {class_names[always]!r} for every image"
        guessed = max(1 / classes, float(shares[frequent]))
        if found.low > guessed:
            return None
        way = f"guessing among {classes} classes"
        if guessed > 1 / classes:
            way = f"always answering {class_names[frequent]!r}"
        if found.value <= guessed:
            return f"{figure}, and {way} gives {100 * guessed:.2f} %"
        return f"{figure}, which {images} do not tell from the {100 * guessed:.2f} % of {way}"

    def shown(self, picture: Pixels, outputs: Outputs, class_names: Sequence[str]) -> Shown:
        """The likeliest class and its probability."""
        (found,) = self.postprocess(outputs, class_names)
        return Shown(f"{found.labels[0]} {100 * found.shares[0]:.0f} %")

    def shown_target(self, picture: Pixels, target: NDArray[Any], class_names: Sequence[str]) -> Shown:
        """Name of the class."""
        return Shown(class_names[int(target)])

    def agreement(self, outputs: Outputs, reference: Outputs) -> Statistics:
        """[N] 1.0 where both name the same class first."""
        return (self._logits(outputs).argmax(1) == self._logits(reference).argmax(1)).astype(np.float64)

    def postprocess(self, outputs: Outputs, class_names: Sequence[str], top: int = 1) -> list[Prediction]:
        """The `top` likeliest classes of each image, with their softmax."""
        logits = self._logits(outputs).astype(np.float64)
        shares = np.exp(logits - logits.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        best = np.argsort(-logits, axis=1, kind="stable")[:, :top]
        predictions: list[Prediction] = []
        for classes, share in zip(best, shares, strict=True):
            names = tuple(class_names[int(c)] for c in classes)
            predictions.append(Prediction(names, tuple(float(share[c]) for c in classes)))
        return predictions


def _holds(shape: Sequence[int], scores: int) -> bool:
    """Whether an output of that shape, with batch, holds so many scores for each image."""
    inner = [length for length in shape[1:] if length != 1]
    return len(shape) > 1 and len(inner) <= 1 and prod(inner) == scores


def _only_class(statistics: Statistics, targets: Targets) -> int | None:
    """The class that is always answered: its images are right, and no others; None where it is not so."""
    right = targets[statistics > 0]
    if len(right) < TELLING or len(np.unique(targets)) == 1 or len(np.unique(right)) > 1:
        return None
    return int(right[0]) if len(right) == int((targets == right[0]).sum()) else None


TASK = Classification()
