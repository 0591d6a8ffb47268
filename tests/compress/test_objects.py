"""The Python front door takes what a training script has: a module, loaders, data, budgets in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import mcc
from mcc.data import DataModule, from_loaders, load_data
from mcc.errors import DataError, UsageError
from tests.compress import networks, stand_ins


@pytest.fixture
def digits() -> DataModule:
    return load_data("digits", input_shape=(3, 32, 32), preprocessing=networks.PREPROCESSING)


@pytest.fixture
def loaders(digits: DataModule) -> dict[str, Any]:
    """Loaders of the same images and labels."""

    def loader(part: Any, count: int) -> DataLoader[Any]:
        index = np.arange(min(count, len(part)))
        inputs = torch.from_numpy(part.inputs(index))
        return DataLoader(TensorDataset(inputs, torch.from_numpy(part.targets[index])), batch_size=16)

    return {"train": loader(digits.train, 200), "test": loader(digits.test, 100)}


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(())


@pytest.mark.slow
def test_a_module_and_loaders_are_compressed(
    loaders: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_dir: Path
) -> None:
    stand_ins.install(monkeypatch)
    module, example, _ = networks.tiny()
    report = mcc.compress(
        module, loaders, "litert-host", example=example, speedup="1.2x", size="1MB", epochs=0,
        strategies=["int8-ptq"], out=str(tmp_path / "out"),
    )  # fmt: skip
    assert report.model == "TinyNet"
    assert report.data == "loaders"
    assert report.budget.speedup == 1.2
    assert report.budget.size_bytes == 1_000_000
    assert (report.validation_images, report.test_images) == (50, 50)
    assert (tmp_path / "out" / "model.tflite").exists()


@pytest.mark.slow
def test_a_data_module_is_taken_as_it_is(
    digits: DataModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_dir: Path
) -> None:
    stand_ins.install(monkeypatch)
    options: dict[str, Any] = {"epochs": 0, "strategies": ["int8-ptq"]}
    named = mcc.compress(stand_ins.MODEL, "digits", "litert-host", out=tmp_path / "named", **options)
    module, example, _ = networks.tiny()
    given = mcc.compress(
        module, digits, "litert-host", example=example, out=tmp_path / "given", **options
    )  # fmt: skip
    assert [s.metric for s in given.strategies] == [s.metric for s in named.strategies]


def test_random_transforms_are_the_same_in_every_run() -> None:
    class Noisy(TensorDataset):
        def __getitem__(self, index: int) -> Any:
            x, y = super().__getitem__(index)
            return x + torch.rand(()) + float(np.random.rand()), y

    data = Noisy(torch.zeros(40, 1, 4, 4), torch.arange(40) % 2)
    module = from_loaders(data, _others(40))
    place = np.array([3, 7])
    first = module.train.augmented(place, seed=1, epoch=0)
    torch.manual_seed(5)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert np.array_equal(first, module.train.augmented(place, seed=1, epoch=0))
    assert torch.equal(torch.rand(1), drawn)  # the caller's own numbers are as if nothing had been drawn
    assert not np.array_equal(first, module.train.augmented(place, seed=1, epoch=1))


def _others(count: int) -> TensorDataset:
    return TensorDataset(torch.arange(count * 16.0).reshape(count, 1, 4, 4), torch.arange(count) % 2)


def _pairs(count: int = 40) -> TensorDataset:
    return TensorDataset(torch.rand(count, 1, 4, 4), torch.arange(count) % 2)


WRONG: dict[str, tuple[Any, str]] = {
    "one loader": (lambda: DataLoader(_pairs()), '"train": loader'),
    "a part of another name": (lambda: {"train": _pairs(), "eval": _pairs()}, '"train": loader'),
    "a stream": (lambda: {"train": DataLoader(Stream()), "test": _pairs()}, "no length"),
    "inputs alone": (
        lambda: {"train": TensorDataset(torch.rand(40, 1, 4, 4)), "test": _pairs()}, "item 0 is tuple"
    ),
    "nothing": (lambda: {"train": TensorDataset(torch.rand(0, 1, 4, 4), torch.rand(0)), "test": _pairs()},
                "empty"),
    "text": (lambda: {"train": [(torch.rand(1, 4, 4), "cat")] * 4, "test": _pairs()}, "targets of"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_data_that_cannot_be_used_is_named(kind: str, tmp_path: Path) -> None:
    make, part = WRONG[kind]
    module, example, _ = networks.tiny()
    with pytest.raises((UsageError, DataError), match=part):
        mcc.compress(module, make(), "litert-host", example=example, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_does_not_go_with_objects_is_refused(digits: DataModule, tmp_path: Path) -> None:
    module, example, _ = networks.tiny()
    asked: list[tuple[dict[str, Any], str]] = [
        ({}, "example"),
        ({"example": example, "weights": "w.safetensors"}, "weights"),
        ({"example": example, "workers": 2}, "workers"),
        ({"example": example, "speedup": "2x", "size": "1MB", "size_bytes": 5}, "size"),
        ({"example": example, "latency": 8}, "latency"),
    ]
    for options, where in asked:
        with pytest.raises(UsageError) as caught:
            mcc.compress(module, digits, "litert-host", out=tmp_path / "out", **options)
        assert where in str(caught.value.where)
    with pytest.raises(UsageError, match="example"):
        mcc.compress("net.py:f", "digits", "litert-host", example=example)
