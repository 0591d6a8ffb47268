"""Which pictures there are with which boxes, for which part: the layouts that labelling tools export.

DIR/{train,valid,test}/_annotations.coco.json       COCO, JSON beside its pictures (Roboflow)
DIR/annotations/instances_*.json                    COCO, with DIR/{train2017,images/train2017,images}/ (CVAT)
DIR/Annotations, JPEGImages, ImageSets              PASCAL VOC
DIR/{train,valid,test}/X.jpg, X.xml                 XML beside each picture, or DIR/{images,annotations}/
DIR/{train,valid,test}/{images,labels}              YOLO, lines of text; with data.yaml
DIR/{images,labels}/{train,val,test}                the same the other way round
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mcc.data.box_files import Labelled, read_coco
from mcc.data.listing import FOLDERS, with_training
from mcc.errors import DataError

COCO_NAME = "_annotations.coco.json"
EXPECTED = (
    "expected train/, and valid/ or test/ or both, with _annotations.coco.json, .xml files or labels/ of YOLO"
)


@dataclass(frozen=True)
class BoxListing:
    """The pictures of a data set for detection.

    Attributes:
        parts: Pictures with their boxes, by part; `train` is always among them.
        classes: Names in the order of their numbers.
        unseen: Whether the pictures of `train` are none that were trained on, by their folder's name.
        remarks: Sentences on what was assumed that make figures doubtful.
    """

    parts: dict[str, tuple[Labelled, ...]]
    classes: tuple[str, ...]
    unseen: bool
    remarks: tuple[str, ...]


def list_boxes(place: Path, train_unseen: bool) -> BoxListing:
    """The pictures and boxes of a folder, by part. Raises DataError."""
    if not place.is_dir():
        raise DataError("there is no such folder", where=str(place), hint=EXPECTED)
    files = {part: place / n / COCO_NAME for part, names in FOLDERS.items() for n in names if (place / n / COCO_NAME).is_file()}
    found = {}
    for part, path in files.items():
        coco = read_coco(path)
        found[part] = tuple(Labelled(path.parent / n, path, b, s) for n, s, b in coco.pictures)
    classes = tuple(n for _, n, _ in coco.categories)
    parts, unseen, remarks = with_training(found, place, train_unseen)
    return BoxListing(parts, classes, unseen, tuple(remarks))
