"""Agreement with the original: what a compressed network is judged by where pictures have no labels.

The original's own classes stand for labels. Its agreement is 100 %, and that of another network the share of
images for which it gives the same class. That is no accuracy: both may be wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcc.data.augment import IndexArray
from mcc.data.classification import Classification
from mcc.data.module import PARTS, DataModule
from mcc.data.outputs import Output, likely_output, listed, named_output
from mcc.data.parts import Inputs, inputs_of
from mcc.data.split import ImageSplit, Split, SplitInputs
from mcc.data.task import Targets
from mcc.errors import DataError
from mcc.metric import FRACTION, Metric

AGREEMENT = "agreement"
METRIC = Metric("agreement with the original", FRACTION)
NO_LABELS = (
    "The data has no labels: agreement is the share of images for which a network gives the class that the "
    "original gives. It is no accuracy."
)
AT_ONCE = 64  # images that the original is run on together

Answers = Callable[[Inputs], Sequence[NDArray[np.float32]]]


@dataclass(frozen=True)
class Agreement(Classification):
    """Classification with the classes that the original network gives."""

    name: str = AGREEMENT
    metric: Metric = METRIC

    def check_targets(self, targets: Targets, part: str, data: DataModule) -> None:
        """Refuse data that no original has labelled. Raises DataError."""
        if not data.class_names:
            raise DataError(
                "has no labels, so that only mcc compress can judge by it: by agreement with the original",
                where=data.name,
                hint="give labels: a folder for each class, or a list of file,label",
            )
        super().check_targets(targets, part, data)


def labelled_by(
    data: DataModule, answers: Answers, outputs: Sequence[Output], asked: str | None = None
) -> DataModule:
    """The data with the classes that a network gives as its labels.

    Args:
        answers: All outputs of the network for inputs [N, ...].
        outputs: Of the network.
        asked: Name or place of the output that holds the scores of classes; None: the one with such a shape.

    Raises:
        DataError: No output has a score for each of two or more classes.
        UsageError: There is no such output, or several could be meant.
    """
    fits = [place for place, output in enumerate(outputs) if _scores(output)]
    place = named_output(outputs, asked) if asked is not None else None
    if not fits or (place is not None and place not in fits):
        raise DataError(
            f"has no labels, and no output of the network holds scores of classes ({listed(outputs)})",
            where=data.name, hint="give labels, or a data module with a task of your own",
        )  # fmt: skip
    if place is None:
        place = fits[0] if len(fits) == 1 else likely_output(outputs, fits)
    names = tuple(f"class {number}" for number in range(outputs[place].shape[1]))
    parts: dict[str, Any] = {}
    for name in PARTS:
        part = data.split(name)
        found: list[NDArray[Any]] = []
        for index in np.array_split(np.arange(len(part), dtype=np.int64), -(-len(part) // AT_ONCE)):
            given = inputs_of(name, part, index, data.name, data.input_shape)
            found.append(np.asarray(answers(given)[place]).reshape(len(index), -1).argmax(1))
        parts[name] = _with_targets(part, np.concatenate(found).astype(np.int64))
    return replace(data, **parts, class_names=names, task=Agreement())


def _scores(output: Output) -> bool:
    return len(output.shape) >= 2 and output.shape[1] > 1 and all(side == 1 for side in output.shape[2:])


def _with_targets(part: Split, targets: NDArray[np.int64]) -> Split:
    return replace(part, targets=targets) if isinstance(part, ImageSplit) else _Labelled(part, targets)


@dataclass(frozen=True, eq=False)
class _Labelled:
    """A split of a user's own with other targets."""

    part: Split
    targets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(self, index: int) -> tuple[Any, NDArray[Any]]:
        return self.part[index][0], np.asarray(self.targets[index])

    def inputs(self, index: IndexArray) -> SplitInputs:
        """See `Split.inputs`."""
        return self.part.inputs(index)

    def augmented(self, index: IndexArray, *, seed: int, epoch: int) -> SplitInputs:
        """See `Split.augmented`."""
        return self.part.augmented(index, seed=seed, epoch=epoch)


TASK = Agreement()
