"""Checks that make a result doubtful: chance level, different class names, saturating sums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mcc.data.outputs import Output
from mcc.data.preprocessing import Preprocessing
from mcc.data.stated import Stated
from mcc.errors import DataError, UsageError
from mcc.ir.first_look import check_model_file
from mcc.lower.onnx.ort_reader import read_ort
from mcc.report.file_metadata import READERS, Description, describe
from mcc.runtime.target import Target


@dataclass(frozen=True)
class Circumstances:
    """Facts that may explain a network at chance level.

    Attributes:
        stated: Preprocessing of its images.
        outputs: Outputs of the network; `judged` is the one that the metric is computed from.
        fresh: Whether its factory initialised the weights and none were given.
        zeros: Names of weights that are all zero.
        weights: Number of weight tensors; 0 if they were not examined.
        classes: Whether the data has class names.
    """

    stated: Stated
    outputs: Sequence[Output]
    judged: Output
    fresh: bool = False
    zeros: Sequence[str] = ()
    weights: int = 0
    classes: bool = True


def chance_sentence(subject: str, chance: str, known: Circumstances) -> str:
    """The warning that a network is at chance level, with figures and likely causes.

    Args:
        subject: `The original`, or the name of a file.
        chance: Text of `Task.chance`.
    """
    causes = _causes(known)
    if known.classes:
        causes.append("classes in another order than the data's")
    level = "above" if known.classes else "better than"
    return f"{subject} is not {level} chance: {chance}. Likely: {'; '.join(causes)}."


def saturation_warning(target: Target, file: Path | str) -> str | None:
    """The warning that sums of the file's int8 products saturate here, with a remedy; None if they do not."""
    path = Path(file)
    if not target.int8_saturates(path.suffix) or not _has_int8(path):
        return None
    remedy = (
        "the .onnx file it was made from gives the right ones, and the .ort file itself does on ARM"
        if path.suffix == ".ort"
        else f"{target.name}:precise gives the right ones"
    )
    return (
        f"sums of int8 products saturate on this processor, which lacks VNNI: the outputs of {path.name} "
        f"here are not those of a phone ({remedy})"
    )


def _has_int8(file: Path) -> bool:
    """Whether a .onnx or .ort file has int8 weights."""
    if file.suffix == ".ort":
        return any(value.dtype == np.int8 and value.ndim > 1 for value in read_ort(file).constants.values())
    import onnx

    stored = onnx.load(check_model_file(file), load_external_data=False).graph.initializer
    return any(value.data_type == onnx.TensorProto.INT8 and len(value.dims) > 1 for value in stored)


def _causes(known: Circumstances) -> list[str]:
    """The likely causes, certain ones first."""
    found: list[str] = []
    if known.zeros and len(known.zeros) == known.weights:
        found.append("all of its weights are zero")
    elif known.zeros:
        more = f" and of {len(known.zeros) - 1} others" if len(known.zeros) > 1 else ""
        found.append(f"the weights of {known.zeros[0]}{more} are all zero")
    if known.fresh:
        found.append("no --weights were given, and those that its factory makes may be untrained")
    if len(known.outputs) > 1:
        found.append(f"of its {len(known.outputs)} outputs {known.judged.name!r} was judged (--judge)")
    guess = "the preprocessing was assumed" if known.stated.assumed else "another preprocessing"
    found.append(f"{guess}, images were prepared as {known.stated.words} (--mean, --std, --scale)")
    return found


def zero_weights(weights: Mapping[str, Tensor]) -> tuple[tuple[str, ...], int]:
    """Names of the weights that are all zero, and the number of weights, without biases."""
    looked = {name: value for name, value in weights.items() if value.ndim > 1}
    return tuple(name for name, value in looked.items() if not bool(value.any())), len(looked)


def stated_by_model(spec: str, said: Any) -> Stated | None:
    """The preprocessing that a model states; None if it states none.

    Args:
        spec: The MODEL as given.
        said: The third value that its factory returned; None if there is none.

    Raises:
        UsageError: The factory returned something else.
        DataError: The file cannot be read.
    """
    if said is not None:
        if not isinstance(said, Preprocessing):
            raise UsageError(
                f"its factory returns a {type(said).__name__} as third value",
                where=spec,
                hint="return mcc.data.Preprocessing(mean=..., std=...)",
            )
        return Stated(said, "the factory of the model")
    path = Path(spec)
    if path.suffix not in READERS or not path.is_file():
        return None
    return stated_by(path, describe(path))


def stated_by(path: Path, described: Description) -> Stated | None:
    """The preprocessing that a file states; None if it states none."""
    found = described.preprocessing
    return None if found is None else Stated(found, f"stated in {path.name}")


def labels_warning(
    path: Path, labels: Sequence[str] | None, class_names: Sequence[str], *, ignore: bool = False
) -> str | None:
    """The warning that a file's class names differ from the data's; None if they agree.

    Case, spaces and punctuation are ignored.

    Args:
        ignore: Whether the user states that the order is right nevertheless.

    Raises:
        DataError: The names are in another order, or of another number.
    """
    if not labels or not class_names:
        return None
    theirs, ours = [_plain(name) for name in labels], [_plain(name) for name in class_names]
    if theirs == ours:
        return None
    hint = "correct the order of one of them, or give --ignore-labels if the names are wrong"
    if len(theirs) != len(ours):
        if ignore:
            return None
        raise DataError(
            f"names {len(theirs)} classes, and the data has {len(ours)}", where=str(path), hint=hint
        )
    place = next(i for i, (a, b) in enumerate(zip(theirs, ours, strict=True)) if a != b)
    figures = f"{labels[place]!r} is its class {place}, and that of the data is {class_names[place]!r}"
    if theirs[place] in ours or ours[place] in theirs:
        if ignore:
            return None
        raise DataError(f"has the classes in another order: {figures}", where=str(path), hint=hint)
    return None if ignore else f"{path.name} names its classes otherwise than the data: {figures}."


def _plain(name: str) -> str:
    letters = "".join(letter for letter in name.casefold() if letter.isalnum())
    return letters or name.casefold().strip()
