"""Which pictures there are with which boxes, for which part: the layouts that labelling tools export.

DIR/{train,valid,test}/_annotations.coco.json       COCO, JSON beside its pictures (Roboflow)
DIR/annotations/instances_*.json                    COCO, pictures in DIR/{train2017,images/train2017,images}/
DIR/Annotations, JPEGImages, ImageSets              PASCAL VOC
DIR/{train,valid,test}/X.jpg, X.xml                 XML beside each picture, or in images/ and annotations/
DIR/{train,valid,test}/{images,labels}              YOLO, lines of text; with data.yaml
DIR/{images,labels}/{train,val,test}                the same the other way round

Each may also be undivided, without the folders of parts. Classes keep the order of data.yaml, of the ids in
COCO's files or of classes.txt; names that only XML states are sorted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mcc.data.box_coco import COCO_NAME, of_coco
from mcc.data.box_folders import Parts, Read
from mcc.data.box_voc import VOC_BOXES, of_voc
from mcc.data.box_yolo import of_yolo, yolo_folders
from mcc.data.layouts import folders_of, voc_root
from mcc.data.listing import with_training
from mcc.errors import DataError

EXPECTED = (
    "expected train/, and valid/ or test/ or both, with _annotations.coco.json, .xml files beside the "
    "pictures, or folders images/ and labels/ of YOLO"
)


@dataclass(frozen=True)
class BoxListing:
    """The pictures of a data set for detection.

    Attributes:
        parts: Pictures with their boxes, by part; `train` is always among them.
        classes: Names in the order of their numbers, as boxes name them.
        unseen: Whether the pictures of `train` are none that were trained on, by their folder's name.
        remarks: Sentences on what was assumed that make figures doubtful.
    """

    parts: Parts
    classes: tuple[str, ...]
    unseen: bool
    remarks: tuple[str, ...]


def list_boxes(place: Path, train_unseen: bool) -> BoxListing:
    """The pictures and boxes of a folder, by part. Raises DataError where one is missing."""
    if not place.is_dir():
        raise DataError("there is no such folder", where=str(place), hint=EXPECTED)
    readers: tuple[Callable[[Path], Read | None], ...] = (
        of_coco,
        of_voc,
        of_yolo,
    )
    for reader in readers:
        read = reader(place)
        if read is not None:
            found = {part: labelled for part, labelled in read[0].items() if labelled}
            if found:
                parts, unseen, remarks = with_training(found, place, train_unseen)
                return BoxListing(parts, read[1], unseen, tuple(remarks))
    raise DataError("holds no pictures with boxes", where=str(place), hint=EXPECTED)


def holds_boxes(place: Path) -> bool:
    """Whether a folder of pictures, or one of its parts, holds boxes as labelling tools export them.

    Text files beside pictures alone say nothing: they may be captions.
    """
    if not place.is_dir():
        return False
    root = voc_root(place, VOC_BOXES)
    if root is not None and any((root / VOC_BOXES).glob("*.xml")):
        return True
    folders = [place, *folders_of(place).values()]
    return any(
        (each / COCO_NAME).is_file() or any(map(_holds_voc, sorted(each.glob("*.xml"))[:1]))
        or ((pair := yolo_folders(each)) is not None and pair[0] != pair[1])
        for each in folders
    )  # fmt: skip


def _holds_voc(path: Path) -> bool:
    with path.open("rb") as stream:
        return b"<annotation" in stream.read(1024)
