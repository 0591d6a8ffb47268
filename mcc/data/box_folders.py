"""Folders of pictures with boxes: what the readers of all layouts look for."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mcc.data.box_files import Labelled
from mcc.data.box_files import text_lines as lines_of
from mcc.data.listing import FOLDERS, SUFFIXES
from mcc.errors import DataError

PICTURE_FOLDERS = ("images", "jpegimages", "imgs", "img")
NAME_FILES = ("classes.txt", "obj.names", "labels.txt", "predefined_classes.txt")

Parts = dict[str, tuple[Labelled, ...]]
Read = tuple[Parts, tuple[str, ...]]
"""Pictures by part, and the names of the classes."""


def folders_of(place: Path) -> dict[str, Path]:
    """The folders of a place by their names in lower case, without hidden ones."""
    return {
        each.name.casefold(): each
        for each in sorted(place.iterdir())
        if each.is_dir() and not each.name.startswith(".")
    }


def named_folder(place: Path, names: Iterable[str]) -> Path | None:
    """The folder of the first of these names that there is; None: there is none."""
    there = folders_of(place)
    return next((there[name] for name in names if name in there), None)


def part_folders(place: Path) -> dict[str, Path]:
    """The folders of parts. Raises DataError where two are of one."""
    there, found = folders_of(place), dict[str, Path]()
    for part, names in FOLDERS.items():
        own = [there[name] for name in names if name in there]
        if len(own) > 1:
            raise DataError(
                f"holds {own[0].name}/ and {own[1].name}/", where=str(place), hint="leave one of them"
            )
        if own:
            found[part] = own[0]
    return found


def picture_files(folder: Path) -> list[Path]:
    """The picture files below a folder."""
    return sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in SUFFIXES
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )


def stated_names(folder: Path) -> tuple[str, ...]:
    """Names of classes, one a line; () where no file has them."""
    file = next((folder / name for name in NAME_FILES if (folder / name).is_file()), None)
    return () if file is None else tuple(lines_of(file))
