"""Pictures with PASCAL VOC's XML: in its layout, beside the pictures, or in a folder of its own."""

from __future__ import annotations

from pathlib import Path

from mcc.data.box_files import Labelled, read_voc
from mcc.data.box_folders import Parts, Read, named_folder, stated_names
from mcc.data.layouts import (
    PICTURE_FOLDERS,
    VOC_CLASSES,
    VOC_PICTURES,
    part_folders,
    picture_files,
    voc_lists,
    voc_root,
)
from mcc.data.listing import TRAIN
from mcc.errors import DataError

VOC_BOXES = "Annotations"
XML_FOLDERS = ("annotations", "annotation", "labels", "xml", "xmls")


def of_voc(place: Path) -> Read | None:
    """Pictures and classes of a folder in such a layout; None where it has another. Raises DataError."""
    root = voc_root(place, VOC_BOXES)
    if root is not None:
        found = _voc_parts(root)
    else:
        parts = part_folders(place) or {TRAIN: place}
        found = {part: _xml_pictures(folder) for part, folder in parts.items()}
        if not any(found.values()):
            return None
    names = sorted({box.name for labelled in found.values() for one in labelled for box in one.boxes})
    stated = stated_names(place) or (stated_names(root) if root is not None else ())
    if not stated and root is not None and set(names) <= set(VOC_CLASSES[1:]):
        stated = VOC_CLASSES[1:]
    return found, stated or tuple(names)


def _voc_parts(root: Path) -> Parts:
    boxes, by_stem = root / VOC_BOXES, {file.stem: file for file in picture_files(root / VOC_PICTURES)}
    found = {
        part: tuple(_voc_one(line.split()[0], by_stem, boxes, source) for line in lines)
        for part, (source, lines) in voc_lists(root, "Main").items()
    }
    if found:
        return found
    xml = sorted(boxes.glob("*.xml"))
    return {TRAIN: tuple(_voc_one(file.stem, by_stem, boxes, file) for file in xml)}


def _voc_one(stem: str, pictures: dict[str, Path], boxes: Path, source: Path) -> Labelled:
    file = boxes / f"{stem}.xml"
    if stem not in pictures or not file.is_file():
        missing = "picture in JPEGImages/" if stem not in pictures else "file in Annotations/"
        raise DataError(f"{stem} has no {missing}", where=str(source))
    return read_voc(file, pictures[stem])


def _xml_pictures(folder: Path) -> tuple[Labelled, ...]:
    """Pictures with XML beside them, or in folders of their own."""
    pictures, xml = named_folder(folder, PICTURE_FOLDERS), named_folder(folder, XML_FOLDERS)
    if pictures is None or xml is None:
        pictures = xml = folder
    files = sorted(xml.glob("*.xml"))
    if not files:
        return ()
    by_stem = {file.stem: file for file in picture_files(pictures)}
    lacking = next((file for file in files if file.stem not in by_stem), None)
    if lacking is not None:
        raise DataError("has boxes of no picture", where=str(lacking), hint="its picture has its name")
    unlabelled = sorted(set(by_stem) - {file.stem for file in files})
    if unlabelled:
        raise DataError(
            "has no .xml file", where=str(by_stem[unlabelled[0]]),
            hint="remove pictures that are not labelled; one without objects has a file without boxes",
        )  # fmt: skip
    return tuple(read_voc(file, by_stem[file.stem]) for file in files)
