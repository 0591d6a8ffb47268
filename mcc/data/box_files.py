"""Files that hold boxes: COCO's JSON, PASCAL VOC's XML and YOLO's lines of text, read as they are written."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from xml.etree import ElementTree

from mcc.data.layouts import text_lines
from mcc.errors import DataError
from mcc.files import readable_file

MAX_JSON_BYTES = 1 << 30  # COCO's training set has 450 MB
MAX_TEXT_BYTES = 16 << 20
POLYGON = 6  # coordinates of a triangle: lines of YOLO's segmentation hold these or more

Size = tuple[int, int]


@dataclass(frozen=True)
class Box:
    """A labelled box.

    Attributes:
        name: Of its class; a number for YOLO's text.
        corners: x1, y1, x2, y2, in pixels of the picture or as shares of its sides.
        ignored: VOC's `difficult`, COCO's `iscrowd`.
    """

    name: str
    corners: tuple[float, float, float, float]
    ignored: bool = False


@dataclass(frozen=True)
class Labelled:
    """A picture with its boxes.

    Attributes:
        source: File that names the boxes, for messages.
        size: (height, width) that this file states; None: it states none.
        relative: Whether corners are shares of the sides.
    """

    picture: Path
    source: Path
    boxes: tuple[Box, ...]
    size: Size | None = None
    relative: bool = False


# -- COCO --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CocoFile:
    """Content of a COCO file.

    Attributes:
        pictures: Names of picture files, their stated sizes and boxes, in the file's order.
        categories: (id, name, supercategory), by id.
    """

    pictures: tuple[tuple[str, Size | None, tuple[Box, ...]], ...]
    categories: tuple[tuple[int, str, str], ...]


def read_coco(path: Path) -> CocoFile:
    """A COCO file. Raises DataError for anything else, and for a box of an unknown picture or category."""
    raw = _json(path)
    try:
        images = [cast(dict[str, Any], image) for image in raw["images"]]
        categories = sorted(
            (int(one["id"]), str(one["name"]), str(one.get("supercategory", ""))) for one in raw["categories"]
        )
        annotations = [cast(dict[str, Any], one) for one in raw.get("annotations", ())]
        names = {number: name for number, name, _ in categories}
        boxes: dict[object, list[Box]] = {image["id"]: [] for image in images}
        for one in annotations:
            where = f"annotation {one.get('id')}"
            if one["image_id"] not in boxes:
                raise _broken(path, f"{where} is of picture {one['image_id']}, which is not listed")
            if one["category_id"] not in names:
                raise _broken(path, f"{where} is of category {one['category_id']}, which is not listed")
            left, top, width, height = (float(value) for value in one["bbox"])
            corners = _proper((left, top, left + width, top + height), path, where)
            boxes[one["image_id"]].append(
                Box(names[one["category_id"]], corners, bool(one.get("iscrowd", 0)))
            )
        pictures = tuple(
            (
                str(image["file_name"]),
                _stated(image.get("height"), image.get("width")),
                tuple(boxes[image["id"]]),
            )
            for image in images
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        said = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise _broken(path, f"is no COCO file ({said})") from error
    if len({name for _, name, _ in categories}) < len(categories):
        raise _broken(path, "gives two categories one name")
    return CocoFile(pictures, tuple(categories))


def is_coco(path: Path) -> bool:
    """Whether a JSON file is one of COCO's, by its keys."""
    try:
        raw = _json(path)
    except DataError:
        return False
    return {"images", "categories"} <= set(raw)


def _json(path: Path) -> dict[str, Any]:
    readable_file(path, at_most_bytes=MAX_JSON_BYTES)
    try:
        raw = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise _broken(path, f"cannot be read as JSON ({error})") from error
    if not isinstance(raw, dict):
        raise _broken(path, "is no COCO file (no object)")
    return cast(dict[str, Any], raw)


# -- PASCAL VOC --------------------------------------------------------------------------------------------


def read_voc(path: Path, picture: Path) -> Labelled:
    """A file of VOC's XML; corners as they are written, without a shift by one pixel. Raises DataError."""
    readable_file(path, at_most_bytes=MAX_TEXT_BYTES)
    try:
        text = path.read_text(encoding="utf-8-sig")
        if "<!ENTITY" in text:  # which could be nested without end
            raise _broken(path, "defines entities")
        root = ElementTree.fromstring(text)
    except (OSError, ValueError, ElementTree.ParseError) as error:
        raise _broken(path, f"cannot be read as XML ({error})") from error
    found: list[Box] = []
    for number, one in enumerate(root.iter("object")):
        where = f"object {number}"
        name, box = (one.findtext("name") or "").strip(), one.find("bndbox")
        if not name or box is None:
            raise _broken(path, f"{where} has no {'bndbox' if name else 'name'}")
        values = [_number(box.findtext(key), path, where) for key in ("xmin", "ymin", "xmax", "ymax")]
        ignored = (one.findtext("difficult") or "0").strip() not in ("0", "")
        found.append(Box(name, _proper(tuple(values), path, where), ignored))
    size = root.find("size")
    stated = None if size is None else _stated(size.findtext("height"), size.findtext("width"))
    return Labelled(picture, path, tuple(found), stated)


# -- YOLO --------------------------------------------------------------------------------------------------


def read_yolo(path: Path, picture: Path) -> Labelled:
    """Lines `class x y width height`, as shares of the sides; of polygons, the box around. Raises DataError.

    A picture without such a file has no boxes.
    """
    if not path.is_file():
        return Labelled(picture, path, (), relative=True)
    found: list[Box] = []
    for number, line in enumerate(text_lines(path), 1):
        where = f"line {number}"
        words = line.split()
        if not words[0].isdecimal():
            raise _broken(path, f"{where} begins with {words[0]!r:.40}", "write: class x y width height")
        values = [_number(word, path, where) for word in words[1:]]
        if len(values) == 4:
            x, y, width, height = values
            corners = x - width / 2, y - height / 2, x + width / 2, y + height / 2
        elif len(values) >= POLYGON and len(values) % 2 == 0:
            corners = min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])
        else:
            raise _broken(path, f"{where} has {len(words)} numbers", "write: class x y width height")
        if any(not -0.01 <= value <= 1.01 for value in values):
            raise _broken(path, f"{where} has the number {max(values, key=abs):g}, and shares lie in 0..1")
        found.append(Box(str(int(words[0])), _proper(corners, path, where)))
    return Labelled(picture, path, tuple(found), relative=True)


def read_yaml_names(path: Path) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Names of the classes in `data.yaml`, () where it has none, and all of its content. Raises DataError."""
    import yaml

    readable_file(path, at_most_bytes=MAX_TEXT_BYTES)
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise _broken(path, f"cannot be read as YAML ({reason:.120})") from error
    if not isinstance(raw, dict):
        raise _broken(path, "holds no names of classes", "write names: [...]")
    content = cast(dict[str, Any], raw)
    given = content.get("names") or ()
    if isinstance(given, dict):
        numbered = cast(dict[Any, Any], given)
        if sorted(numbered) != list(range(len(numbered))):
            raise _broken(path, "does not number its names from 0 on")
        given = [numbered[number] for number in range(len(numbered))]
    if not isinstance(given, list | tuple):
        raise _broken(path, "has names that are no list")
    names = tuple(str(name) for name in cast(Sequence[Any], given))
    if "nc" in content and names and content["nc"] != len(names):
        raise _broken(path, f"says nc: {content['nc']} and has {len(names)} names")
    return names, content


# -- all of them -------------------------------------------------------------------------------------------


def _proper(corners: tuple[float, ...], path: Path, where: str) -> tuple[float, float, float, float]:
    """Corners of a box that has an area. Raises DataError."""
    left, top, right, bottom = corners
    if not all(math.isfinite(value) for value in corners) or right <= left or bottom <= top:
        said = f"{right - left:g} wide and {bottom - top:g} high"
        raise _broken(path, f"{where} is a box {said}", "remove it, or draw it again")
    return left, top, right, bottom


def _number(word: str | None, path: Path, where: str) -> float:
    try:
        return float(word or "")
    except ValueError:
        raise _broken(path, f"{where} has {word!r:.40} in place of a number") from None


def _stated(height: object, width: object) -> Size | None:
    """A size where it is stated: some tools write 0 for unknown ones."""
    try:
        found = int(str(height)), int(str(width))
    except ValueError:
        return None
    return found if min(found) > 0 else None


def _broken(path: Path, said: str, hint: str | None = None) -> DataError:
    return DataError(said, where=str(path), hint=hint)
