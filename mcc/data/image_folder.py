"""Pictures in files, decoded and cut to what a network takes; `mcc.data.listing` says which there are."""

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

from mcc.data.agreement import AGREEMENT, NO_LABELS
from mcc.data.assembly import assemble
from mcc.data.augment import Augmentation, IndexArray
from mcc.data.box_listing import holds_boxes
from mcc.data.listing import list_pictures
from mcc.data.module import CLASSIFICATION, DataModule
from mcc.data.picture import FULL_16, LEAST_16, MODES, Fit, Head, Size, greatest, read_head
from mcc.data.preprocessing import Preprocessing, image_shape
from mcc.data.split import ImageSource, MemoryImages
from mcc.errors import DataError

logger = logging.getLogger(__name__)

# ImageNet's, of which most networks for photographs descend.
PREPROCESSING = Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# Up to here decoded images stay in memory; above it each is decoded when it is asked for.
MEMORY_BYTES = 1 << 30
# A shift of an eighth of the side: four pixels of CIFAR's 32.
SHIFT_SHARE = 8
# Of 16-bit pictures, how many are looked at to tell how many bits they use.
LOOKED_AT = 64


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
        with ThreadPoolExecutor(workers()) as pool:
            return np.stack(list(pool.map(self.fit.decode, [self.files[i] for i in index])))


def workers() -> int:
    """Number of threads that decode."""
    return min(8, os.cpu_count() or 1)


def heads_of(files: Sequence[Path]) -> list[Head]:
    """Heads of picture files, in their order. Raises DataError for one that is none."""
    with warnings.catch_warnings(), ThreadPoolExecutor(workers()) as pool:
        warnings.simplefilter("ignore")  # what Pillow warns of is refused, or of no concern, in `read_head`
        return list(pool.map(read_head, files))


def preprocessing_for(given: Preprocessing | None, channels: int, folder: Path) -> Preprocessing:
    """The network's preprocessing, else the customary one. Raises DataError for other channels."""
    if channels not in MODES:
        raise DataError(
            f"the network takes {channels} channels, and pictures have 1, 3 or 4", where=str(folder),
            hint="bring such data by a function that returns a DataModule",
        )  # fmt: skip
    return given or (PREPROCESSING if channels == 3 else Preprocessing((0.5,), (0.25,)))


def check_bits(files: Sequence[Path], folder: Path) -> None:
    """Refuse 16-bit pictures that use a few of their bits only, and would be black."""
    step = max(1, len(files) // LOOKED_AT)
    most = max((greatest(file) for file in files[::step]), default=FULL_16)
    if most < LEAST_16:
        raise DataError(
            f"holds 16-bit pictures whose greatest value is {most:,} of {FULL_16:,}: they would be black",
            where=str(folder), hint="scale them to the whole range, or save 8 bits",
        )  # fmt: skip


def decode_pictures(files: tuple[Path, ...], fit: Fit) -> ImageSource:
    """The images in memory where that is small, else from their files."""
    if len(files) * fit.channels * fit.size[0] * fit.size[1] > MEMORY_BYTES:
        logger.info("%d images stay on disk and are decoded when needed", len(files))
        return FileImages(files, fit)
    pixels = np.empty((len(files), fit.channels, *fit.size), np.uint8)
    with ThreadPoolExecutor(workers()) as pool:
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
    """The pictures of a folder, or of a list of them, resized and cut to what the network takes.

    Raises:
        DataError: A folder that is missing or empty, or an image that cannot be read.
    """
    if holds_boxes(folder):
        raise DataError(
            "holds pictures with boxes, not one folder for each class", where=str(folder),
            hint="write detection: in place of imagefolder:",
        )  # fmt: skip
    listing = list_pictures(folder, train_unseen)
    files = [file for found, _ in listing.parts.values() for file in found]
    heads = heads_of(files)
    check_bits([file for file, head in zip(files, heads, strict=True) if head.sixteen], folder)
    sizes = Counter(head.size for head in heads)
    channels = input_shape[0] if input_shape else 3
    preprocessing = preprocessing_for(preprocessing, channels, folder)
    wanted = preprocessing.size or (input_shape[1:] if input_shape else None)
    stored = _stored_size(sizes, wanted, preprocessing.crop, folder)
    read = {
        part: (decode_pictures(files, Fit(stored, preprocessing.crop, channels)), labels)
        for part, (files, labels) in listing.parts.items()
    }
    both = "test" in read and "validation" in read
    return assemble(
        name,
        read["train"],
        read.get("test", read.get("validation")),
        class_names=listing.classes,
        input_shape=input_shape or image_shape((channels, *stored), wanted),
        preprocessing=preprocessing,
        seed=seed,
        augmentation=Augmentation(max(1, min(stored) // SHIFT_SHARE), mirror=True),
        validation=read.get("validation") if both else None,
        train_unseen=train_unseen or listing.unseen or len(read) == 1,
        task=CLASSIFICATION if listing.classes else AGREEMENT,
        remarks=listing.remarks if listing.classes else (*listing.remarks, NO_LABELS),
    )
