"""Pictures with boxes in every layout that labelling tools export, and what is refused of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mcc.data import DataModule, Preprocessing, load_data
from mcc.errors import DataError, UsageError
from tests.data.detections import NAMES, SIZE, save, scene, seeds, write_layout, write_roboflow

COUNTS = {"train": 4, "val": 2, "test": 3}
LAYOUTS = ("coco", "voc", "xml", "xml folders", "yolo", "yolo inverse", "darknet")
JSON = "_annotations.coco.json"


def load(folder: Path, **options: object) -> DataModule:
    return load_data(f"detection:{folder}", preprocessing=Preprocessing(), **options)  # type: ignore[arg-type]


def test_reads_coco_beside_its_pictures(tmp_path: Path) -> None:
    data = load(write_roboflow(tmp_path, **COUNTS))
    assert (len(data.train), len(data.validation), len(data.test)) == (4, 2, 3)
    assert (data.task, data.class_names, data.input_shape) == ("detection", NAMES, (3, *SIZE))
    for image, seed in enumerate(seeds("train", 4)):
        picture, rows = scene(seed)
        found = data.train.targets[image]
        assert found[found[:, 0] >= 0][:, :5].tolist() == [list(row) for row in rows]
        shown = data.train.inputs(np.array([image]))[0]  # type: ignore[index]
        assert np.array_equal(np.round(shown * 255), picture.transpose(2, 0, 1))  # type: ignore[operator]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_data(tmp_path: Path, layout: str) -> None:
    one = load(write_roboflow(tmp_path / "one", **COUNTS))
    other = load(write_layout(tmp_path / "other", layout, **COUNTS))
    assert other.class_names == one.class_names
    for part in ("train", "validation", "test"):
        left, right = one.split(part), other.split(part)  # type: ignore[arg-type]
        index = np.arange(len(left))
        assert right.targets == pytest.approx(left.targets, abs=1e-4)
        assert np.array_equal(left.inputs(index), right.inputs(index))  # type: ignore[arg-type]


def test_an_empty_supercategory_is_no_class(tmp_path: Path) -> None:
    assert load(write_roboflow(tmp_path, group=True, **COUNTS)).class_names == NAMES


def test_a_category_without_boxes_is_a_class(tmp_path: Path) -> None:
    """Left out, it would renumber the classes behind it."""
    folder = write_roboflow(tmp_path, **COUNTS)
    for file in folder.glob(f"*/{JSON}"):
        raw = json.loads(file.read_text())
        raw["categories"].insert(0, {"id": 0, "name": "cup"})
        file.write_text(json.dumps(raw))
    data = load(folder)
    assert data.class_names == ("cup", *NAMES)
    assert set(np.unique(data.train.targets[:, :, 0])) <= {-1, 1, 2}


def test_categories_are_ordered_by_their_ids(tmp_path: Path) -> None:
    folder = write_roboflow(tmp_path, **COUNTS)
    for file in folder.glob(f"*/{JSON}"):
        raw = json.loads(file.read_text())
        raw["categories"].reverse()
        file.write_text(json.dumps(raw))
    assert load(folder).class_names == NAMES


def test_boxes_are_stretched_with_their_pictures(tmp_path: Path) -> None:
    folder = write_roboflow(tmp_path, **COUNTS)
    plain, wide = load(folder), load(folder, input_shape=(3, 64, 48))
    there = plain.train.targets[:, :, 0] >= 0
    assert wide.train.targets[there][:, 1:5] == pytest.approx(
        plain.train.targets[there][:, 1:5] * (1, 2, 1, 2)
    )


def test_a_picture_without_a_file_of_labels_has_no_boxes(tmp_path: Path) -> None:
    folder = write_layout(tmp_path, "yolo", **COUNTS)
    (folder / "train/labels/2.txt").unlink()
    data = load(folder)
    assert (data.train.targets[2, :, 0] == -1).all()
    assert len(data.train) == 4


def test_polygons_are_read_as_the_boxes_around_them(tmp_path: Path) -> None:
    folder = write_layout(tmp_path, "yolo", **COUNTS)
    (folder / "train/labels/0.txt").write_text("1 0.25 0.5 0.5 0.25 0.75 0.5\n")
    (row,) = (row for row in load(folder).train.targets[0] if row[0] >= 0)
    assert row.tolist() == [1, 12, 8, 36, 16, 0]


def test_difficult_boxes_are_ignored(tmp_path: Path) -> None:
    folder = write_layout(tmp_path, "voc", **COUNTS)
    for file in folder.rglob("*.xml"):
        file.write_text(file.read_text().replace("<difficult>0", "<difficult>1", 1))
    targets = load(folder).train.targets
    assert targets[:, 0, 5].all()
    assert not targets[:, 1:, 5].any()


@pytest.mark.parametrize("layout", ["coco", "xml folders", "yolo"])
def test_undivided_pictures_are_held_out_with_a_remark(tmp_path: Path, layout: str) -> None:
    write_layout(tmp_path / "whole", layout, train=20)
    folder = tmp_path / "whole"
    if layout == "coco":
        (folder / "annotations/instances_train2017.json").rename(
            folder / "annotations/instances_default.json"
        )
        (folder / "images/train2017").rename(folder / "pictures")
        (folder / "images").rmdir()
        (folder / "pictures").rename(folder / "images")
    else:
        for inside in list((folder / "train").iterdir()):
            inside.rename(folder / inside.name)
        (folder / "train").rmdir()
    data = load(folder)
    assert len(data.train) + len(data.validation) + len(data.test) == 20
    assert any("unseen-train" in warning for warning in data.warnings)
    unseen = load_data(f"unseen-train:detection:{folder}", preprocessing=Preprocessing())
    assert not unseen.warnings
    assert unseen.class_names == NAMES


def test_one_class_is_enough(tmp_path: Path) -> None:
    folder = write_layout(tmp_path, "yolo", **COUNTS)
    for file in folder.rglob("*.txt"):
        file.write_text("".join(f"0 {line.split(' ', 1)[1]}\n" for line in file.read_text().splitlines()))
    (folder / "data.yaml").write_text("names:\n  0: thing\n")
    assert load(folder).class_names == ("thing",)


def test_training_batches_hold_pictures_with_their_boxes(tmp_path: Path) -> None:
    data = load(write_roboflow(tmp_path, train=6, val=2))
    batch = next(data.batches("train", 6, seed=1))
    plain = next(data.batches("train", 6, seed=1, augment=False))
    assert not np.array_equal(batch.targets, plain.targets)
    seen = 0
    for image, rows in zip(batch.inputs, batch.targets, strict=True):  # type: ignore[arg-type]
        for number, x1, y1, x2, y2, _ in rows[rows[:, 0] >= 0].astype(int):
            inside = image[:, y1:y2, x1:x2].mean((1, 2))
            assert inside.argmax() == (0 if number == 0 else 2)  # plates are red and balls blue
            assert inside.max() > 0.8
            seen += 1
    assert seen > 4


# -- bad input ---------------------------------------------------------------------------------------------


def edit(file: Path, change: Callable[[dict[str, list[dict[str, object]]]], None]) -> None:
    raw = json.loads(file.read_text())
    change(raw)
    file.write_text(json.dumps(raw))


def first_image(raw: dict[str, list[dict[str, object]]], **changes: object) -> None:
    raw["images"][0].update(changes)


def first_box(raw: dict[str, list[dict[str, object]]], **changes: object) -> None:
    raw["annotations"][0].update(changes)


COCO_FAULTS: dict[str, tuple[Callable[[dict[str, list[dict[str, object]]]], None], str]] = {
    "missing": (lambda raw: first_image(raw, file_name="gone.png"), "lists gone.png, which is not there"),
    "degenerate": (lambda raw: first_box(raw, bbox=[3, 4, 0, 5]), "annotation 0 is a box 0 wide and 5 high"),
    "infinite": (lambda raw: first_box(raw, bbox=[3, 4, float("inf"), 5]), "annotation 0 is a box inf wide"),
    "three": (lambda raw: first_box(raw, bbox=[3, 4, 5]), "is no COCO file"),
    "outside": (lambda raw: first_box(raw, bbox=[90, 4, 5, 5]), "outside of 0.png"),
    "category": (lambda raw: first_box(raw, category_id=9), "annotation 0 is of category 9"),
    "image": (lambda raw: first_box(raw, image_id=99), "annotation 0 is of picture 99"),
    "size": (lambda raw: first_image(raw, width=480, height=320), "states 320x480 .* which is 32x48"),
    "keys": (lambda raw: raw.pop("images"), "is no COCO file .lacks 'images'"),
    "twice": (lambda raw: raw["categories"][1].update(name="plate"), "gives two categories one name"),
    "others": (lambda raw: raw["categories"][1].update(name="cup"), "has other categories than"),
}


@pytest.mark.parametrize("fault", COCO_FAULTS)
def test_bad_coco_files_are_refused(tmp_path: Path, fault: str) -> None:
    folder = write_roboflow(tmp_path, **COUNTS)
    change, said = COCO_FAULTS[fault]
    edit(folder / "train" / JSON, change)
    with pytest.raises(DataError, match=said) as caught:
        load(folder)
    assert JSON in str(caught.value)


def test_no_boxes_at_all(tmp_path: Path) -> None:
    folder = write_roboflow(tmp_path, **COUNTS)
    for file in folder.glob(f"*/{JSON}"):
        edit(file, lambda raw: raw["annotations"].clear())
    with pytest.raises(DataError, match="none of its pictures has a box"):
        load(folder)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("2 0.5 0.5 0.1 0.1", "a box of the class 2, and there are 2"),
        ("0 0.5 0.5 0 0.1", "line 1 is a box 0 wide"),
        ("0 0.5 0.5 0.1", "line 1 has 4 numbers"),
        ("0 0.5 0.5 0.1 x", "line 1 has 'x' in place of a number"),
        ("plate 0.5 0.5 0.1 0.1", "line 1 begins with 'plate'"),
        ("0 24 16 8 8", "line 1 has the number 24, and shares lie in 0..1"),
        ("0 nan 0.5 0.1 0.1", "line 1"),
    ],
)
def test_bad_lines_are_refused(tmp_path: Path, line: str, said: str) -> None:
    folder = write_layout(tmp_path, "yolo", **COUNTS)
    (folder / "train/labels/1.txt").write_text(f"{line}\n")
    with pytest.raises(DataError, match=said) as caught:
        load(folder)
    assert "1.txt" in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("</annotation>", "", "cannot be read as XML"),
        ("<xmin>", "<xmid>", "cannot be read as XML"),
        ("<name>", "<name>un", "of the class 'un"),
        ("<width>48", "<width>96", "states 32x96"),
        ("<annotation>", "<!DOCTYPE a [<!ENTITY b 'c'>]><annotation>", "defines entities"),
    ],
)
def test_bad_xml_is_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    folder = write_layout(tmp_path, "voc", **COUNTS)
    file = folder / "VOC2012/Annotations/1.xml"
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(DataError, match=said) as caught:
        load(folder)
    assert "1.xml" in str(caught.value)


@pytest.mark.parametrize(
    ("layout", "gone", "said"),
    [
        ("voc", "VOC2012/JPEGImages/1.png", "1 has no picture"),
        ("voc", "VOC2012/Annotations/1.xml", "1 has no file in Annotations"),
        ("xml", "train/1.png", "has boxes of no picture"),
        ("xml", "train/1.xml", "has no .xml file"),
        ("yolo", "train/images/1.png", "has boxes of no picture"),
    ],
)
def test_missing_files_are_named(tmp_path: Path, layout: str, gone: str, said: str) -> None:
    folder = write_layout(tmp_path, layout, **COUNTS)
    (folder / gone).unlink()
    with pytest.raises(DataError, match=said):
        load(folder)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("names: [a, a]", "names one class twice"),
        ("nc: 3\nnames: [a, b]", "says nc: 3 and has 2 names"),
        ("names: {0: a, 2: b}", "does not number its names"),
        ("names: [a", "cannot be read as YAML"),
        ("- a", "holds no names"),
    ],
)
def test_bad_names_are_refused(tmp_path: Path, text: str, said: str) -> None:
    folder = write_layout(tmp_path, "yolo", **COUNTS)
    (folder / "data.yaml").write_text(text)
    with pytest.raises(DataError, match=said) as caught:
        load(folder)
    assert "data.yaml" in str(caught.value)


def test_a_damaged_picture_and_missing_folders(tmp_path: Path) -> None:
    folder = write_roboflow(tmp_path / "set", **COUNTS)
    (folder / "train/1.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"1\.png: cannot be read as an image"):
        load(folder)
    with pytest.raises(DataError, match="no such folder"):
        load(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no pictures with boxes"):
        load(tmp_path / "empty")
    with pytest.raises(UsageError, match="needs a folder"):
        load_data("detection")


@pytest.mark.parametrize("layout", ["roboflow", "voc", "xml", "yolo", "yolo inverse"])
def test_pictures_with_boxes_are_no_folders_of_classes(tmp_path: Path, layout: str) -> None:
    if layout == "roboflow":
        write_roboflow(tmp_path, **COUNTS)
    else:
        write_layout(tmp_path, layout, **COUNTS)
    with pytest.raises(DataError, match=r"pictures with boxes.*detection:"):
        load_data(f"imagefolder:{tmp_path}")


def test_captions_beside_pictures_are_no_boxes(tmp_path: Path) -> None:
    for part in ("train", "val"):
        for name in NAMES:
            for seed in range(3):
                save(tmp_path / part / name / f"{name}{seed}.png", seed + 100 * len(part + name))
                (tmp_path / part / name / f"{name}{seed}.txt").write_text("a picture\n")
    assert load_data(f"imagefolder:{tmp_path}", preprocessing=Preprocessing()).class_names == (
        "ball",
        "plate",
    )


def test_pictures_of_several_sizes_need_one(tmp_path: Path) -> None:
    folder = write_layout(tmp_path, "yolo", **COUNTS)
    Image.new("RGB", (60, 40)).save(folder / "train/images/1.png")
    with pytest.raises(DataError, match="different sizes and the network names none"):
        load(folder)
    assert load(folder, input_shape=(3, *SIZE)).input_shape == (3, *SIZE)
