import numpy as np
import pytest

from mcc.data import Augmentation, DataModule, MemoryImages, Preprocessing, assemble, from_arrays
from mcc.data.augment import epoch_order
from mcc.data.held_out import hold_out, validation_count
from mcc.data.split import ImageSplit
from mcc.errors import DataError
from tests.data.samples import labels, module, pixels


def members(split: object) -> set[int]:
    assert isinstance(split, ImageSplit)
    return set(split.members.tolist())


def test_each_training_image_comes_once_in_an_epoch() -> None:
    data = module(60)
    seen = [epoch_order(48, 3, 0), epoch_order(48, 3, 1), epoch_order(48, 4, 0)]
    assert all(sorted(order.tolist()) == list(range(48)) for order in seen)
    assert not np.array_equal(seen[0], seen[1])
    assert not np.array_equal(seen[0], seen[2])
    whole = np.concatenate([b.inputs for b in data.batches("train", 12, augment=False)])
    expected = data.train.inputs(epoch_order(48, 0, 0))
    assert np.array_equal(whole, expected)


@pytest.mark.parametrize("step0", [1, 4, 7, 11])
def test_resumed_training_equals_uninterrupted_bit_for_bit(step0: int) -> None:
    data = module(60)
    whole = list(data.training(12, seed=5, steps=12))
    rest = list(data.training(12, seed=5, steps=12, step0=step0))
    assert [b.step for b in whole] == list(range(12))
    assert [b.step for b in rest] == list(range(step0, 12))
    for one, other in zip(whole[step0:], rest, strict=True):
        assert one.inputs.tobytes() == other.inputs.tobytes()
        assert one.targets.tobytes() == other.targets.tobytes()
    # It bites: another step, another epoch and another seed give other pixels.
    assert len({b.inputs.tobytes() for b in whole}) == 12
    assert next(iter(data.training(12, seed=6, steps=1))).inputs.tobytes() != whole[0].inputs.tobytes()


def test_evaluation_splits_come_whole_and_in_order() -> None:
    data = module(60)
    batches = list(data.batches("test", 5))
    assert [len(b.targets) for b in batches] == [5, 5, 2]
    assert np.array_equal(np.concatenate([b.targets for b in batches]), labels(12, 3))
    assert batches[0].inputs.dtype == np.float32
    assert batches[0].inputs.shape == (5, 3, 8, 8)
    assert sum(len(b.targets) for b in data.batches("test", 5, limit=7)) == 7


def test_training_gives_whole_batches_only_but_never_none() -> None:
    data = module(60)
    assert [len(b.targets) for b in data.batches("train", 20)] == [20, 20]
    assert data.steps_per_epoch(20) == 2
    assert [len(b.targets) for b in data.batches("train", 500)] == [48]
    assert data.steps_per_epoch(500) == 1


def test_validation_is_held_out_in_proportion_and_not_by_the_seed() -> None:
    one, other = (make(seed) for seed in (0, 1))
    train, validation = members(one.train), members(one.validation)
    assert not train & validation
    assert len(train | validation) == 6000
    assert members(other.train) == train, (
        "a network trained with one seed must never have seen another's validation"
    )
    assert np.bincount(one.validation.targets).tolist() == [60] * 10
    assert members(one.calibration) <= train
    assert len(members(one.calibration)) == 512
    assert members(one.calibration) != members(other.calibration)
    assert one.digest() != other.digest()
    assert one.digest() == make(0).digest()


def make(seed: int) -> DataModule:
    images, test = (MemoryImages(pixels(6000, place, (1, 2, 2))) for place in range(2))
    return assemble(
        "made", (images, labels(6000)), (test, labels(6000)), class_names=tuple("0123456789"),
        input_shape=(1, 2, 2), preprocessing=Preprocessing(), seed=seed, augmentation=None,
        train_unseen=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("images", "expected"), [(50_000, 5000), (1438, 287), (3000, 500), (10, 2), (200_000, 5000)]
)
def test_validation_count(images: int, expected: int) -> None:
    assert validation_count(images) == expected


def test_hold_out_takes_its_share_of_each_class() -> None:
    skewed = np.repeat(np.arange(3), [80, 15, 5]).astype(np.int64)
    kept, held = hold_out(skewed, 20)
    assert np.bincount(skewed[held]).tolist() == [16, 3, 1]
    assert sorted([*kept.tolist(), *held.tolist()]) == list(range(100))


def test_indexing_gives_image_and_label() -> None:
    data = module(60)
    image, label = data.test[-1]
    assert image.shape == (3, 8, 8)
    assert int(label) == 2
    assert np.array_equal(image, data.test.inputs(np.array([11]))[0])
    with pytest.raises(IndexError, match="image 12 of 12"):
        data.test[12]


def test_a_variation_depends_on_seed_epoch_and_place_but_not_on_the_batch() -> None:
    split = module(60).train
    alone = split.augmented(np.array([7]), seed=1, epoch=2)
    among = split.augmented(np.array([3, 7, 9]), seed=1, epoch=2)
    assert np.array_equal(alone[0], among[1])
    others = [split.augmented(np.arange(48), seed=s, epoch=e) for s, e in ((1, 2), (1, 3), (2, 2))]
    assert not np.array_equal(others[0], others[1])
    assert not np.array_equal(others[0], others[2])


def test_augmentation_shifts_and_mirrors_and_fills() -> None:
    image = np.arange(1, 37, dtype=np.uint8).reshape(1, 1, 6, 6)
    count = 400
    varied = Augmentation(shift=1, mirror=True).apply(
        np.repeat(image, count, 0), np.arange(count), seed=0, epoch=0, fill=(99,)
    )
    padded = np.pad(image[0, 0], 1, constant_values=99)
    expected = {
        padded[r : r + 6, c : c + 6][:, ::way].tobytes()
        for r in range(3)
        for c in range(3)
        for way in (1, -1)
    }
    counts: dict[bytes, int] = {}
    for picture in varied:
        counts[picture[0].tobytes()] = counts.get(picture[0].tobytes(), 0) + 1
    assert set(counts) == expected, "all eighteen variations and nothing else"
    assert max(counts.values()) < 3 * count / 18


def test_no_shift_and_no_mirror_changes_nothing() -> None:
    images = pixels(5)
    same = Augmentation(0, mirror=False).apply(images, np.arange(5), seed=0, epoch=0, fill=(0, 0, 0))
    assert np.array_equal(same, images)


def test_moved_images_show_the_mean_behind_them() -> None:
    split = ImageSplit(
        MemoryImages(np.full((1, 3, 4, 4), 255, np.uint8)), np.array([0]), np.array([0]),
        Preprocessing((0.2, 0.4, 0.6), (1.0, 1.0, 1.0)), (3, 4, 4), Augmentation(2),
    )  # fmt: skip
    for epoch in range(6):
        values = set(
            split.augmented(np.array([0]), seed=0, epoch=epoch).astype(np.float64).round(5).ravel().tolist()
        )
        assert values <= {0.8, 0.6, 0.4, 0.0}


def test_data_that_cannot_be_is_refused_in_a_sentence() -> None:
    good = (pixels(10, shape=(3, 8, 8)), labels(10, 3))
    with pytest.raises(DataError, match="labels run from 0 to 2 and there are 2 classes"):
        from_arrays(good, good, class_names=("a", "b"))
    with pytest.raises(DataError, match="at least two classes"):
        from_arrays(good, good, class_names=("a",))
    with pytest.raises(DataError, match="no images for the test split"):
        from_arrays(good, (good[0][:0], good[1][:0]), class_names=("a", "b", "c"))
    with pytest.raises(DataError, match="takes 1 channels and the images have 3"):
        from_arrays(good, good, class_names=("a", "b", "c"), input_shape=(1, 8, 8))
    with pytest.raises(DataError, match="10 images and 9 labels"):
        ImageSplit(MemoryImages(good[0]), np.arange(10), good[1][:9], Preprocessing(), (3, 8, 8))
