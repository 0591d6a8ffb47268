"""Pictures with COCO's JSON: beside them, or in a folder of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mcc.data.box_files import CocoFile, Labelled, is_coco, read_coco
from mcc.data.box_folders import Read, named_folder
from mcc.data.layouts import part_folders
from mcc.data.listing import FOLDERS, TRAIN
from mcc.errors import DataError

COCO_NAME = "_annotations.coco.json"


def of_coco(place: Path) -> Read | None:
    """Pictures and classes of a folder in such a layout; None where it has another. Raises DataError."""
    files = {part: file for part, folder in part_folders(place).items() if (file := _json_in(folder))}
    beside = named_folder(place, ("annotations",))
    if not files and beside is not None:
        files = _by_word(sorted(beside.glob("*.json")), beside)
    if not files and (alone := _json_in(place)):
        files = {TRAIN: alone}
    if not files:
        return None
    read = {part: read_coco(file) for part, file in files.items()}
    classes = _categories(read, files)
    return {part: _coco_pictures(read[part], file, place, part) for part, file in files.items()}, classes


def _json_in(folder: Path) -> Path | None:
    """The COCO file of a folder: Roboflow's, or the only one."""
    if (folder / COCO_NAME).is_file():
        return folder / COCO_NAME
    found = [file for file in sorted(folder.glob("*.json")) if is_coco(file)]
    if len(found) > 1:
        raise DataError(
            f"holds {found[0].name} and {found[1].name}", where=str(folder), hint="leave one of them"
        )
    return found[0] if found else None


def _by_word(files: Sequence[Path], folder: Path) -> dict[str, Path]:
    """Parts of files as instances_train2017.json; of several of one part, the one of instances."""
    found: dict[str, Path] = {}
    files = [file for file in files if is_coco(file)]
    for part, names in FOLDERS.items():
        own = [file for file in files if any(name in file.stem.casefold() for name in names)]
        own = [file for file in own if file.stem.startswith("instances")] or own
        if len(own) > 1:
            raise DataError(
                f"holds {own[0].name} and {own[1].name}", where=str(folder), hint="leave one of them"
            )
        if own:
            found[part] = own[0]
    return found or ({TRAIN: files[0]} if len(files) == 1 else {})


def _categories(read: dict[str, CocoFile], files: dict[str, Path]) -> tuple[str, ...]:
    """Names by their ids, the same in all parts. Roboflow's first category, which stands for all others and
    has no boxes, is none."""
    first = next(iter(read))
    for part, file in read.items():
        if [one[:2] for one in file.categories] != [one[:2] for one in read[first].categories]:
            raise DataError(
                f"has other categories than {files[first].parent.name}/{files[first].name}",
                where=str(files[part]),
                hint="export all parts together",
            )
    categories = list(read[first].categories)
    used = {box.name for file in read.values() for _, _, boxes in file.pictures for box in boxes}
    if len(categories) > 1:
        (number, name, above), others = categories[0], categories[1:]
        group = above in ("none", "") and all(other[2] == name for other in others)
        if number == 0 and name not in used and group:
            categories = others
    return tuple(name for _, name, _ in categories)


def _coco_pictures(file: CocoFile, path: Path, place: Path, part: str) -> tuple[Labelled, ...]:
    stem = path.stem.removeprefix("instances_")
    names = (stem, *FOLDERS[part])
    within = [place / "images", place / "JPEGImages", place]
    folders = [path.parent, *(folder / name for folder in within for name in names), *within]
    folders = [folder for folder in dict.fromkeys(folders) if folder.is_dir()]
    found: list[Labelled] = []
    for name, size, boxes in file.pictures:
        picture = next((there for folder in folders if (there := folder / name).is_file()), None)
        if picture is None:
            looked = ", ".join(f"{folder.relative_to(place)}/" for folder in folders[:4])
            raise DataError(
                f"lists {name}, which is not there", where=str(path), hint=f"looked into {looked}"
            )
        folders = [picture.parent, *folders] if folders[0] != picture.parent else folders
        found.append(Labelled(picture, path, boxes, size))
    return tuple(found)
