"""The request of a job, validated before anything is loaded."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcc.budget import Budget, check_drop
from mcc.compress.strategies import known_strategies
from mcc.data.stated import NOTHING_SAID, Asked, is_own
from mcc.data.task import CLASSIFICATION
from mcc.errors import UsageError
from mcc.metric import ACCURACY
from mcc.runtime.target import MOST_THREADS

MOST_EPOCHS = 1e6  # larger values overflow the number of images, and no such run would end
MOST_STEPS = 6  # each takes a tenth of the images of a fine-tuning, see `mcc.compress.progressive`
LARGEST_SEED = 2**32 - 1  # numpy's
FEW_WORKERS = 8  # processes of some 400 MB each, allowed on any machine; more only with as many cores


@dataclass(frozen=True)
class Request:
    """A validated request: an instance never holds values that contradict each other.

    Attributes:
        model, data, target: As on the command line.
        budget: Constraints; those not given are None.
        epochs: Passes over the training data for the fine-tuning of each strategy; None:
            `job.DEFAULT_IMAGES`.
        threads: Threads of one inference.
        seed: Seed of all random number generators.
        weights, input_shape: See `mcc.frontend.load.load_model`.
        plan: The structure to follow, as `Structure.key` gives it; empty: one is planned.
        cut: End of the model, see `mcc.frontend.load.load_model`.
        workers: Number of worker processes; None: this process, with all its threads.
        ray: Address of a Ray cluster to use instead of processes.
        steps: Number of steps of progressive pruning, see `mcc.compress.progressive`.
        strategies: Names of the strategies to compare with the original; empty: all.
        pictures: Given preprocessing of the images.
        task: Task of the network, see `mcc.data.load_task`; None: the task of the data.
        judge: Name or index of the output that the metric is computed from; None: by shape and name.
        ignore_labels: Whether class names in the model's file are ignored.
        allow_noise: Whether a loss of signal by quantisation is a warning instead of an error.

    Raises:
        UsageError: A value cannot be used; the error names its option.
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
    task: str | None = None
    judge: str | None = None
    ignore_labels: bool = False
    allow_noise: bool = False

    def __post_init__(self) -> None:
        if self.epochs is not None and not _is_number(self.epochs, 0, MOST_EPOCHS):
            raise UsageError(
                f"{self.epochs!r} is not a number of passes over the data", where="--epochs",
                hint=f"give a number from 0 (no fine-tuning) to {MOST_EPOCHS:,.0f}",
            )  # fmt: skip
        _check_whole("--threads", self.threads, 1, MOST_THREADS)
        _check_whole("--seed", self.seed, 0, LARGEST_SEED)
        _check_whole("--steps", self.steps, 1, MOST_STEPS)
        if self.workers is not None:
            _check_whole("--workers", self.workers, 1, max(FEW_WORKERS, os.cpu_count() or 1))
        if self.ray is not None and self.workers is not None:
            raise UsageError(
                "the work goes to processes here or to a cluster, not both", where="--ray",
                hint="leave out --workers: a cluster has as many as it has processors",
            )  # fmt: skip
        if self.ray == "":
            raise UsageError("names no cluster", where="--ray", hint="give its address, or local")
        known_strategies(self.strategies)
        if self.task in (None, CLASSIFICATION) and is_own(self.data):
            check_drop(self.budget, ACCURACY)
        if self.plan:
            self._check_given_plan()

    def _check_given_plan(self) -> None:
        """Refuse options that have no effect when a plan from a file is followed."""
        if self.steps > 1:
            raise UsageError(
                "a plan from a file, or one for several targets, is followed at once",
                where="--steps",
                hint="leave out --steps",
            )
        if self.strategies and "joint" not in self.strategies:
            raise UsageError(
                "leaves out joint: a plan from a file, or for several targets, takes its place",
                where="--strategies", hint="add joint",
            )  # fmt: skip


def _is_number(value: Any, least: float, most: float) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and least <= value <= most
    )


def _check_whole(option: str, value: Any, least: int, most: int) -> None:
    if not isinstance(value, int) or not _is_number(value, least, most):
        raise UsageError(
            f"{value!r} cannot be used", where=option, hint=f"give a whole number, {least} to {most}"
        )
