"""A task at work on one network: which one counts, outputs by name, and what it returns looked at."""

from __future__ import annotations

import copy
import hashlib
import inspect
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mcc.data.answer import Answer
from mcc.data.interval import Interval
from mcc.data.module import PARTS, DataModule
from mcc.data.outputs import Named, Output
from mcc.data.shown import Pixels, Shown
from mcc.data.task import CLASSIFICATION, Score, Statistics, Targets, Task, check_task, load_task
from mcc.errors import DataError, MccError, UsageError
from mcc.metric import Metric
from mcc.user_code import reason_of

Value = TypeVar("Value")
Arrays = Sequence[NDArray[Any]]

_PACKAGE = Path(__file__).parent


@dataclass(frozen=True)
class BoundTask:
    """A task bound to a network's outputs. What a user's file raises or returns amiss is said in a sentence.

    Attributes:
        task: As `Task.bind` returned it.
        outputs: Of the network, in the order in which values are given.
    """

    task: Task
    outputs: tuple[Output, ...]

    @property
    def name(self) -> str:
        """Name of the task."""
        return self.task.name

    @property
    def metric(self) -> Metric:
        """Metric of the task."""
        return self.task.metric

    @property
    def output(self) -> int:
        """Place of the output that is judged."""
        return self.task.output

    @property
    def divergence_unit(self) -> str:
        """What stands behind figures of the divergence."""
        return self.task.divergence_unit

    @property
    def reads(self) -> tuple[int, ...]:
        """Places of the outputs that the metric is made of."""
        with _saying(self.task, "reads"):
            return tuple(dict.fromkeys((self.output, *self.task.reads())))

    @property
    def identity(self) -> str:
        """What results depend on: the task's fields and its file; empty for tasks that come with mcc."""
        file = _file_of(self.task)
        if file is None:
            return ""
        fields = sorted(vars(self.task).items())
        return f"{self.name} {fields} {self.output} {hashlib.sha256(file.read_bytes()).hexdigest()}"

    def answer(self, data: DataModule) -> Answer:
        """See `Task.answer`."""
        with _saying(self.task, "answer"):
            return self.task.answer(data)

    def shown(self, picture: Pixels, outputs: Arrays, class_names: Sequence[str]) -> Shown | None:
        """See `Task.shown`."""
        with _saying(self.task, "shown"):
            return self.task.shown(picture, self._named(outputs), class_names)

    def shown_target(self, picture: Pixels, target: NDArray[Any], class_names: Sequence[str]) -> Shown | None:
        """See `Task.shown_target`."""
        with _saying(self.task, "shown_target"):
            return self.task.shown_target(picture, target, class_names)

    def loss(self, outputs: Sequence[Tensor], targets: Tensor) -> Tensor:
        """See `Task.loss`."""
        with _saying(self.task, "loss"):
            return _scalar(self.task.loss(self._named(outputs), targets))

    def distillation_loss(
        self, outputs: Sequence[Tensor], teacher: Sequence[Tensor], targets: Tensor
    ) -> Tensor:
        """See `Task.distillation_loss`."""
        with _saying(self.task, "distillation_loss"):
            given = self._named(outputs), self._named(teacher)
            return _scalar(self.task.distillation_loss(*given, targets))

    def divergence(self, outputs: Sequence[Tensor], reference: Sequence[Tensor]) -> Tensor:
        """See `Task.divergence`."""
        with _saying(self.task, "divergence"):
            return _scalar(self.task.divergence(self._named(outputs), self._named(reference)))

    def measure(self, outputs: Arrays, targets: Targets) -> Statistics:
        """See `Task.measure`."""
        with _saying(self.task, "measure"):
            return _rows(self.task.measure(self._named(outputs), targets), len(targets))

    def agreement(self, outputs: Arrays, reference: Arrays) -> Statistics:
        """See `Task.agreement`."""
        with _saying(self.task, "agreement"):
            found = self.task.agreement(self._named(outputs), self._named(reference))
            return _rows(found, len(outputs[self.output]))

    def figure(self, statistics: Statistics) -> float:
        """The metric alone: `summarise` without its interval."""
        with _saying(self.task, "figure"):
            return self._in_range(float(self.task.figure(statistics)))

    def figures(self, statistics: Statistics) -> dict[str, float]:
        """Further figures by name, see `Task.figures`."""
        with _saying(self.task, "figures"):
            found = {str(name): float(value) for name, value in self.task.figures(statistics).items()}
            for name, value in found.items():
                if not np.isfinite(value):
                    raise DataError(f"the {name} is {value:g}, which is no figure")
            return found

    def summarise(self, statistics: Statistics) -> Score:
        """See `Task.summarise`."""
        with _saying(self.task, "summarise"):
            found = self.task.summarise(statistics)
            if not found.low <= found.value <= found.high:
                raise DataError(
                    f"{found.value:g} does not lie in its interval {found.low:g} to {found.high:g}"
                )
            self._in_range(found.value)
            return found

    def difference(self, first: Statistics, second: Statistics) -> Interval:
        """See `Task.difference`."""
        with _saying(self.task, "difference"):
            return self.task.difference(first, second)

    def chance(
        self, statistics: Statistics, targets: Targets, class_names: Sequence[str], population: Targets
    ) -> str | None:
        """See `Task.chance`."""
        with _saying(self.task, "chance"):
            return self.task.chance(statistics, targets, class_names, population)

    def _named(self, values: Sequence[Value]) -> Named[Value]:
        return Named(values, self.outputs)

    def _in_range(self, value: float) -> float:
        if not np.isfinite(value):
            raise DataError(f"the {self.metric.name} is {value:g}, which is no figure")
        if self.metric.is_fraction and not 0 <= value <= 1:
            raise DataError(f"the {self.metric.name} is {value:g}, and a fraction lies between 0 and 1")
        return value


@contextmanager
def _saying(task: Task, member: str) -> Generator[None]:
    """Errors of a user's file in one sentence that names the task and its member."""
    where = f"task {task.name}, {member}"
    try:
        yield
    except MccError as error:
        error.where = error.where or where
        raise
    except Exception as error:  # a user's task may raise anything
        if _file_of(task) is None:
            raise
        raise DataError(f"fails ({reason_of(error)})", where=where) from error


def _file_of(task: Task) -> Path | None:
    """The file of a task that does not come with mcc; None of one that does."""
    file = inspect.getsourcefile(type(task))
    return None if file is None or Path(file).parent == _PACKAGE else Path(file)


def _scalar(found: Tensor) -> Tensor:
    if not isinstance(found, Tensor) or found.numel() != 1:  # pyright: ignore[reportUnnecessaryIsInstance]
        kind = list(found.shape) if isinstance(found, Tensor) else type(found).__name__  # pyright: ignore
        raise DataError(f"returns {kind} and not one number in a tensor")
    return found


def _rows(found: object, count: int) -> Statistics:
    value: NDArray[Any] = np.asarray(found)
    if value.ndim < 1 or len(value) != count or value.dtype.kind not in "buif":
        raise DataError(f"returns {value.dtype} {list(value.shape)} for {count} examples, not [{count}, ...]")
    return value.astype(np.float64)


def task_of(data: DataModule, asked: str | None = None) -> Task:
    """The task that counts: what the user asks for, else what the data says, else classification.

    Where both say one they must agree, that is have the same name; the user's is taken then.

    Args:
        asked: `--task`.

    Raises:
        UsageError: They name different tasks, or one that is none.
    """
    said = data.task
    ours = None if said is None else _loaded(said, data.name)
    if asked is None and ours is None and not data.class_names:
        raise UsageError(
            "names no task, and no classes", where=data.name,
            hint="name the task with --task, or in the data: DataModule(..., task=...)",
        )  # fmt: skip
    if asked is None:
        return ours or load_task(CLASSIFICATION)
    found = load_task(asked)
    if ours is not None and ours.name != found.name:
        raise UsageError(
            f"is the task {found.name}, and the data {data.name} is for the task {ours.name}", where="--task",
            hint="leave out --task, or name other data",
        )  # fmt: skip
    return found


def _loaded(said: str | Task, where: str) -> Task:
    return load_task(said) if isinstance(said, str) else check_task(said, where)


def placed_task(spec: str, outputs: Sequence[Output], place: int) -> BoundTask:
    """A task to compare outputs with where there is no data to bind it to. Raises UsageError.

    Args:
        place: of the output that is judged.
    """
    task = copy.copy(load_task(spec))
    object.__setattr__(task, "output", place)  # frozen dataclasses are tasks, too
    return BoundTask(task, tuple(outputs))


def bind_task(
    data: DataModule, outputs: Sequence[Output], *, task: str | None = None, judge: str | None = None
) -> BoundTask:
    """The task of some data for a network with these outputs, and the data's targets looked at by it.

    Args:
        task: That the user asks for, see `task_of`.
        judge: Name or place of the output to judge.

    Raises:
        DataError: The outputs or the targets cannot be those of the task.
        UsageError: There is no such task or output, or several could be meant.
    """
    found = task_of(data, task)
    for part in PARTS:
        with _saying(found, "check_targets"):
            found.check_targets(data.split(part).targets, part, data)
    with _saying(found, "bind"):
        bound = found.bind(outputs, data, judge)
    if not isinstance(cast(object, bound), Task) or not 0 <= bound.output < len(outputs):
        raise UsageError("bind returns no task for these outputs", where=f"task {found.name}")
    return BoundTask(bound, tuple(outputs))
