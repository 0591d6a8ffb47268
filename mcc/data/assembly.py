"""The four parts of a data set, made of the images that there are: what is held out, and of what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mcc.data.arrays import class_names_of, labels_of, pair_of, pixels_of, targets_of
from mcc.data.augment import Augmentation, IndexArray, epoch_order
from mcc.data.held_out import TEST_SHARE, halves, hold_out, validation_count
from mcc.data.module import CLASSIFICATION, DataModule
from mcc.data.preprocessing import Preprocessing, image_shape
from mcc.data.split import ImageSource, ImageSplit, MemoryImages, MoveTargets
from mcc.data.task import Task, load_task
from mcc.errors import DataError

CALIBRATION_IMAGES = 512
ONLY_TRAIN = (
    "make a val/ folder of images that the network was not trained on, or write unseen-train: in front of "
    "the data if it has seen none of the training images"
)
CHOSEN_ON = {
    "validation": "validation images of their own",
    "test": "one half of the test images, of which the other half is the test",
    "train": "training images that the network has not seen, as was said",
}
"""Where the images for choices come from, in words."""


def assemble(
    name: str,
    train: tuple[ImageSource, object],
    test: tuple[ImageSource, object] | None,
    *,
    class_names: Sequence[str] = (),
    input_shape: tuple[int, int, int],
    preprocessing: Preprocessing,
    seed: int,
    augmentation: Augmentation | None,
    validation: tuple[ImageSource, object] | None = None,
    train_unseen: bool = False,
    calibration_images: int = CALIBRATION_IMAGES,
    task: str | Task | None = CLASSIFICATION,
    remarks: Sequence[str] = (),
) -> DataModule:
    """Make the four parts from training and test images with their labels [N], or the targets of a task.

    Images for choices are `validation`, where it is given; else one half of the test images, of which the
    other half is the test; of the training images only where the network has not been trained on them.

    Args:
        test: images for the report; None holds some of the training images out, see `train_unseen`.
        input_shape: (C, H, W) that the network takes.
        validation: images of its own for validation.
        train_unseen: the network has not been trained on these training images.
        seed: chooses the calibration images; what is held out does not depend on it.
        task: see `DataModule`; of any but classification, targets are taken as they are, [N, ...].
        remarks: see `DataModule`.

    Raises:
        DataError: too few images or classes, or labels outside the classes.
    """
    names = class_names_of(class_names, name)
    if task == CLASSIFICATION and len(names) < 2:
        raise DataError(f"there must be at least two classes, not {len(names)}", where=name)
    preprocessing = preprocessing.for_channels(input_shape[0])
    given = {"train": train, "test": test, "validation": validation}
    labels: dict[str, NDArray[Any]] = {
        part: labels_of(pair[1], len(pair[0]), len(names), part, name)
        if task == CLASSIFICATION
        else targets_of(pair[1], len(pair[0]), part, name)
        for part, pair in given.items()
        if pair is not None
    }
    move_targets = _move_targets(task)
    parts = _divided({part: _strata(found, task) for part, found in labels.items()}, train_unseen, name)

    def split(part: str, vary: bool = False) -> ImageSplit:
        source, members = parts[part]
        pair = given[source]
        assert pair is not None
        return ImageSplit(
            pair[0], members, labels[source][members], preprocessing, input_shape,
            augmentation if vary else None, move_targets,
        )  # fmt: skip

    kept = parts["train"][1]
    parts["calibration"] = "train", np.sort(kept[epoch_order(len(kept), seed, 0)[:calibration_images]])
    return DataModule(
        name,
        train=split("train", vary=True),
        calibration=split("calibration"),
        validation=split("validation"),
        test=split("test"),
        class_names=names,
        input_shape=input_shape,
        preprocessing=preprocessing,
        task=task,
        train_unseen=train_unseen,
        chosen_on=CHOSEN_ON[parts["validation"][0]],
        remarks=tuple(remarks),
    )


def _move_targets(task: str | Task | None) -> MoveTargets | None:
    """How targets of a task follow images that are varied; None: they stay."""
    if task is None or task == CLASSIFICATION:
        return None
    return (load_task(task) if isinstance(task, str) else task).moved


def _strata(targets: NDArray[Any], task: str | Task | None) -> NDArray[np.int64]:
    """What every part has in equal shares: the classes, where targets are classes."""
    return targets if task == CLASSIFICATION else np.zeros(len(targets), np.int64)


def _divided(
    labels: dict[str, NDArray[np.int64]], train_unseen: bool, name: str
) -> dict[str, tuple[str, IndexArray]]:
    """For each part, of which of the images given it is made, and which of them."""
    kept = np.arange(len(labels["train"]), dtype=np.int64)
    if "test" not in labels:
        if not train_unseen:
            raise DataError("has training images alone", where=name, hint=ONLY_TRAIN)
        kept, held = hold_out(labels["train"], round(len(kept) * TEST_SHARE))
        parts = {"test": ("train", held)}
    else:
        parts = {"test": ("test", np.arange(len(labels["test"]), dtype=np.int64))}
    if "validation" in labels:
        parts["validation"] = "validation", np.arange(len(labels["validation"]), dtype=np.int64)
    elif train_unseen:
        rest, held = hold_out(labels["train"][kept], validation_count(len(kept)))
        kept, parts["validation"] = kept[rest], ("train", kept[held])
    else:
        if not len(labels["test"]):
            raise DataError("there are no images for the test split", where=name)
        if len(labels["test"]) == 1:
            raise DataError(
                "one test image cannot be halved, for choices and for the report", where=name,
                hint="give more of them, or images of their own for validation",
            )  # fmt: skip
        report, choices = halves(labels["test"])
        parts |= {"test": ("test", report), "validation": ("test", choices)}
    return {**parts, "train": ("train", kept)}


def from_arrays(
    train: tuple[ArrayLike, ArrayLike],
    test: tuple[ArrayLike, ArrayLike] | None,
    *,
    class_names: Sequence[str] | None = None,
    validation: tuple[ArrayLike, ArrayLike] | None = None,
    train_unseen: bool = False,
    name: str = "arrays",
    input_shape: tuple[int, int, int] | None = None,
    preprocessing: Preprocessing | None = None,
    augmentation: Augmentation | None = None,
    seed: int = 0,
    task: str | Task | None = None,
) -> DataModule:
    """A data module of your own images and labels, for training and for test.

    Images are [N, C, H, W]: bytes, or floats from 0 to 1. Labels are the places of the classes in
    `class_names`, [N], or one-hot. With another `task`, or without class names, they are the targets of that
    task, [N, ...], as they are. For the rest see `assemble`.

    Raises:
        DataError: arrays that are neither, or that do not belong together.
    """
    preprocessing = preprocessing or Preprocessing()
    channels = input_shape[0] if input_shape else None
    if task is None and class_names is not None:
        task = CLASSIFICATION

    def read(pair: object, part: str) -> tuple[ImageSource, object]:
        images, labels = pair_of(pair, part, name)
        return MemoryImages(pixels_of(images, part, name, channels)), labels

    source = read(train, "train")
    return assemble(
        name,
        source,
        None if test is None else read(test, "test"),
        class_names=() if class_names is None else class_names,
        input_shape=input_shape or image_shape(source[0].shape, preprocessing.size),
        preprocessing=preprocessing,
        seed=seed,
        augmentation=augmentation,
        validation=None if validation is None else read(validation, "validation"),
        train_unseen=train_unseen,
        task=task,
    )
