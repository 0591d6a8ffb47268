"""Pictures of the test split with what the original and the compressed network say of them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from mcc.data import BoundTask, DataModule, ImageSplit, Output
from mcc.data.shown import Pixels, Shown, enlarged
from mcc.report.judge import outputs_of_images
from mcc.runtime.target import Target

LOOKED_AT = 64  # test images that are compared
SHOWN = 6  # of them, those of which the two networks agree least
QUALITY = 85  # of JPEG
LEAST_APART = 1e-6
WHOSE = ("labelled", "original", "compressed")


@dataclass(frozen=True)
class View:
    """One picture as an answer shows it.

    Attributes:
        caption: Whose answer it is, and the answer in words where it is one.
        image: The picture, as a data URI.
    """

    caption: str
    image: str


@dataclass(frozen=True)
class Example:
    """One test picture.

    Attributes:
        number: Its place in the test split, from 0.
        views: The picture as labelled, and as each network answers; one alone where answers are words.
    """

    number: int
    views: tuple[View, ...]


@dataclass(frozen=True)
class SideBySide:
    """The pictures of which two networks agree least.

    Attributes:
        words: How they were chosen, as a sentence.
    """

    words: str
    examples: tuple[Example, ...]


def side_by_side(
    target: Target, original: Path, compressed: Path, data: DataModule, task: BoundTask,
    outputs: Sequence[Output], threads: int = 1,
) -> SideBySide | None:  # fmt: skip
    """Compare two files on the first test pictures.

    None where the inputs are no pictures, or the task does not show its answers (`Task.shown`).

    Args:
        outputs: Outputs of the files' graphs.

    Raises:
        MccError: As `judge_file`.
    """
    split, names = data.test, data.class_names
    if not isinstance(split, ImageSplit):
        return None
    label = task.shown_target(_picture(split, 0), split.targets[0], names)
    if label is None:
        return None
    answers = [
        outputs_of_images(target, file, data, "test", LOOKED_AT, task, outputs, threads)
        for file in (original, compressed)
    ]
    agreement = task.agreement(answers[1], answers[0])
    differs = agreement < 1 - LEAST_APART
    order = [int(place) for place in np.argsort(agreement, kind="stable")[:SHOWN]]
    examples: list[Example] = []
    for place in order:
        if label.picture is None and not differs[place]:
            break  # equal words say nothing
        picture = _picture(split, place)
        found = [task.shown_target(picture, split.targets[place], names)]
        found += [task.shown(picture, [v[place : place + 1] for v in values], names) for values in answers]
        examples.append(Example(place, _views(picture, [one or Shown() for one in found])))
    count, differing = len(agreement), int(differs.sum())
    words = f"The two networks answer alike on all of the first {count} test pictures."
    if differing:
        most = "; shown are the most different" if differing > SHOWN else ""
        words = (
            f"The two networks answer differently on {differing} of the first {count} test pictures{most}."
        )
    return SideBySide(words, tuple(examples))


def _views(picture: Pixels, found: Sequence[Shown]) -> tuple[View, ...]:
    captions = [": ".join(filter(None, (whose, one.words))) for whose, one in zip(WHOSE, found, strict=True)]
    if all(one.picture is None for one in found):
        return (View("; ".join(captions), _uri(picture)),)
    pictures = [picture if one.picture is None else one.picture for one in found]
    return tuple(View(caption, _uri(pixels)) for caption, pixels in zip(captions, pictures, strict=True))


def _picture(split: ImageSplit, place: int) -> Pixels:
    """The picture as the network sees it, [H, W, 3], before its normalisation."""
    given = split.inputs(np.array([place]))[0].astype(np.float64)
    own = split.preprocessing.for_channels(len(given))
    std, mean = (np.array(value)[:, None, None] for value in (own.byte_std, own.byte_mean))
    pixels = given * std + mean
    pixels = pixels[::-1] if own.channels == "bgr" else pixels
    pixels = np.repeat(pixels, 3, 0) if len(pixels) == 1 else pixels[:3]
    return np.ascontiguousarray(np.rint(pixels).clip(0, 255).astype(np.uint8).transpose(1, 2, 0))


def _uri(picture: Pixels) -> str:
    buffer = io.BytesIO()
    Image.fromarray(enlarged(picture)).save(buffer, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
