"""Small made-up data sets in the layouts that mcc reads."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mcc.data import Augmentation, DataModule, from_arrays

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def pixels(count: int, seed: int = 0, shape: tuple[int, int, int] = (3, 32, 32)) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)


def labels(count: int, classes: int = 10) -> NDArray[np.int64]:
    return (np.arange(count) % classes).astype(np.int64)


def module(count: int = 64, shift: int = 2, classes: int = 3) -> DataModule:
    """Images of 8x8 in `classes` classes."""
    train = (pixels(count, 1, (3, 8, 8)), labels(count, classes))
    test = (pixels(12, 2, (3, 8, 8)), labels(12, classes))
    return from_arrays(
        train,
        test,
        class_names=tuple("abcdef"[:classes]),
        augmentation=Augmentation(shift),
        train_unseen=True,
    )


def write_binary(folder: Path, each: int = 20, test: int = 30) -> Path:
    """CIFAR-10's binary layout with `each` records in each training file."""
    inner = folder / "cifar-10-batches-bin"
    inner.mkdir(parents=True)
    for number in range(1, 6):
        _write_records(inner / f"data_batch_{number}.bin", each, number)
    _write_records(inner / "test_batch.bin", test, 6)
    return inner


def _write_records(path: Path, count: int, seed: int) -> None:
    flat = pixels(count, seed).reshape(count, -1)
    path.write_bytes(np.concatenate([labels(count).astype(np.uint8)[:, None], flat], 1).tobytes())


def write_folder(
    folder: Path,
    parts: dict[str, int],
    classes: tuple[str, ...] = ("cat", "dog"),
    size: tuple[int, int] = (12, 12),
) -> Path:
    """An image folder with so many pictures (PNG) of each class in each part; `size` is (height, width)."""
    for seed, (part, count) in enumerate(parts.items()):
        for number, name in enumerate(classes):
            inside = folder / part / name
            inside.mkdir(parents=True)
            for place, image in enumerate(pixels(count, 100 * seed + number, (3, *size))):
                Image.fromarray(image.transpose(1, 2, 0)).save(inside / f"{place:03d}.png")
    return folder
