"""Folders of pictures, one folder for each class.

    DIR/train/<class>/*.jpg      training, and validation held out from it
    DIR/test/<class>/*.jpg       test (or DIR/val where there is no DIR/test)
    DIR/val/<class>/*.jpg        validation, where DIR/test is there as well

Classes are numbered in the sorted order of their folders in `train`.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mcc.data.augment import Augmentation, IndexArray
from mcc.data.module import DataModule, assemble
from mcc.data.preprocessing import Preprocessing, image_shape
from mcc.data.split import ImageSource, MemoryImages
from mcc.errors import DataError

logger = logging.getLogger(__name__)

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff"})
# ImageNet's, of which most networks for photographs descend.
PREPROCESSING = Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# Up to here decoded images stay in memory; above it each is decoded when it is asked for.
MEMORY_BYTES = 1 << 30
# A shift of an eighth of the side: four pixels of CIFAR's 32.
SHIFT_SHARE = 8
_BROKEN = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)

Size = tuple[int, int]


@dataclass(frozen=True)
class Fit:
    """How a picture of any size becomes the stored one.

    Args:
        size: (height, width) stored.
        crop: the centre part of the picture that is kept.
        channels: 1 for grey, 3 for colour.
    """

    size: Size
    crop: float
    channels: int

    def decode(self, path: Path) -> NDArray[np.uint8]:
        """The picture at `path`: [C, H, W], 0-255.

        Raises:
            DataError: it cannot be decoded.
        """
        try:
            with Image.open(path) as opened:
                picture = opened.convert("L" if self.channels == 1 else "RGB")
        except _BROKEN as error:
            raise _broken(path, error) from None
        height, width = self.size
        if (picture.height, picture.width) != self.size or self.crop != 1:
            scale = max(height / picture.height, width / picture.width) / self.crop
            wide, high = max(width, round(picture.width * scale)), max(height, round(picture.height * scale))
            left, top = (wide - width) // 2, (high - height) // 2
            picture = picture.resize((wide, high), Image.Resampling.BILINEAR)
            picture = picture.crop((left, top, left + width, top + height))
        pixels = np.asarray(picture, np.uint8).reshape(height, width, self.channels)
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))


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


def _broken(path: Path, error: Exception) -> DataError:
    reason = str(error).split(" '")[0] or type(error).__name__
    return DataError(
        f"cannot be read as an image ({reason})", where=str(path), hint="repair or remove the file"
    )


def _workers() -> int:
    return min(8, os.cpu_count() or 1)


def _size(path: Path) -> Size:
    """(height, width), from the file's head."""
    try:
        with Image.open(path) as opened:
            return opened.height, opened.width
    except _BROKEN as error:
        raise _broken(path, error) from None


def list_classes(folder: Path) -> tuple[str, ...]:
    """The names of the class folders in `folder`, sorted.

    Raises:
        DataError: `folder` is not there or holds no class folder.
    """
    if not folder.is_dir():
        raise DataError(
            "there is no such folder",
            where=str(folder),
            hint="expected train/ and test/ (or val/), each with one folder of images for every class",
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
        found = (
            sorted(f for f in inside.rglob("*") if f.suffix.lower() in SUFFIXES) if inside.is_dir() else []
        )
        files.extend(found)
        labels.extend([label] * len(found))
    if not files:
        raise DataError(
            "holds no images", where=str(folder), hint=f"looked for {', '.join(sorted(SUFFIXES))}"
        )
    return tuple(files), np.asarray(labels, np.int64)


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
    name: str = "imagefolder",
) -> DataModule:
    """The pictures below `folder`, resized and cut to what the network takes.

    Raises:
        DataError: a folder that is missing or empty, or an image that cannot be read.
    """
    classes = list_classes(folder / "train")
    places = {part: folder / part for part in ("train", "val", "test") if (folder / part).is_dir()}
    if "test" not in places and "val" not in places:
        raise DataError(
            "holds neither test/ nor val/",
            where=str(folder),
            hint="put images for the test into test/<class>/",
        )
    listed = {part: list_images(place, classes) for part, place in places.items()}
    with ThreadPoolExecutor(_workers()) as pool:
        sizes = Counter(pool.map(_size, (file for files, _ in listed.values() for file in files)))
    channels = input_shape[0] if input_shape else 3
    preprocessing = preprocessing or (PREPROCESSING if channels == 3 else Preprocessing((0.5,), (0.25,)))
    wanted = preprocessing.size or (input_shape[1:] if input_shape else None)
    stored = _stored_size(sizes, wanted, preprocessing.crop, folder)
    read = {
        part: (_read_all(files, Fit(stored, preprocessing.crop, channels)), labels)
        for part, (files, labels) in listed.items()
    }
    return assemble(
        name,
        read["train"],
        read.get("test", read.get("val", read["train"])),
        class_names=classes,
        input_shape=input_shape or image_shape((channels, *stored), wanted),
        preprocessing=preprocessing,
        seed=seed,
        augmentation=Augmentation(max(1, min(stored) // SHIFT_SHARE), mirror=True),
        validation=read.get("val") if "test" in read else None,
    )
