"""CIFAR-10 (Krizhevsky 2009) in its official binary layout.

    DIR/cifar-10-batches-bin/data_batch_1.bin .. data_batch_5.bin, test_batch.bin, batches.meta.txt

A record is one label byte and 3,072 bytes: the red, green and blue planes of a 32x32 image.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mcc.data.assembly import assemble
from mcc.data.augment import Augmentation
from mcc.data.image_folder import load_image_folder
from mcc.data.module import DataModule
from mcc.data.preprocessing import Preprocessing, image_shape
from mcc.data.split import MemoryImages
from mcc.errors import DataError
from mcc.files import readable_file

FOLDER = "cifar-10-batches-bin"
TRAIN_FILES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
UNPACK = "unpack cifar-10-binary.tar.gz again"
TEST_FILE = "test_batch.bin"
SHAPE = (3, 32, 32)
RECORD_BYTES = 1 + 3 * 32 * 32
MAX_BATCH_BYTES = 60_000 * RECORD_BYTES  # all of CIFAR-10 in one file; each of its own holds 10,000
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# Customary, of the training images, in 0-255.
PREPROCESSING = Preprocessing.from_bytes((125.3, 123.0, 113.9), (63.0, 62.1, 66.7))
AUGMENTATION = Augmentation(shift=4, mirror=True)  # He 2015, section 4.2


def read_batch(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """One batch file: images uint8 [N, 3, 32, 32] and labels [N].

    Raises:
        DataError: the file is missing, cut short, or holds a label above 9.
    """
    try:
        raw = np.fromfile(readable_file(path, at_most_bytes=MAX_BATCH_BYTES, hint=UNPACK), np.uint8)
    except OSError as error:
        raise DataError(
            f"cannot be read ({error.strerror or error})",
            where=str(path),
            hint=UNPACK,
        ) from None
    if not len(raw) or len(raw) % RECORD_BYTES:
        raise DataError(
            f"holds {len(raw):,} bytes, which is not a whole number of {RECORD_BYTES}-byte records",
            where=str(path),
            hint="the file was cut short: unpack cifar-10-binary.tar.gz again",
        )
    records = raw.reshape(-1, RECORD_BYTES)
    labels = records[:, 0].astype(np.int64)
    wrong = np.flatnonzero(labels >= len(CLASSES))
    if len(wrong):
        raise DataError(
            f"record {wrong[0]} has the label {labels[wrong[0]]}, classes go from 0 to {len(CLASSES) - 1}",
            where=str(path),
            hint="is it a file of CIFAR-10 (not CIFAR-100) in the binary layout?",
        )
    return np.ascontiguousarray(records[:, 1:]).reshape(-1, *SHAPE), labels


def load_cifar10(
    folder: Path,
    *,
    seed: int,
    input_shape: tuple[int, int, int] | None,
    preprocessing: Preprocessing | None,
    train_unseen: bool = False,
) -> DataModule:
    """CIFAR-10 from `folder`: the binary layout in it or in its `cifar-10-batches-bin`, or an image folder.

    Raises:
        DataError: the folder holds neither, or a file of it is broken.
    """
    preprocessing = preprocessing or PREPROCESSING
    if not folder.is_dir():
        raise DataError(
            "there is no such folder", where=str(folder), hint=f"expected one that holds {FOLDER}/"
        )
    inner = next((f for f in (folder / FOLDER, folder) if any(f.glob("data_batch_*.bin"))), None)
    if inner is None:
        if (folder / "train").is_dir():
            return load_image_folder(
                folder, name="cifar10", seed=seed, input_shape=input_shape, preprocessing=preprocessing,
                train_unseen=train_unseen,
            )  # fmt: skip
        raise DataError(
            f"holds neither {FOLDER}/{TRAIN_FILES[0]} nor a train/ folder of classes",
            where=str(folder),
            hint="unpack cifar-10-binary.tar.gz there",
        )
    batches = [read_batch(inner / name) for name in TRAIN_FILES]
    test_pixels, test_labels = read_batch(inner / TEST_FILE)
    return assemble(
        "cifar10",
        (MemoryImages(np.concatenate([b[0] for b in batches])), np.concatenate([b[1] for b in batches])),
        (MemoryImages(test_pixels), test_labels),
        class_names=CLASSES,
        input_shape=input_shape or image_shape(SHAPE, preprocessing.size),
        preprocessing=preprocessing,
        seed=seed,
        augmentation=AUGMENTATION,
        train_unseen=train_unseen,
    )
