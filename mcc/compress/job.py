"""A job: the request, the loaded model and data, and the output folder."""

from __future__ import annotations

import functools
import hashlib
import json
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor

from mcc.budget import Budget, check_drop, check_units
from mcc.compress.folder import LOCK, Folder, names_left
from mcc.compress.request import Request
from mcc.data import BoundTask, DataModule, bind_task
from mcc.data.agreement import AGREEMENT, labelled_by
from mcc.data.outputs import Output
from mcc.data.stated import Stated, load_stated, stated_by_object
from mcc.files import write_text
from mcc.frontend.load import load_model
from mcc.ir.feed import Arrays, Feed, feed_of
from mcc.ir.graph import Graph, constants, outputs, run, taken_by, weights_of
from mcc.ir.notes import shape_of
from mcc.ir.outputs import files_in
from mcc.ir.text import print_graph
from mcc.report.doubt import Circumstances, labels_warning, stated_by_model, zero_weights
from mcc.report.file_metadata import Description, describe
from mcc.runtime import get_target
from mcc.runtime.target import Target

DEFAULT_IMAGES = 20_000  # of each strategy's fine-tuning without --epochs: minutes on two cores
CALIBRATION_BATCH = 64
CALIBRATION_BATCHES = 4
SENSITIVITY_BATCHES = 8


class Progress(Protocol):
    """Callback that receives a stage, the amount done, the total, and a note."""

    def __call__(self, stage: str, done: float, total: float, note: str = "") -> None:
        """Report the state of a stage; done >= total ends it."""
        ...


def silent(stage: str, done: float, total: float, note: str = "") -> None:
    """Progress callback that discards everything."""


@dataclass(frozen=True)
class Place:
    """Folder and circumstances of a run.

    Attributes:
        folder: Folder for results and state.
        resume: Whether to continue from the state in the folder.
        force: Whether files in it that mcc did not create may be overwritten.
        progress: Callback for the progress.
        command: Command line that repeats the run, for the report.
        data: The data module, if given as an object and not by name.
    """

    folder: Path
    resume: bool = False
    force: bool = False
    progress: Progress = silent
    command: str = ""
    data: DataModule | None = None

    def inside(self, name: str) -> Place:
        """The same for a subfolder of this folder."""
        return replace(self, folder=self.folder / name)


@dataclass
class Job:
    """A request with everything loaded, and its folder.

    Attributes:
        graph: The model as captured.
        task: The task, bound to the graph's outputs.
        stated: Preprocessing of the images, and its source.
        outputs: Outputs of the graph.
        lock: Lock of the folder; held from `open_job` until `release`, or until the process ends.
        stages: Seconds spent, by stage.
        warnings: Sentences that report and terminal show first.
    """

    request: Request
    folder: Path
    graph: Graph
    name: str
    data: DataModule
    task: BoundTask
    target: Target
    progress: Progress
    lock: FileLock
    stated: Stated
    outputs: tuple[Output, ...]
    stages: dict[str, float] = field(default_factory=lambda: {})
    warnings: list[str] = field(default_factory=lambda: [])

    def warn(self, sentence: str) -> None:
        """Add a warning to the report, above the verdict; repeated sentences are kept once."""
        if sentence not in self.warnings:
            self.warnings.append(sentence)

    @property
    def judged(self) -> Output:
        """The output that the metric is computed from."""
        return self.outputs[self.task.output]

    @property
    def words(self) -> str:
        """Preprocessing of the images, and which of several outputs is judged, in one line."""
        judged = f"; output {self.judged.name} of {len(self.outputs)} is judged"
        return f"pictures: {self.stated.words}{judged if len(self.outputs) > 1 else ''}"

    def circumstances(self) -> Circumstances:
        """Facts that may explain an original at chance level."""
        zeros, count = zero_weights(weights_of(self.graph))
        fresh = ":" in self.request.model and self.request.weights is None
        classes = bool(self.data.class_names)
        return Circumstances(self.stated, self.outputs, self.judged, fresh, zeros, count, classes)

    def release(self) -> None:
        """Release the lock of the folder."""
        self.lock.release()

    @property
    def cost_budget(self) -> Budget:
        """The budget for planning: its latency in the unit of the target's costs."""
        return self.request.budget.in_unit(self.target.unit)

    @property
    def images(self) -> int:
        """Number of training images of one strategy's fine-tuning."""
        if self.request.epochs is None:
            return DEFAULT_IMAGES
        return round(self.request.epochs * len(self.data.train))

    @property
    def state(self) -> Path:
        """Folder of checkpoints and measurements."""
        return self.folder / "state"

    @contextmanager
    def stage(self, name: str) -> Generator[None]:
        """Time a stage."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.stages[name] = self.stages.get(name, 0.0) + time.monotonic() - start

    def calibration(self) -> tuple[Feed, ...]:
        """Input batches for ranges, low-rank factors and batch-norm statistics."""
        batches = self.data.batches(
            "calibration", CALIBRATION_BATCH, limit=CALIBRATION_BATCH * CALIBRATION_BATCHES
        )
        return tuple(feed_of(batch.inputs) for batch in batches)

    def labelled(self) -> list[tuple[Feed, Tensor]]:
        """Batches of inputs and targets from the calibration part of the training data."""
        batches = self.data.batches(
            "calibration", CALIBRATION_BATCH, limit=CALIBRATION_BATCH * SENSITIVITY_BATCHES
        )
        return [(feed_of(b.inputs), torch.from_numpy(b.targets)) for b in batches]

    def digest(self) -> str:
        """Hash of everything that results depend on: model, data, and the request without folder and
        spelling.

        The selected strategies are left out: no strategy's outcome depends on the others.
        """
        asked = {
            "text": print_graph(self.graph),
            "data": self.data.digest(),
            "target": self.target.fingerprint(self.request.threads).key(),
            "budget": self.request.budget.to_dict(),
            "images": self.images,
            "seed": self.request.seed,
            "plan": self.request.plan,
            "steps": self.request.steps,
            "judged": self.task.output,
            **({"task": self.task.identity} if self.task.identity else {}),
        }
        found = hashlib.sha256(json.dumps(asked, sort_keys=True).encode())
        for name, value in sorted(constants(self.graph).items()):
            found.update(name.encode() + value.detach().contiguous().numpy().tobytes())
        return found.hexdigest()


def open_job(
    request: Request,
    place: Place,
    *,
    plan_file: Path | None = None,
    check: Callable[[Job], None] | None = None,
) -> Job:
    """Load model, data and target, and take the folder.

    Args:
        plan_file: Source of the request's plan; like all inputs, it is never overwritten.
        check: Callback on the loaded job, before anything in the folder changes; raises if the job is
            impossible.

    Raises:
        MccError: The model, data or target cannot be used, they do not fit each other, or the folder cannot
            be taken, see `mcc.compress.folder`.
    """
    target = get_target(request.target)
    state = target.available()
    if not state.ok:
        from mcc.errors import TargetError

        raise TargetError(f"target {target.spec} cannot be used: {state.reason}", hint=state.how_to_get)
    check_units(request.budget, [target])
    target.check_threads(request.threads)
    folder, progress = place.folder, place.progress
    progress("load model and data", 0, 1)
    job = load_job(request, folder, progress, place.data)
    if check is not None:
        check(job)
    reads = files_in(request.model, request.data, request.task, request.weights, plan_file)
    try:
        Folder(folder, job.lock).take(
            job.digest(), names_left(target.format), reads=reads, resume=place.resume, force=place.force
        )
    except BaseException:
        job.release()
        raise
    progress("load model and data", 1, 1, job.words)
    return job


def load_job(
    request: Request, folder: Path, progress: Progress = silent, at_hand: DataModule | None = None
) -> Job:
    """Load model and data; the folder is not accessed, and the target need not be usable on this machine.

    Args:
        at_hand: Data module to use instead of loading one.

    Raises:
        MccError: The model or data cannot be used, or they do not fit each other.
    """
    torch.manual_seed(request.seed)  # a factory without weights draws them
    loaded = load_model(
        request.model, input_shape=request.input_shape, weights=request.weights, cut=request.cut
    )
    shape = taken_by(loaded.graph)
    if at_hand is not None:
        data, stated = at_hand.for_inputs(shape), stated_by_object(at_hand, shape, request.pictures)
    else:
        data, stated = load_stated(
            request.data, seed=request.seed, input_shape=shape,
            stated=stated_by_model(request.model, loaded.preprocessing), asked=request.pictures,
        )  # fmt: skip
    file = Path(request.model)
    described = describe(file) if file.is_file() and ":" not in request.model else Description()
    asked = request.judge or (None if request.cut else described.output)
    nodes = zip(loaded.output_names, outputs(loaded.graph), strict=True)
    found = tuple(Output(name, shape_of(node)) for name, node in nodes)
    if data.task == AGREEMENT and request.task in (None, AGREEMENT):
        data = labelled_by(data, functools.partial(_answers, loaded.graph), found, asked)
    task = bind_task(data, found, task=request.task, judge=asked)
    check_drop(request.budget, task.metric)
    target, lock = get_target(request.target), FileLock(folder / "state" / LOCK)
    job = Job(request, folder, loaded.graph, loaded.name, data, task, target, progress, lock, stated, found)
    for sentence in (*loaded.remarks, *data.warnings):
        job.warn(sentence)
    unlike = labels_warning(file, described.labels, data.class_names, ignore=request.ignore_labels)
    if unlike is not None:
        job.warn(unlike)
    return job


def _answers(graph: Graph, images: Arrays) -> list[NDArray[np.float32]]:
    return [value.numpy() for value in run(graph, feed_of(images))]


def save_json(path: Path, content: Any) -> None:
    """Write JSON atomically."""
    write_text(path, json.dumps(content, indent=2) + "\n")
