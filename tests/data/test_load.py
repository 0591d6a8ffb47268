from pathlib import Path

import pytest

from mcc.data import load_data
from mcc.errors import DataError, UsageError

FACTORY = """
from tests.data.samples import module

given = {}

def all_of_it(seed, input_shape, preprocessing):
    given.update(seed=seed, input_shape=input_shape)
    return module(60)

def nothing():
    return module(60)

def anything(**options):
    assert set(options) == {"seed", "input_shape", "preprocessing", "train_unseen"}
    return module(60)

def wrong():
    return 3

def fails():
    raise RuntimeError("no disk")

number = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(FACTORY)
    return path


@pytest.mark.parametrize("name", ["all_of_it", "nothing", "anything"])
def test_a_factory_of_ones_own(file: Path, name: str) -> None:
    assert len(load_data(f"{file}:{name}", seed=4, input_shape=(1, 3, 8, 8)).test) == 12


def test_a_factory_in_a_package() -> None:
    assert load_data("tests.data.samples:module").name == "arrays"


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("cifar11", "there is no data called 'cifar11'"),
        ("", "there is no data called ''"),
        ("digits:", "there is no data called 'digits:'"),
        ("cifar10", "cifar10 needs a folder; write cifar10:DIR"),
        ("imagefolder:", "imagefolder needs a folder"),
        ("no_such_package.data:make", "cannot be imported: No module named 'no_such_package'"),
        ("mcc.data:no_such", "mcc.data: has no no_such"),
        ("nowhere/data.py:make", "no such file"),
        ("{file}:number", "is not callable"),
    ],
)
def test_wrong_use_is_said(file: Path, spec: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        load_data(spec.format(file=file))


def test_a_factory_that_fails_is_said(file: Path) -> None:
    with pytest.raises(DataError, match="returns int and not a DataModule"):
        load_data(f"{file}:wrong")
    with pytest.raises(DataError, match=r"the factory fails \(RuntimeError: no disk \(mine\.py:21\)\)"):
        load_data(f"{file}:fails")
    with pytest.raises(
        DataError, match=r"gives inputs of \(3, 8, 8\) and the network takes \(1, 3, 32, 32\)"
    ):
        load_data(f"{file}:nothing", input_shape=(1, 3, 32, 32))
    file.write_text("import nothing_of_that_name +")
    with pytest.raises(UsageError, match=r"mine\.py: cannot be imported: SyntaxError"):
        load_data(f"{file}:make")


def test_a_network_that_takes_no_image_is_refused() -> None:
    from mcc.data import Preprocessing

    with pytest.raises(DataError, match=r"input \(1, 10\) is not that of an image"):
        load_data("digits", input_shape=(1, 10))
    with pytest.raises(DataError, match="resizes to 64x64 and the network takes 32x32"):
        load_data("digits", input_shape=(1, 3, 32, 32), preprocessing=Preprocessing(size=(64, 64)))
