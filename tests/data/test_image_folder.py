from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mcc.data import DataModule, Preprocessing, bind_task, image_folder, load_data
from mcc.data.image_folder import Fit
from mcc.data.outputs import Output
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
    with pytest.raises(DataError, match="there is no such folder; expected train/, and val/ or test/"):
        load_data(f"{spec}/none")
    with pytest.raises(DataError, match=r"holds no images; looked for \.bmp"):
        load_data(spec)
    (tmp_path / "train" / "cat").mkdir(parents=True)
    (tmp_path / "train" / "dog").mkdir()
    with pytest.raises(DataError, match=r"train: holds no images; looked for \.bmp"):
        load_data(spec)
    Image.new("RGB", (4, 4)).save(tmp_path / "train" / "cat" / "a.png")
    with pytest.raises(DataError, match="holds no training images of the class 'dog'"):
        load_data(spec)
    Image.new("RGB", (4, 4)).save(tmp_path / "train" / "dog" / "a.png")
    (tmp_path / "test" / "cow").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "test" / "cow" / "a.png")
    with pytest.raises(DataError, match="part holds the class 'cow', which the training images do not have"):
        load_data(spec)


# -- layouts -----------------------------------------------------------------------------------------------


def shown(data: DataModule) -> list[tuple[str, int]]:
    """Class names and the first pixel of all images, in an order that does not depend on the parts."""
    parts = (data.train, data.validation, data.test)
    return sorted(
        (data.class_names[int(label)], int(part.inputs(np.array([at]))[0, 0, 0, 0] * 255 + 0.5))
        for part in parts
        for at, label in enumerate(part.targets)
    )


PLAIN = Preprocessing()


def test_a_set_that_is_not_divided_is_held_out_of_and_says_so(tmp_path: Path) -> None:
    write_folder(tmp_path / "a", {"train": 25})
    (tmp_path / "flat").symlink_to(tmp_path / "a" / "train")
    files = sorted((tmp_path / "flat").rglob("*.png"))
    rows = [f"{file.relative_to(tmp_path)},{file.parent.name}" for file in files]
    (tmp_path / "list.csv").write_text("\n".join(rows))
    found = [
        load_data(f"imagefolder:{tmp_path}/{name}", preprocessing=PLAIN) for name in ("a", "flat", "list.csv")
    ]
    for data in found:
        assert (len(data.train), len(data.validation), len(data.test)) == (32, 8, 10)
        assert data.class_names == ("cat", "dog")
        assert shown(data) == shown(found[0])
        assert "was not divided into training, validation and test pictures" in data.warnings[0]
    for name in ("a", "flat", "list.csv"):
        stated = load_data(f"unseen-train:imagefolder:{tmp_path}/{name}", preprocessing=PLAIN)
        assert stated.warnings == ()
        assert shown(stated) == shown(found[0])


def test_pictures_for_validation_alone_were_not_trained_on(tmp_path: Path) -> None:
    write_folder(tmp_path / "one", {"val": 25})
    data = load_data(f"imagefolder:{tmp_path}/one")
    assert (len(data.train), len(data.validation), len(data.test), data.warnings) == (32, 8, 10, ())
    write_folder(tmp_path / "two", {"val": 25, "test": 10})
    data = load_data(f"imagefolder:{tmp_path}/two")
    assert (len(data.train), len(data.validation), len(data.test), data.warnings) == (40, 10, 20, ())


@pytest.mark.parametrize("nested", ["", "train/", "images/", "train/images/"])
def test_pictures_without_labels_can_calibrate(tmp_path: Path, nested: str) -> None:
    write_folder(tmp_path / "a", {"train": 10})
    files = sorted((tmp_path / "a").rglob("*.png"))
    for place, file in enumerate(files):
        target = tmp_path / "b" / nested / f"{place:02d}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        file.rename(target)
    data = load_data(f"imagefolder:{tmp_path}/b")
    assert data.class_names == ()
    assert data.task == "agreement"
    assert "The data has no labels: agreement" in data.warnings[-1]
    assert len(next(data.batches("calibration", 64)).inputs) == 13
    with pytest.raises(DataError, match="has no labels, so that only mcc compress can judge by it"):
        bind_task(data, (Output("y", (1, 2)),))


def test_of_labels_and_none_no_mixture_is_taken(tmp_path: Path) -> None:
    write_folder(tmp_path, {"train": 5, "val": 5})
    for file in sorted((tmp_path / "val").rglob("*.png")):
        file.rename(tmp_path / "val" / f"{file.parent.name}{file.name}")
    with pytest.raises(DataError, match="has labels, but none of its validation pictures"):
        load_data(f"imagefolder:{tmp_path}")


def listed(tmp_path: Path, text: str) -> DataModule:
    (tmp_path / "list.csv").write_text(text)
    return load_data(f"imagefolder:{tmp_path}/list.csv", preprocessing=PLAIN)


def test_lists_name_files_labels_and_parts(tmp_path: Path) -> None:
    write_folder(tmp_path, {"x": 12})
    files = [str(file.relative_to(tmp_path)) for file in sorted((tmp_path / "x").rglob("*.png"))]
    parts = ["train", "valid", "test"]
    rows = [f"{'zebra' if 'cat' in f else 'ant'},{f},{parts[at % 3]}" for at, f in enumerate(files)]
    data = listed(tmp_path, "\ufeffLabel,Filename,Split\r\n" + "\r\n".join(rows) + "\r\n")
    assert data.class_names == ("ant", "zebra")
    assert (len(data.train), len(data.validation), len(data.test), data.warnings) == (8, 8, 8, ())
    assert data.train.targets.tolist() == [1] * 4 + [0] * 4
    numbers = listed(tmp_path, "\n".join(f"{f},{2 if 'cat' in f else 0}" for f in files))
    assert numbers.class_names == ("0", "1", "2")
    assert set(numbers.train.targets.tolist()) == {0, 2}
    alone = listed(tmp_path, "\n".join(files))
    assert alone.task == "agreement"
    for part in ("train", "val"):
        chosen = [f for at, f in enumerate(files) if (at % 2 == 0) == (part == "train")]
        (tmp_path / f"{part}.csv").write_text("\n".join(f"{f},{Path(f).parent.name}" for f in chosen))
    data = load_data(f"imagefolder:{tmp_path}")
    assert (len(data.train), len(data.validation), len(data.test), data.class_names) == (
        12,
        6,
        6,
        ("cat", "dog"),
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "list.csv: lists nothing"),
        ("x/cat/000.png,cat\nx/none.png,dog", r"lists .*x/none\.png, which is not there"),
        ("x/cat/000.png,cat\nx/dog/000.png", "line 2 has 1 columns; file,label"),
        ("x/cat/000.png,cat\nx/dog/000.png,", "has no label for 000.png"),
        ("file,label,split\nx/cat/000.png,cat,dev", "line 2 has the part 'dev'; write train, val or test"),
        ("\udcff", "cannot be read as a list"),
    ],
)
def test_faults_of_lists_are_named(tmp_path: Path, text: str, sentence: str) -> None:
    write_folder(tmp_path, {"x": 2})
    (tmp_path / "list.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=sentence):
        load_data(f"imagefolder:{tmp_path}/list.csv")


# -- the order of classes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("classes.txt", "dog\r\ncow\r\ncat\r\n"),
        ("class_to_idx.json", '{"cat": 2, "dog": 0, "cow": 1}'),
        ("class_to_idx.json", '{"2": "cat", "0": "dog", "1": "cow"}'),
        ("class_to_idx.json", '["dog", "cow", "cat"]'),
    ],
)
def test_a_file_says_the_order_of_classes(tmp_path: Path, name: str, text: str) -> None:
    write_folder(tmp_path, {"train": 5, "val": 4})
    (tmp_path / name).write_text(text)
    data = load_data(f"imagefolder:{tmp_path}")
    assert data.class_names == ("dog", "cow", "cat")
    assert data.train.targets.tolist() == [2] * 5 + [0] * 5
    (tmp_path / name).write_text('["dog", "cow"]' if "json" in name else "dog\ncow")
    with pytest.raises(DataError, match=rf"the class 'cat', which {name} does not name"):
        load_data(f"imagefolder:{tmp_path}")
    (tmp_path / name).write_text('["dog", "dog"]' if "json" in name else "dog\ndog")
    with pytest.raises(DataError, match="names 'dog' twice"):
        load_data(f"imagefolder:{tmp_path}")


def test_numbers_in_another_order_than_sorted_are_warned_of(tmp_path: Path) -> None:
    write_folder(tmp_path / "a", {"train": 3, "val": 3}, classes=("1", "2", "10"))
    (said,) = load_data(f"imagefolder:{tmp_path}/a").warnings
    assert "The classes are numbered as their names are sorted (1, 10, 2, ...)" in said
    write_folder(tmp_path / "b", {"train": 3, "val": 3}, classes=("01", "02", "10"))
    assert load_data(f"imagefolder:{tmp_path}/b").warnings == ()


@pytest.mark.parametrize("lazily", [False, True])
def test_any_number_of_threads_gives_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lazily: bool
) -> None:
    write_folder(tmp_path, {"train": 20, "val": 4}, size=(14, 10))
    if lazily:
        monkeypatch.setattr(image_folder, "MEMORY_BYTES", 0)
    found: list[bytes] = []
    for workers in (1, 2, 7):
        monkeypatch.setattr(image_folder, "workers", lambda workers=workers: workers)
        data = load_data(f"imagefolder:{tmp_path}", preprocessing=SIZED)
        found.append(b"".join(batch.inputs.tobytes() for batch in data.training(8, seed=1, steps=7)))
    assert found[0] == found[1] == found[2]
