"""A data module of torch data sets and loaders, as a training script has them."""

from __future__ import annotations

import random
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from mcc.data.assembly import CALIBRATION_IMAGES, CHOSEN_ON
from mcc.data.augment import IndexArray, epoch_order
from mcc.data.held_out import halves
from mcc.data.module import DataModule
from mcc.data.preprocessing import Preprocessing
from mcc.data.split import FloatImages
from mcc.data.task import Task
from mcc.errors import DataError
from mcc.user_code import reason_of

AS_IT_IS = Preprocessing(mean=(0.0,), std=(1.0,), scale=1.0)


@dataclass(frozen=True, eq=False)
class DatasetSplit:
    """Some members of a map-style data set whose items are pairs of an input [C, H, W] and its target.

    Transforms that draw random numbers draw them from a seed of the item, so that runs can be repeated.

    Args:
        dataset: whose own transforms are all that is done to its inputs.
        members: [N] places in it.
        targets: [N, ...] of these.
        where: what errors name.
    """

    dataset: Any
    members: IndexArray
    targets: NDArray[Any]
    where: str

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, index: int) -> tuple[FloatImages, NDArray[Any]]:
        """Input [C, H, W] and target at `index`."""
        return self.inputs(np.array([index % len(self)], np.int64))[0], np.asarray(self.targets[index])

    def inputs(self, index: IndexArray) -> FloatImages:
        """The inputs at `index` [N]: [N, C, H, W]."""
        return self.augmented(index, seed=0, epoch=0)

    def augmented(self, index: IndexArray, *, seed: int, epoch: int) -> FloatImages:
        """The same, as the data set's transforms vary them with this seed. Raises DataError."""
        return self._inputs([item for item, _ in self._items(index, seed, epoch)])

    def varied(self, index: IndexArray, *, seed: int, epoch: int) -> tuple[FloatImages, NDArray[Any]]:
        """The same with their targets: those that the transforms gave with the inputs, where they are more
        than one number (masks, boxes)."""
        items = self._items(index, seed, epoch)
        inputs = self._inputs([item for item, _ in items])
        if self.targets[0].size == 1:
            return inputs, self.targets[index]
        return inputs, np.stack([np.asarray(target) for _, target in items]).astype(self.targets.dtype)

    def _items(self, index: IndexArray, seed: int, epoch: int) -> list[tuple[Any, Any]]:
        found: list[tuple[Any, Any]] = []
        for place in self.members[index]:
            with _seeded(hash((seed, epoch, int(place))) % 2**32):
                found.append(_item(self.dataset, int(place), self.where))
        return found

    def _inputs(self, items: Sequence[Any]) -> FloatImages:
        found = [np.asarray(item, np.float32) for item in items]
        other = next((one for one in found if one.shape != found[0].shape), None)
        if other is not None:
            raise DataError(
                f"gives inputs of {list(found[0].shape)} and {list(other.shape)}", where=self.where,
                hint="add a transform that brings all to one shape",
            )  # fmt: skip
        return np.stack(found)


@contextmanager
def _seeded(seed: int) -> Generator[None]:
    """Random numbers of Python, NumPy and torch from a seed, and after that as if nothing had been drawn."""
    import torch

    python, numpy = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _item(dataset: Any, place: int, where: str) -> tuple[Any, Any]:
    try:
        item = dataset[place]
    except Exception as error:  # a user's data set may raise anything
        raise DataError(f"item {place} cannot be read ({reason_of(error)})", where=where) from error
    if not isinstance(item, tuple | list) or len(cast(Sequence[Any], item)) != 2:
        raise DataError(
            f"item {place} is {type(item).__name__}", where=where,
            hint="give pairs of an input and its target",
        )  # fmt: skip
    pair = cast(Sequence[Any], item)
    return pair[0], pair[1]


def from_loaders(
    train: Any,
    test: Any,
    *,
    validation: Any = None,
    class_names: Sequence[str] = (),
    task: str | Task | None = None,
    name: str = "loaders",
    seed: int = 0,
) -> DataModule:
    """A data module of torch `DataLoader`s or map-style data sets of (input, target).

    Of a loader its data set is taken: order and batches are mcc's own. Inputs are [C, H, W] float, prepared
    by the data set's transforms as the network takes them.

    Args:
        train: what weights may be trained on; calibration inputs are some of these.
        test: for the report; where there is no `validation`, one half of it is for choices.
        validation: for choices, not trained on.
        class_names: where the data set has no `classes`; without any, whole numbers are named by themselves.
        task: what the network is for; left out, classification where targets are single whole numbers.
        seed: chooses the calibration inputs.

    Raises:
        DataError: no map-style data set, or items that are no such pairs.
    """
    given = {"train": train, "test": test, "validation": validation}
    sets = {part: _dataset(value, f"{name}: {part}") for part, value in given.items() if value is not None}
    targets = {part: _targets(dataset, f"{name}: {part}") for part, dataset in sets.items()}
    labels = all(t.ndim == 1 and t.dtype.kind in "iu" for t in targets.values())
    names = tuple(class_names) or tuple(getattr(sets["train"], "classes", ()))
    if labels and not names and task is None:
        names = tuple(str(label) for label in range(max(int(t.max()) for t in targets.values()) + 1))

    def split(part: str, source: str, members: IndexArray) -> DatasetSplit:
        return DatasetSplit(sets[source], members, targets[source][members], f"{name}: {part}")

    everything = {part: np.arange(len(t), dtype=np.int64) for part, t in targets.items()}
    chosen, report = ("validation", everything["test"]) if validation is not None else ("test", None)
    if report is None:
        order = targets["test"] if labels else np.zeros(len(targets["test"]), np.int64)
        report, choices = halves(order)
    else:
        choices = everything["validation"]
    some = np.sort(epoch_order(len(targets["train"]), seed, 0)[:CALIBRATION_IMAGES])
    shape = split("train", "train", everything["train"]).inputs(np.zeros(1, np.int64)).shape[1:]
    return DataModule(
        name,
        train=split("train", "train", everything["train"]),
        calibration=split("calibration", "train", some),
        validation=split("validation", chosen, choices),
        test=split("test", "test", report),
        class_names=names,
        input_shape=tuple(shape),
        preprocessing=AS_IT_IS.for_channels(shape[0]),
        task=task,
        chosen_on=CHOSEN_ON[chosen],
    )


def _dataset(given: Any, where: str) -> Any:
    found = getattr(given, "dataset", given) if hasattr(given, "batch_size") else given
    if not hasattr(found, "__len__") or not hasattr(found, "__getitem__"):
        raise DataError(
            f"is {type(found).__name__}, which has no length or no places", where=where,
            hint="give a map-style data set, or a loader of one",
        )  # fmt: skip
    if not len(found):
        raise DataError("is empty", where=where)
    return found


def _targets(dataset: Any, where: str) -> NDArray[Any]:
    """All targets: the data set's list of them where it has one, else item by item."""
    listed = getattr(dataset, "targets", None)
    if listed is not None and len(listed) == len(dataset):
        values: Iterable[Any] = listed
    else:
        values = (_item(dataset, place, where)[1] for place in range(len(dataset)))
    found = np.asarray([np.asarray(value) for value in values])
    if found.dtype.kind not in "biuf":
        raise DataError(f"has targets of {found.dtype}", where=where, hint="give numbers")
    return found.astype(np.float32) if found.dtype.kind == "f" else found.astype(np.int64)
