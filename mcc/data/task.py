"""What a network is for: its loss, its metric, and how its numbers are read.

A task is one small file: a class that inherits from `Task`, and one instance of it called `TASK`. In
`mcc/data/` it is found by its file's name (`classification`); elsewhere it is named as `package.module:TASK`
or `path/to/file.py:TASK`, where a function that returns a task will do as well. Which task counts where the
user and the data both name one is decided in `mcc.data.bound`.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mcc.data.answer import Answer
from mcc.data.augment import Moves
from mcc.data.interval import Interval, bootstrap, paired_bootstrap
from mcc.data.outputs import Named, Output, likely_output, listed, named_output
from mcc.data.shown import Pixels, Shown
from mcc.data.split import Targets
from mcc.errors import DataError, MccError, UsageError
from mcc.metric import Metric
from mcc.user_code import load_object, neighbours_importable, reason_of

if TYPE_CHECKING:
    from mcc.data.module import DataModule

Outputs = Named[NDArray[np.float32]]
Statistics = NDArray[np.float64]

CLASSIFICATION = "classification"
FORMS = "the name of a task, package.module:TASK or path/file.py:TASK"
SAME = 2 / 255
"""Of an output's largest magnitude: a step of 8 bits on a range that reaches as far below zero as above.
Runtimes round a requantisation differently, by one step in a few values."""


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


class Task(ABC):
    """Everything that mcc must know of a task. Inherit from it: what is not abstract has a usual answer.

    Outputs come all together, even one, as `Named`: in the order and the axes of the network's graph, by name
    (`outputs["boxes"]`) or by place (`outputs[self.output]`). Targets come as the data has them, whole
    numbers as int64 and others as float32. `bind` says which network it is; everything else is asked of what
    that returned.

    Attributes:
        name: What the task is called. Where the user and the data name tasks of one name, they agree.
        metric: Name, unit and direction of the figure that networks are judged by.
        output: Place of the output that is judged; the first of them, where the task reads several.
        divergence_unit: What stands behind figures of `divergence`.
    """

    name: str
    metric: Metric
    output: int = 0
    divergence_unit: ClassVar[str] = "of divergence"

    def bind(self, outputs: Sequence[Output], data: DataModule, asked: str | None = None) -> Self:
        """This task for a network with these outputs; as it stands, the one output that `fits`.

        Args:
            asked: Name or place of the output to judge; None: chosen by shape and name.

        Raises:
            DataError: The outputs cannot be those of `data`.
            UsageError: There is no such output, or several could be meant.
        """
        fits = [place for place, output in enumerate(outputs) if self.fits(output, data)]
        place = named_output(outputs, asked) if asked is not None else None
        if not fits or (place is not None and place not in fits):
            found = listed(outputs) if place is None else listed(outputs, [place])
            raise DataError(
                f"no output of the network can be that of the task {self.name} ({found})", where=data.name,
                hint="use the data and the task that the network was made for",
            )  # fmt: skip
        if place is None:
            place = fits[0] if len(fits) == 1 else likely_output(outputs, fits)
        bound = copy.copy(self)
        object.__setattr__(bound, "output", place)  # frozen dataclasses are tasks, too
        return bound

    def fits(self, output: Output, data: DataModule) -> bool:
        """Whether an output may be the one that is judged, by its shape (with batch); as it stands, any."""
        return True

    def reads(self) -> tuple[int, ...]:
        """Places of the outputs that the metric is made of; as it stands, `output` alone."""
        return (self.output,)

    def check_targets(self, targets: Targets, part: str, data: DataModule) -> None:
        """Refuse targets that cannot be those of this task; as it stands, numbers that are not finite.

        Args:
            targets: [N, ...] of a part of the data.
            part: `train`, `calibration`, `validation` or `test`.

        Raises:
            DataError: Naming the part.
        """
        if not np.isfinite(targets).all():
            raise DataError(f"targets of the {part} split hold values that are not finite", where=data.name)

    def moved(self, targets: Targets, moves: Moves) -> Targets:
        """Targets [N, ...] of images that are shifted and mirrored in training; as it stands, unchanged.

        Targets that are places in the image, such as masks, boxes or points, have to follow it.
        """
        return targets

    @abstractmethod
    def loss(self, outputs: Named[Tensor], targets: Tensor) -> Tensor:
        """Training loss, a scalar, differentiable."""
        ...

    @abstractmethod
    def divergence(self, outputs: Named[Tensor], reference: Named[Tensor]) -> Tensor:
        """How far outputs are from those of another network for the same inputs, a scalar, 0 where equal.

        What single decisions cost is measured by it, and distillation follows its gradient. It has no unit:
        about 1 where little of the reference is left. Means over the examples of a batch.
        """
        ...

    def distillation_loss(self, outputs: Named[Tensor], teacher: Named[Tensor], targets: Tensor) -> Tensor:
        """Training loss of a network that has a teacher to follow; as it stands, loss + divergence."""
        return self.loss(outputs, targets) + self.divergence(outputs, teacher)

    @abstractmethod
    def measure(self, outputs: Outputs, targets: Targets) -> Statistics:
        """[N, ...] of each example what the metric is made of; for an accuracy 1.0 right or 0.0 wrong."""
        ...

    def figure(self, statistics: Statistics) -> float:
        """The metric of some examples from what `measure` gave of each; as it stands, their mean."""
        return float(statistics.mean())

    def figures(self, statistics: Statistics) -> dict[str, float]:
        """Further figures of some examples by name, for the report; as it stands, none."""
        return {}

    def summarise(self, statistics: Statistics) -> Score:
        """The metric with its 95 % interval; as it stands, from resampling the examples (bootstrap)."""
        return self.score(bootstrap(statistics, self.figure), len(statistics))

    def score(self, found: Interval, count: int) -> Score:
        """An interval of the metric over so many examples."""
        return Score(self.metric.name, found.value, found.low, found.high, count)

    def difference(self, first: Statistics, second: Statistics) -> Interval:
        """Metric of one network less that of another on the same examples, with its 95 % interval.

        As it stands, from resampling examples in pairs: both networks mostly fail on the same ones.
        """
        return paired_bootstrap(first, second, self.figure)

    @abstractmethod
    def chance(
        self, statistics: Statistics, targets: Targets, class_names: Sequence[str], population: Targets
    ) -> str | None:
        """Why the metric is no better than guessing, as a sentence without its end; None where it is better.

        Args:
            statistics: What `measure` gave of each example, for the targets.
            population: Targets of the whole split, of which the examples may be the first part.
        """
        ...

    def answer(self, data: DataModule) -> Answer:
        """How an app reads the outputs; as it stands, as numbers with no further meaning."""
        return Answer()

    def shown(self, picture: Pixels, outputs: Outputs, class_names: Sequence[str]) -> Shown | None:
        """The answer for one picture, for the report; as it stands, none.

        Args:
            picture: [H, W, 3] as the network sees it.
            outputs: Of that picture alone, with batch.
        """
        return None

    def shown_target(self, picture: Pixels, target: NDArray[Any], class_names: Sequence[str]) -> Shown | None:
        """The same of its target; None where the task does not show answers."""
        return None

    def agreement(self, outputs: Outputs, reference: Outputs) -> Statistics:
        """[N] how far two networks say the same of each example, 0 to 1; as it stands, 1 where every value
        of what is read is within a step of 8 bits."""
        same = np.ones(len(outputs[self.output]), bool)
        for place in self.reads():
            one, other = outputs[place].astype(np.float64), reference[place].astype(np.float64)
            step = SAME * float(np.abs(other).max(initial=0.0))
            same &= (np.abs(one - other) <= step).reshape(len(one), -1).all(1)
        return same.astype(np.float64)


def task_names() -> tuple[str, ...]:
    """The tasks that come with mcc: every file beside this one that has a `TASK`."""
    return tuple(
        sorted(m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)]) if _own_task(m.name))
    )


def load_task(spec: str = CLASSIFICATION) -> Task:
    """The task that `spec` names: a file in `mcc/data`, `package.module:TASK` or `path/file.py:TASK`.

    A function of that name is called, without arguments, and has to return a task.

    Raises:
        UsageError: There is no such task, or it lacks a member of `Task`.
    """
    if ":" in spec:
        with neighbours_importable(spec):
            found = _made(load_object(spec, FORMS), spec)
    else:
        found = _own_task(spec)
    if found is None:
        raise UsageError(f"there is no task called {spec!r}", hint=f"there is {', '.join(task_names())}")
    return check_task(found, f"task {spec}")


def check_task(found: object, where: str) -> Task:
    """A task that has all it needs. Raises UsageError for anything else, and names what it lacks."""
    if isinstance(found, Task) and isinstance(getattr(found, "metric", None), Metric) and _named(found):
        return found
    missing = sorted(name for name in _needed() if not hasattr(found, name))
    if missing:
        said = f"lacks {', '.join(missing)}"
    elif not isinstance(found, Task):
        said = f"is {type(found).__name__}, which does not inherit from mcc.data.Task"
    else:
        said = "has a name or a metric that is none" if _named(found) else "has no name"
    raise UsageError(
        said, where=where, hint="inherit from mcc.data.Task; CONTRIBUTING.md shows a task in full"
    )


def _named(task: Task) -> bool:
    return isinstance(getattr(task, "name", None), str) and bool(task.name)


def _needed() -> tuple[str, ...]:
    return ("name", "metric", *Task.__abstractmethods__)


def _made(found: object, spec: str) -> object:
    """The task itself, or what a factory of tasks returns."""
    if isinstance(found, Task) or not (inspect.isfunction(found) or inspect.isclass(found)):
        return found
    try:
        return found()
    except MccError:
        raise
    except (Exception, SystemExit) as error:  # a user's factory may raise anything
        raise UsageError(f"cannot be made ({reason_of(error)})", where=f"task {spec}") from error


def _own_task(name: str) -> object | None:
    """`TASK` of the module of that name beside this one; None where there is none."""
    if not name.isidentifier() or not (Path(__file__).parent / f"{name}.py").is_file():
        return None
    return getattr(importlib.import_module(f"mcc.data.{name}"), "TASK", None)
