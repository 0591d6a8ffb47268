"""Pictures with boxes, in the size that a network takes; `mcc.data.box_listing` finds the files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mcc.data.box_files import Labelled
from mcc.data.box_listing import list_boxes
from mcc.data.boxes import CORNERS, IGNORED, NO_BOX, Floats
from mcc.data.detection import DETECTION
from mcc.data.module import DataModule
from mcc.data.picture import Size
from mcc.data.preprocessing import Preprocessing
from mcc.data.whole_pictures import WholePictures
from mcc.errors import DataError

SIZE_OFF = 1  # pixels by which tools round the size that they state


def load_detection(
    folder: Path,
    *,
    seed: int,
    input_shape: tuple[int, int, int] | None,
    preprocessing: Preprocessing | None,
    train_unseen: bool = False,
    name: str = DETECTION,
) -> DataModule:
    """Pictures and boxes of a folder, in the size that the network takes.

    Whole pictures are stretched to that size, each side by its own factor, and the boxes with them.

    Raises:
        DataError: A folder that is missing or empty, a file that cannot be read, or a box that is empty, lies
            outside of its picture, or is of an unknown class.
    """
    listing = list_boxes(folder, train_unseen)
    parts = {part: [one.picture for one in labelled] for part, labelled in listing.parts.items()}
    whole = WholePictures.looked_at(parts, folder, input_shape, preprocessing)
    numbers = {called: number for number, called in enumerate(listing.classes)}
    most = max((len(one.boxes) for part in listing.parts.values() for one in part), default=0)
    if not most:
        raise DataError("none of its pictures has a box", where=str(folder))
    targets = {
        part: _targets(
            labelled, [whole.heads[one.picture].size for one in labelled], numbers, whole.size, most
        )
        for part, labelled in listing.parts.items()
    }
    return whole.data_module(
        name,
        targets,
        classes=listing.classes,
        seed=seed,
        task=DETECTION,
        unseen=train_unseen or listing.unseen,
        remarks=listing.remarks,
    )


def _targets(
    labelled: Sequence[Labelled], sizes: Sequence[Size], numbers: dict[str, int], size: Size, most: int
) -> Floats:
    """[N, most, 6] boxes in pixels of the network's input."""
    found = np.tile(np.asarray(NO_BOX, np.float32), (len(labelled), most, 1))
    for rows, one, own in zip(found, labelled, sizes, strict=True):
        if one.size is not None and np.abs(np.subtract(one.size, own)).max() > SIZE_OFF:
            raise DataError(
                f"states {one.size[0]}x{one.size[1]} (rows x columns) for {one.picture.name}, which is "
                f"{own[0]}x{own[1]}",
                where=str(one.source), hint="export the boxes for these pictures",
            )  # fmt: skip
        height, width = (1, 1) if one.relative else own
        factors = np.array([size[1] / width, size[0] / height] * 2)
        limits = np.array([size[1], size[0]] * 2)
        for row, box in zip(rows, one.boxes, strict=False):
            if box.name not in numbers:
                raise DataError(
                    f"has a box of the class {box.name!r}, and there is {', '.join(numbers)}"[:300],
                    where=str(one.source), hint="name all classes",
                )  # fmt: skip
            corners = (np.asarray(box.corners) * factors).clip(0, limits)
            if (corners[2:] <= corners[:2]).any():
                raise DataError(
                    f"has a box at {', '.join(f'{value:g}' for value in box.corners)}, outside of "
                    f"{one.picture.name} ({own[1]} wide, {own[0]} high)",
                    where=str(one.source), hint="remove it, or draw it again",
                )  # fmt: skip
            row[0], row[CORNERS], row[IGNORED] = numbers[box.name], corners, box.ignored
    return found
