"""A job: what was asked for, what was loaded, and the folder it works in."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import psutil
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from mcc.data import DataModule, Task, load_task
from mcc.data.outputs import Output
from mcc.data.stated import NOTHING_SAID, Asked, Stated, load_stated
from mcc.errors import DataError, UsageError
from mcc.frontend.load import load_model
from mcc.ir.graph import Graph, constants, inputs, outputs, weights_of
from mcc.ir.notes import shape_of
from mcc.ir.storage import write_beside
from mcc.ir.text import print_graph
from mcc.report.doubt import Circumstances, labels_warning, stated_by_model, zero_weights
from mcc.report.schema import Budget
from mcc.report.stored import Description, describe
from mcc.runtime import get_target
from mcc.runtime.target import Target

DEFAULT_IMAGES = 20_000  # of repair for each strategy, where --epochs does not say: minutes on two cores
CALIBRATION_BATCH = 64
CALIBRATION_BATCHES = 4
SENSITIVITY_BATCHES = 8
LOCK = "in-use.lock"  # in the state folder, of the process that works in it; the system frees it
RESULTS = ("report.json", "report.html", "plan.json", "model.*", "after.mcc", "after.safetensors")


class Progress(Protocol):
    """Called with a stage, how much of it is done, how much there is, and a few words."""

    def __call__(self, stage: str, done: float, total: float, note: str = "") -> None:
        """Say how far a stage is; done >= total ends it."""
        ...


def silent(stage: str, done: float, total: float, note: str = "") -> None:
    """Progress that nobody sees."""


@dataclass(frozen=True)
class Request:
    """What was asked for.

    Attributes:
        model, data, target: as on the command line.
        budget: constraints, those not asked for None.
        epochs: passes over the training data for each strategy's repair; None for `DEFAULT_IMAGES`.
        threads: of an inference.
        seed: of everything random.
        weights, input_shape: see `mcc.frontend.load.load_model`.
        plan: the structure to follow as `Structure.key` gives it, empty where one is to be made.
        cut: where the model ends, see `mcc.frontend.load.load_model`.
        workers: processes for independent work; None: this one, with all its threads.
        ray: address of a Ray cluster for it instead.
        steps: in which the joint plan goes to its budget, see `mcc.compress.steps`.
        strategies: to compare with the original; all where empty.
        pictures: what is said about how they are prepared.
        judge: name or place of the output that the metric is read from; None: by shape and name.
        ignore_labels: whether class names that the model's file states are ignored.
        allow_noise: a signal that integers lose is a warning, not an error.
    """

    model: str
    data: str
    target: str
    budget: Budget
    epochs: float | None = None
    threads: int = 1
    seed: int = 0
    weights: Path | None = None
    input_shape: tuple[int, ...] | None = None
    plan: str = ""
    cut: tuple[str, ...] = ()
    workers: int | None = None
    ray: str | None = None
    steps: int = 1
    strategies: tuple[str, ...] = ()
    pictures: Asked = NOTHING_SAID
    judge: str | None = None
    ignore_labels: bool = False
    allow_noise: bool = False


@dataclass
class Job:
    """A request with everything loaded, and its folder.

    Attributes:
        graph: the model as captured.
        task: bound to the graph's outputs.
        stated: how pictures are prepared, and who says so.
        outputs: of the graph.
        lock: of the folder; held from `open_job` until `release`, or until the process ends.
        stages: seconds spent, by stage.
        warnings: sentences that the report and the terminal show before anything else.
    """

    request: Request
    folder: Path
    graph: Graph
    name: str
    data: DataModule
    task: Task
    target: Target
    progress: Progress
    lock: FileLock
    stated: Stated
    outputs: tuple[Output, ...]
    stages: dict[str, float] = field(default_factory=lambda: {})
    warnings: list[str] = field(default_factory=lambda: [])

    def warn(self, sentence: str) -> None:
        """Put a sentence before the verdict of the report; each one once."""
        if sentence not in self.warnings:
            self.warnings.append(sentence)

    @property
    def judged(self) -> Output:
        """The output that the metric is read from."""
        return self.outputs[self.task.output]

    @property
    def words(self) -> str:
        """How pictures are prepared, and which of several outputs is judged, in one line."""
        judged = f"; output {self.judged.name} of {len(self.outputs)} is judged"
        return f"pictures: {self.stated.words}{judged if len(self.outputs) > 1 else ''}"

    def circumstances(self) -> Circumstances:
        """What may be why the original is at chance level."""
        zeros, count = zero_weights(weights_of(self.graph))
        fresh = ":" in self.request.model and self.request.weights is None
        return Circumstances(self.stated, self.outputs, self.judged, fresh, zeros, count)

    def release(self) -> None:
        """Leave the folder to other processes."""
        self.lock.release()

    @property
    def cost_budget(self) -> Budget:
        """The budget as planning has it: its latency in the unit of the target's costs."""
        asked = self.request.budget
        if asked.model_cycles is None:
            return asked
        cost = self.target.unit.from_raw(asked.model_cycles)
        return asked.model_copy(update={"latency_us": cost, "model_cycles": None})

    @property
    def images(self) -> int:
        """Training images of one strategy's repair."""
        if self.request.epochs is None:
            return DEFAULT_IMAGES
        return round(self.request.epochs * len(self.data.train))

    @property
    def state(self) -> Path:
        """Where checkpoints and measurements lie."""
        return self.folder / "state"

    @contextmanager
    def stage(self, name: str) -> Generator[None]:
        """Time a stage."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.stages[name] = self.stages.get(name, 0.0) + time.monotonic() - start

    def calibration(self) -> tuple[Tensor, ...]:
        """Input batches for ranges, low-rank factors and batch-norm statistics."""
        batches = self.data.batches(
            "calibration", CALIBRATION_BATCH, limit=CALIBRATION_BATCH * CALIBRATION_BATCHES
        )
        return tuple(torch.from_numpy(batch.inputs) for batch in batches)

    def labelled(self) -> list[tuple[Tensor, Tensor]]:
        """Batches of inputs and targets from the calibration part of the training data."""
        batches = self.data.batches(
            "calibration", CALIBRATION_BATCH, limit=CALIBRATION_BATCH * SENSITIVITY_BATCHES
        )
        return [(torch.from_numpy(b.inputs), torch.from_numpy(b.targets)) for b in batches]

    def digest(self) -> str:
        """What results depend on: model, data, request without folder and budgets' spelling.

        Which strategies were asked for is left out: no strategy's outcome depends on the others.
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
        }
        found = hashlib.sha256(json.dumps(asked, sort_keys=True).encode())
        for name, value in sorted(constants(self.graph).items()):
            found.update(name.encode() + value.detach().contiguous().numpy().tobytes())
        return found.hexdigest()


def open_job(
    request: Request, folder: Path, *, resume: bool, progress: Progress = silent,
    check: Callable[[Job], None] | None = None,
) -> Job:  # fmt: skip
    """Load model, data and target, and take the folder.

    Args:
        check: of what was loaded, before anything in the folder changes; it raises where the job cannot be.

    Raises:
        MccError: the model, data or target cannot be used, they do not fit each other, or the folder holds
            another job's state.
    """
    target = get_target(request.target)
    state = target.available()
    if not state.ok:
        from mcc.errors import TargetError

        raise TargetError(f"target {target.spec} cannot be used: {state.reason}", hint=state.how_to_get)
    check_unit(request.budget, target)
    progress("load model and data", 0, 1)
    job = load_job(request, folder, progress)
    if check is not None:
        check(job)
    try:
        _claim(job, resume)
    except BaseException:
        job.release()
        raise
    progress("load model and data", 1, 1, job.words)
    return job


def load_job(request: Request, folder: Path, progress: Progress = silent) -> Job:
    """Load model and data; the folder is not looked at, and the target need not be usable here.

    Raises:
        MccError: the model or data cannot be used, or they do not fit each other.
    """
    torch.manual_seed(request.seed)  # a factory without weights draws them
    loaded = load_model(
        request.model, input_shape=request.input_shape, weights=request.weights, cut=request.cut
    )
    if len(inputs(loaded.graph)) != 1:
        raise UsageError("has several inputs; mcc compress takes models with one", where=request.model)
    data, stated = load_stated(
        request.data, seed=request.seed, input_shape=shape_of(inputs(loaded.graph)[0]),
        stated=stated_by_model(request.model, loaded.preprocessing), asked=request.pictures,
    )  # fmt: skip
    file = Path(request.model)
    described = describe(file) if file.is_file() and ":" not in request.model else Description()
    asked = request.judge or (None if request.cut else described.output)
    nodes = zip(loaded.output_names, outputs(loaded.graph), strict=True)
    found = tuple(Output(name, shape_of(node)) for name, node in nodes)
    task = load_task(data.task).bind(found, data, asked)
    target, lock = get_target(request.target), FileLock(folder / "state" / LOCK)
    job = Job(request, folder, loaded.graph, loaded.name, data, task, target, progress, lock, stated, found)
    for sentence in data.warnings:
        job.warn(sentence)
    unlike = labels_warning(file, described.labels, data.class_names, ignore=request.ignore_labels)
    if unlike is not None:
        job.warn(unlike)
    return job


def check_unit(budget: Budget, target: Target) -> None:
    """Refuse a latency in another unit than the target's costs. Raises UsageError."""
    asked = "latency_us" if budget.latency_us is not None else "model_cycles"
    if getattr(budget, asked) is None or asked == target.unit.key:
        return
    counts, wrong = ("model cycles", "time") if target.unit.exact else ("time", "model cycles")
    raise UsageError(
        f"{target.spec} has {counts} and no {wrong}",
        where="--latency",
        hint=f"write for example {target.unit.example}, or --speedup 2x",
    )


def _claim(job: Job, resume: bool) -> None:
    """Make the state folder this job's own: continue one's own, refuse another's, begin anew otherwise."""
    mark = job.state / "job.json"
    digest = job.digest()
    try:
        job.state.mkdir(parents=True, exist_ok=True)
        job.lock.acquire(timeout=0)
        found = json.loads(mark.read_text(encoding="utf-8"))["digest"] if mark.exists() else None
    except Timeout as error:  # before OSError, of which it is one
        raise UsageError(
            "is in use by another mcc that still runs",
            where=str(job.folder),
            hint="wait for it, end it, or choose another -o",
        ) from error
    except OSError as error:
        raise DataError(
            f"cannot be the output folder: {error.strerror or error}",
            where=str(job.folder),
            hint="choose another -o",
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            "does not say which job the folder belongs to",
            where=str(mark),
            hint="remove its folder, or choose another -o",
        ) from error
    if resume and found is not None and found != digest:
        raise UsageError(
            "holds the state of another job (model, data, target, budgets, plan, epochs or seed differ)",
            where=str(job.folder),
            hint="give the same options, another -o, or leave out --resume to begin anew",
        )
    _sweep(job.folder)
    if not resume and found is not None:
        _clear(job.state)
        _withdraw(job)
    write_beside(mark, lambda p: p.write_text(json.dumps({"digest": digest}), encoding="utf-8"))


def _clear(folder: Path) -> None:
    """Remove what an earlier run left in its own state folder."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.name == LOCK:  # held by this very process
            continue
        path.rmdir() if path.is_dir() and not path.is_symlink() else os.unlink(path)


def _withdraw(job: Job) -> None:
    """Remove the results of the job that had the folder before, lest they pass for this one's."""
    asked = {Path(job.request.model).absolute(), (job.request.weights or Path()).absolute()}
    if job.request.plan:
        asked.add((job.folder / "plan.json").absolute())  # perhaps the one to follow
    for pattern in RESULTS:
        for path in job.folder.glob(pattern):
            if not {path.absolute(), path.with_suffix(".mcc").absolute()} & asked:
                path.unlink(missing_ok=True)


def _sweep(folder: Path) -> None:
    """Remove half-written files of killed processes: `.NAME.PID.part`, see `mcc.ir.storage.write_beside`."""
    for place in (folder.glob(".*.part"), (folder / "state").rglob(".*.part")):
        for path in place:
            process = path.name.split(".")[-2]
            if process.isdecimal() and not psutil.pid_exists(int(process)):
                path.unlink(missing_ok=True)


def save_json(path: Path, content: Any) -> None:
    """Write JSON, whole or not at all."""
    write_beside(path, lambda p: p.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8"))
