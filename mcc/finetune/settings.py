"""Settings, progress and result of a fine-tuning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from mcc.ir.graph import Graph

Arithmetic = Literal["auto", "float32", "bfloat16"]
ActivationScales = Literal["frozen", "learned"]


@dataclass(frozen=True)
class SparsityRamp:
    """Gradual sparsity: s(t) = target * (1 - (1 - t)^3), t running 0..1 (Zhu and Gupta 2017).

    Attributes:
        until: Share of the steps after which the target is reached.
        every: Number of steps between two updates of the mask.
    """

    until: float = 0.5
    every: int = 10

    def __post_init__(self) -> None:
        if not 0.0 < self.until <= 1.0 or self.every < 1:
            raise ValueError(f"{self} must have until in 0..1 and every of at least 1")

    def share(self, step: int, steps: int) -> float:
        """The share of the target sparsity at a step."""
        t = min(1.0, step / max(1.0, self.until * steps))
        return 1.0 - (1.0 - t) ** 3


@dataclass(frozen=True)
class FineTuneSettings:
    """Settings of a fine-tuning.

    The defaults were tested on 2026-11-23 with ResNet-20 for CIFAR-10 pruned to 3/4 of its channels and 5,000
    images: learning rates twice and half as large, and gradient norms up to 2, end within a point; norms up
    to 50 end 9 points lower. Learned and frozen activation scales end equal, frozen ones train a third
    faster. A share of 0.8 before quantisation ends 0.2 points above 0.6 and 1.7 above 0.4. bfloat16 ends
    within the spread of float32.

    Attributes:
        images: Number of training images; 0: no training.
        batch_size: Images per step.
        learning_rate: Maximum learning rate with batch norm in the graph, for a batch of 128; smaller
            batches get proportionally less (Goyal 2017).
        folded_learning_rate: The same for graphs without batch norm (folded, quantised), in which no norm
            compensates for a large step of the weights.
        momentum, nesterov: Parameters of SGD.
        weight_decay: Weight decay of weights with two or more axes; none on biases, norms and scales.
        warmup: Share of the steps in which the learning rate rises; then it falls as a cosine to zero.
        clip_norm: Maximum norm of the gradient.
        float_share: Share of the images before quantisation, in `fine_tune_candidate`.
        activation_scales: `learned` (Esser 2020) or `frozen` as calibrated; weight scales always follow the
            weights.
        sparsity_ramp: Schedule towards the sparsity of the notes; None: keep the present zeros.
        norm_images: Number of images for the batch-norm statistics.
        calibration_images: Number of images for the quantisation ranges.
        arithmetic: Number format of activations; weights are always float32. `auto` selects bfloat16 if the
            processor computes it and the operators tolerate it.
        checkpoint_seconds: Time between checkpoints: at most this much work is lost by an interruption.
        seed: Seed of the order and augmentation of the images.
    """

    images: int = 20_000
    batch_size: int = 64
    learning_rate: float = 0.05
    folded_learning_rate: float = 0.005
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 1e-4
    warmup: float = 0.05
    clip_norm: float = 5.0
    float_share: float = 0.75
    activation_scales: ActivationScales = "frozen"
    sparsity_ramp: SparsityRamp | None = None
    norm_images: int = 2_048
    calibration_images: int = 512
    arithmetic: Arithmetic = "auto"
    checkpoint_seconds: float = 20.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.images < 0 or self.batch_size < 2:
            raise ValueError(f"images must be 0 or more and batch_size 2 or more, not {self}")
        if not 0.0 <= self.float_share <= 1.0 or not 0.0 <= self.warmup < 1.0:
            raise ValueError("float_share and warmup are shares and must lie in 0..1")
        if min(self.learning_rate, self.folded_learning_rate, self.clip_norm) <= 0:
            raise ValueError("learning rates and clip_norm must be positive")

    @property
    def steps(self) -> int:
        """Total number of training steps."""
        return -(-self.images // self.batch_size)


@dataclass(frozen=True)
class FineTuneProgress:
    """State of a running fine-tuning.

    Attributes:
        phase: `float` or `quantised`.
        step, steps: Steps done, and in total.
        loss: Loss of the last step.
        images_per_second: Rate since the start or the resumption.
        remaining_s: Estimated remaining time of this phase.
    """

    phase: str
    step: int
    steps: int
    loss: float
    images_per_second: float
    remaining_s: float


Progress = Callable[[FineTuneProgress], None]


@dataclass(frozen=True)
class FineTuneResult:
    """Result of a fine-tuning.

    Attributes:
        graph: The fine-tuned graph; the input graph is not changed.
        phase: `float` or `quantised`.
        steps: Total number of training steps, including those before a resumption.
        images: Number of training images in these steps.
        first_loss, last_loss: Mean over the first and the last tenth of the steps of this process; None
            without steps.
        seconds: Duration of this process, without waiting for measurements.
        waited_s: Time spent waiting for measurements.
        arithmetic: `float32` or `bfloat16`.
    """

    graph: Graph
    phase: str
    steps: int
    images: int
    first_loss: float | None
    last_loss: float | None
    seconds: float
    waited_s: float
    arithmetic: str
