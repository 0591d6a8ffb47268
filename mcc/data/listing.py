"""Which pictures there are, with which labels, for which part: the layouts that folders of pictures have.

    DIR/train/CLASS/*.jpg, DIR/val/..., DIR/test/...    parts and classes
    DIR/CLASS/*.jpg                                     classes, not divided
    DIR/train/*.jpg, DIR/*.jpg                          no labels
    DIR/train.csv, ...; FILE.csv                        lists: file, label and perhaps the part

Classes are numbered in the sorted order of their names, or in the order of a file that names them. Files and
folders whose names begin with a dot are left out.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from mcc.errors import DataError
from mcc.files import readable_file

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff"})
TRAIN, VALIDATION, TEST = "train", "validation", "test"
FOLDERS = {
    TRAIN: ("train", "training"),
    VALIDATION: ("val", "valid", "validation"),
    TEST: ("test", "testing"),
}
"""Names of folders and of `.csv` lists, by part."""
CLASS_FILES = ("classes.txt", "labels.txt", "class_names.txt", "class_to_idx.json")
MAX_LIST_BYTES = 256 << 20  # a list of a million pictures has about 50 MB

_FILE_COLUMNS = ("file", "filename", "file_name", "path", "filepath", "image", "image_path", "img", "name")
_LABEL_COLUMNS = ("label", "class", "class_name", "target", "category", "label_name", "labels")
_PART_COLUMNS = ("split", "part", "set", "subset", "partition")
_EXPECTED = "expected train/, and val/ or test/ or both, each with one folder of images for every class"

MASKED = tuple({image, mask} for image in ("images", "imgs") for mask in ("masks", "annotations", "labels"))
"""Names of the two folders of pictures with masks."""

SEEN = (
    "was not divided into training, validation and test pictures, so that a part of it was held out for "
    "choices and for the report. If the network has been trained on them, accuracy and its loss say little"
)


Part = TypeVar("Part")


@dataclass(frozen=True)
class Pictures:
    """Picture files and their labels.

    Attributes:
        files: Paths.
        labels: Name of each one's class, or None where there are none.
        empty: Classes whose folders hold no picture.
    """

    files: tuple[Path, ...]
    labels: tuple[str, ...] | None
    empty: tuple[str, ...] = ()


@dataclass(frozen=True)
class Listing:
    """The pictures of a data set.

    Attributes:
        parts: Picture files and labels [N], by part; `train` is always among them.
        classes: Names of the classes in the order of their numbers; () where there are no labels.
        unseen: Whether the pictures of `train` are, by their folder's name, none that were trained on.
        remarks: Sentences on what was assumed that make figures doubtful.
    """

    parts: dict[str, tuple[tuple[Path, ...], NDArray[np.int64]]]
    classes: tuple[str, ...]
    unseen: bool = False
    remarks: tuple[str, ...] = ()


def list_pictures(place: Path, train_unseen: bool) -> Listing:
    """The pictures of a folder or list, by part.

    Args:
        train_unseen: Whether the user states that the network has not been trained on the training pictures.

    Raises:
        DataError: There are none, or parts do not belong together.
    """
    found = _parts(place)
    for part, pictures in found.items():
        if {name.casefold() for name in pictures.labels or ()} in MASKED:
            names = " and ".join(f"{name}/" for name in sorted(set(pictures.labels or ())))
            raise DataError(
                f"its {part} part holds {names}, which are no classes", where=str(place),
                hint="write segmentation: in place of imagefolder: for pictures with masks",
            )  # fmt: skip
    if (
        len({name for pictures in found.values() for name in (*(pictures.labels or ()), *pictures.empty)})
        == 1
    ):
        found = {part: Pictures(pictures.files, None) for part, pictures in found.items()}  # one is no class
    labelled = {part for part, pictures in found.items() if pictures.labels is not None}
    if labelled and len(labelled) < len(found):
        bare = next(part for part in found if part not in labelled)
        raise DataError(f"has labels, but none of its {bare} pictures", where=str(place), hint=_EXPECTED)
    found, unseen, remarks = with_training(found, place, train_unseen)
    if not labelled:
        parts = {part: (p.files, np.zeros(len(p.files), np.int64)) for part, p in found.items()}
        return Listing(parts, (), unseen, tuple(remarks))
    classes, ordered = _classes(place, found, remarks)
    return Listing(_numbered(place, found, classes, ordered), classes, unseen, tuple(remarks))


def with_training(
    found: dict[str, Part], place: Path, train_unseen: bool
) -> tuple[dict[str, Part], bool, list[str]]:
    """Parts among which `train` is, whether its pictures are none that were trained on, and remarks.

    Args:
        found: What there is of each part, by the names of `FOLDERS`.
        train_unseen: Whether the user states that the network has not been trained on `train`.
    """
    if TRAIN not in found:  # pictures for validation or test, that were not trained on
        first = VALIDATION if VALIDATION in found else TEST
        return (
            {TRAIN: found[first], **{part: each for part, each in found.items() if part != first}},
            True,
            [],
        )
    if len(found) > 1 or train_unseen:
        return found, False, []
    remark = (
        f"{place.name} {SEEN}; make a val/ folder of images that the network was not trained on, or "
        "write unseen-train: in front of the data if it has seen none of these."
    )
    return found, False, [remark]


# -- parts -------------------------------------------------------------------------------------------------


def _parts(place: Path) -> dict[str, Pictures]:
    """The pictures of each part that there is; those of a place that is not divided are `train`."""
    if place.is_file():
        return _of_list(place, place.parent)
    if not place.is_dir():
        raise DataError("there is no such folder", where=str(place), hint=_EXPECTED)
    sources: dict[str, Path] = {}
    for part, names in FOLDERS.items():
        there = [place / name for name in names if (place / name).is_dir()]
        there += [place / f"{name}.csv" for name in names if (place / f"{name}.csv").is_file()]
        if len(there) > 1:
            first, second = (each.name + ("/" if each.is_dir() else "") for each in there[:2])
            raise DataError(
                f"holds {first} and {second}", where=str(place),
                hint="leave one of them, and call pictures for the report test/",
            )  # fmt: skip
        if there:
            sources[part] = there[0]
    places = [source.resolve() for source in sources.values()]
    if len(set(places)) < len(places):
        raise DataError("two of its parts are one and the same folder", where=str(place))
    if not sources:
        return {TRAIN: _of_folder(place)}
    return {
        part: _of_list(source, place).get(TRAIN, Pictures((), None))
        if source.is_file()
        else _of_folder(source)
        for part, source in sources.items()
    }


def _of_folder(folder: Path) -> Pictures:
    """The pictures below a folder: labelled by its folders where it has any."""
    inside = sorted(each for each in folder.iterdir() if not each.name.startswith("."))
    named = [each for each in inside if each.is_dir()]
    loose = _pictures(each for each in inside if each.is_file())
    by_class = {each.name: _pictures(_below(each)) for each in named}
    files = [file for name in by_class for file in by_class[name]]
    if not files and not loose:
        looked = f"looked for {', '.join(sorted(SUFFIXES))}"
        raise DataError("holds no images", where=str(folder), hint=looked)
    if not files:
        return Pictures(tuple(loose), None)
    labels = tuple(name for name in by_class for _ in by_class[name])
    return Pictures(tuple(files), labels, tuple(name for name in by_class if not by_class[name]))


def _pictures(files: Iterable[Path]) -> list[Path]:
    return sorted(file for file in files if file.suffix.lower() in SUFFIXES)


def _below(folder: Path) -> list[Path]:
    """The files below a folder, without hidden ones and what is no file, as a pipe."""
    return [
        file
        for file in folder.rglob("*")
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    ]


# -- lists -------------------------------------------------------------------------------------------------


def _of_list(path: Path, folder: Path) -> dict[str, Pictures]:
    """The pictures that a `.csv` lists, by part; all are `train` where it has no column for that."""
    rows = _rows(path)
    head = [cell.strip().casefold() for cell in rows[0]]
    columns = [_column(head, names) for names in (_FILE_COLUMNS, _LABEL_COLUMNS, _PART_COLUMNS)]
    if columns[0] is None:  # no line of names
        columns, start = [0, 1 if len(head) > 1 else None, None], 0
    else:
        start = 1
    file_column, label_column, part_column = columns
    assert file_column is not None
    found: dict[str, tuple[list[Path], list[str]]] = {}
    for number, row in enumerate(rows[start:], start + 1):
        needed = max(column for column in columns if column is not None)
        if len(row) <= needed or not row[file_column].strip():
            raise DataError(f"line {number} has {len(row)} columns", where=str(path), hint="file,label")
        part = TRAIN if part_column is None else _part_named(row[part_column], number, path)
        files, labels = found.setdefault(part, ([], []))
        files.append(folder / row[file_column].strip())
        labels.append("" if label_column is None else row[label_column].strip())
    for files, labels in found.values():
        absent = next((file for file in files if not file.is_file()), None)
        if absent is not None:
            raise DataError(f"lists {absent}, which is not there", where=str(path))
        if label_column is not None and not all(labels):
            raise DataError(f"has no label for {files[labels.index('')].name}", where=str(path))
    return {
        part: Pictures(tuple(files), None if label_column is None else tuple(labels))
        for part, (files, labels) in found.items()
    }


def _rows(path: Path) -> list[list[str]]:
    readable_file(path, at_most_bytes=MAX_LIST_BYTES)
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = [row for row in csv.reader(stream) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot be read as a list ({error})", where=str(path), hint="file,label") from error
    if not rows:
        raise DataError("lists nothing", where=str(path), hint="write lines of file,label")
    return rows


def _column(head: Sequence[str], names: Sequence[str]) -> int | None:
    return next((head.index(name) for name in names if name in head), None)


def _part_named(word: str, line: int, path: Path) -> str:
    for part, names in FOLDERS.items():
        if word.strip().casefold() in names:
            return part
    raise DataError(
        f"line {line} has the part {word.strip()!r}", where=str(path), hint="write train, val or test"
    )


# -- classes -----------------------------------------------------------------------------------------------


def _classes(
    place: Path, found: dict[str, Pictures], remarks: list[str]
) -> tuple[tuple[str, ...], Path | None]:
    """Names of the classes in the order of their numbers, and the file that said so."""
    there = {name for pictures in found.values() for name in pictures.labels or ()}
    folder = place.parent if place.is_file() else place
    stated = [folder / name for name in CLASS_FILES if (folder / name).is_file()]
    if stated:
        return read_classes(stated[0]), stated[0]
    if found[TRAIN].empty:  # left out, it would renumber the classes behind it
        raise DataError(
            f"holds no training images of the class {found[TRAIN].empty[0]!r}", where=str(place),
            hint=f"looked for {', '.join(sorted(SUFFIXES))}; or name all classes in classes.txt",
        )  # fmt: skip
    in_training = sorted(set(found[TRAIN].labels or ()))
    numbers = [int(name) for name in in_training if name.isascii() and name.isdecimal()]
    if place.is_file() and len(numbers) == len(there):  # labels of a list are the numbers themselves
        return tuple(str(number) for number in range(max(numbers) + 1)), None
    if len(numbers) == len(in_training) and sorted(numbers) != numbers:
        remarks.append(
            f"The classes are numbered as their names are sorted ({', '.join(in_training[:4])}, ...), not "
            "in the order of the numbers: if the network was trained with that one, write the names into "
            "classes.txt, one a line."
        )
    return tuple(in_training), None


def read_classes(path: Path) -> tuple[str, ...]:
    """Names of classes in the order of their numbers, from lines of text or from JSON.

    JSON holds a list of names, names with numbers (torchvision's `class_to_idx`), or numbers with names.

    Raises:
        DataError: It cannot be read, or names a class twice.
    """
    readable_file(path, at_most_bytes=MAX_LIST_BYTES)
    try:
        text = path.read_text(encoding="utf-8-sig")
        names = _in_json(json.loads(text)) if path.suffix == ".json" else text.split("\n")
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"cannot be read as names of classes ({error})", where=str(path)) from error
    found = tuple(name.strip() for name in names if name.strip())
    if len(found) < 2 or len(set(found)) < len(found):
        twice = next((name for at, name in enumerate(found) if name in found[:at]), None)
        said = f"names {twice!r} twice" if twice else f"names {len(found)} classes"
        raise DataError(said, where=str(path), hint="write one name on each line")
    return found


def _in_json(raw: Any) -> list[str]:
    if isinstance(raw, list):
        return [str(name) for name in cast(list[Any], raw)]
    if not isinstance(raw, dict):
        raise ValueError("neither a list nor names with numbers")
    held = cast(dict[str, Any], raw)
    places = {name: place for name, place in held.items() if isinstance(place, int)}
    if len(places) < len(held):
        places = {str(name): int(place) for place, name in held.items()}
    if sorted(places.values()) != list(range(len(places))):
        raise ValueError("the numbers are not 0, 1, 2, ...")
    return sorted(places, key=lambda name: places[name])


def _numbered(
    place: Path, found: dict[str, Pictures], classes: tuple[str, ...], ordered: Path | None
) -> dict[str, tuple[tuple[Path, ...], NDArray[np.int64]]]:
    """Files and numbers of their classes. Raises DataError for a class that is not among `classes`."""
    numbers = {name: number for number, name in enumerate(classes)}
    parts: dict[str, tuple[tuple[Path, ...], NDArray[np.int64]]] = {}
    for part, pictures in found.items():
        labels = pictures.labels or ()
        unknown = sorted(set(labels) - set(numbers))
        if unknown:
            known = (
                f"which {ordered.name} does not name" if ordered else "which the training images do not have"
            )
            raise DataError(f"its {part} part holds the class {unknown[0]!r}, {known}", where=str(place))
        parts[part] = pictures.files, np.asarray([numbers[name] for name in labels], np.int64)
    return parts
