from typing import Any

import numpy as np
import pytest
import torch

from mcc.data import Preprocessing
from mcc.errors import DataError
from tests.data.samples import pixels

MEAN, STD = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)


def test_normalises_and_enlarges_as_the_networks_were_trained() -> None:
    images = pixels(4)
    got = Preprocessing.from_bytes(MEAN, STD, size=(64, 64)).apply(images, (64, 64))
    value = (images.astype(np.float64) - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(value), size=(64, 64), mode="bilinear", align_corners=False
    ).numpy()
    assert got.dtype == np.float32
    assert got.flags["C_CONTIGUOUS"]
    # Six float32 roundings of values below 2.3: 6 x 2^-24 x 2.3 is below 1e-6.
    assert np.abs(got - expected).max() < 1e-6
    # It bites: without the mean of one channel the difference is large.
    assert (
        np.abs(Preprocessing.from_bytes((0, 123.0, 113.9), STD).apply(images, (64, 64)) - expected).max() > 1
    )


def test_shrinking_averages_instead_of_dropping_pixels() -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (1, 1, 8, 4))
    got = Preprocessing().apply(stripes, (4, 4))
    assert np.abs(got[..., 1:-1] - 0.5).max() < 0.1


def test_one_value_serves_all_channels() -> None:
    grey = Preprocessing((0.5,), (0.25,)).for_channels(3)
    assert grey.mean == (0.5, 0.5, 0.5)
    assert grey.std == (0.25, 0.25, 0.25)
    with pytest.raises(DataError, match="is for 3 channels, the network takes 1"):
        grey.for_channels(1)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"std": (0.0,)}, "must be above zero"),
        ({"mean": (float("nan"),)}, "must be finite"),
        ({"mean": ()}, "must be finite"),
        ({"mean": (1.0, 2.0, 3.0), "std": (1.0, 2.0)}, "mean has 3 values and the deviation 2"),
        ({"size": (0, 4)}, "at least one pixel"),
        ({"crop": 0.0}, r"must lie in \(0, 1\]"),
    ],
)
def test_impossible_values_are_refused(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        Preprocessing(**fields)
