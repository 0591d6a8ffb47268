"""Folders of pictures, one folder for each class.

    DIR/train/<class>/*.jpg      training
    DIR/val/<class>/*.jpg        validation (or DIR/valid, DIR/validation)
    DIR/test/<class>/*.jpg       test

Where one of the last two is missing, the other is halved. Classes are numbered in the sorted order of their
folders in `train`. Files and folders whose names begin with a dot are left out.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mcc.data.augment import Augmentation, IndexArray
from mcc.data.module import ONLY_TRAIN, DataModule, assemble
from mcc.data.picture import FULL_16, LEAST_16, MODES, Fit, Size, greatest, read_head
from mcc.data.preprocessing import Preprocessing, image_shape
from mcc.data.split import ImageSource, MemoryImages
from mcc.errors import DataError

logger = logging.getLogger(__name__)

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff"})
# ImageNet's, of which most networks for photographs descend.
PREPROCESSING = Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# Up to here decoded images stay in memory; above it each is decoded when it is asked for.
MEMORY_BYTES = 1 << 30
# A shift of an eighth of the side: four pixels of CIFAR's 32.
SHIFT_SHARE = 8
# Of 16-bit pictures, how many are looked at to tell how many bits they use.
LOOKED_AT = 64
VALIDATION_FOLDERS = ("val", "valid", "validation")


@dataclass(frozen=True, eq=False)
class FileImages:
    """Images that are decoded from their files whenever they are asked for."""

    files: tuple[Path, ...]
    fit: Fit

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return self.fit.channels, *self.fit.size

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: IndexArray) -> NDArray[np.uint8]:
        """The images at `index`: [N, C, H, W]."""
        with ThreadPoolExecutor(_workers()) as pool:
            return np.stack(list(pool.map(self.fit.decode, [self.files[i] for i in index])))


def _workers() -> int:
    return min(8, os.cpu_count() or 1)


def list_classes(folder: Path) -> tuple[str, ...]:
    """The names of the class folders in `folder`, sorted.

    Raises:
        DataError: `folder` is not there or holds no class folder.
    """
    if not folder.is_dir():
        raise DataError(
            "there is no such folder",
            where=str(folder),
            hint="expected train/, and val/ or test/ or both, each with one folder of images for every class",
        )
    names = tuple(sorted(f.name for f in folder.iterdir() if f.is_dir() and not f.name.startswith(".")))
    if not names:
        raise DataError(
            "holds no class folders", where=str(folder), hint="expected one folder for every class"
        )
    return names


def list_images(folder: Path, classes: Sequence[str]) -> tuple[tuple[Path, ...], NDArray[np.int64]]:
    """The image files below `folder`/<class>/ and their labels [N], in sorted order.

    Raises:
        DataError: a class folder that is not among `classes`, or no image at all.
    """
    unknown = sorted(set(list_classes(folder)) - set(classes))
    if unknown:
        raise DataError(
            f"holds the class {unknown[0]!r}, which the training images do not have", where=str(folder)
        )
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        inside = folder / name
        found = sorted(f for f in _files(inside) if f.suffix.lower() in SUFFIXES)
        files.extend(found)
        labels.extend([label] * len(found))
    if not files:
        raise DataError(
            "holds no images", where=str(folder), hint=f"looked for {', '.join(sorted(SUFFIXES))}"
        )
    return tuple(files), np.asarray(labels, np.int64)


def _files(folder: Path) -> list[Path]:
    """The files below a folder, without hidden ones and what is no file, as a pipe."""
    return [
        file
        for file in folder.rglob("*")
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    ]


def _parts(folder: Path, train_unseen: bool) -> dict[str, Path]:
    """The folders of `train` and, as far as they are there, of `validation` and `test`."""
    validation = [folder / name for name in VALIDATION_FOLDERS if (folder / name).is_dir()]
    if len(validation) > 1:
        raise DataError(
            f"holds {validation[0].name}/ and {validation[1].name}/", where=str(folder),
            hint="leave one of them, and call pictures for the report test/",
        )  # fmt: skip
    found = {"train": folder / "train"}
    if validation:
        found["validation"] = validation[0]
    if (folder / "test").is_dir():
        found["test"] = folder / "test"
    if len(found) == 1 and not train_unseen:
        raise DataError("holds train/ alone", where=str(folder), hint=ONLY_TRAIN)
    places = [place.resolve() for place in found.values()]
    if len(set(places)) < len(places):
        raise DataError("two of its parts are one and the same folder", where=str(folder))
    return found


def _listed(
    folder: Path, classes: Sequence[str], train_unseen: bool
) -> dict[str, tuple[tuple[Path, ...], NDArray[np.int64]]]:
    """Picture files and labels of each part."""
    found = {part: list_images(place, classes) for part, place in _parts(folder, train_unseen).items()}
    counts = np.bincount(found["train"][1], minlength=len(classes))
    if not counts.all():
        raise DataError(
            f"holds no images of the class {classes[int(counts.argmin())]!r}", where=str(folder / "train"),
            hint=f"looked for {', '.join(sorted(SUFFIXES))}",
        )  # fmt: skip
    return found


def _check_bits(files: Sequence[Path], folder: Path) -> None:
    """Refuse 16-bit pictures that use a few of their bits only, and would be black."""
    step = max(1, len(files) // LOOKED_AT)
    most = max((greatest(file) for file in files[::step]), default=FULL_16)
    if most < LEAST_16:
        raise DataError(
            f"holds 16-bit pictures whose greatest value is {most:,} of {FULL_16:,}: they would be black",
            where=str(folder), hint="scale them to the whole range, or save 8 bits",
        )  # fmt: skip


def _read_all(files: tuple[Path, ...], fit: Fit) -> ImageSource:
    """The images in memory where that is small, else from their files."""
    if len(files) * fit.channels * fit.size[0] * fit.size[1] > MEMORY_BYTES:
        logger.info("%d images stay on disk and are decoded when needed", len(files))
        return FileImages(files, fit)
    pixels = np.empty((len(files), fit.channels, *fit.size), np.uint8)
    with ThreadPoolExecutor(_workers()) as pool:
        for place, picture in enumerate(pool.map(fit.decode, files)):
            pixels[place] = picture
    return MemoryImages(pixels)


def _stored_size(sizes: Counter[Size], wanted: Size | None, crop: float, folder: Path) -> Size:
    """The size in which images are kept: their own where it is one and not larger than wanted.

    Enlarging is left to the preprocessing, which does it on the normalised values, as for CIFAR-10's
    binary layout: the same picture gives the same tensor from either.
    """
    if len(sizes) == 1 and crop == 1:
        ((height, width),) = sizes
        if wanted is None or (height <= wanted[0] and width <= wanted[1]):
            return height, width
    if wanted is None:
        raise DataError(
            f"the images have {len(sizes)} different sizes and the network names none",
            where=str(folder),
            hint="give --resize, or let the model's factory return a Preprocessing with a size",
        )
    return wanted


def load_image_folder(
    folder: Path,
    *,
    seed: int,
    input_shape: tuple[int, int, int] | None,
    preprocessing: Preprocessing | None,
    train_unseen: bool = False,
    name: str = "imagefolder",
) -> DataModule:
    """The pictures below `folder`, resized and cut to what the network takes.

    Raises:
        DataError: a folder that is missing or empty, or an image that cannot be read.
    """
    classes = list_classes(folder / "train")
    listed = _listed(folder, classes, train_unseen)
    files = [file for found, _ in listed.values() for file in found]
    with warnings.catch_warnings(), ThreadPoolExecutor(_workers()) as pool:
        warnings.simplefilter("ignore")  # what Pillow warns of is refused, or of no concern, in `read_head`
        heads = list(pool.map(read_head, files))
    _check_bits([file for file, head in zip(files, heads, strict=True) if head.sixteen], folder)
    sizes = Counter(head.size for head in heads)
    channels = input_shape[0] if input_shape else 3
    if channels not in MODES:
        raise DataError(
            f"the network takes {channels} channels, and pictures have 1, 3 or 4", where=str(folder),
            hint="bring such data by a function that returns a DataModule",
        )  # fmt: skip
    preprocessing = preprocessing or (PREPROCESSING if channels == 3 else Preprocessing((0.5,), (0.25,)))
    wanted = preprocessing.size or (input_shape[1:] if input_shape else None)
    stored = _stored_size(sizes, wanted, preprocessing.crop, folder)
    read = {
        part: (_read_all(files, Fit(stored, preprocessing.crop, channels)), labels)
        for part, (files, labels) in listed.items()
    }
    both = "test" in read
    return assemble(
        name,
        read["train"],
        read.get("test", read.get("validation")),
        class_names=classes,
        input_shape=input_shape or image_shape((channels, *stored), wanted),
        preprocessing=preprocessing,
        seed=seed,
        augmentation=Augmentation(max(1, min(stored) // SHIFT_SHARE), mirror=True),
        validation=read.get("validation") if both else None,
        train_unseen=train_unseen,
    )
