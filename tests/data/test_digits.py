import numpy as np

from mcc.data import Preprocessing, load_data
from mcc.data.split import ImageSplit


def test_digits_have_their_size_and_splits() -> None:
    data = load_data("digits")
    assert (len(data.train), len(data.calibration), len(data.validation), len(data.test)) == (
        1151,
        512,
        287,
        359,
    )
    assert data.input_shape == (3, 32, 32)
    assert len(data.class_names) == 10
    assert all(len(np.unique(data.split(name).targets)) == 10 for name in ("train", "validation", "test"))


def test_the_stated_mean_and_deviation_are_those_of_the_training_images() -> None:
    train = load_data("digits").train
    values = train.inputs(np.arange(len(train)))[:, 0].astype(np.float64)
    assert abs(values.mean()) < 0.01
    assert abs(values.std() - 1) < 0.1


def test_grey_is_repeated_to_the_networks_channels() -> None:
    colour = load_data("digits", input_shape=(1, 3, 32, 32)).test.inputs(np.arange(3))
    grey = load_data("digits", input_shape=(1, 1, 28, 28)).test.inputs(np.arange(3))
    assert np.array_equal(colour[:, 0], colour[:, 2])
    assert grey.shape == (3, 1, 28, 28)


def test_the_test_split_is_the_same_for_every_seed_and_apart_from_training() -> None:
    one, other = load_data("digits", seed=0), load_data("digits", seed=9)
    everything = np.arange(359)
    assert np.array_equal(one.test.inputs(everything), other.test.inputs(everything))
    plain = load_data("digits", preprocessing=Preprocessing())
    assert isinstance(plain.train, ImageSplit)
    kept = {image.tobytes() for image in plain.train.inputs(np.arange(1151))}
    assert not kept & {image.tobytes() for image in plain.test.inputs(everything)}
