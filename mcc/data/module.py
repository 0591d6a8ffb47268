"""A data set in its four parts, and the batches of each.

    train        what weights are trained on
    calibration  a small part of train, as it is: quantisation ranges, batch-norm statistics
    validation   held out from the training data: every choice rests on it
    test         read once, after everything has been chosen

Which images are held out depends on the data alone and not on a run's seed: a network trained with one
seed and compressed with another has still never seen its validation images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mcc.data.augment import Augmentation, IndexArray, epoch_order
from mcc.data.preprocessing import Preprocessing, image_shape
from mcc.data.split import FloatImages, ImageSource, ImageSplit, MemoryImages, Split
from mcc.errors import DataError

SplitName = Literal["train", "calibration", "validation", "test"]

# Held out: a tenth, but enough for an interval of about two points at 95 % accuracy where that leaves
# at least four fifths for training, and never more than an evaluation in a slow runtime can afford.
VALIDATION_SHARE, VALIDATION_LEAST, VALIDATION_MOST, VALIDATION_GREATEST_SHARE = 0.1, 500, 5000, 0.2
HOLD_OUT_SEED = 20_260_101
CALIBRATION_IMAGES = 512


class Batch(NamedTuple):
    """Inputs float32 [N, C, H, W], targets int64 [N, ...], and the step in the epoch that gave them."""

    inputs: FloatImages
    targets: NDArray[np.int64]
    step: int


@dataclass(frozen=True, eq=False)
class DataModule:
    """A data set as one network takes it.

    Args:
        name: what was asked for, as `cifar10` (without paths, so that reports can be shared).
        train, calibration, validation, test: the four parts.
        class_names: one name for each class, in the order of the labels; () where there are none.
        input_shape: (C, H, W) of every input.
        preprocessing: the network's own, already applied by the splits.
        task: what the network is for: a name that `load_task` knows, or `package.module:factory`.
    """

    name: str
    train: Split
    calibration: Split
    validation: Split
    test: Split
    class_names: tuple[str, ...]
    input_shape: tuple[int, int, int]
    preprocessing: Preprocessing
    task: str = "classification"

    def __post_init__(self) -> None:
        for name in ("train", "calibration", "validation", "test"):
            if not len(getattr(self, name)):
                raise DataError(f"there are no images for the {name} split", where=self.name)

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
        varied = split == "train" if augment is None else augment
        order = (
            epoch_order(len(part), seed, epoch) if split == "train" else np.arange(len(part), dtype=np.int64)
        )
        order = order[:limit]
        whole = max(1, len(order) // batch_size) if split == "train" else -(-len(order) // batch_size)
        for step in range(step0, whole):
            index = order[step * batch_size : (step + 1) * batch_size]
            inputs = part.augmented(index, seed=seed, epoch=epoch) if varied else part.inputs(index)
            yield Batch(inputs, part.targets[index], step)

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
        text = repr((self.name, self.task, self.input_shape, self.class_names, self.preprocessing.to_json()))
        state = hashlib.sha256(text.encode())
        for part in (self.train, self.calibration, self.validation, self.test):
            state.update(part.digest().encode() if isinstance(part, ImageSplit) else part.targets.tobytes())
        return state.hexdigest()[:16]


def hold_out(
    labels: NDArray[np.int64], count: int, seed: int = HOLD_OUT_SEED
) -> tuple[IndexArray, IndexArray]:
    """Split places 0..len(labels)-1 into (kept, held out), each class in proportion, both in rising order.

    Args:
        count: about how many to hold out; each class gives its share, rounded.
    """
    order = epoch_order(len(labels), seed, 0)
    held = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        held[members[: round(count * len(members) / len(labels))]] = True
    return np.flatnonzero(~held).astype(np.int64), np.flatnonzero(held).astype(np.int64)


def validation_count(images: int) -> int:
    """How many of `images` training images are held out for validation."""
    wanted = min(max(round(images * VALIDATION_SHARE), VALIDATION_LEAST), VALIDATION_MOST)
    return min(wanted, int(images * VALIDATION_GREATEST_SHARE))


def assemble(
    name: str,
    train: tuple[ImageSource, NDArray[np.int64]],
    test: tuple[ImageSource, NDArray[np.int64]],
    *,
    class_names: tuple[str, ...],
    input_shape: tuple[int, int, int],
    preprocessing: Preprocessing,
    seed: int,
    augmentation: Augmentation | None,
    validation: tuple[ImageSource, NDArray[np.int64]] | None = None,
    calibration_images: int = CALIBRATION_IMAGES,
) -> DataModule:
    """Make the four parts from training and test images with their labels [N].

    Args:
        input_shape: (C, H, W) that the network takes.
        validation: images of its own for validation; None holds some of the training images out.
        seed: chooses the calibration images; what is held out does not depend on it.

    Raises:
        DataError: too few images or classes, or labels outside the classes.
    """
    if len(class_names) < 2:
        raise DataError(f"there must be at least two classes, not {len(class_names)}", where=name)
    preprocessing = preprocessing.for_channels(input_shape[0])

    def part(
        source: ImageSource, labels: NDArray[np.int64], members: IndexArray, vary: bool = False
    ) -> ImageSplit:
        return ImageSplit(
            source, members, labels[members], preprocessing, input_shape, augmentation if vary else None
        )

    for _, labels in (train, test, *(() if validation is None else (validation,))):
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(class_names):
            raise DataError(
                f"labels run from {labels.min()} to {labels.max()} and there are {len(class_names)} classes",
                where=name,
            )
    everything = np.arange(len(train[1]), dtype=np.int64)
    kept, held = (
        (everything, everything[:0]) if validation else hold_out(train[1], validation_count(len(everything)))
    )
    chosen = np.sort(kept[epoch_order(len(kept), seed, 0)[:calibration_images]])
    return DataModule(
        name,
        train=part(*train, kept, vary=True),
        calibration=part(*train, chosen),
        validation=part(*validation, np.arange(len(validation[1]))) if validation else part(*train, held),
        test=part(*test, np.arange(len(test[1]))),
        class_names=class_names,
        input_shape=input_shape,
        preprocessing=preprocessing,
    )


def from_arrays(
    train: tuple[NDArray[np.uint8], NDArray[np.int64]],
    test: tuple[NDArray[np.uint8], NDArray[np.int64]],
    *,
    class_names: tuple[str, ...],
    name: str = "arrays",
    input_shape: tuple[int, int, int] | None = None,
    preprocessing: Preprocessing | None = None,
    augmentation: Augmentation | None = None,
    seed: int = 0,
) -> DataModule:
    """A data module of your own images: (uint8 [N, C, H, W], int64 labels [N]) for training and for test."""
    preprocessing = preprocessing or Preprocessing()
    pixels = train[0]
    return assemble(
        name,
        (MemoryImages(train[0]), train[1]),
        (MemoryImages(test[0]), test[1]),
        class_names=class_names,
        input_shape=input_shape or image_shape(MemoryImages(pixels).shape, preprocessing.size),
        preprocessing=preprocessing,
        seed=seed,
        augmentation=augmentation,
    )
