"""Which preprocessing counts, and that what cannot be one is refused in one sentence."""

import json
from pathlib import Path

import numpy as np
import pytest

from mcc.data.preprocessing import Preprocessing
from mcc.data.stated import Asked, Stated, load_stated, preprocessing_from, read_preprocessing
from mcc.errors import DataError, MccError, UsageError

FACTORY = Stated(Preprocessing((0.4,), (0.2,), (32, 32), 0.875), "the factory of the model")
SHAPE = (1, 3, 32, 32)


def test_one_of_mean_deviation_and_scale_says_all_three() -> None:
    found = Asked(scale=1.0).over(FACTORY)
    assert found is not None
    assert found.preprocessing == Preprocessing((0.0,), (1.0,), (32, 32), 0.875, scale=1.0)
    found = Asked(mean=(0.5,)).over(FACTORY)
    assert found is not None
    assert (found.preprocessing.mean, found.preprocessing.std) == ((0.5,), (1.0,))
    assert found.preprocessing.scale == 1 / 255


def test_size_crop_and_channels_leave_the_rest() -> None:
    found = Asked(size=(64, 64), channels="bgr").over(FACTORY)
    assert found is not None
    assert found.preprocessing == Preprocessing((0.4,), (0.2,), (64, 64), 0.875, channels="bgr")
    assert found.source == "given: size, channels; the rest: the factory of the model"


def test_the_order_of_sources() -> None:
    other = Stated(Preprocessing((0.1,), (0.9,)), "given: file.json")
    assert Asked(other).over(FACTORY) == other
    assert Asked().over(FACTORY) == FACTORY
    assert Asked().over(None) is None
    data, used = load_stated("digits", input_shape=SHAPE)
    assert used.assumed
    assert used.source.startswith("assumed")
    data, used = load_stated("digits", input_shape=SHAPE, stated=FACTORY)
    assert not used.assumed
    assert used == FACTORY
    assert data.preprocessing.mean == (0.4,) * 3
    _, used = load_stated("digits", input_shape=SHAPE, stated=None, asked=Asked(crop=0.5))
    assert used.preprocessing.mean == (0.306,) * 3  # what is customary, but for what was said


def test_data_that_prepares_itself_does_not_drop_what_is_asked(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(
        "from mcc.data import load_data\ndef data(): return load_data('digits', input_shape=(3, 32, 32))\n"
    )
    _, used = load_stated(f"{file}:data", input_shape=SHAPE)
    assert (used.source, used.assumed) == ("of the data digits", False)
    with pytest.raises(UsageError, match="prepares its inputs itself"):
        load_stated(f"{file}:data", input_shape=SHAPE, asked=Asked(scale=1.0))


@pytest.mark.parametrize(
    "fields",
    [
        {"mean": [float("nan")]},
        {"mean": ["0.5"]},
        {"std": [0.0]},
        {"std": [1.0, 1.0]},
        {"mean": [0, 0, 0], "std": [1, 1]},
        {"scale": -1},
        {"scale": float("inf")},
        {"scale": "1"},
        {"size": [0, 5]},
        {"size": [32]},
        {"size": [32.5, 32]},
        {"crop": 2},
        {"channels": "grb"},
        {"means": [0.5]},
        {},
    ],
)
def test_what_cannot_be(fields: dict[str, object], tmp_path: Path) -> None:
    file = tmp_path / "p.json"
    file.write_text(json.dumps(fields))
    with pytest.raises(MccError) as caught:
        read_preprocessing(file).for_channels(3)
    assert len(str(caught.value).splitlines()) == 1


def test_files(tmp_path: Path) -> None:
    wanted = Preprocessing((0.5, 0.4, 0.3), (0.2,), (8, 9), 0.9, 1.0, "bgr")
    (tmp_path / "a.json").write_text(json.dumps({"preprocessing": {**wanted.to_json(), "source": "x"}}))
    (tmp_path / "b.toml").write_text(
        'mean = [0.5, 0.4, 0.3]\nstd = 0.2\nsize = [8, 9]\ncrop = 0.9\nscale = 1.0\nchannels = "bgr"\n'
    )
    assert read_preprocessing(tmp_path / "a.json") == read_preprocessing(tmp_path / "b.toml") == wanted
    assert preprocessing_from(wanted.to_json()) == wanted
    (tmp_path / "c.json").write_text("nonsense")
    with pytest.raises(DataError, match=r"c\.json: cannot be read"):
        read_preprocessing(tmp_path / "c.json")


def test_arithmetic_by_hand() -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(1, 3, 2, 2)
    bare = Preprocessing(scale=1.0).for_channels(3)
    assert np.array_equal(bare.apply(pixels, (2, 2)), pixels.astype(np.float32))
    swapped = Preprocessing((1.0, 2.0, 3.0), (2.0,), scale=0.5, channels="bgr").for_channels(3)
    expected = (pixels[:, ::-1] * 0.5 - np.array([1, 2, 3]).reshape(1, 3, 1, 1)) / 2
    np.testing.assert_allclose(swapped.apply(pixels, (2, 2)), expected, atol=1e-6)
    assert swapped.neutral_pixel == (6, 4, 2)
