"""Which pictures there are with which masks, for which part: the layouts that segmentation data has.

DIR/{train,val,test}/{images,masks}/*          as most tools export them
DIR/{images,masks}/{train,val,test}/*          the same the other way round (ADE20K, Cityscapes-like)
DIR/{train,val,test}/X.jpg, X_mask.png         beside each other (Roboflow, with _classes.csv)
DIR/{images,masks}/*                           not divided
DIR/JPEGImages, SegmentationClass, ImageSets   PASCAL VOC, and what CVAT exports (with labelmap.txt)
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from mcc.data.layouts import (
    MAX_TEXT_BYTES,
    PICTURE_FOLDERS,
    VOC_CLASSES,
    VOC_PICTURES,
    folders_of,
    only_folder,
    part_folders,
    picture_files,
    text_lines,
    voc_lists,
    voc_root,
)
from mcc.data.listing import CLASS_FILES, SUFFIXES, TRAIN, read_classes, with_training
from mcc.errors import DataError
from mcc.files import readable_file

VOC_MASKS = "SegmentationClass"
MASKS = ("masks", "mask", "annotations", "labels", "segmentationclass", "gtfine", "segmentations")
ENDINGS = ("", "_mask", "_masks", "_label", "_labels", "_l", "_seg", "_gt", "_gtfine_labelids")
"""What the name of a mask has behind that of its picture."""
PICTURE_ENDINGS = ("", "_leftimg8bit", "_image", "_img")
EXPECTED = "expected train/, and val/ or test/ or both, each with a folder images/ and a folder masks/"

Colour = tuple[int, int, int]
Pairs = tuple[tuple[Path, Path], ...]


@dataclass(frozen=True)
class MaskListing:
    """The pictures of a data set for segmentation.

    Attributes:
        parts: Pictures with their masks, by part; `train` is always among them.
        classes: Names in the order of the numbers; () where no file states them.
        colours: Classes of the colours in masks that are coloured pictures; empty: masks hold numbers.
        unseen: Whether the pictures of `train` are none that were trained on, by their folder's name.
        remarks: Sentences on what was assumed that make figures doubtful.
    """

    parts: dict[str, Pairs]
    classes: tuple[str, ...]
    colours: dict[Colour, int]
    unseen: bool
    remarks: tuple[str, ...]


def list_masks(place: Path, train_unseen: bool) -> MaskListing:
    """The pictures and masks of a folder, by part. Raises DataError where one is missing."""
    if not place.is_dir():
        raise DataError("there is no such folder", where=str(place), hint=EXPECTED)
    root = voc_root(place, VOC_MASKS)
    found = _of_voc(root) if root is not None else _of_folders(place)
    found = {part: pairs for part, pairs in found.items() if pairs}
    if not found:
        raise DataError("holds no pictures with masks", where=str(place), hint=EXPECTED)
    parts, unseen, remarks = with_training(found, place, train_unseen)
    classes, colours = _classes(place, root)
    return MaskListing(parts, classes, colours, unseen, tuple(remarks))


# -- layouts -----------------------------------------------------------------------------------------------


def _of_folders(place: Path) -> dict[str, Pairs]:
    folders = folders_of(place)
    pictures, masks = only_folder(folders, PICTURE_FOLDERS, place), only_folder(folders, MASKS, place)
    if pictures is None and masks is None:
        return {part: _of_part(folder) for part, folder in part_folders(place).items()}
    if pictures is None or masks is None:
        missing = "pictures (images/)" if pictures is None else "masks (masks/)"
        raise DataError(f"has no folder of {missing}", where=str(place), hint=EXPECTED)
    divided, others = part_folders(pictures), part_folders(masks)
    if not divided:
        return {TRAIN: _paired(pictures, masks)}
    for part, folder in divided.items():
        if part not in others:
            raise DataError(f"has no masks for {pictures.name}/{folder.name}", where=str(masks))
    return {part: _paired(folder, others[part]) for part, folder in divided.items()}


def _of_part(folder: Path) -> Pairs:
    inside = folders_of(folder)
    pictures, masks = only_folder(inside, PICTURE_FOLDERS, folder), only_folder(inside, MASKS, folder)
    if pictures is not None and masks is not None:
        return _paired(pictures, masks)
    if pictures is not None or masks is not None:
        raise DataError(
            f"has no folder of {'masks' if masks is None else 'pictures'}", where=str(folder), hint=EXPECTED
        )
    files = picture_files(folder)
    ends = tuple(end for end in ENDINGS if end)
    beside = [file for file in files if file.stem.casefold().endswith(ends)]
    if not beside:
        raise DataError("holds no masks", where=str(folder), hint=EXPECTED)
    return _matched([file for file in files if file not in set(beside)], beside, folder)


def _paired(pictures: Path, masks: Path) -> Pairs:
    return _matched(picture_files(pictures), picture_files(masks), pictures)


def _matched(pictures: list[Path], masks: list[Path], folder: Path) -> Pairs:
    """Each picture with the mask of its name. Raises DataError for one that has none, or several."""
    by_name: dict[str, list[Path]] = {}
    for mask in masks:
        by_name.setdefault(mask.stem.casefold(), []).append(mask)
    found: list[tuple[Path, Path]] = []
    for picture in pictures:
        stem = picture.stem.casefold()
        stems = {stem.removesuffix(ending) for ending in PICTURE_ENDINGS}
        there = [mask for name in sorted(stems) for end in ENDINGS for mask in by_name.get(name + end, ())]
        if len(there) != 1:
            said = (
                "has no mask" if not there else f"has {len(there)} masks, {there[0].name} and {there[1].name}"
            )
            raise DataError(
                said, where=str(picture),
                hint="a mask has the name of its picture; remove pictures that are not labelled",
            )  # fmt: skip
        found.append((picture, there[0]))
    used = {mask for _, mask in found}
    left = next((mask for mask in masks if mask not in used), None)
    if left is not None:
        raise DataError("is the mask of no picture", where=str(left), hint=f"looked into {folder.name}/")
    return tuple(found)


# -- PASCAL VOC --------------------------------------------------------------------------------------------


def _of_voc(root: Path) -> dict[str, Pairs]:
    pictures, masks = root / VOC_PICTURES, root / VOC_MASKS
    found = {
        part: tuple(_named(name, pictures, masks, source) for name in lines)
        for part, (source, lines) in voc_lists(root, "Segmentation").items()
    }
    if found:
        return found
    labelled = {mask.stem for mask in picture_files(masks)}
    of_masks = [picture for picture in picture_files(pictures) if picture.stem in labelled]
    return {TRAIN: _matched(of_masks, picture_files(masks), pictures)}


def _named(name: str, pictures: Path, masks: Path, source: Path) -> tuple[Path, Path]:
    def there(folder: Path, what: str) -> Path:
        found = [folder / f"{name}{suffix}" for suffix in sorted(SUFFIXES)]
        file = next((file for file in found if file.is_file()), None)
        if file is None:
            raise DataError(f"lists {name}, which has no {what} in {folder.name}/", where=str(source))
        return file

    return there(pictures, "picture"), there(masks, "mask")


# -- classes -----------------------------------------------------------------------------------------------


def _classes(place: Path, root: Path | None) -> tuple[tuple[str, ...], dict[Colour, int]]:
    """Names of the classes, and their colours where masks are coloured."""
    for folder in dict.fromkeys((place, root or place)):
        stated = [folder / name for name in CLASS_FILES if (folder / name).is_file()]
        if stated:
            return read_classes(stated[0]), {}
        if (folder / "labelmap.txt").is_file():
            return _label_map(folder / "labelmap.txt")
    table = next(iter(sorted(place.glob("*/_classes.csv"))), place / "_classes.csv")
    if table.is_file():
        return _class_table(table), {}
    return (VOC_CLASSES if root is not None else ()), {}


def _label_map(path: Path) -> tuple[tuple[str, ...], dict[Colour, int]]:
    """CVAT's `name:red,green,blue:parts:actions`, one class a line."""
    names: list[str] = []
    colours: dict[Colour, int] = {}
    for line in text_lines(path):
        if line.startswith("#"):
            continue
        name, _, rest = line.partition(":")
        try:
            red, green, blue = (int(value) for value in rest.split(":")[0].split(","))
        except ValueError:
            raise DataError(
                f"has the line {line[:60]!r}", where=str(path), hint="write name:red,green,blue::"
            ) from None
        colours[red, green, blue] = len(names)
        names.append(name)
    if len(set(names)) < len(names) or len(names) < 2 or len(colours) < len(names):
        raise DataError("names fewer than two classes, or one of them twice", where=str(path))
    return tuple(names), colours


def _class_table(path: Path) -> tuple[str, ...]:
    """Roboflow's `Pixel Value, Class`."""
    readable_file(path, at_most_bytes=MAX_TEXT_BYTES)
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = [[cell.strip() for cell in row] for row in csv.reader(stream) if row][1:]
        named = {int(row[0]): row[1] for row in rows}
    except (OSError, UnicodeDecodeError, csv.Error, ValueError, IndexError) as error:
        raise DataError("is no table of pixel values and classes", where=str(path)) from error
    if sorted(named) != list(range(len(named))) or len(set(named.values())) < max(2, len(named)):
        raise DataError("does not number two or more classes from 0 on", where=str(path))
    return tuple(named[value] for value in range(len(named)))
