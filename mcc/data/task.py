"""What a network is for: its loss, its metric, and how its numbers are read.

A task is one small file: a class with the members of `Task`, and one instance of it called `TASK`. In
`mcc/data/` it is found by its file's name (`classification`); elsewhere it is named as
`package.module:TASK` or `path/to/file.py:TASK`. A `DataModule` says which task its data is for.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mcc.data.module import DataModule
from mcc.data.outputs import Output
from mcc.errors import UsageError
from mcc.user_code import load_object, neighbours_importable

Outputs = Sequence[NDArray[np.float32]]
Statistics = NDArray[np.float64]


@dataclass(frozen=True)
class Score:
    """A metric over `count` examples, with its 95 % interval."""

    metric: str
    value: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.metric} {self.value:.4f} ({self.low:.4f} to {self.high:.4f}, n={self.count})"


@dataclass(frozen=True)
class Prediction:
    """What a network says of one example: names, best first, and how likely it holds each."""

    labels: tuple[str, ...]
    shares: tuple[float, ...]


@runtime_checkable
class Task(Protocol):
    """Everything that mcc must know of a task.

    All of a network's outputs come as a sequence, even one, in the order and the axes of its graph. `bind`
    says which of them a task reads; everything else is asked of what it returned.
    """

    @property
    def name(self) -> str:
        """As it is asked for, `classification`."""
        ...

    @property
    def metric(self) -> str:
        """The metric's name, `accuracy`; more is better."""
        ...

    @property
    def output(self) -> int:
        """The place of the output that the metric is read from."""
        ...

    def bind(self, outputs: Sequence[Output], data: DataModule, asked: str | None = None) -> Task:
        """This task for a network with these outputs.

        Args:
            asked: name or place of the output to judge; None: chosen by shape and name.

        Raises:
            DataError: the outputs cannot be those of `data`.
            UsageError: there is no such output, or several could be meant.
        """
        ...

    def loss(self, outputs: Sequence[Tensor], targets: Tensor) -> Tensor:
        """Training loss, a scalar, differentiable."""
        ...

    def distillation_loss(
        self, outputs: Sequence[Tensor], teacher: Sequence[Tensor], targets: Tensor
    ) -> Tensor:
        """Training loss of a network that also has a teacher's outputs to follow."""
        ...

    def measure(self, outputs: Outputs, targets: NDArray[np.int64]) -> Statistics:
        """[N, ...] of each example what the metric is made of; for an accuracy 1.0 right or 0.0 wrong."""
        ...

    def summarise(self, statistics: Statistics) -> Score:
        """The metric of all examples from what `measure` gave of each (batches concatenated)."""
        ...

    def chance(
        self,
        statistics: Statistics,
        targets: NDArray[np.int64],
        class_names: Sequence[str],
        population: NDArray[np.int64],
    ) -> str | None:
        """Why the metric is no better than guessing, as a sentence without its end; None where it is better.

        Args:
            statistics: what `measure` gave of each example, for the targets.
            population: targets of the whole split, of which the examples may be the first part.
        """
        ...

    def agreement(self, outputs: Outputs, reference: Outputs) -> Statistics:
        """[N] how far two networks say the same of each example, 0 to 1."""
        ...

    def postprocess(self, outputs: Outputs, class_names: Sequence[str], top: int = 1) -> list[Prediction]:
        """The outputs in words, for each example."""
        ...


def task_names() -> tuple[str, ...]:
    """The tasks that come with mcc: every file beside this one that has a `TASK`."""
    return tuple(
        sorted(m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)]) if _own_task(m.name))
    )


def load_task(spec: str = "classification") -> Task:
    """The task that `spec` names: a file in `mcc/data`, or `package.module:TASK`.

    Raises:
        UsageError: there is no such task, or it lacks a member of `Task`.
    """
    if ":" in spec:
        with neighbours_importable(spec):
            task = load_object(spec, "the name of a task, or package.module:TASK")
    else:
        task = _own_task(spec)
    if task is None:
        raise UsageError(f"there is no task called {spec!r}", hint=f"there is {', '.join(task_names())}")
    if not isinstance(task, Task):
        missing = sorted(name for name in _members() if not hasattr(task, name))
        raise UsageError(f"lacks {', '.join(missing)}", where=f"task {spec}", hint="see mcc.data.task.Task")
    return task


def _members() -> list[str]:
    return [name for name in vars(Task) if not name.startswith("_")]


def _own_task(name: str) -> object | None:
    """`TASK` of the module of that name beside this one; None where there is none."""
    if not name.isidentifier() or not (Path(__file__).parent / f"{name}.py").is_file():
        return None
    return getattr(importlib.import_module(f"mcc.data.{name}"), "TASK", None)
