"""Folders of pictures with boxes: what the readers of COCO, VOC and YOLO share."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mcc.data.box_files import Labelled
from mcc.data.layouts import folders_of, text_lines

NAME_FILES = ("classes.txt", "obj.names", "labels.txt", "predefined_classes.txt")

Parts = dict[str, tuple[Labelled, ...]]
Read = tuple[Parts, tuple[str, ...]]
"""Pictures by part, and the names of the classes."""


def named_folder(place: Path, names: Iterable[str]) -> Path | None:
    """The folder of the first of these names that there is; None: there is none."""
    there = folders_of(place)
    return next((there[name] for name in names if name in there), None)


def stated_names(folder: Path) -> tuple[str, ...]:
    """Names of classes, one a line; () where no file has them."""
    file = next((folder / name for name in NAME_FILES if (folder / name).is_file()), None)
    return () if file is None else tuple(text_lines(file))
