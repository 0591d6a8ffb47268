"""Pictures with boxes that several tests share: bright rectangles of two kinds on a dark ground."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIZE = 32, 48
NAMES = ("plate", "ball")
COLOURS = ((230, 60, 40), (40, 90, 240))

Row = tuple[int, float, float, float, float]


def scene(seed: int) -> tuple[NDArray[np.uint8], list[Row]]:
    """A picture [H, W, 3] and the boxes in it that do not touch each other."""
    chance = np.random.default_rng(seed)
    picture = chance.normal(60, 12, (*SIZE, 3))
    rows: list[Row] = []
    for _ in range(8):
        number = int(chance.integers(2))
        wide, high = (int(v) for v in chance.integers(*((8, 15), (6, 9))[number], 2))
        left, top = int(chance.integers(0, SIZE[1] - wide)), int(chance.integers(0, SIZE[0] - high))
        apart = all(
            left > x2 + 1 or left + wide < x1 - 1 or top > y2 + 1 or top + high < y1 - 1
            for _, x1, y1, x2, y2 in rows
        )
        if apart and len(rows) < 3:
            rows.append((number, left, top, left + wide, top + high))
            picture[top : top + high, left : left + wide] = COLOURS[number]
    return picture.clip(0, 255).astype(np.uint8), rows


def seeds(part: str, count: int) -> list[int]:
    first = {"train": 0, "val": 10_000, "test": 20_000}[part]
    return list(range(first, first + count))


def save(path: Path, seed: int) -> list[Row]:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture, rows = scene(seed)
    Image.fromarray(picture).save(path)
    return rows


def coco(pictures: list[tuple[str, list[Row]]], group: bool = False) -> dict[str, Any]:
    """A COCO file; `group` puts Roboflow's empty supercategory 0 in front."""
    categories = [{"id": number + 1, "name": name} for number, name in enumerate(NAMES)]
    if group:
        categories = [{"id": 0, "name": "things", "supercategory": "none"}] + [
            {**one, "supercategory": "things"} for one in categories
        ]
    annotations: list[dict[str, Any]] = []
    for image, (_, rows) in enumerate(pictures):
        for number, x1, y1, x2, y2 in rows:
            annotations.append(
                {"id": len(annotations), "image_id": image, "category_id": number + 1, "iscrowd": 0,
                 "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
            )  # fmt: skip
    images = [
        {"id": image, "file_name": name, "height": SIZE[0], "width": SIZE[1]}
        for image, (name, _) in enumerate(pictures)
    ]
    return {"images": images, "categories": categories, "annotations": annotations}


def voc(rows: list[Row], name: str) -> str:
    objects = "".join(
        f"<object><name>{NAMES[number]}</name><difficult>0</difficult><bndbox><xmin>{x1}</xmin>"
        f"<ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for number, x1, y1, x2, y2 in rows
    )
    size = f"<size><width>{SIZE[1]}</width><height>{SIZE[0]}</height><depth>3</depth></size>"
    return f"<annotation><filename>{name}</filename>{size}{objects}</annotation>"


def yolo(rows: list[Row]) -> str:
    height, width = SIZE
    return "".join(
        f"{number} {(x1 + x2) / 2 / width:.8f} {(y1 + y2) / 2 / height:.8f} {(x2 - x1) / width:.8f} "
        f"{(y2 - y1) / height:.8f}\n"
        for number, x1, y1, x2, y2 in rows
    )


def write_roboflow(folder: Path, group: bool = False, **counts: int) -> Path:
    """`train/ valid/ test/`, each with its pictures and `_annotations.coco.json`."""
    for part, count in counts.items():
        inside = folder / part.replace("val", "valid")
        pictures = [(f"{seed}.png", save(inside / f"{seed}.png", seed)) for seed in seeds(part, count)]
        (inside / "_annotations.coco.json").write_text(json.dumps(coco(pictures, group)))
    return folder


def write_layout(folder: Path, layout: str, **counts: int) -> Path:
    """The same pictures and boxes in another layout."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in counts.items():
        pictures: list[tuple[str, list[Row]]] = []
        for seed in seeds(part, count):
            name, valid = f"{seed}.png", part.replace("val", "valid")
            place, label = {
                "coco": (f"images/{part}2017/{name}", ""),
                "voc": (f"VOC2012/JPEGImages/{name}", f"VOC2012/Annotations/{seed}.xml"),
                "xml": (f"{valid}/{name}", f"{valid}/{seed}.xml"),
                "xml folders": (f"{part}/images/{name}", f"{part}/annotations/{seed}.xml"),
                "yolo": (f"{valid}/images/{name}", f"{valid}/labels/{seed}.txt"),
                "yolo inverse": (f"images/{part}/{name}", f"labels/{part}/{seed}.txt"),
                "darknet": (f"{part}/{name}", f"{part}/{seed}.txt"),
            }[layout]
            rows = save(folder / place, seed)
            pictures.append((name, rows))
            if label:
                (folder / label).parent.mkdir(parents=True, exist_ok=True)
                text = voc(rows, name) if label.endswith("xml") else yolo(rows)
                (folder / label).write_text(text)
        if layout == "coco":
            (folder / "annotations").mkdir(exist_ok=True)
            (folder / f"annotations/instances_{part}2017.json").write_text(json.dumps(coco(pictures)))
        if layout == "voc":
            (folder / "VOC2012/ImageSets/Main").mkdir(parents=True, exist_ok=True)
            lines = "".join(f"{seed}\n" for seed in seeds(part, count))
            (folder / f"VOC2012/ImageSets/Main/{part}.txt").write_text(lines)
    if layout in ("yolo", "yolo inverse"):
        (folder / "data.yaml").write_text("train: ../train/images\nnc: 2\nnames: ['plate', 'ball']\n")
    if layout in ("darknet", "xml", "xml folders", "voc"):
        (folder / "classes.txt").write_text("plate\nball\n")
    return folder
