"""Folders of pictures with masks or boxes: what the readers of every layout look for."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mcc.data.listing import FOLDERS, SUFFIXES
from mcc.errors import DataError
from mcc.files import readable_file

PICTURE_FOLDERS = ("images", "image", "imgs", "img", "jpegimages", "leftimg8bit")
MAX_TEXT_BYTES = 64 << 20
VOC_PICTURES = "JPEGImages"
VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip
"""Of PASCAL VOC 2007 to 2012, in the order of their numbers."""


def folders_of(place: Path) -> dict[str, Path]:
    """The folders of a place by their names in lower case, without hidden ones."""
    return {
        each.name.casefold(): each
        for each in sorted(place.iterdir())
        if each.is_dir() and not each.name.startswith(".")
    }


def only_folder(folders: dict[str, Path], names: Iterable[str], place: Path) -> Path | None:
    """The one folder of these names; None: there is none. Raises DataError where there are several."""
    there = [folders[name] for name in names if name in folders]
    if len(there) > 1:
        raise DataError(
            f"holds {there[0].name}/ and {there[1].name}/", where=str(place), hint="leave one of them"
        )
    return there[0] if there else None


def part_folders(place: Path) -> dict[str, Path]:
    """The folders of parts, by part. Raises DataError where two are of one."""
    folders = folders_of(place)
    found = {part: only_folder(folders, names, place) for part, names in FOLDERS.items()}
    return {part: folder for part, folder in found.items() if folder is not None}


def picture_files(folder: Path) -> list[Path]:
    """The picture files below a folder."""
    return sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in SUFFIXES
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )


def text_lines(path: Path) -> list[str]:
    """Lines of a text file that hold something. Raises DataError."""
    readable_file(path, at_most_bytes=MAX_TEXT_BYTES)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read as text ({error})", where=str(path)) from error
    return [line.strip() for line in lines if line.strip()]


# -- PASCAL VOC --------------------------------------------------------------------------------------------


def voc_root(place: Path, labels: str) -> Path | None:
    """The folder in VOC's layout: the place, or the only such one up to two levels inside it.

    Args:
        labels: Name of the folder beside `JPEGImages` that holds the labels.

    Raises:
        DataError: There are several.
    """
    levels = [[place]]
    for _ in range(2):
        levels.append([inside for folder in levels[-1] for inside in folders_of(folder).values()])
    for folders in levels:
        there = [f for f in folders if (f / VOC_PICTURES).is_dir() and (f / labels).is_dir()]
        if len(there) > 1:
            raise DataError(
                f"holds {there[0].name}/ and {there[1].name}/ in VOC's layout", where=str(place),
                hint="name one of them",
            )  # fmt: skip
        if there:
            return there[0]
    return None


def voc_lists(root: Path, kind: str) -> dict[str, tuple[Path, list[str]]]:
    """The list of each part that has one, and its lines; `kind` is `Main` or `Segmentation`."""
    found: dict[str, tuple[Path, list[str]]] = {}
    for part, names in FOLDERS.items():
        files = [root / "ImageSets" / kind / f"{name}.txt" for name in names]
        there = next((file for file in files if file.is_file()), None)
        if there is not None:
            found[part] = there, text_lines(there)
    return found
