from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mcc.data import Preprocessing, image_folder, load_data
from mcc.data.image_folder import Fit
from mcc.data.split import ImageSplit
from mcc.errors import DataError
from tests.data.samples import pixels, write_folder

SIZED = Preprocessing(size=(8, 8))


def test_reads_classes_in_sorted_order(tmp_path: Path) -> None:
    write_folder(tmp_path, {"train": 10, "test": 3}, classes=("dog", "ant", "cat"))
    data = load_data(f"imagefolder:{tmp_path}", preprocessing=Preprocessing())
    assert data.class_names == ("ant", "cat", "dog")
    halves = sorted([*data.test.targets.tolist(), *data.validation.targets.tolist()])
    assert halves == [0] * 3 + [1] * 3 + [2] * 3
    assert (len(data.train), len(data.validation), len(data.test)) == (30, 4, 5)
    data = load_data(f"unseen-train:imagefolder:{tmp_path}", preprocessing=Preprocessing())
    assert data.test.targets.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    assert (len(data.train), len(data.validation), len(data.test)) == (24, 6, 9)
    assert data.input_shape == (3, 12, 12)
    expected = pixels(3, 101, (3, 12, 12)).astype(np.float32) * np.float32(1 / 255)
    assert np.array_equal(data.test.inputs(np.arange(3)), expected)


def parts(spec: str) -> tuple[int, int, int]:
    data = load_data(spec)
    return len(data.train), len(data.validation), len(data.test)


@pytest.mark.parametrize("name", ["val", "valid", "validation", "test"])
def test_one_folder_of_unseen_pictures_is_halved(tmp_path: Path, name: str) -> None:
    write_folder(tmp_path, {"train": 10, name: 4})
    assert parts(f"imagefolder:{tmp_path}") == (20, 4, 4)
    assert parts(f"unseen-train:imagefolder:{tmp_path}") == (16, 4, 8)
    data = load_data(f"imagefolder:{tmp_path}")
    assert data.chosen_on == "one half of the test images, of which the other half is the test"
    assert data.warnings == ()
    halves = [p.inputs(np.arange(4)) for p in (data.validation, data.test)]
    assert len({image.tobytes() for half in halves for image in half}) == 8
    assert [p.targets.tolist() for p in (data.validation, data.test)] == [[0, 0, 1, 1]] * 2
    other = load_data(f"imagefolder:{tmp_path}", seed=5)
    assert np.array_equal(other.test.inputs(np.arange(4)), halves[1]), "the halves do not hang on the seed"


def test_training_pictures_alone_are_divided_in_three_if_they_are_unseen(tmp_path: Path) -> None:
    write_folder(tmp_path, {"train": 25})
    assert parts(f"unseen-train:imagefolder:{tmp_path}") == (32, 8, 10)
    with pytest.raises(DataError, match="holds train/ alone"):
        load_data(f"imagefolder:{tmp_path}")


def test_validation_pictures_are_for_choices_where_there_are_others_for_the_test(tmp_path: Path) -> None:
    write_folder(tmp_path, {"train": 10, "val": 4, "test": 3})
    for spec in (f"imagefolder:{tmp_path}", f"unseen-train:imagefolder:{tmp_path}"):
        assert parts(spec) == (20, 8, 6)
    (tmp_path / "valid").symlink_to(tmp_path / "val")
    with pytest.raises(DataError, match="holds val/ and valid/; leave one of them"):
        parts(f"imagefolder:{tmp_path}")
    (tmp_path / "val").rename(tmp_path / "pictures")
    (tmp_path / "valid").unlink()
    (tmp_path / "valid").symlink_to(tmp_path / "test")
    with pytest.raises(DataError, match="two of its parts are one and the same folder"):
        parts(f"imagefolder:{tmp_path}")


def test_pictures_of_any_size_are_fitted_and_cut(tmp_path: Path) -> None:
    write_folder(tmp_path, {"train": 10, "test": 2})
    Image.new("RGB", (40, 20), (255, 0, 0)).save(tmp_path / "test" / "cat" / "wide.png")
    with pytest.raises(DataError, match="2 different sizes and the network names none; give --resize"):
        load_data(f"imagefolder:{tmp_path}")
    data = load_data(f"unseen-train:imagefolder:{tmp_path}", preprocessing=SIZED)
    assert data.test.inputs(np.arange(5)).shape == (5, 3, 8, 8)
    assert np.array_equal(data.test.inputs(np.array([2]))[0, :, 4, 4], [1, 0, 0])


def test_the_centre_is_cut_out(tmp_path: Path) -> None:
    picture = np.zeros((16, 32, 3), np.uint8)
    picture[4:12, 12:20] = 255
    Image.fromarray(picture).save(tmp_path / "a.png")
    assert (Fit((8, 8), 0.5, 3).decode(tmp_path / "a.png") == 255).all()
    whole = Fit((8, 8), 1.0, 3).decode(tmp_path / "a.png")
    assert whole[0, 4, 4] == 255
    assert whole[0, 0, 0] == 0


def test_grey_networks_get_grey_pictures(tmp_path: Path) -> None:
    write_folder(tmp_path, {"train": 10, "test": 2})
    data = load_data(f"imagefolder:{tmp_path}", input_shape=(1, 1, 12, 12))
    assert data.test.inputs(np.arange(2)).shape == (2, 1, 12, 12)


def test_large_folders_stay_on_disk_and_give_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path, {"train": 10, "test": 2})
    held = load_data(f"imagefolder:{tmp_path}", preprocessing=SIZED)
    monkeypatch.setattr(image_folder, "MEMORY_BYTES", 0)
    lazy = load_data(f"imagefolder:{tmp_path}", preprocessing=SIZED)
    assert isinstance(lazy.train, ImageSplit)
    assert isinstance(lazy.train.source, image_folder.FileImages)
    one, other = (list(data.training(4, seed=3, steps=6)) for data in (held, lazy))
    assert all(a.inputs.tobytes() == b.inputs.tobytes() for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("kind", ["garbage", "cut short", "empty"])
@pytest.mark.parametrize("lazily", [False, True])
def test_a_broken_image_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, lazily: bool
) -> None:
    write_folder(tmp_path, {"train": 10, "test": 2}, size=(40, 40))
    broken = tmp_path / "train" / "dog" / "004.png"
    raw = broken.read_bytes()
    broken.write_bytes({"garbage": b"no picture", "cut short": raw[: len(raw) // 2], "empty": b""}[kind])
    if lazily:
        monkeypatch.setattr(image_folder, "MEMORY_BYTES", 0)
    with pytest.raises(DataError, match=r"dog/004\.png: cannot be read as an image \(.+\); mend or remove"):
        list(load_data(f"imagefolder:{tmp_path}", preprocessing=SIZED).batches("train", 1))


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    spec = f"imagefolder:{tmp_path}"
    with pytest.raises(DataError, match="train: there is no such folder; expected train/, and val/ or test/"):
        load_data(spec)
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match="train: holds no class folders"):
        load_data(spec)
    (tmp_path / "train" / "cat").mkdir()
    (tmp_path / "train" / "dog").mkdir()
    with pytest.raises(DataError, match=r"holds train/ alone; make a val/ folder .* or write unseen-train:"):
        load_data(spec)
    (tmp_path / "test" / "cow").mkdir(parents=True)
    with pytest.raises(DataError, match=r"train: holds no images; looked for \.bmp"):
        load_data(spec)
    (tmp_path / "train" / "cat" / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match="test: holds the class 'cow', which the training images do not have"):
        load_data(spec)
