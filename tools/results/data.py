"""CIFAR-10 for results, split so that choices and report use test images only, unseen by the baselines.

    mcc compress ... --data tools/results/data.py:cifar10        with MCC_CIFAR10=DIR in the environment

The baselines were trained on all training images, some of them by others: on the images that mcc holds out
from training, they score 2 to 8 points better than on the test images. So 3,000 test images are used for
choices and the others (5,000 of 8,000) for the report, each class in proportion, the same ones in every run.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from mcc.data import DataModule, MemoryImages, Preprocessing, assemble
from mcc.data.cifar10 import (
    AUGMENTATION,
    CLASSES,
    FOLDER,
    PREPROCESSING,
    SHAPE,
    TEST_FILE,
    TRAIN_FILES,
    read_batch,
)
from mcc.data.held_out import hold_out
from mcc.data.preprocessing import image_shape
from mcc.errors import UsageError

FOLDER_VARIABLE = "MCC_CIFAR10"
SPEC = "tools/results/data.py:cifar10"
CHOICES, OF = 3000, 8000


def cifar10(
    seed: int = 0,
    input_shape: tuple[int, int, int] | None = None,
    preprocessing: Preprocessing | None = None,
) -> DataModule:
    """CIFAR-10 from the folder named by `MCC_CIFAR10`.

    Raises:
        UsageError: No folder is named.
        DataError: The folder does not contain CIFAR-10 in the binary layout.
    """
    place = os.environ.get(FOLDER_VARIABLE)
    if not place:
        raise UsageError("is not set", where=FOLDER_VARIABLE, hint=f"set it to the folder with {FOLDER}")
    inner = Path(place).expanduser() / FOLDER
    batches = [read_batch(inner / name) for name in TRAIN_FILES]
    pixels, labels = read_batch(inner / TEST_FILE)
    report, choices = hold_out(labels, round(len(labels) * CHOICES / OF))
    preprocessing = preprocessing or PREPROCESSING
    return assemble(
        "cifar10-unseen",
        (MemoryImages(np.concatenate([b[0] for b in batches])), np.concatenate([b[1] for b in batches])),
        (MemoryImages(pixels[report]), labels[report]),
        validation=(MemoryImages(pixels[choices]), labels[choices]),
        class_names=CLASSES,
        input_shape=input_shape or image_shape(SHAPE, preprocessing.size),
        preprocessing=preprocessing,
        seed=seed,
        augmentation=AUGMENTATION,
    )


def named(folder: str) -> str:
    """DATA of mcc for the CIFAR-10 in a folder, for this process and its child processes."""
    os.environ[FOLDER_VARIABLE] = str(Path(folder).resolve())
    return SPEC
