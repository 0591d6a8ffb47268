from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mcc.data import Preprocessing, load_data
from mcc.data.cifar10 import RECORD_BYTES
from mcc.errors import DataError
from tests.data.samples import CLASSES, labels, pixels, write_binary


@pytest.mark.parametrize("inside", [False, True])
def test_reads_the_official_layout(tmp_path: Path, inside: bool) -> None:
    inner = write_binary(tmp_path)
    place = inner if inside else tmp_path
    halved = load_data(f"cifar10:{place}")
    assert (len(halved.train), len(halved.validation), len(halved.test)) == (100, 15, 15)
    data = load_data(f"unseen-train:cifar10:{place}", preprocessing=Preprocessing())
    assert (len(data.train), len(data.validation), len(data.test)) == (80, 20, 30)
    assert data.class_names == CLASSES
    assert np.array_equal(data.test.targets, labels(30))
    assert np.array_equal(
        data.test.inputs(np.arange(30)), pixels(30, 6).astype(np.float32) * np.float32(1 / 255)
    )


def test_the_networks_size_is_followed(tmp_path: Path) -> None:
    write_binary(tmp_path)
    data = load_data(f"cifar10:{tmp_path}", input_shape=(1, 3, 64, 64))
    assert data.train.inputs(np.arange(2)).shape == (2, 3, 64, 64)
    assert data.input_shape == (3, 64, 64)
    resized = load_data(f"cifar10:{tmp_path}", preprocessing=Preprocessing(size=(48, 40)))
    assert resized.input_shape == (3, 48, 40)


def test_the_same_images_in_folders_give_the_same_tensors(tmp_path: Path) -> None:
    write_binary(tmp_path / "binary")
    folder = tmp_path / "folder"
    for part, numbers, each in (("train", range(1, 6), 20), ("test", (6,), 30)):
        for number in numbers:
            for place, (image, label) in enumerate(zip(pixels(each, number), labels(each), strict=True)):
                inside = folder / part / CLASSES[label]
                inside.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image.transpose(1, 2, 0)).save(inside / f"{number}{place:03d}.png")
    one = load_data(f"unseen-train:cifar10:{tmp_path / 'binary'}", input_shape=(3, 64, 64))
    other = load_data(f"unseen-train:cifar10:{folder}", input_shape=(3, 64, 64))
    assert other.class_names == CLASSES
    order = np.argsort(one.test.targets, kind="stable")
    assert np.array_equal(one.test.inputs(order), other.test.inputs(np.arange(30)))


def test_a_batch_cut_short_names_the_file(tmp_path: Path) -> None:
    broken = write_binary(tmp_path) / "data_batch_3.bin"
    broken.write_bytes(broken.read_bytes()[:-100])
    with pytest.raises(
        DataError, match=r"data_batch_3\.bin: holds 61,360 bytes, which is not a whole number"
    ):
        load_data(f"cifar10:{tmp_path}")
    broken.write_bytes(b"")
    with pytest.raises(DataError, match=r"data_batch_3\.bin: holds 0 bytes"):
        load_data(f"cifar10:{tmp_path}")


def test_a_label_out_of_range_names_the_record(tmp_path: Path) -> None:
    broken = write_binary(tmp_path) / "test_batch.bin"
    raw = bytearray(broken.read_bytes())
    raw[7 * RECORD_BYTES] = 10
    broken.write_bytes(raw)
    with pytest.raises(
        DataError, match=r"test_batch\.bin: record 7 has the label 10, classes go from 0 to 9"
    ):
        load_data(f"cifar10:{tmp_path}")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"nowhere: there is no such folder; expected one that holds cifar-10"
    ):
        load_data(f"cifar10:{tmp_path / 'nowhere'}")
    with pytest.raises(
        DataError, match=r"holds neither cifar-10-batches-bin/data_batch_1\.bin nor a train/ folder"
    ):
        load_data(f"cifar10:{tmp_path}")
    inner = write_binary(tmp_path)
    (inner / "data_batch_5.bin").unlink()
    with pytest.raises(DataError, match=r"data_batch_5\.bin: no such file; unpack"):
        load_data(f"cifar10:{tmp_path}")


def test_colour_is_not_forced_into_a_grey_network(tmp_path: Path) -> None:
    write_binary(tmp_path)
    with pytest.raises(DataError, match="is for 3 channels, the network takes 1"):
        load_data(f"cifar10:{tmp_path}", input_shape=(1, 1, 32, 32))
