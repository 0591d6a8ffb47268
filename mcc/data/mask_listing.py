"""Which pictures there are with which masks, for which part: the layouts that segmentation data has.

DIR/{train,val,test}/{images,masks}/*          as most tools export them
DIR/{images,masks}/{train,val,test}/*          the same the other way round (ADE20K, Cityscapes-like)
DIR/{train,val,test}/X.jpg, X_mask.png         beside each other (Roboflow, with _classes.csv)
DIR/{images,masks}/*                           not divided
DIR/JPEGImages, SegmentationClass, ImageSets   PASCAL VOC, and what CVAT exports (with labelmap.txt)
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mcc.data.listing import CLASS_FILES, FOLDERS, SUFFIXES, TRAIN, read_classes, with_training
from mcc.errors import DataError
from mcc.files import readable_file

IMAGES = ("images", "image", "imgs", "img", "jpegimages", "leftimg8bit")
MASKS = ("masks", "mask", "annotations", "labels", "segmentationclass", "gtfine", "segmentations")
ENDINGS = ("", "_mask", "_masks", "_label", "_labels", "_l", "_seg", "_gt", "_gtfine_labelids")
"""What the name of a mask has behind that of its picture."""
PICTURE_ENDINGS = ("", "_leftimg8bit", "_image", "_img")
VOC_FOLDERS = ("JPEGImages", "SegmentationClass")
VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip
"""Of PASCAL VOC 2007 to 2012, in the order of their numbers."""
MAX_LIST_BYTES = 64 << 20
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
    root = _voc_root(place)
    found = _of_voc(root) if root is not None else _of_folders(place)
    found = {part: pairs for part, pairs in found.items() if pairs}
    if not found:
        raise DataError("holds no pictures with masks", where=str(place), hint=EXPECTED)
    parts, unseen, remarks = with_training(found, place, train_unseen)
    classes, colours = _classes(place, root)
    return MaskListing(parts, classes, colours, unseen, tuple(remarks))


# -- layouts -----------------------------------------------------------------------------------------------


def _folders(place: Path) -> dict[str, Path]:
    """The folders of a place by their names in lower case, without hidden ones."""
    return {
        each.name.casefold(): each
        for each in sorted(place.iterdir())
        if each.is_dir() and not each.name.startswith(".")
    }


def _one_of(folders: dict[str, Path], names: Iterable[str], place: Path) -> Path | None:
    there = [folders[name] for name in names if name in folders]
    if len(there) > 1:
        raise DataError(
            f"holds {there[0].name}/ and {there[1].name}/", where=str(place), hint="leave one of them"
        )
    return there[0] if there else None


def _of_folders(place: Path) -> dict[str, Pairs]:
    folders = _folders(place)
    pictures, masks = _one_of(folders, IMAGES, place), _one_of(folders, MASKS, place)
    parts = {part: _one_of(folders, names, place) for part, names in FOLDERS.items()}
    if pictures is None and masks is None:
        return {part: _of_part(folder) for part, folder in parts.items() if folder is not None}
    if pictures is None or masks is None:
        missing = "pictures (images/)" if pictures is None else "masks (masks/)"
        raise DataError(f"has no folder of {missing}", where=str(place), hint=EXPECTED)
    inside, beside = _folders(pictures), _folders(masks)
    divided = {part: _one_of(inside, names, pictures) for part, names in FOLDERS.items()}
    if not any(divided.values()):
        return {TRAIN: _paired(pictures, masks)}
    found: dict[str, Pairs] = {}
    for part, names in FOLDERS.items():
        folder, other = divided[part], _one_of(beside, names, masks)
        if folder is not None and other is None:
            raise DataError(f"has no masks for {pictures.name}/{folder.name}", where=str(masks))
        if folder is not None and other is not None:
            found[part] = _paired(folder, other)
    return found


def _of_part(folder: Path) -> Pairs:
    inside = _folders(folder)
    pictures, masks = _one_of(inside, IMAGES, folder), _one_of(inside, MASKS, folder)
    if pictures is not None and masks is not None:
        return _paired(pictures, masks)
    if pictures is not None or masks is not None:
        raise DataError(
            f"has no folder of {'masks' if masks is None else 'pictures'}", where=str(folder), hint=EXPECTED
        )
    files = _pictures(folder)
    ends = tuple(end for end in ENDINGS if end)
    beside = [file for file in files if file.stem.casefold().endswith(ends)]
    if not beside:
        raise DataError("holds no masks", where=str(folder), hint=EXPECTED)
    return _matched([file for file in files if file not in set(beside)], beside, folder)


def _pictures(folder: Path) -> list[Path]:
    """The picture files below a folder."""
    return sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in SUFFIXES
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )


def _paired(pictures: Path, masks: Path) -> Pairs:
    return _matched(_pictures(pictures), _pictures(masks), pictures)


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


def _voc_root(place: Path) -> Path | None:
    """The folder in VOC's layout: the place, or the only such one up to two levels inside it."""
    levels = [[place]]
    for _ in range(2):
        levels.append([inside for folder in levels[-1] for inside in _folders(folder).values()])
    for folders in levels:
        there = [folder for folder in folders if all((folder / name).is_dir() for name in VOC_FOLDERS)]
        if len(there) > 1:
            raise DataError(
                f"holds {there[0].name}/ and {there[1].name}/ in VOC's layout", where=str(place),
                hint="name one of them",
            )  # fmt: skip
        if there:
            return there[0]
    return None


def _of_voc(root: Path) -> dict[str, Pairs]:
    pictures, masks = (root / name for name in VOC_FOLDERS)
    lists = root / "ImageSets" / "Segmentation"
    found: dict[str, Pairs] = {}
    for part, names in FOLDERS.items():
        there = [lists / f"{name}.txt" for name in names if (lists / f"{name}.txt").is_file()]
        if there:
            found[part] = tuple(_named(name, pictures, masks, there[0]) for name in _lines(there[0]))
    if found:
        return found
    labelled = {mask.stem for mask in _pictures(masks)}
    return {
        TRAIN: _matched([p for p in _pictures(pictures) if p.stem in labelled], _pictures(masks), pictures)
    }


def _lines(path: Path) -> list[str]:
    readable_file(path, at_most_bytes=MAX_LIST_BYTES)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read as a list ({error})", where=str(path)) from error
    return [line.strip() for line in lines if line.strip()]


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
    for line in _lines(path):
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
    readable_file(path, at_most_bytes=MAX_LIST_BYTES)
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = [[cell.strip() for cell in row] for row in csv.reader(stream) if row][1:]
        named = {int(row[0]): row[1] for row in rows}
    except (OSError, UnicodeDecodeError, csv.Error, ValueError, IndexError) as error:
        raise DataError("is no table of pixel values and classes", where=str(path)) from error
    if sorted(named) != list(range(len(named))) or len(set(named.values())) < max(2, len(named)):
        raise DataError("does not number two or more classes from 0 on", where=str(path))
    return tuple(named[value] for value in range(len(named)))
