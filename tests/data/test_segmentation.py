"""Semantic segmentation: layouts of pictures and masks, mean IoU against a second implementation, loss."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from mcc.data import DataModule, Preprocessing, bind_task, from_arrays, load_data
from mcc.data.augment import Augmentation
from mcc.data.loaders import DatasetSplit, from_loaders
from mcc.data.outputs import Named, Output
from mcc.data.segmentation import IGNORED, Segmentation
from mcc.errors import DataError, UsageError

SIZE = 12, 16
PALETTE = [value * 7 % 256 for value in range(3 * 256)]


def mask_of(seed: int, classes: int = 3) -> NDArray[np.uint8]:
    """Patches of 4x4 pixels of one class each; the first row of patches is ignored in some pictures."""
    chance = np.random.default_rng(seed)
    small = chance.integers(0, classes, (SIZE[0] // 4, SIZE[1] // 4))
    mask = small.repeat(4, 0).repeat(4, 1).astype(np.uint8)
    if seed % 3 == 0:
        mask[:4] = IGNORED
    return mask


def write_pair(picture: Path, mask: Path, seed: int, mode: str = "L", classes: int = 3) -> None:
    picture.parent.mkdir(parents=True, exist_ok=True)
    mask.parent.mkdir(parents=True, exist_ok=True)
    values = mask_of(seed, classes)
    shown = (values[..., None].astype(int) * (60, 30, 20)).clip(0, 255).astype(np.uint8)
    Image.fromarray(shown).save(picture)
    image = Image.fromarray(values)
    if mode == "P":
        image.putpalette(PALETTE)
    image.save(mask)


def write_parts(folder: Path, mode: str = "L", **counts: int) -> Path:
    for part, count in counts.items():
        for number in range(count):
            name = f"{part}{number}.png"
            seed = number + 100 * len(part)
            write_pair(folder / part / "images" / name, folder / part / "masks" / name, seed, mode)
    return folder


def load(folder: Path, **options: object) -> DataModule:
    return load_data(f"segmentation:{folder}", preprocessing=Preprocessing(), **options)  # type: ignore[arg-type]


# -- layouts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["L", "P"])
def test_reads_images_and_masks(tmp_path: Path, mode: str) -> None:
    write_parts(tmp_path, mode, train=6, val=3, test=4)
    data = load(tmp_path)
    assert (len(data.train), len(data.validation), len(data.test)) == (6, 3, 4)
    assert data.task == "segmentation"
    assert data.class_names == ("class 0", "class 1", "class 2")
    assert data.input_shape == (3, *SIZE)
    assert np.array_equal(data.test.targets[1], mask_of(1 + 100 * 4))


def rearranged(source: Path, target: Path, layout: str) -> Path:
    """The data set of `write_parts` in another layout."""
    names = {"train": "train", "val": "val", "test": "test"}
    for part, picture in [(p, f) for p in names for f in sorted((source / p / "images").glob("*"))]:
        mask = source / part / "masks" / picture.name
        places = {
            "inverse": (f"images/{part}/{picture.name}", f"annotations/{part}/{picture.name}"),
            "beside": (f"{part}/{picture.name}", f"{part}/{picture.stem}_mask.png"),
            "valid": (f"{part.replace('val', 'valid')}/imgs/{picture.name}",
                      f"{part.replace('val', 'valid')}/labels/{picture.stem}_label.png"),
            "voc": (f"VOCdevkit/VOC2012/JPEGImages/{picture.name}",
                    f"VOCdevkit/VOC2012/SegmentationClass/{picture.name}"),
        }[layout]  # fmt: skip
        for where, file in zip(places, (picture, mask), strict=True):
            (target / where).parent.mkdir(parents=True, exist_ok=True)
            (target / where).write_bytes(file.read_bytes())
        if layout == "voc":
            lists = target / "VOCdevkit/VOC2012/ImageSets/Segmentation"
            lists.mkdir(parents=True, exist_ok=True)
            with (lists / f"{part}.txt").open("a") as stream:
                stream.write(f"{picture.stem}\n")
    return target


@pytest.mark.parametrize("layout", ["inverse", "beside", "valid", "voc"])
def test_every_layout_gives_the_same_data(tmp_path: Path, layout: str) -> None:
    one = load(write_parts(tmp_path / "one", "P", train=4, val=2, test=3))
    other = load(rearranged(tmp_path / "one", tmp_path / "other", layout))
    for part in ("train", "validation", "test"):
        left, right = one.split(part), other.split(part)
        index = np.arange(len(left))
        assert np.array_equal(left.targets, right.targets)
        assert np.array_equal(left.inputs(index), right.inputs(index))
    assert len(other.class_names) == (21 if layout == "voc" else 3)


def test_undivided_pictures_are_held_out_with_a_remark(tmp_path: Path) -> None:
    for number in range(20):
        write_pair(tmp_path / f"images/{number:02}.png", tmp_path / f"masks/{number:02}.png", number)
    data = load(tmp_path)
    assert len(data.train) + len(data.validation) + len(data.test) == 20
    assert any("unseen-train" in warning for warning in data.warnings)


def test_names_of_classes(tmp_path: Path) -> None:
    write_parts(tmp_path, train=3, val=2)
    (tmp_path / "classes.txt").write_text("sky\nroad\ncar\ncow\n")
    assert load(tmp_path).class_names == ("sky", "road", "car", "cow")


def test_coloured_masks_with_a_map_of_labels(tmp_path: Path) -> None:
    one = load(write_parts(tmp_path / "one", train=3, val=2))
    write_parts(tmp_path / "two", train=3, val=2)
    (tmp_path / "two/labelmap.txt").write_text(
        "# label:color\nnone:0,0,0::\na:9,0,0::\nb:0,200,1::\nv:1,1,1::\n"
    )
    colours = np.zeros((256, 3), np.uint8)
    colours[[1, 2, IGNORED]] = (9, 0, 0), (0, 200, 1), (1, 1, 1)
    for mask in (tmp_path / "two").glob("*/masks/*"):
        Image.fromarray(colours[np.asarray(Image.open(mask))]).save(mask)
    two = load(tmp_path / "two")
    expected = np.where(one.train.targets == IGNORED, 3, one.train.targets)
    assert np.array_equal(two.train.targets, expected)
    assert two.class_names == ("none", "a", "b", "v")


def test_black_and_white_masks_are_two_classes(tmp_path: Path) -> None:
    write_parts(tmp_path, train=3, val=2)
    for mask in tmp_path.glob("*/masks/*"):
        values = np.asarray(Image.open(mask)) % 2
        Image.fromarray((values * 255).astype(np.uint8)).save(mask)
    data = load(tmp_path)
    assert set(np.unique(data.train.targets)) == {0, 1}
    assert any("255 is taken as the class 1" in warning for warning in data.warnings)


def test_pictures_are_seen_whole(tmp_path: Path) -> None:
    """A network of another shape sees all four corners, and masks follow by the nearest pixel."""
    write_parts(tmp_path, train=2, val=2)
    data = load(tmp_path, input_shape=(3, 6, 6))
    assert data.train.targets.shape == (2, 6, 6)
    mask = Image.fromarray(mask_of(500)).resize((6, 6), Image.Resampling.NEAREST)
    assert np.array_equal(data.train.targets[0], np.asarray(mask))


# -- bad input ---------------------------------------------------------------------------------------------


def spoil(folder: Path, fault: str) -> str:
    """Plant a fault; returns what the sentence has to name."""
    mask = folder / "train/masks/train1.png"
    if fault == "size":
        Image.fromarray(np.zeros((5, 5), np.uint8)).save(mask)
        return "train1.png"
    if fault == "class":
        (folder / "classes.txt").write_text("a\nb\n")
        return "train/masks"
    if fault == "missing":
        mask.unlink()
        return "train1.png"
    if fault == "orphan":
        (folder / "train/images/train1.png").unlink()
        return "train1.png"
    if fault == "colour":
        Image.fromarray(np.random.default_rng(0).integers(0, 99, (*SIZE, 3), np.uint8)).save(mask)
        return "train1.png"
    if fault == "lossy":
        Image.open(mask).convert("L").save(mask.with_suffix(".jpg"))
        mask.unlink()
        return "train1.jpg"
    if fault == "damaged":
        mask.write_bytes(mask.read_bytes()[:60])
        return "train1.png"
    if fault == "empty":
        for file in [*(folder / "val").rglob("*.png"), *(folder / "train").rglob("*.png")]:
            file.unlink()
        return "holds no pictures with masks"
    if fault == "no masks":
        for file in (folder / "val/masks").glob("*"):
            file.unlink()
        (folder / "val/masks").rmdir()
        return "val"
    raise AssertionError(fault)


@pytest.mark.parametrize(
    "fault", ["size", "class", "missing", "orphan", "colour", "lossy", "damaged", "empty", "no masks"]
)
def test_bad_data_is_refused_by_file(tmp_path: Path, fault: str) -> None:
    named = spoil(write_parts(tmp_path, train=3, val=2), fault)
    with pytest.raises(DataError) as caught:
        load(tmp_path)
    assert named in str(caught.value)


def test_pictures_with_masks_are_no_folders_of_classes(tmp_path: Path) -> None:
    write_parts(tmp_path, train=3, val=2)
    with pytest.raises(DataError, match=r"images/ and masks/, which are no classes.*segmentation:"):
        load_data(f"imagefolder:{tmp_path}")


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        load(tmp_path / "none")
    with pytest.raises(UsageError, match="needs a folder"):
        load_data("segmentation")


# -- the task ----------------------------------------------------------------------------------------------


def outputs_of(logits: NDArray[np.float32]) -> Named[NDArray[np.float32]]:
    return Named((logits,), (Output("logits", logits.shape),))


def second_mean_iou(predicted: NDArray[np.int64], masks: NDArray[np.int64], classes: int) -> float:
    """Mean IoU pixel by pixel, with sets."""
    shares: list[float] = []
    for number in range(classes):
        both = either = 0
        for at in itertools.product(*map(range, masks.shape)):
            if masks[at] == IGNORED:
                continue
            says, is_ = predicted[at] == number, masks[at] == number
            both += says and is_
            either += says or is_
        if either:
            shares.append(both / either)
    return sum(shares) / len(shares)


@pytest.mark.parametrize("classes", [3, 5])
def test_mean_iou_is_that_of_a_second_implementation(classes: int) -> None:
    chance = np.random.default_rng(classes)
    masks = np.stack([mask_of(seed).astype(np.int64) for seed in range(4)])
    logits = chance.normal(size=(4, classes, *SIZE)).astype(np.float32)
    task = Segmentation()
    statistics = task.measure(outputs_of(logits), masks)
    expected = second_mean_iou(logits.argmax(1), masks, classes)
    assert task.figure(statistics) == pytest.approx(expected, abs=1e-12)
    score = task.summarise(statistics)
    assert 0 <= score.low <= score.value <= score.high <= 1


def test_right_and_wrong_answers() -> None:
    masks = np.stack([mask_of(seed).astype(np.int64) for seed in (0, 1, 2)])
    right = np.eye(3, dtype=np.float32)[np.where(masks == IGNORED, 0, masks)].transpose(0, 3, 1, 2)
    task = Segmentation()
    assert task.figure(task.measure(outputs_of(right), masks)) == 1.0
    assert task.figure(task.measure(outputs_of(-right), masks)) < 0.3
    assert task.chance(task.measure(outputs_of(right), masks), masks, ("a", "b", "c"), masks) is None
    constant = np.zeros_like(right)
    constant[:, 1] = 1
    said = task.chance(task.measure(outputs_of(constant), masks), masks, ("a", "b", "c"), masks)
    assert said is not None
    assert "calling every pixel" in said


def test_smaller_maps_are_enlarged() -> None:
    masks = torch.from_numpy(mask_of(1).astype(np.int64))[None]
    small = torch.randn(1, 3, 3, 4, generator=torch.Generator().manual_seed(0))
    large = nn.functional.interpolate(small, SIZE, mode="bilinear", align_corners=False)
    task = Segmentation()
    assert torch.equal(task.loss([small], masks), task.loss([large], masks))
    pair = [task.measure(outputs_of(each.numpy()), masks.numpy()) for each in (small, large)]
    assert np.array_equal(*pair)


def test_losses() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 3, *SIZE, generator=generator, requires_grad=True)
    other = torch.randn(2, 3, *SIZE, generator=generator)
    masks = torch.stack([torch.from_numpy(mask_of(seed).astype(np.int64)) for seed in (0, 1)])
    task = Segmentation()
    plain = nn.functional.cross_entropy(logits, masks, ignore_index=IGNORED)
    assert task.loss([logits], masks).item() == pytest.approx(plain.item(), rel=1e-6)
    ignored = torch.full_like(masks, IGNORED)
    assert task.loss([logits], ignored).item() == 0.0
    assert task.divergence([other], [other]).item() == 0.0
    assert task.divergence([logits], [other]).item() > 0.1
    task.distillation_loss([logits], [other], masks).backward()
    assert logits.grad is not None
    assert bool(torch.isfinite(logits.grad).all())
    assert np.array_equal(task.agreement(outputs_of(other.numpy()), outputs_of(other.numpy())), [1, 1])


def test_masks_move_with_their_pictures() -> None:
    """A picture that shows its own mask still does after any variation."""
    masks = np.stack([mask_of(seed) for seed in range(40)])
    index = np.arange(40)
    moves = Augmentation(5, mirror=True).moves(SIZE, index, seed=3, epoch=2)
    assert moves.mirrored.any()
    assert not moves.mirrored.all()
    pictures = moves.apply(masks[:, None], (IGNORED,))[:, 0]
    assert np.array_equal(pictures, Segmentation().moved(masks, moves))
    assert not np.array_equal(pictures, masks)


def test_training_batches_hold_pictures_with_their_masks(tmp_path: Path) -> None:
    data = load(write_parts(tmp_path, train=6, val=2))
    batch = next(data.batches("train", 6, seed=1))
    shown = np.round(batch.inputs[:, 0] * 255 / 60)  # type: ignore[call-overload]
    labelled = batch.targets != IGNORED
    assert np.array_equal(shown[labelled], batch.targets[labelled])
    assert not np.array_equal(batch.targets, next(data.batches("train", 6, seed=1, augment=False)).targets)


def test_masks_in_arrays_move_with_their_pictures() -> None:
    masks = np.stack([mask_of(seed) for seed in range(6)])
    images = (masks[:, None] % 3 * 100).astype(np.uint8)
    others = np.random.default_rng(0).integers(0, 256, (2, 1, *SIZE), np.uint8)
    data = from_arrays(
        (images, masks), (others, masks[:2]), class_names=("a", "b", "c"), task="segmentation",
        augmentation=Augmentation(4), preprocessing=Preprocessing((0.0,), (1.0,)),
    )  # fmt: skip
    batch = next(data.batches("train", 6, seed=2))
    shown = np.round(batch.inputs[:, 0] * 2.55)  # type: ignore[call-overload]
    labelled = batch.targets != IGNORED
    assert np.array_equal(shown[labelled], batch.targets[labelled])
    assert (~labelled).sum() > (masks == IGNORED).sum()


class Pairs(torch.utils.data.Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Random crops that move the picture and the mask together, as torchvision's v2 transforms do."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        if not 0 <= index < 8:
            raise IndexError(index)
        mask = torch.from_numpy(mask_of(index + 1).astype(np.int64) % 3).roll(int(torch.randint(9, ())), 1)
        return mask[None].float().repeat(3, 1, 1), mask


def test_a_torch_data_set_varies_both() -> None:
    data = from_loaders(
        Pairs(), Pairs(), validation=Pairs(), class_names=("a", "b", "c"), task="segmentation"
    )
    for epoch in range(3):
        batch = next(data.batches("train", 8, seed=0, epoch=epoch))
        assert np.array_equal(batch.inputs[:, 0].astype(np.int64), batch.targets)  # type: ignore[call-overload]


class Described(Pairs):
    """Its targets are listed, and its items come with something else besides."""

    targets = tuple((float(place), 0.0) for place in range(8))

    def __getitem__(self, index: int) -> tuple[torch.Tensor, Any]:
        return super().__getitem__(index)[0], {"name": index}


def test_reading_inputs_leaves_the_targets_of_items_alone() -> None:
    split = DatasetSplit(Described(), np.arange(8), np.asarray(Described.targets), "described")
    assert split.inputs(np.arange(8)).shape == (8, 3, *SIZE)
    assert split.augmented(np.arange(2), seed=1, epoch=0).shape == (2, 3, *SIZE)


def test_binds_to_the_map_of_classes(tmp_path: Path) -> None:
    data = load(write_parts(tmp_path, train=4, val=2))
    maps, other = Output("out", (1, 3, *SIZE)), Output("aux", (1, 3, *SIZE))
    assert bind_task(data, [Output("x", (1, 3)), maps, other]).output == 1
    with pytest.raises(DataError, match="no output of the network is a map"):
        bind_task(data, [Output("out", (1, 4, *SIZE))])
    with pytest.raises(DataError, match="no output of the network is a map"):
        bind_task(data, [Output("out", (1, 3))])
