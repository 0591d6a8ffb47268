"""Pictures of the test split with what the original and the compressed network say of them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from mcc.data import BoundTask, DataModule, ImageSplit, Output
from mcc.data.classification import Classification
from mcc.data.decoding import Found
from mcc.data.detection import SHOWN_SCORE, Detection, as_found
from mcc.data.outputs import Named
from mcc.data.segmentation import IGNORED, Segmentation
from mcc.report.judge import outputs_of_images
from mcc.runtime.target import Target

Pixels = NDArray[np.uint8]

LOOKED_AT = 64  # test images that are compared
SHOWN = 6  # of them, those of which the two networks agree least
SIDE = 240  # pixels that the shorter side of a shown picture has at least
QUALITY = 85  # of JPEG
OPACITY = 0.6
LEAST_APART = 1e-6


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
        views: The picture as labelled, and as each network answers.
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
    """Compare two files on the first test pictures; None where the inputs are no pictures, or the task's
    answers cannot be shown.

    Args:
        outputs: Outputs of the files' graphs.

    Raises:
        MccError: As `judge_file`.
    """
    split, kind = data.test, task.task
    if not isinstance(split, ImageSplit) or not isinstance(kind, Classification | Segmentation | Detection):
        return None
    one, other = (
        outputs_of_images(target, file, data, "test", LOOKED_AT, task, outputs, threads)
        for file in (original, compressed)
    )
    agreement = task.agreement(other, one)
    differing = int((agreement < 1 - LEAST_APART).sum())
    order = np.argsort(agreement, kind="stable")[:SHOWN]
    chosen = [int(place) for place in order if not isinstance(kind, Classification) or agreement[place] < 1]
    count = len(agreement)
    words = f"The two networks answer alike on all of the first {count} test pictures."
    if differing:
        words = (
            f"The two networks answer differently on {differing} of the first {count} test pictures"
            f"{'; shown are the most different' if differing > SHOWN else ''}."
        )
    names, answers = data.class_names, (one, other)
    return SideBySide(words, tuple(_example(place, split, kind, answers, outputs, names) for place in chosen))


def _example(
    place: int,
    split: ImageSplit,
    task: Classification | Segmentation | Detection,
    answers: Sequence[Sequence[NDArray[Any]]],
    outputs: Sequence[Output],
    names: Sequence[str],
) -> Example:
    picture, target = _picture(split, place), np.asarray(split.targets[place])
    each = [Named([value[place : place + 1] for value in answer], outputs) for answer in answers]
    views: list[View] = []
    if isinstance(task, Classification):
        label = f"labelled {names[int(target)]}"
        said = [task.postprocess(one, names)[0] for one in each]
        told = [f"{one.labels[0]} {100 * one.shares[0]:.0f} %" for one in said]
        words = f"{label}; original: {told[0]}; compressed: {told[1]}"
        return Example(place, (View(words, _uri(picture)),))
    if isinstance(task, Segmentation):
        masks = [target, *(task.postprocess(one, picture.shape[:2])[0] for one in each)]
        views = [
            View(caption, _uri(_painted(picture, mask)))
            for caption, mask in zip(("labelled", "original", "compressed"), masks, strict=True)
        ]
    else:
        found = [as_found(target), *(task.boxes(one)[0] for one in each)]
        views = [
            View(f"{caption}: {_shown_boxes(boxes)[0].size} boxes", _boxed(picture, boxes, names))
            for caption, boxes in zip(("labelled", "original", "compressed"), found, strict=True)
        ]
    return Example(place, tuple(views))


def _picture(split: ImageSplit, place: int) -> Pixels:
    """The picture as the network sees it, [H, W, 3], before its normalisation."""
    given = split.inputs(np.array([place]))[0].astype(np.float64)
    own = split.preprocessing.for_channels(len(given))
    std, mean = (np.array(value)[:, None, None] for value in (own.byte_std, own.byte_mean))
    pixels = given * std + mean
    pixels = pixels[::-1] if own.channels == "bgr" else pixels
    pixels = np.repeat(pixels, 3, 0) if len(pixels) == 1 else pixels[:3]
    return np.rint(pixels).clip(0, 255).astype(np.uint8).transpose(1, 2, 0)


def colour(label: int) -> tuple[int, int, int]:
    """A colour for a class, far from those of the classes beside it."""
    return (label * 67 + 37) % 256, (label * 151 + 91) % 256, (label * 211 + 149) % 256


def _painted(picture: Pixels, mask: NDArray[Any]) -> Pixels:
    """A picture under the colours of its classes; ignored pixels stay."""
    small = np.asarray(Image.fromarray(picture).resize(mask.shape[::-1], Image.Resampling.BILINEAR))
    colours = np.array([colour(label) for label in range(int(mask.max()) + 1)], np.float64)
    mixed = (1 - OPACITY) * small + OPACITY * colours[mask]
    return np.where((mask == IGNORED)[..., None], small, mixed).astype(np.uint8)


def _shown_boxes(found: Found) -> tuple[NDArray[np.int64], ...]:
    return np.nonzero(found.scores > SHOWN_SCORE)


def _boxed(picture: Pixels, found: Found, names: Sequence[str]) -> str:
    """A picture with the boxes that are likely enough."""
    enlarged = _enlarged(Image.fromarray(picture))
    scale, draw = enlarged.width / picture.shape[1], ImageDraw.Draw(enlarged)
    for place in _shown_boxes(found)[0]:
        label, corners = int(found.classes[place]), (found.boxes[place] * scale).tolist()
        draw.rectangle(corners, outline=colour(label), width=2)
        draw.text((corners[0] + 3, corners[1] + 2), names[label], fill=colour(label))
    return _encoded(enlarged)


def _enlarged(image: Image.Image) -> Image.Image:
    times = -(-SIDE // min(image.size))
    size = (image.width * times, image.height * times)
    return image if times <= 1 else image.resize(size, Image.Resampling.NEAREST)


def _uri(pixels: Pixels) -> str:
    return _encoded(_enlarged(Image.fromarray(pixels)))


def _encoded(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
