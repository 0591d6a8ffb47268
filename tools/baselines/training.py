"""The training loop of the baselines: recipe, state, and resumption."""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mcc.data import Batch, DataModule, Output, Score, SplitName, Task, bind_task
from mcc.data.classification import Classification
from mcc.errors import DataError, UsageError
from mcc.runtime.lock import wait_while_measuring

MOMENTUM = 0.9
AVERAGED_PART, AVERAGED_STEPS = 1 / 20, 1000  # of all steps, at most: the length of the running average
SAVE_EVERY_S = 60.0


@dataclass(frozen=True)
class Recipe:
    """Training recipe: stochastic gradient descent with one cycle of the learning rate.

    Args:
        peak: Maximum learning rate, reached after `warm_up` of all steps.
        smoothing: Label smoothing.
        average: Whether to return the exponential average of the weights instead of the last ones.
    """

    epochs: int
    batch_size: int
    peak: float
    weight_decay: float
    smoothing: float = 0.0
    warm_up: float = 0.15
    average: bool = False

    def learning_rate(self, step: int, steps: int) -> float:
        """Linear up to `peak`, then half a cosine down to zero (Loshchilov 2017)."""
        warm = max(1, round(steps * self.warm_up))
        if step < warm:
            return self.peak * (step + 1) / warm
        return self.peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def average_decay(steps: int) -> float:
    """Decay of the running average of a run of so many steps.

    Longer, it would hold weights of large learning rates, and statistics of batch norms that belong to
    neither: a segmenter of 1,840 steps, averaged over 1,000, labelled 27 % of its pixels right.
    """
    return 1 - 1 / max(2.0, min(AVERAGED_STEPS, AVERAGED_PART * steps))


class Training:
    """State of a run: the network, its momentum, its average, and its step."""

    def __init__(self, network: nn.Module, data: DataModule, recipe: Recipe, seed: int, device: str) -> None:
        self.data, self.recipe, self.seed, self.device = data, recipe, seed, torch.device(device)
        task = bind_task(data, _outputs_of(network, data)).task
        self.task: Task = (
            replace(task, label_smoothing=recipe.smoothing) if isinstance(task, Classification) else task
        )
        # Channels last: depthwise convolutions train twice as fast on CPUs, and the numbers are the same.
        network.to(self.device)
        self.network: nn.Module = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.SGD(
            self.network.parameters(), recipe.peak, MOMENTUM, weight_decay=recipe.weight_decay, nesterov=True
        )
        self.steps = recipe.epochs * data.steps_per_epoch(recipe.batch_size)
        average = get_ema_multi_avg_fn(average_decay(self.steps))
        self.average = (
            AveragedModel(self.network, multi_avg_fn=average, use_buffers=True) if recipe.average else None
        )
        self.step = 0

    def update(self, _engine: Engine, batch: Batch) -> float:
        """One step of gradient descent; a function of the step's number alone."""
        wait_while_measuring()
        torch.manual_seed(self.seed * 1_000_003 + batch.step)  # dropout's randomness
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate(batch.step, self.steps)
        images = torch.from_numpy(batch.inputs).to(self.device, memory_format=torch.channels_last)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.task.loss(_listed(self.network(images)), torch.from_numpy(batch.targets).to(self.device))
        loss.backward()
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.network)
        self.step = batch.step + 1
        return loss.item()

    @property
    def result(self) -> nn.Module:
        """The resulting network: the average, if there is one."""
        return self.network if self.average is None else self.average.module

    def tensors(self) -> dict[str, Tensor]:
        """The state as named tensors."""
        state = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        for name, parameter in self.network.named_parameters():
            buffer = self.optimizer.state[parameter].get("momentum_buffer")
            if buffer is not None:
                state[f"momentum.{name}"] = buffer
        if self.average is not None:
            state |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        return state

    def restore(self, tensors: dict[str, Tensor], step: int) -> None:
        """Restore a state from `tensors`."""

        def part(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        self.network.load_state_dict(part("network."))
        if self.average is not None:
            self.average.load_state_dict(part("average."))
        momentum = part("momentum.")
        for name, parameter in self.network.named_parameters():
            if name in momentum:
                self.optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(
                    momentum[name]
                )
        self.step = step

    def score(self, split: SplitName) -> Score:
        """The metric on a split, without augmentation."""
        network = self.result.eval()
        statistics: list[np.ndarray] = []
        with torch.inference_mode():
            for batch in self.data.batches(split, 250, augment=False):
                outputs = _listed(network(torch.from_numpy(batch.inputs).to(self.device)))
                values = [output.cpu().numpy() for output in outputs]
                statistics.append(self.task.measure(values, batch.targets))
        return self.task.summarise(np.concatenate(statistics))


def _listed(answer: Tensor | Mapping[str, Tensor]) -> list[Tensor]:
    """The outputs of a network in their order."""
    return [answer] if isinstance(answer, Tensor) else list(answer.values())


def _outputs_of(network: nn.Module, data: DataModule) -> list[Output]:
    """Names and shapes of a network's outputs, from one image of zeros."""
    with torch.inference_mode():
        answer = network.eval()(torch.zeros(1, *data.first_shape))
    names = ["output"] if isinstance(answer, Tensor) else list(answer)
    return [Output(name, tuple(value.shape)) for name, value in zip(names, _listed(answer), strict=True)]


def write(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write tensors and facts (JSON, in the file's header) as one safetensors file, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        contiguous = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        # Not `save_file`, which makes files that only their owner may read.
        beside.write_bytes(save(contiguous, metadata={"mcc": json.dumps(facts, sort_keys=True)}))
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def load_weights(network: nn.Module, path: Path) -> str:
    """Load the weights at `path` into `network`; every name and shape must agree.

    Returns:
        A hash of the file.

    Raises:
        DataError: The file cannot be read or belongs to another network.
    """
    try:
        raw = path.read_bytes()
        network.load_state_dict(load(raw), strict=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"does not hold this network's weights ({reason:.200})", where=str(path)) from error
    return hashlib.sha256(raw).hexdigest()


def take_up(training: Training, path: Path, identity: str) -> None:
    """Continue from the state at `path`, if there is one.

    Raises:
        UsageError: It belongs to a run with other settings or data.
        DataError: It is not such a state.
    """
    if not path.is_file():
        return
    try:
        with safe_open(path, "pt") as file:
            facts = json.loads(file.metadata()["mcc"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dictionary)
    except Exception as error:
        raise DataError(
            f"is not a state of this program ({error})", where=str(path), hint="delete it"
        ) from error
    if facts.get("identity") != identity:
        raise UsageError(
            "was left by a run with another network, data, seed or recipe",
            where=str(path),
            hint="repeat that run's options, or leave out --resume to begin again",
        )
    training.restore(tensors, int(facts["step"]))


@contextmanager
def stopping(engine: Engine) -> Generator[list[int]]:
    """End the loop after the current step at Ctrl-C and SIGTERM; yields the received signals."""
    came: list[int] = []

    def stop(number: int, _frame: object) -> None:
        came.append(number)
        engine.terminate()

    old = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def run(training: Training, state: Path, identity: str, console: Console) -> bool:
    """Train to the last step; returns False if a signal ended it. Saves its state every minute."""
    training.network.train()
    engine = Engine(training.update)
    saved = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=console, disable=not console.is_terminal)
    bar = progress.add_task("training", total=training.steps, completed=training.step)
    per_epoch = training.data.steps_per_epoch(training.recipe.batch_size)

    def after_step(engine: Engine) -> None:
        nonlocal saved
        epoch = -(-training.step // per_epoch)
        text = f"epoch {epoch}/{training.recipe.epochs}, loss {engine.state.output:.3f}"
        progress.update(bar, completed=training.step, description=text)
        if training.step % per_epoch == 0 and not console.is_terminal:
            console.print(text, highlight=False)
        if time.monotonic() - saved > SAVE_EVERY_S:
            write(state, training.tensors(), {"identity": identity, "step": training.step})
            saved = time.monotonic()

    engine.add_event_handler(Events.ITERATION_COMPLETED, after_step)
    remaining = training.steps - training.step
    if remaining == 0:
        return True
    batches = training.data.training(
        training.recipe.batch_size, seed=training.seed, steps=training.steps, step0=training.step
    )
    with progress, stopping(engine) as came:
        engine.run(batches, max_epochs=1, epoch_length=remaining)
    write(state, training.tensors(), {"identity": identity, "step": training.step})
    return not came or training.step == training.steps
