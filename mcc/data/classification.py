"""Classification: one class for each image, the network's first output holds a logit per class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mcc.data.interval import wilson
from mcc.data.module import DataModule
from mcc.data.task import Outputs, Prediction, Score, Statistics
from mcc.errors import DataError


@dataclass(frozen=True)
class Classification:
    """Cross-entropy, accuracy, and distillation by softened logits (Hinton 2015).

        loss = (1 - w) CE(student, target) + w T² KL(softmax(teacher / T) || softmax(student / T))

    Args:
        temperature: T; T² keeps the gradient's size as T varies (Hinton 2015, section 2.1).
        teacher_share: w.
        label_smoothing: part of each target spread over all classes (Szegedy 2016), in `loss` only:
            a teacher's outputs are smooth already.
    """

    temperature: float = 4.0
    teacher_share: float = 0.9
    label_smoothing: float = 0.0
    name: str = "classification"
    metric: str = "accuracy"

    def __post_init__(self) -> None:
        if self.temperature <= 0 or not 0 <= self.teacher_share <= 1 or not 0 <= self.label_smoothing < 1:
            raise ValueError(f"{self} has a value that cannot be")

    def check(self, output_shapes: Sequence[tuple[int, ...]], data: DataModule) -> None:
        """One logit per class in the first output, [N, classes].

        Raises:
            DataError: the first output has another shape.
        """
        shape = output_shapes[0] if output_shapes else ()
        if len(shape) != 2 or shape[1] != len(data.class_names):
            raise DataError(
                f"has {len(data.class_names)} classes and the network's first output has shape {list(shape)}",
                where=data.name,
                hint="use the data that the network was made for",
            )

    def loss(self, outputs: Sequence[Tensor], targets: Tensor) -> Tensor:
        """Cross-entropy of logits [N, classes] with labels [N]."""
        return torch.nn.functional.cross_entropy(outputs[0], targets, label_smoothing=self.label_smoothing)

    def distillation_loss(
        self, outputs: Sequence[Tensor], teacher: Sequence[Tensor], targets: Tensor
    ) -> Tensor:
        """The loss above; `teacher` is not differentiated."""
        soft = torch.nn.functional.kl_div(
            torch.log_softmax(outputs[0] / self.temperature, 1),
            torch.log_softmax(teacher[0].detach() / self.temperature, 1),
            reduction="batchmean",
            log_target=True,
        )
        hard = torch.nn.functional.cross_entropy(outputs[0], targets)
        return (1 - self.teacher_share) * hard + self.teacher_share * self.temperature**2 * soft

    def measure(self, outputs: Outputs, targets: NDArray[np.int64]) -> Statistics:
        """[N] 1.0 where the greatest logit is the label's; where a logit is not a number, 0.0."""
        logits = outputs[0]
        right = (logits.argmax(1) == targets) & np.isfinite(logits).all(1)
        return right.astype(np.float64)

    def summarise(self, statistics: Statistics) -> Score:
        """Accuracy with Wilson's interval."""
        interval = wilson(int(statistics.sum()), len(statistics))
        return Score(self.metric, interval.value, interval.low, interval.high, len(statistics))

    def agreement(self, outputs: Outputs, reference: Outputs) -> Statistics:
        """[N] 1.0 where both name the same class first."""
        return (outputs[0].argmax(1) == reference[0].argmax(1)).astype(np.float64)

    def postprocess(self, outputs: Outputs, class_names: Sequence[str], top: int = 1) -> list[Prediction]:
        """The `top` likeliest classes of each image, with their softmax."""
        logits = outputs[0].astype(np.float64)
        shares = np.exp(logits - logits.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        best = np.argsort(-logits, axis=1, kind="stable")[:, :top]
        predictions: list[Prediction] = []
        for classes, share in zip(best, shares, strict=True):
            names = tuple(class_names[int(c)] for c in classes)
            predictions.append(Prediction(names, tuple(float(share[c]) for c in classes)))
        return predictions


TASK = Classification()
