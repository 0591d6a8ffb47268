"""Data as people bring it: every kind gives what bytes and numbered classes give, or one sentence."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from mcc.data import DataModule, MemoryImages, Preprocessing, from_arrays, load_data
from mcc.data.picture import Fit, greatest, read_head
from mcc.errors import DataError, MccError, UsageError
from tests.data.samples import labels, pixels, write_folder

NAMES = ("a", "b", "c")
IMAGES, LABELS = pixels(30, 1, (3, 8, 8)), labels(30, 3)
TEST = (pixels(12, 2, (3, 8, 8)), labels(12, 3))
Make = Callable[[Any, Any], Any]


def made(images: Any, classes: Any, names: Any = NAMES, **more: Any) -> DataModule:
    return from_arrays((images, classes), TEST, class_names=names, **more)


BYTES = made(IMAGES, LABELS).train.inputs(np.arange(30))

SAME: dict[str, tuple[Any, Any]] = {
    "floats from 0 to 1": (IMAGES / 255.0, LABELS),
    "float32 from 0 to 1": ((IMAGES / 255.0).astype(np.float32), LABELS),
    "floats from 0 to 255": (IMAGES.astype(np.float32), LABELS),
    "wide integers": (IMAGES.astype(np.int64), LABELS),
    "a list": (IMAGES.tolist(), LABELS.tolist()),
    "tensors": (torch.from_numpy(IMAGES), torch.from_numpy(LABELS)),
    "strided": (IMAGES.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2), LABELS),
    "one-hot": (IMAGES, np.eye(3)[LABELS]),
    "one-hot of booleans": (IMAGES, np.eye(3, dtype=bool)[LABELS]),
    "whole float labels": (IMAGES, LABELS.astype(np.float32)),
    "labels in a column": (IMAGES, LABELS[:, None]),
    "small unsigned labels": (IMAGES, LABELS.astype(np.uint8)),
}


@pytest.mark.parametrize("kind", SAME)
def test_what_can_be_meant_in_one_way_is_read_in_that_way(kind: str) -> None:
    data = made(*SAME[kind])
    assert np.array_equal(data.train.inputs(np.arange(30)), BYTES)
    assert data.train.targets.dtype == np.int64
    assert np.array_equal(data.train.targets, LABELS)


def test_floats_that_bytes_would_round_are_kept() -> None:
    exact = np.random.default_rng(0).random((30, 3, 8, 8)).astype(np.float32)
    for scale in (1.0, 255.0):
        kept = made(exact * np.float32(scale), LABELS).train
        assert np.allclose(kept.inputs(np.arange(30)), exact, rtol=0, atol=1e-6)
        assert kept.augmented(np.arange(4), seed=0, epoch=0).max() <= 1
    black_and_white = IMAGES > 127
    assert set(np.unique(made(black_and_white, LABELS).train.inputs(np.arange(30)))) == {0.0, 1.0}


def changed(values: Any, place: Any, value: Any) -> Any:
    values = values.copy()
    values[place] = value
    return values


REFUSED: dict[str, tuple[Any, Any, str]] = {
    "normalised": (IMAGES / 127.5 - 1.0, LABELS, "run from -1 to 1, which is neither 0 to 255 nor 0 to 1"),
    "divided twice": (IMAGES / 255.0**2, LABELS, "they would be black"),
    "bytes of a division": ((IMAGES / 255).astype(np.uint8), LABELS, "they would be black"),
    "floats on a scale of 16": (IMAGES / 16.0, LABELS, "they would be black; give bytes from 0 to 255"),
    "16 bits": (IMAGES.astype(np.uint16) * 257, LABELS, "which is neither 0 to 255"),
    "signed bytes": (IMAGES.astype(np.int8), LABELS, "run from -128 to 127"),
    "not a number": (changed(IMAGES / 255, (7, 0, 0, 0), np.nan), LABELS, "not finite, image 7 first"),
    "infinite": (changed(IMAGES / 255, (7, 0, 0, 0), np.inf), LABELS, "not finite, image 7 first"),
    "complex": (IMAGES * 1j, LABELS, "of the kind complex128, not numbers"),
    "objects": (np.array([None] * 30), LABELS, "of the kind object, not numbers"),
    "ragged": ([[1, 2], [3]], LABELS, "are no array"),
    "a tensor with a gradient": (torch.rand(30, 3, 8, 8, requires_grad=True), LABELS, "are no array"),
    "file names": (np.array(["a.png"] * 30), LABELS, "not numbers"),
    "channels last": (IMAGES.transpose(0, 2, 3, 1), LABELS, "with the channels last; give"),
    "grey without its axis": (IMAGES[:, 0], LABELS, r"images[:, None]"),
    "flat": (IMAGES.reshape(30, -1), LABELS, "the shape [30, 192]"),
    "no pixels": (IMAGES[:, :, :0], LABELS, "the shape [30, 3, 0, 8]"),
    "no images": (IMAGES[:0], LABELS[:0], "no images for the train split"),
    "fewer labels": (IMAGES, LABELS[:24], "the 30 train images have 24 labels"),
    "more labels": (IMAGES[:24], LABELS, "the 24 train images have 30 labels"),
    "no label": (IMAGES, None, "of the kind object"),
    "one label": (IMAGES, 1, "have 1 labels"),
    "labels from -1": (IMAGES, LABELS - 1, "run from -1 to 1 and there are 3 classes"),
    "labels from 1": (IMAGES, LABELS + 1, "run from 1 to 3 and there are 3 classes; number the classes"),
    "huge labels": (IMAGES, LABELS.astype(np.uint64) + np.uint64(2**63), "there are 3 classes"),
    "labels between": (IMAGES, LABELS + 0.5, "hold 0.5, which is no class"),
    "labels that are no numbers": (IMAGES, np.full(30, np.nan), "hold nan, which is no class"),
    "names for labels": (IMAGES, np.array(NAMES)[LABELS], "give the place of each class in class_names"),
    "objects for labels": (IMAGES, LABELS.astype(object), "of the kind object"),
    "soft labels": (IMAGES, np.full((30, 3), 1 / 3), "shares of 3 classes"),
    "several classes each": (IMAGES, np.ones((30, 3)), "shares of 3 classes"),
    "one-hot of other classes": (IMAGES, np.eye(5)[LABELS], "the shape [30, 5]"),
    "masks for labels": (IMAGES, np.zeros((30, 8, 8), np.int64), "the shape [30, 8, 8]"),
    "no images for the test": (IMAGES, LABELS, "no images for the test split"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_can_be_meant_in_two_ways_or_none_is_refused_in_a_sentence(kind: str) -> None:
    images, classes, sentence = REFUSED[kind]
    test = (TEST[0][:0], TEST[1][:0]) if kind == "no images for the test" else TEST
    with pytest.raises(DataError) as caught:
        from_arrays((images, classes), test, class_names=NAMES)
    assert sentence in str(caught.value)
    assert str(caught.value).startswith("arrays: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", ["test", "validation"])
def test_every_part_is_looked_at(part: str) -> None:
    parts: dict[str, Any] = {"train": (IMAGES, LABELS), "test": TEST}
    parts[part] = (TEST[0], TEST[1] + 5)
    with pytest.raises(DataError, match=f"the {part} labels run from 5 to 7"):
        from_arrays(**parts, class_names=NAMES)
    parts[part] = TEST[0]
    with pytest.raises(DataError, match=f"the {part} part is ndarray, not images with their labels"):
        from_arrays(**parts, class_names=NAMES)


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ("abc", "class_names is 'abc'"),
        (3, "class_names is 3"),
        ((0, 1, 2), r"class_names is \(0, 1, 2\)"),
        (("a", "b", "a"), "class_names holds 'a' more than once"),
        (("a", "b"), "labels run from 0 to 2 and there are 2 classes"),
        (("a",), "at least two classes, not 1"),
        ((), "at least two classes, not 0"),
    ],
)
def test_class_names_are_one_for_each_class(names: Any, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        made(IMAGES, LABELS, names)
    assert made(IMAGES, LABELS, list(NAMES)).class_names == NAMES


# -- splits of a user's own ----------------------------------------------------------------------------------


class Mine:
    """A split as documented, of vectors; what it gives can be spoilt."""

    def __init__(self, count: int, seed: int) -> None:
        self.targets: Any = np.arange(count, dtype=np.int64) % 3
        self.values: Any = np.random.default_rng(seed).standard_normal((count, 1, 40)).astype(np.float32)
        self.raises = False

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> Any:
        return self.values[index], self.targets[index]

    def inputs(self, index: Any) -> Any:
        if self.raises:
            raise KeyError("no such file")
        return self.values[index]

    def augmented(self, index: Any, *, seed: int, epoch: int) -> Any:
        return self.inputs(index)


def by_hand(
    spoil: Callable[[Mine], Any] = lambda _: None, part: str = "validation", **more: Any
) -> DataModule:
    parts: dict[str, Any] = {
        name: Mine(12, seed) for seed, name in enumerate(("train", "calibration", "validation", "test"))
    }
    spoilt = spoil(parts[part])
    parts[part] = spoilt if spoilt is not None else parts[part]
    given: dict[str, Any] = {
        "name": "mine", **parts, "class_names": NAMES, "input_shape": (1, 40),
        "preprocessing": Preprocessing(),
    }  # fmt: skip
    return DataModule(**(given | more))


def setting(**values: Any) -> Callable[[Mine], None]:
    def spoil(part: Mine) -> None:
        for name, value in values.items():
            old = getattr(part, name)
            setattr(part, name, value(old) if callable(value) else value)

    return spoil


SPOILT: dict[str, tuple[Callable[[Mine], Any], str]] = {
    "double": (setting(values=lambda v: v.astype(np.float64)), "inputs of the {} split are float64"),
    "tensors": (setting(values=torch.from_numpy), "inputs of the {} split are torch.float32, not an array"),
    "not a number": (setting(values=lambda v: v * np.nan), "inputs of the {} split hold values that are not"),
    "another shape": (setting(values=lambda v: v[..., :30]), r"\{} split come as \[2, 1, 30\], not as"),
    "fewer than asked": (lambda part: setattr(part, "inputs", lambda _: part.values[:1]), r"\[1, 1, 40\]"),
    "fails": (setting(raises=True), r"reading the {} split fails \(KeyError"),
    "float targets": (setting(targets=lambda t: t + 0.5), "targets of the {} split are float64"),
    "a list of targets": (setting(targets=lambda t: t.tolist()), "targets of the {} split are list"),
    "fewer targets": (setting(targets=lambda t: t[:5]), "the {} split has 12 inputs and 5 targets"),
    "one-hot": (setting(targets=lambda t: np.eye(3, dtype=int)[t]), r"the shape \[12, 3\], not one class"),
    "classes beyond": (setting(targets=lambda t: t + 1), "run from 1 to 3 and there are 3 classes"),
    "empty": (setting(values=lambda v: v[:0]), "no images for the {} split"),
    "a pair": (lambda part: (part.values, part.targets), "the {} split is tuple, which lacks targets"),
    "a dataset of torch": (
        lambda part: torch.utils.data.TensorDataset(torch.from_numpy(part.values)), "which lacks targets"
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", SPOILT)
@pytest.mark.parametrize("part", ["train", "validation"])
def test_what_comes_out_of_a_split_is_looked_at_and_named(kind: str, part: str) -> None:
    spoil, sentence = SPOILT[kind]
    assert by_hand().chosen_on == ""
    with pytest.raises(DataError, match=sentence.replace("{}", part).replace("\\" + part, part)):
        by_hand(spoil, part)


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_in_the_middle_that_is_not_finite_is_found_when_it_is_read(split: Any, value: float) -> None:
    data = by_hand(lambda part: part.values.__setitem__((5, 0, 0), value), split)
    with pytest.raises(DataError, match=f"inputs of the {split} split hold values that are not finite"):
        list(data.batches(split, 4))


def test_networks_without_channels_say_their_shape_with_the_batch() -> None:
    assert by_hand(input_shape=(1, 1, 40)).input_shape == (1, 1, 40)
    with pytest.raises(DataError, match=r"come as \[2, 1, 40\], not as \[2, 1, 50\]"):
        by_hand(input_shape=(1, 50))


def test_targets_that_are_no_classes_are_left_to_their_task() -> None:
    points = setting(targets=lambda t: np.stack([t, t], 1) * 100)
    data = by_hand(points, "test", task="tests.nowhere:TASK", class_names=())
    assert data.test.targets.max() == 200


# -- parts that share images ---------------------------------------------------------------------------------


def test_a_test_among_the_training_images_is_said() -> None:
    data = from_arrays((IMAGES, LABELS), (IMAGES, LABELS), class_names=NAMES)
    assert data.warnings[0].startswith("15 of the 15 test images are among the training images")
    assert made(IMAGES, LABELS).warnings == ()


def test_images_for_choices_and_for_the_report_are_others() -> None:
    with pytest.raises(DataError, match="12 of the 12 test images are among the validation images, so that"):
        made(IMAGES, LABELS, validation=(TEST[0].copy(), TEST[1]))
    data = by_hand()
    with pytest.raises(DataError, match="the test images are the validation images"):
        replace(data, validation=data.test)
    same = Mine(12, 3)
    with pytest.raises(DataError, match="the test images are the validation images"):
        by_hand(lambda _: same)


def test_images_in_memory_are_on_the_scale_of_bytes() -> None:
    for wrong in (IMAGES / 255.0, (IMAGES / 255.0).astype(np.float32), IMAGES[0]):
        with pytest.raises(DataError, match=r"from_arrays|not uint8"):
            MemoryImages(wrong)


# -- networks and factories ----------------------------------------------------------------------------------


def test_networks_with_channels_last_are_told_how_to_take_pictures(tmp_path: Path) -> None:
    write_folder(tmp_path, {"train": 4, "test": 4}, size=(24, 20))
    with pytest.raises(DataError, match=r"takes 24x20x3, channels last.*permute"):
        load_data(f"imagefolder:{tmp_path}", input_shape=(1, 24, 20, 3))
    with pytest.raises(DataError, match="takes 5 channels, and pictures have 1, 3 or 4"):
        load_data(f"imagefolder:{tmp_path}", input_shape=(1, 5, 24, 20))


def test_what_a_factory_says_of_its_input_is_a_preprocessing() -> None:
    wrong: Any = "imagenet"
    with pytest.raises(UsageError, match=r"says of its input is str; return a mcc\.data\.Preprocessing"):
        load_data("digits", preprocessing=wrong)


def test_a_factory_of_data_imports_its_neighbour_at_once_or_later(tmp_path: Path) -> None:
    (tmp_path / "beside_data.py").write_text("COUNT = 64\n")
    (tmp_path / "later_data.py").write_text("SHIFT = 1\n")
    file = tmp_path / "mine.py"
    file.write_text(
        "from beside_data import COUNT\nfrom tests.data.samples import module\n"
        "def make():\n    from later_data import SHIFT\n    return module(COUNT, SHIFT)\n"
    )
    assert len(load_data(f"{file}:make").train) == 52
    file.write_text("import sys\nsys.exit(3)\n")
    with pytest.raises(MccError, match="cannot be imported: SystemExit: 3"):
        load_data(f"{file}:make")


def test_a_factory_that_holds_out_itself_is_not_told_that_training_images_are_unseen(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from tests.data.samples import module\n"
        "def make():\n    return module(60)\n"
        "def told(train_unseen):\n    assert train_unseen\n    return module(60)\n"
    )
    with pytest.raises(
        UsageError, match="says itself what its validation images are; leave out unseen-train:"
    ):
        load_data(f"unseen-train:{file}:make")
    assert len(load_data(f"unseen-train:{file}:told").test) == 12
    assert len(load_data(f"{file}:make", train_unseen=True).test) == 12


# -- pictures ------------------------------------------------------------------------------------------------

GREY = np.random.default_rng(3).integers(20, 236, (9, 7)).astype(np.uint8)
COLOUR = np.random.default_rng(4).integers(0, 256, (9, 7, 3)).astype(np.uint8)
OPACITY = np.random.default_rng(5).integers(0, 256, (9, 7, 1)).astype(np.uint8)


def read(path: Path, channels: int) -> np.ndarray:
    return Fit((9, 7), 1.0, channels).decode(path)


def test_sixteen_bits_keep_their_upper_eight(tmp_path: Path) -> None:
    for name in ("a.png", "a.tif", "a.pgm"):
        Image.fromarray(GREY.astype(np.uint16) * 257).save(tmp_path / name)
        assert np.array_equal(read(tmp_path / name, 1)[0], GREY), name
        assert np.array_equal(read(tmp_path / name, 3)[2], GREY), name
        assert greatest(tmp_path / name) == int(GREY.max()) * 257


def test_fewer_bits_in_sixteen_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, {"train": 3, "test": 3})
    for place in (tmp_path / "train").rglob("*.png"):
        Image.fromarray(np.full((12, 12), 4095, np.uint16)).save(place)
    with pytest.raises(
        DataError, match="16-bit pictures whose greatest value is 4,095 of 65,535: they would"
    ):
        load_data(f"imagefolder:{tmp_path}")


@pytest.mark.parametrize(("values", "word"), [(np.float32, "floats"), (np.int32, "32-bit numbers")])
def test_numbers_without_a_white_are_refused(tmp_path: Path, values: Any, word: str) -> None:
    Image.fromarray(GREY.astype(values)).save(tmp_path / "a.tif")
    for channels in (1, 3, 4):
        with pytest.raises(DataError, match=rf"a\.tif: holds {word}, which have no white"):
            read(tmp_path / "a.tif", channels)


def test_opacity_is_read_where_the_network_takes_it(tmp_path: Path) -> None:
    Image.fromarray(np.concatenate([COLOUR, OPACITY], 2)).save(tmp_path / "a.png")
    whole = np.concatenate([COLOUR, OPACITY], 2).transpose(2, 0, 1)
    assert np.array_equal(read(tmp_path / "a.png", 4), whole)
    assert np.array_equal(read(tmp_path / "a.png", 3), whole[:3])
    Image.fromarray(COLOUR).save(tmp_path / "b.png")
    assert (read(tmp_path / "b.png", 4)[3] == 255).all()
    folder = write_folder(tmp_path / "folder", {"train": 3, "test": 3})
    assert (
        load_data(f"imagefolder:{folder}", input_shape=(1, 4, 12, 12)).train.inputs(np.arange(2)).shape[1]
        == 4
    )


def test_pictures_of_every_kind_are_read_as_pillow_reads_them(tmp_path: Path) -> None:
    rgb = Image.fromarray(COLOUR)
    rgb.convert("CMYK").save(tmp_path / "cmyk.tif")
    assert np.abs(read(tmp_path / "cmyk.tif", 3).astype(int) - COLOUR.transpose(2, 0, 1)).max() <= 1
    assert read(tmp_path / "cmyk.tif", 4).shape == (4, 9, 7)
    rgb.quantize(200).save(tmp_path / "palette.png", transparency=bytes(range(200)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read(tmp_path / "palette.png", 3)
    assert np.array_equal(found, np.asarray(rgb.quantize(200).convert("RGB")).transpose(2, 0, 1))
    rgb.save(tmp_path / "many.png", save_all=True, append_images=[Image.new("RGB", rgb.size)])
    assert np.array_equal(read(tmp_path / "many.png", 3), COLOUR.transpose(2, 0, 1))
    Image.fromarray(GREY > 128).save(tmp_path / "bits.png")
    assert set(np.unique(read(tmp_path / "bits.png", 1))) == {0, 255}


@pytest.mark.parametrize("orientation", range(9))
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
def test_a_picture_is_turned_upright_as_apps_show_it(tmp_path: Path, orientation: int, suffix: str) -> None:
    note = Image.Exif()
    note[0x0112] = orientation  # 0 is none of the eight, and ignored
    file = tmp_path / f"held{suffix}"
    Image.fromarray(COLOUR).save(file, exif=note)
    with Image.open(file) as stored:
        shown = ImageOps.exif_transpose(stored).convert("RGB")
    size = read_head(file).size
    assert size == (shown.height, shown.width)
    assert size == (COLOUR.shape[:2][::-1] if orientation > 4 else COLOUR.shape[:2])
    assert np.array_equal(Fit(size, 1.0, 3).decode(file), np.asarray(shown).transpose(2, 0, 1))


def test_a_damaged_note_of_a_camera_is_ignored(tmp_path: Path) -> None:
    Image.fromarray(COLOUR).save(tmp_path / "held.png", exif=b"Exif\0\0MM\0*\0\0\xff\xff\xff\xff")
    assert np.array_equal(read(tmp_path / "held.png", 3), COLOUR.transpose(2, 0, 1))


def test_a_picture_too_large_for_memory_is_refused_by_its_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path, {"train": 3, "test": 3})
    Image.new("L", (40, 30)).save(tmp_path / "test" / "dog" / "large.png")
    for limit in (1000, 300):  # Pillow warns of the first, and fails at twice it
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(DataError, match=rf"large\.png: has more than {limit:,} pixels; scale it down"):
            load_data(f"imagefolder:{tmp_path}", preprocessing=Preprocessing(size=(8, 8)))


def test_a_line_of_pixels_does_not_fill_the_memory(tmp_path: Path) -> None:
    Image.new("RGB", (30_000, 1), (9, 9, 9)).save(tmp_path / "line.png")
    assert (
        Fit((224, 224), 1.0, 3).decode(tmp_path / "line.png") == 9
    ).all()  # else 30,000 x 224 x 224 pixels


def test_files_that_are_no_pictures_are_left_out(tmp_path: Path) -> None:
    import os

    write_folder(tmp_path, {"train": 3, "test": 4})
    inside = tmp_path / "train" / "cat"
    (inside / "._000.jpg").write_bytes(b"\0\5\26\7")
    (inside / "Thumbs.db").write_text("x")
    (inside / "folder.png").mkdir()
    os.mkfifo(inside / "pipe.png")
    data = load_data(f"imagefolder:{tmp_path}")
    assert len(data.train) == 6
    for picture in (tmp_path / "train" / "dog").iterdir():
        picture.unlink()
    with pytest.raises(DataError, match="holds no training images of the class 'dog'"):
        load_data(f"imagefolder:{tmp_path}")
