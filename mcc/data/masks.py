"""Pictures with masks, decoded to the size that a network takes; `mcc.data.mask_listing` finds the files."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mcc.data.image_folder import workers
from mcc.data.mask_listing import Colour, MaskListing, list_masks
from mcc.data.module import DataModule
from mcc.data.picture import Head, Size, opened_picture
from mcc.data.preprocessing import Preprocessing
from mcc.data.segmentation import IGNORED, SEGMENTATION
from mcc.data.whole_pictures import WholePictures
from mcc.errors import DataError

LOSSY = (".jpg", ".jpeg", ".webp")
MOST_CLASSES = 255  # the number 255 is of pixels that are ignored


@dataclass(frozen=True)
class MaskReader:
    """How a mask file becomes classes.

    Args:
        size: (height, width) stored.
        colours: Classes of the colours; empty: masks hold numbers.
    """

    size: Size
    colours: dict[Colour, int]

    def read(self, path: Path, picture: Head) -> NDArray[np.uint8]:
        """The mask at `path`: [H, W], the class of each pixel or `IGNORED`.

        Args:
            picture: Head of the picture that it belongs to.

        Raises:
            DataError: It cannot be read, has another size than the picture, or does not hold classes.
        """
        if path.suffix.lower() in LOSSY:
            raise DataError(
                f"is a {path.suffix[1:]} file, which does not keep the numbers of classes exactly",
                where=str(path), hint="save masks as PNG",
            )  # fmt: skip
        with opened_picture(path) as opened:
            if (opened.height, opened.width) != picture.size:
                height, width = picture.size
                raise DataError(
                    f"is {opened.height}x{opened.width} (rows x columns), and its picture {height}x{width}",
                    where=str(path), hint="give masks the size of their pictures",
                )  # fmt: skip
            classes = self._classes(opened, path)
        if classes.shape != self.size:
            height, width = self.size
            resized = Image.fromarray(classes).resize((width, height), Image.Resampling.NEAREST)
            classes = np.asarray(resized)
        return classes

    def _classes(self, opened: Image.Image, path: Path) -> NDArray[np.uint8]:
        if self.colours and opened.mode != "L":
            return self._of_colours(np.asarray(opened.convert("RGB")), path)
        if opened.mode in ("RGB", "RGBA", "LA"):
            values = np.asarray(opened.convert("RGB"))
            if (values != values[:, :, :1]).any():
                raise DataError(
                    "is a coloured picture, and a mask holds the number of a class for each pixel",
                    where=str(path),
                    hint="export masks with indices or a palette, or name colours in labelmap.txt",
                )
            return np.ascontiguousarray(values[:, :, 0])
        found: NDArray[Any] = np.asarray(opened)
        if found.ndim != 2 or found.dtype.kind not in "bui":
            raise DataError(f"holds {opened.mode} values, not the number of a class", where=str(path))
        if found.size and not 0 <= int(found.min()) <= int(found.max()) <= IGNORED:
            raise DataError(
                f"holds the number {int(found.max())}, and there can be {MOST_CLASSES} classes",
                where=str(path),
            )
        return found.astype(np.uint8)

    def _of_colours(self, values: NDArray[np.uint8], path: Path) -> NDArray[np.uint8]:
        packed = (values.astype(np.int64) * (1 << 16, 1 << 8, 1)).sum(2)
        known = {(r << 16) + (g << 8) + b: number for (r, g, b), number in self.colours.items()}
        found = np.full(packed.shape, IGNORED, np.uint8)
        for colour in np.unique(packed):
            if int(colour) not in known:
                red, green, blue = (int(colour) >> 16, int(colour) >> 8 & 255, int(colour) & 255)
                raise DataError(
                    f"has the colour {red},{green},{blue}, which labelmap.txt does not name", where=str(path)
                )
            found[packed == colour] = known[int(colour)]
        return found


def load_segmentation(
    folder: Path,
    *,
    seed: int,
    input_shape: tuple[int, int, int] | None,
    preprocessing: Preprocessing | None,
    train_unseen: bool = False,
    name: str = SEGMENTATION,
) -> DataModule:
    """Pictures and masks of a folder, in the size that the network takes: whole, never cropped.

    Raises:
        DataError: A folder that is missing or empty, a file that cannot be read, or a mask that does not
            belong to its picture.
    """
    listing = list_masks(folder, train_unseen)
    parts = {part: [picture for picture, _ in pairs] for part, pairs in listing.parts.items()}
    whole = WholePictures.looked_at(parts, folder, input_shape, preprocessing)
    reader = MaskReader(whole.size, listing.colours)
    masks = {
        part: _read_masks(reader, [(mask, whole.heads[picture]) for picture, mask in pairs])
        for part, pairs in listing.parts.items()
    }
    remarks = [*listing.remarks, *_two_valued(masks, listing)]  # 255 becomes 1, before classes are counted
    return whole.data_module(
        name,
        masks,
        classes=_checked_classes(masks, listing, folder),
        seed=seed,
        task=SEGMENTATION,
        unseen=train_unseen or listing.unseen,
        remarks=remarks,
    )


def _read_masks(reader: MaskReader, files: Sequence[tuple[Path, Head]]) -> NDArray[np.uint8]:
    found = np.empty((len(files), *reader.size), np.uint8)
    with ThreadPoolExecutor(workers()) as pool:
        masks, heads = zip(*files, strict=True)
        for place, mask in enumerate(pool.map(reader.read, masks, heads)):
            found[place] = mask
    return found


def _two_valued(masks: dict[str, NDArray[np.uint8]], listing: MaskListing) -> list[str]:
    """Masks that hold 0 and 255 alone are black and white pictures of two classes: 255 becomes 1."""
    values = {int(value) for found in masks.values() for value in np.unique(found)}
    if values != {0, IGNORED} or len(listing.classes) > 2 or listing.colours:
        return []
    for found in masks.values():
        found[found == IGNORED] = 1
    return [
        f"The masks hold 0 and {IGNORED} alone: {IGNORED} is taken as the class 1, not as ignored pixels."
    ]


def _checked_classes(
    masks: dict[str, NDArray[np.uint8]], listing: MaskListing, folder: Path
) -> tuple[str, ...]:
    """Names of the classes, numbers where no file states them. Raises DataError for a mask beyond them."""
    most = 0
    for part, found in masks.items():
        for place, mask in enumerate(found):
            highest = int(np.where(mask == IGNORED, 0, mask).max(initial=0))
            most = max(most, highest)
            if listing.classes and highest >= len(listing.classes):
                raise DataError(
                    f"holds the class {highest}, and there are {len(listing.classes)}",
                    where=str(listing.parts[part][place][1]),
                    hint=f"{IGNORED} is for pixels without a class; classes.txt names all others",
                )
    if not most:
        raise DataError("its masks hold one class alone", where=str(folder))
    return listing.classes or tuple(f"class {number}" for number in range(most + 1))
