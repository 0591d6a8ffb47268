"""Computes the task's metric of a lowered file, run in a target's runtime on a split of the data."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mcc.data.bound import BoundTask, bind_task
from mcc.data.module import DataModule, SplitName
from mcc.data.outputs import Output, check_finite
from mcc.data.parts import handed_on
from mcc.data.preprocessing import WHITE, Preprocessing
from mcc.data.stated import Stated
from mcc.data.task import Score
from mcc.errors import UsageError
from mcc.ir.feed import Arrays
from mcc.metric import Metric
from mcc.report.measure import Array, as_graph, as_stored, channels_first, channels_last, run_each
from mcc.runtime.session import Session
from mcc.runtime.target import Target

log = logging.getLogger(__name__)

Statistics = npt.NDArray[np.float64]

COMPARED = 32  # images with equal results that allow a faster target to run the rest
OUTPUTS_APART = 0.02  # of their range: a step or two of 8 bits; float kernels differ by far less
IMAGES_AT_ONCE = 500  # inputs of 3x224x224: 300 MB
BYTES_AT_ONCE = 256 << 20  # of outputs: maps of classes are many times as large as pictures


@dataclass(frozen=True)
class Judged:
    """Result of judging a file.

    Attributes:
        statistics: The task's statistics of each image.
        metric, score: The task's metric, and its value.
        chance: Reason why it is no better than chance; None if it is better.
        figures: Further figures of the task, by name.
        outputs, output: Outputs of the file, and index of the judged one.
        reads: Indices of all outputs that the metric is computed from.
    """

    statistics: Statistics
    metric: Metric
    score: Score
    chance: str | None
    figures: dict[str, float]
    outputs: tuple[Output, ...]
    output: Output
    reads: tuple[int, ...]


def evaluate_file(
    target: Target, file: Path | str, data: DataModule, split: SplitName = "test", **options: Any
) -> Score:
    """The task's metric of a lowered file, run in the target's runtime; see `judge_file`."""
    return judge_file(target, file, data, split, **options).score


def statistics_of(
    target: Target, file: Path | str, data: DataModule, split: SplitName = "test", **options: Any
) -> Statistics:
    """The task's statistics of each image of a split, [images, ...]; see `judge_file`."""
    return judge_file(target, file, data, split, **options).statistics


def judge_file(
    target: Target,
    file: Path | str,
    data: DataModule,
    split: SplitName = "test",
    *,
    task: BoundTask | str | None = None,
    outputs: Sequence[Output] | None = None,
    asked: str | None = None,
    threads: int = 1,
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Judged:
    """Compute the task's metric of a lowered file, run in the target's runtime.

    An emulated core only runs the first `COMPARED` images if the faster target of the same runtime gives the
    same results for them (see `agree`); that target then runs the rest.

    Args:
        file: Path of a lowered file that the target runs.
        split: `validation` for choices, `test` for the final figure.
        task: Task bound to `outputs`; the name of a task, or None for the data's, is bound here.
        outputs: Outputs of the file's graph, which define the order and axes for the task; None: those of the
            file.
        asked: Without `task`, the name or index of the output to judge.
        limit: Maximum number of images.
        progress: Callback that receives the number of images done and in total.

    Raises:
        DataError: The file's outputs do not fit the data's task.
        NotFiniteError: A judged output is NaN or infinite.
        UsageError: The file's input does not fit the data, or the judged output is ambiguous.
        TargetError: The runtime is missing, refused the file or crashed.
    """
    part = data.split(split)
    total = min(len(part), limit or len(part))
    found: list[Statistics] = []
    quicker = target.quicker() if total > COMPARED else None
    judge = _Judge(file, data, task, outputs, asked)
    if quicker is not None and judge.agree(target, quicker, split, threads):
        target = quicker
    with target.session(file, threads) as session:
        bound = judge.task_for(session)
        known = judge.outputs_of(session)
        done = 0
        for batch in data.batches(split, images_at_once(known), augment=False, limit=limit):
            values = judge.values(session, batch.inputs)
            for place in bound.reads:
                check_finite(values[place], known[place].name, str(file))
            found.append(bound.measure(values, batch.targets))
            done += len(batch.targets)
            if progress is not None:
                progress(done, total)
    statistics = np.concatenate(found)
    # Masks of a whole split as int64 would be gigabytes.
    targets = handed_on(part.targets) if part.targets.ndim == 1 else part.targets
    chance = bound.chance(statistics, targets[: len(statistics)], data.class_names, targets)
    score, further = bound.summarise(statistics), bound.figures(statistics)
    return Judged(statistics, bound.metric, score, chance, further, known, known[bound.output], bound.reads)


def images_at_once(outputs: Sequence[Output]) -> int:
    """Number of images that are run before their outputs are judged, which bounds memory."""
    each = 4 * sum(math.prod(output.shape[1:]) for output in outputs)
    return max(1, min(IMAGES_AT_ONCE, BYTES_AT_ONCE // max(1, each)))


def outputs_of_images(
    target: Target, file: Path | str, data: DataModule, split: SplitName, limit: int, task: BoundTask,
    outputs: Sequence[Output], threads: int = 1,
) -> list[Array]:  # fmt: skip
    """All outputs of a file for the first images of a split, in the axes of the graph.

    A faster target of the same runtime runs them if there is one: they are for looking at.

    Args:
        limit: Maximum number of images.
        outputs: Outputs of the file's graph.

    Raises:
        MccError: As `judge_file`.
    """
    judge = _Judge(file, data, task, outputs)
    with (target.quicker() or target).session(file, threads) as session:
        batches = data.batches(split, images_at_once(outputs), augment=False, limit=limit)
        parts = [judge.values(session, batch.inputs) for batch in batches]
    return [np.concatenate(values) for values in zip(*parts, strict=True)]


@dataclass(frozen=True)
class _Judge:
    """A file and the task that judges it; arguments as in `judge_file`."""

    file: Path | str
    data: DataModule
    task: BoundTask | str | None = None
    outputs: Sequence[Output] | None = None
    asked: str | None = None

    def outputs_of(self, session: Session) -> tuple[Output, ...]:
        """The graph's outputs if known, else the file's in the axes of a graph."""
        found = tuple(Output(info.name, info.shape) for info in session.outputs)
        if self.outputs is None and channels_last(self.file):
            return tuple(Output(one.name, channels_first(one.shape)) for one in found)
        if self.outputs is None:
            return found
        if len(self.outputs) != len(found):
            raise UsageError(
                f"has {len(found)} outputs; the model has {len(self.outputs)}", where=str(self.file)
            )
        return tuple(self.outputs)

    def task_for(self, session: Session) -> BoundTask:
        """The task, bound to the output to judge."""
        if isinstance(self.task, BoundTask):
            return self.task
        return bind_task(self.data, self.outputs_of(session), task=self.task, judge=self.asked)

    def values(self, session: Session, images: Arrays) -> list[Array]:
        """All outputs for inputs [N, C, H, W], in the axes of the graph: maps have channels first."""
        info, last = session.inputs[0], channels_last(self.file)
        if not isinstance(images, tuple):
            if np.dtype(info.dtype).kind in "iu" and info.scale is None and takes_pixels(self.data):
                images = np.round(images)  # resizing gives pixels between two integers
            values = session.run_all(as_stored(images, info, last=last))
        else:
            values = run_each(session, images, last=last)
        if self.outputs is None:
            return [np.moveaxis(v, -1, 1) if last and v.ndim == 4 else v for v in values]
        return [as_graph(v, one.shape, last=last) for v, one in zip(values, self.outputs, strict=True)]

    def agree(self, target: Target, other: Target, split: SplitName, threads: int) -> bool:
        """Whether two targets give the same results for the first images of a split.

        That is: outputs and the task's statistics of every image differ by at most `OUTPUTS_APART` of their
        range; statistics that are right or wrong have to be equal.
        """
        (batch,) = self.data.batches(split, COMPARED, augment=False, limit=COMPARED)
        made: list[list[Array]] = []
        measured: list[Statistics] = []
        for each in (target, other):
            with each.session(self.file, threads) as session:
                made.append(self.values(session, batch.inputs))
                measured.append(self.task_for(session).measure(made[-1], batch.targets))
        apart = max(_apart(one, two) for one, two in zip(*made, strict=True))
        same = _apart(*measured) <= OUTPUTS_APART  # for right or wrong this means equal
        log.info(
            "%s and %s: outputs of %d images differ by at most %.2g of their range%s",
            target.spec, other.spec, len(batch.targets), apart, "" if same else ", statistics differ",
        )  # fmt: skip
        return same and apart <= OUTPUTS_APART


def _apart(one: Array, two: Array) -> float:
    """The largest difference of two arrays, as a share of the range of both."""
    span = max(float(np.max((one, two))) - float(np.min((one, two))), 1e-30)
    return float(np.abs(one - two).max(initial=0.0)) / span


def whole_range(session: Session) -> Stated | None:
    """Identity preprocessing, if an integer input represents exactly the numbers from 0 to 255; else None."""
    info = session.inputs[0]
    kind = np.dtype(info.dtype)
    if kind.kind not in "iu" or kind.itemsize != 1:
        return None
    limits, scale, zero = np.iinfo(kind), info.scale, info.zero_point
    ends = (
        (0, WHITE)
        if scale is None or zero is None
        else [(v - zero) * scale for v in (limits.min, limits.max)]
    )
    if max(abs(ends[0]), abs(ends[1] - WHITE)) > WHITE / (limits.max - limits.min):  # a step of 8 bits
        return None
    return Stated(
        Preprocessing(scale=1.0), f"the {info.dtype} input {info.name!r} stands for pixels of 0 to 255"
    )


def takes_pixels(data: DataModule) -> bool:
    """Whether the network takes unscaled pixels of 0 to 255."""
    given = data.preprocessing
    return not any(given.mean) and all(value == 1 for value in given.byte_std)
