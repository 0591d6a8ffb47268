"""A data set in its four parts, and the batches of each.

train        what weights are trained on
calibration  a small part of train, as it is: quantisation ranges, batch-norm statistics
validation   images that the network has not been trained on: every choice rests on it
test         read once, after everything has been chosen
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mcc.data.arrays import class_names_of
from mcc.data.augment import epoch_order
from mcc.data.parts import (
    Inputs,
    Shape,
    Shapes,
    check_labels,
    check_part,
    handed_on,
    inputs_of,
    several,
    shared_words,
    varied,
)
from mcc.data.preprocessing import Preprocessing
from mcc.data.split import ImageSplit, Split
from mcc.errors import DataError
from mcc.ir.feed import Taken

if TYPE_CHECKING:
    from mcc.data.task import Task

SplitName = Literal["train", "calibration", "validation", "test"]
PARTS: tuple[SplitName, ...] = ("train", "calibration", "validation", "test")

CLASSIFICATION = "classification"


class Batch(NamedTuple):
    """Inputs float32 [N, C, H, W] (a tuple of arrays for a network with several), targets int64 or float32
    [N, ...], and the step of the epoch."""

    inputs: Inputs
    targets: NDArray[Any]
    step: int


@dataclass(frozen=True, eq=False)
class DataModule:
    """A data set as one network takes it.

    Args:
        name: what was asked for, as `cifar10` (without paths, so that reports can be shared).
        train, calibration, validation, test: the four parts.
        class_names: one name for each class, in the order of the labels; () where there are none.
        input_shape: (C, H, W) of every input, or other axes without the batch. For a network with several
            inputs, a shape for each: a tuple in the order of its inputs, or a dictionary by their names.
        preprocessing: the network's own, already applied by the splits.
        task: what the network is for: a name that `load_task` knows, `package.module:TASK`, or a `Task`. Left
            out, it is classification where there are class names; without them it is for the user to say
            (`--task`).
        train_unseen: the network has not been trained on `train`.
        chosen_on: where the images of `validation` come from, in words.
        remarks: sentences on what was assumed that make figures doubtful.

    Raises:
        DataError: a part that is empty or not what it should be, named.

    Attributes:
        warnings: sentences on what makes figures doubtful, the remarks first.
    """

    name: str
    train: Split
    calibration: Split
    validation: Split
    test: Split
    class_names: tuple[str, ...]
    input_shape: Shapes
    preprocessing: Preprocessing
    task: str | Task | None = None
    train_unseen: bool = False
    chosen_on: str = ""
    remarks: tuple[str, ...] = ()
    warnings: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "class_names", class_names_of(self.class_names, self.name))
        if self.task is None and self.class_names:
            object.__setattr__(self, "task", CLASSIFICATION)
        for name in PARTS:
            check_part(name, self.split(name), self.name, self.input_shape)
            if self.task == CLASSIFICATION:  # other tasks look at targets once they are loaded
                check_labels(self.split(name).targets, name, self.name, len(self.class_names))
        both = shared_words(("test", self.test), ("validation", self.validation))
        if both:
            raise DataError(
                f"{both}, so that what was chosen by them would be reported on them", where=self.name,
                hint="give other images for one of the two",
            )  # fmt: skip
        seen = [
            shared_words((name, self.split(name)), ("training", self.train))
            for name in ("test", "validation")
        ]
        figure = "accuracy" if self.task == CLASSIFICATION else "the metric"
        said = [f"{words[0].upper()}{words[1:]}: {figure} on them says little." for words in seen if words]
        object.__setattr__(self, "warnings", (*self.remarks, *said))

    @property
    def first_shape(self) -> Shape:
        """Shape of the first input."""
        if isinstance(self.input_shape, Mapping):
            return next(iter(self.input_shape.values()))
        shape: Any = self.input_shape[0] if several(self.input_shape) else self.input_shape
        return shape

    def for_inputs(self, taken: Taken) -> DataModule:
        """The data with its inputs in the order of a network's. Raises DataError where they do not fit."""
        own = self.input_shape
        if isinstance(taken, tuple):
            if several(own) or own not in (taken, taken[1:]):  # some say the shape with the batch
                raise DataError(f"gives inputs of {own} and the network takes {taken}", where=self.name)
            return self
        shapes = {name: shape[1:] for name, shape in taken.items()}
        if isinstance(own, Mapping):
            fits, ordered = dict(own) == shapes, {name: own[name] for name in shapes if name in own}
        else:
            fits, ordered = own == tuple(shapes.values()), own
        if not fits:
            words = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
            given = (
                own if not isinstance(own, Mapping) else ", ".join(f"{n} {list(s)}" for n, s in own.items())
            )
            raise DataError(
                f"gives inputs of {given} and the network takes {words}", where=self.name,
                hint="give input_shape as a tuple of shapes, or a dictionary by the names of the inputs",
            )  # fmt: skip
        return replace(self, input_shape=ordered)

    def split(self, name: SplitName) -> Split:
        """The split called `name`."""
        parts: dict[SplitName, Split] = {
            "train": self.train,
            "calibration": self.calibration,
            "validation": self.validation,
            "test": self.test,
        }
        return parts[name]

    def steps_per_epoch(self, batch_size: int) -> int:
        """Training steps in an epoch: whole batches only, for a rest of few images spoils batch norm."""
        return max(1, len(self.train) // batch_size)

    def batches(
        self,
        split: SplitName,
        batch_size: int,
        *,
        seed: int = 0,
        epoch: int = 0,
        step0: int = 0,
        augment: bool | None = None,
        limit: int | None = None,
    ) -> Iterator[Batch]:
        """The batches of one epoch, from step `step0` on.

        `train` is shuffled, varied, and given in whole batches; the others come in their own order, all of
        them. The order is a pure function of seed and epoch, and each image's variation of seed, epoch and
        its place, so starting at step s gives exactly the rest of the whole epoch.

        Args:
            augment: vary the images; None does so for `train` only.
            limit: only the first so many images (of `train`, of this epoch's order).

        Raises:
            DataError: an image cannot be read.
        """
        part = self.split(split)
        augmented = split == "train" if augment is None else augment
        order = (
            epoch_order(len(part), seed, epoch) if split == "train" else np.arange(len(part), dtype=np.int64)
        )
        order = order[:limit]
        whole = max(1, len(order) // batch_size) if split == "train" else -(-len(order) // batch_size)
        for step in range(step0, whole):
            index = order[step * batch_size : (step + 1) * batch_size]
            if augmented:
                inputs, targets = varied(
                    split, part, index, self.name, self.input_shape, seed=seed, epoch=epoch
                )
            else:
                inputs = inputs_of(split, part, index, self.name, self.input_shape)
                targets = part.targets[index]
            yield Batch(inputs, handed_on(targets), step)

    def training(
        self, batch_size: int, *, seed: int, steps: int, step0: int = 0, augment: bool = True
    ) -> Iterator[Batch]:
        """Training batches `step0` to `steps` (exclusive) of a run over as many epochs as that takes.

        The step in each batch counts from the start of the run, not of the epoch.
        """
        per_epoch = self.steps_per_epoch(batch_size)
        step = step0
        while step < steps:
            epoch, first = divmod(step, per_epoch)
            for batch in self.batches(
                "train", batch_size, seed=seed, epoch=epoch, step0=first, augment=augment
            ):
                yield batch._replace(step=step)
                step += 1
                if step == steps:
                    return

    def digest(self) -> str:
        """A short hash of labels, their order and the preprocessing: the same data gives the same hash."""
        task = self.task if isinstance(self.task, str | None) else self.task.name
        text = repr((self.name, task, self.input_shape, self.class_names, self.preprocessing.to_json()))
        state = hashlib.sha256(text.encode())
        for part in (self.train, self.calibration, self.validation, self.test):
            state.update(part.digest().encode() if isinstance(part, ImageSplit) else part.targets.tobytes())
        return state.hexdigest()[:16]
