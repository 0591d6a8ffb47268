"""One training run over a fixed number of steps: distillation, sparse and quantised weights, resumption.

The loop is pytorch-ignite's `Engine`. It receives the remaining batches only: the batch, the learning rate
and the zeros of a step are functions of the step alone, so that an interrupted run continues bit-exactly from
its checkpoint.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mcc.data.bound import BoundTask
from mcc.data.module import Batch, DataModule
from mcc.errors import NotFiniteError
from mcc.finetune import checkpoint
from mcc.finetune.arithmetic import choose_arithmetic, evaluate, training_copy
from mcc.finetune.scales import follow_weights, keep_above, learnable_scales, make_learnable, weight_scales_of
from mcc.finetune.settings import FineTuneProgress, FineTuneSettings, Progress
from mcc.finetune.sparsity import SparseWeights
from mcc.ir import ops
from mcc.ir.feed import Feed, feed_of
from mcc.ir.graph import Graph, calls, constant, constants, copy_graph
from mcc.runtime.lock import wait_while_measuring

NORM_MOMENTUM = 0.1  # of running statistics while training, torch's default; they are re-estimated after it

MOST_WAIT_S = 300.0
"""Maximum total time that a run waits for measurements; after it, training continues beside them."""


def learning_rate(settings: FineTuneSettings, peak: float, step: int) -> float:
    """The learning rate of step `step` (from 0): linear rise, then a cosine to zero (Loshchilov 2017)."""
    rise = max(1, round(settings.warmup * settings.steps))
    if step < rise:
        return peak * (step + 1) / rise
    t = (step - rise) / max(1, settings.steps - rise)
    return peak * 0.5 * (1.0 + math.cos(math.pi * t))


@dataclass
class TrainingLog:
    """Losses and times of a run in this process."""

    losses: list[float]
    seconds: float = 0.0
    waited_s: float = 0.0

    def mean_loss(self, *, last: bool) -> float | None:
        """Mean over the first or last tenth of the steps; None without steps."""
        tenth = max(1, len(self.losses) // 10)
        part = self.losses[-tenth:] if last else self.losses[:tenth]
        return sum(part) / len(part) if part else None


class Trainer:
    """Trains a private copy of a canonical graph.

    Args:
        graph: The student; not changed.
        teacher: Float graph to follow, or None for the task's own loss alone; not changed.
        phase: Phase shown as progress: `float` or `quantised`.
    """

    def __init__(
        self,
        graph: Graph,
        teacher: Graph | None,
        data: DataModule,
        task: BoundTask,
        settings: FineTuneSettings,
        phase: str,
    ) -> None:
        self.data, self.task, self.settings, self.phase = data, task, settings, phase
        self.arithmetic = choose_arithmetic(settings.arithmetic, graph)
        self.run_name = checkpoint.fingerprint(graph, teacher, data.digest(), settings, self.arithmetic)
        self.graph = graph
        self.has_norms = bool(calls(graph, "batch_norm"))
        self.sparse = SparseWeights(graph, settings.sparsity_ramp)
        self.weight_scales = weight_scales_of(graph)
        self.student = training_copy(graph, self.arithmetic)
        learned = learnable_scales(graph) if settings.activation_scales == "learned" else ()
        self.least = make_learnable(self.student, learned)
        self.teacher_arithmetic = choose_arithmetic(settings.arithmetic, teacher) if teacher else ""
        self.teacher = training_copy(teacher, self.teacher_arithmetic) if teacher else None
        self.optimiser = self._optimiser()
        self.step = 0
        self.log = TrainingLog([])

    def run(self, state_file: Path | None, progress: Progress | None) -> Graph:
        """Train to the last step, from a checkpoint if there is one; returns the fine-tuned canonical graph.

        Raises:
            NotFiniteError: The loss is NaN or infinite.
            DataError: An image cannot be read.
        """
        if state_file is not None:
            found = checkpoint.load(state_file, self.run_name)
            if found is not None:
                self._restore(found)
        if self.step < self.settings.steps:
            self._loop(state_file, progress)
        return self._result()

    def _optimiser(self) -> torch.optim.SGD:
        s = self.settings
        named = list(self.student.named_parameters(recurse=False))
        decayed = [value for name, value in named if value.dim() >= 2 and name not in self.least]
        others = [value for name, value in named if value.dim() < 2 or name in self.least]
        groups = [
            {"params": decayed, "weight_decay": s.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        nesterov = s.nesterov and s.momentum > 0
        return torch.optim.SGD(groups, lr=s.learning_rate, momentum=s.momentum, nesterov=nesterov)

    def _loop(self, state_file: Path | None, progress: Progress | None) -> None:
        # Imported here: it takes half a second, and only training needs it.
        from ignite.engine import Engine, Events

        steps, begin, first = self.settings.steps, time.monotonic(), self.step
        saved_at = begin

        def process(_: Engine, batch: Batch) -> float:
            if self.log.waited_s < MOST_WAIT_S:
                self.log.waited_s += wait_while_measuring(MOST_WAIT_S - self.log.waited_s)
            return self._train(feed_of(batch.inputs), torch.from_numpy(batch.targets))

        def after(engine: Engine) -> None:
            nonlocal saved_at
            self.step += 1
            loss = float(engine.state.output)  # pyright: ignore[reportArgumentType]
            self.log.losses.append(loss)
            now = time.monotonic()
            last = self.step == steps
            if state_file is not None and (last or now - saved_at >= self.settings.checkpoint_seconds):
                checkpoint.save(state_file, self.run_name, self._checkpoint())
                saved_at = now
            if progress is not None:
                rate = (self.step - first) / max(1e-9, now - begin - self.log.waited_s)
                images = rate * self.settings.batch_size
                progress(
                    FineTuneProgress(self.phase, self.step, steps, loss, images, (steps - self.step) / rate)
                )

        engine = Engine(process)
        # Ignite's own logger would print an error on Ctrl-C.
        engine.logger = logging.Logger("ignite", logging.CRITICAL)
        engine.add_event_handler(Events.ITERATION_COMPLETED, after)
        try:
            engine.run(self._batches(), max_epochs=1, epoch_length=steps - self.step)
        finally:
            self.log.seconds = time.monotonic() - begin - self.log.waited_s

    def _batches(self) -> Iterator[Batch]:
        s = self.settings
        return self.data.training(s.batch_size, seed=s.seed, steps=s.steps, step0=self.step)

    def _train(self, x: Feed, targets: Tensor) -> float:
        """Run one step; returns the loss before it."""
        s = self.settings
        peak = s.learning_rate if self.has_norms else s.folded_learning_rate
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(s, peak * len(targets) / REFERENCE_BATCH, self.step)
        follow_weights(self.student, self.weight_scales)
        with ops.batch_statistics(NORM_MOMENTUM):
            outputs = evaluate(self.student, x, self.arithmetic)
        loss = self._loss(outputs, x, targets)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise NotFiniteError(
                f"the loss is {value} in step {self.step}",
                where="fine-tune",
                hint="choose a lower learning rate",
            )
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), s.clip_norm)
        self.optimiser.step()
        self.sparse.apply(self.student, self.step + 1, s.steps)
        keep_above(self.student, self.least)
        return value

    def _loss(self, outputs: tuple[Tensor, ...], x: Feed, targets: Tensor) -> Tensor:
        if self.teacher is None:
            return self.task.loss(outputs, targets)
        with torch.no_grad():
            followed = evaluate(self.teacher, x, self.teacher_arithmetic)
        return self.task.distillation_loss(outputs, followed, targets)

    def _checkpoint(self) -> checkpoint.Checkpoint:
        tensors = {f"value.{name}": value for name, value in self._values().items()}
        tensors |= {f"mask.{name}": mask for name, mask in self.sparse.masks.items()}
        for name, value in self.student.named_parameters(recurse=False):
            momentum = self.optimiser.state.get(value, {}).get("momentum_buffer")
            if isinstance(momentum, Tensor):
                tensors[f"momentum.{name}"] = momentum
        return checkpoint.Checkpoint(self.step, tensors)

    def _values(self) -> dict[str, Tensor]:
        """Every constant of the student by name: weights, statistics, scales."""
        named = [*self.student.named_parameters(recurse=False), *self.student.named_buffers(recurse=False)]
        return {name: value.detach() for name, value in named}

    def _restore(self, found: checkpoint.Checkpoint) -> None:
        with torch.no_grad():
            for name, value in self._values().items():
                value.copy_(found.tensors[f"value.{name}"])
        for name in self.sparse.masks:
            self.sparse.masks[name] = found.tensors[f"mask.{name}"]
        for name, value in self.student.named_parameters(recurse=False):
            momentum = found.tensors.get(f"momentum.{name}")
            if momentum is not None:
                # In the memory layout of the weight, so that sums have the same order as before.
                self.optimiser.state[value]["momentum_buffer"] = (
                    torch.empty_like(value).copy_(momentum).detach()
                )
        self.step = found.step

    def _result(self) -> Graph:
        follow_weights(self.student, self.weight_scales)
        result = copy_graph(self.graph)
        values = self._values()
        with torch.no_grad():
            for name in constants(result):
                constant(result, name).copy_(values[name])
        return result


REFERENCE_BATCH = 128
"""Batch size of the given learning rates."""
