"""Pictures with YOLO's lines of text, in folders images/ and labels/ of either nesting, or beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mcc.data.box_files import Labelled, read_yaml_names, read_yolo
from mcc.data.box_folders import NAME_FILES, Read, named_folder, stated_names
from mcc.data.layouts import PICTURE_FOLDERS, part_folders, picture_files
from mcc.data.listing import FOLDERS, SUFFIXES, TRAIN
from mcc.errors import DataError

YAML_NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
NO_LABELS = (*NAME_FILES, "train.txt", "val.txt", "valid.txt", "test.txt", "readme.txt")
"""Text files beside those of labels."""


def of_yolo(place: Path) -> Read | None:
    """Pictures and classes of a folder in such a layout; None where it has another. Raises DataError."""
    stated = next((place / name for name in YAML_NAMES if (place / name).is_file()), None)
    names, content = read_yaml_names(stated) if stated is not None else ((), {})
    sources = _yolo_sources(place, content, stated)
    if not sources:
        return None
    found = {part: _yolo_pictures(*pair) for part, pair in sources.items()}
    labels = {folder for _, folder in sources.values()}
    if stated is None:
        places = [place, *sorted({*labels, *(folder.parent for folder in labels)})]
        names = next((there for folder in places if (there := stated_names(folder))), ())
    numbers = [int(box.name) for each in found.values() for one in each for box in one.boxes]
    names = names or tuple(f"class {number}" for number in range(max(numbers, default=0) + 1))
    if len(set(names)) < len(names):
        raise DataError("names one class twice", where=str(stated or place))
    return {part: tuple(_renamed(one, names) for one in each) for part, each in found.items()}, names


def _renamed(one: Labelled, names: Sequence[str]) -> Labelled:
    """Numbers of classes replaced by their names. Raises DataError for one beyond them."""
    boxes = list(one.boxes)
    for place, box in enumerate(boxes):
        if int(box.name) >= len(names):
            raise DataError(
                f"has a box of the class {box.name}, and there are {len(names)}", where=str(one.source),
                hint="name all classes in data.yaml, from 0 on",
            )  # fmt: skip
        boxes[place] = type(box)(names[int(box.name)], box.corners, box.ignored)
    return Labelled(one.picture, one.source, tuple(boxes), one.size, one.relative)


def _yolo_sources(
    place: Path, content: dict[str, object], stated: Path | None
) -> dict[str, tuple[Path, Path]]:
    """Folders of pictures and of labels, by part."""
    pictures, labels = named_folder(place, PICTURE_FOLDERS), named_folder(place, ("labels",))
    if pictures is not None and labels is not None:
        inside, beside = part_folders(pictures), part_folders(labels)
        if not inside:
            return {TRAIN: (pictures, labels)}
        lacking = next((part for part in inside if part not in beside), None)
        if lacking is not None:
            raise DataError(f"has no folder of labels for images/{inside[lacking].name}", where=str(labels))
        return {part: (inside[part], beside[part]) for part in inside}
    parts = part_folders(place)
    for part in FOLDERS:  # folders that data.yaml names, where there are none of the usual names
        said = content.get("val" if part == "validation" else part)
        if stated is not None and part not in parts and isinstance(said, str):
            base = Path(str(content.get("path", "")))
            tried = [stated.parent / base / said, stated.parent / said, base / said]
            there = next((each for each in tried if each.is_dir()), None)
            if there is not None:
                parts[part] = there.parent if there.name.casefold() in PICTURE_FOLDERS else there
    found = {part: pair for part, folder in parts.items() if (pair := yolo_folders(folder))}
    if not found and (alone := yolo_folders(place)) is not None:
        return {TRAIN: alone}
    return found


def yolo_folders(folder: Path) -> tuple[Path, Path] | None:
    """Folders of a part's pictures and labels: images/ and labels/, or both in one (Darknet)."""
    pictures, labels = named_folder(folder, PICTURE_FOLDERS), named_folder(folder, ("labels",))
    if pictures is not None and labels is not None:
        texts = any(labels.rglob("*.txt")) and not any(
            file.suffix.lower() in SUFFIXES for file in labels.iterdir()
        )
        return (pictures, labels) if texts else None
    stems = {file.stem for file in folder.glob("*.txt") if file.name.casefold() not in NO_LABELS}
    beside = any(file.stem in stems for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)
    return (folder, folder) if beside else None


def _yolo_pictures(pictures: Path, labels: Path) -> tuple[Labelled, ...]:
    """Pictures with the labels of their names; one without a file of labels has no boxes (Ultralytics)."""
    files = picture_files(pictures)
    texts = {file for file in labels.rglob("*.txt") if file.name.casefold() not in NO_LABELS}
    found: list[Labelled] = []
    for picture in files:
        text = labels / picture.relative_to(pictures).with_suffix(".txt")
        texts.discard(text)
        found.append(read_yolo(text, picture))
    if texts:
        raise DataError(
            "has boxes of no picture", where=str(min(texts)), hint=f"looked into {pictures.name}/"
        )
    return tuple(found)
