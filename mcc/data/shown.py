"""What a network says of a picture, as people see it: in words, or drawn into the picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Pixels = NDArray[np.uint8]

SIDE = 240  # pixels that the shorter side of a shown picture has at least
OPACITY = 0.6  # of a mask


@dataclass(frozen=True)
class Shown:
    """An answer, or a label, for one picture.

    Attributes:
        words: A few words; empty if the picture says it all.
        picture: [H, W, 3] the picture with the answer drawn into it; None: the words are the answer.
    """

    words: str = ""
    picture: Pixels | None = None


def colour(label: int) -> tuple[int, int, int]:
    """A colour for a class, unlike those of the classes beside it."""
    return (label * 67 + 37) % 256, (label * 151 + 91) % 256, (label * 211 + 149) % 256


def enlarged(picture: Pixels) -> Pixels:
    """A small picture, each of its pixels repeated; others as they are."""
    times = -(-SIDE // min(picture.shape[:2]))
    return picture if times <= 1 else picture.repeat(times, 0).repeat(times, 1)


def painted(picture: Pixels, mask: NDArray[Any], ignored: int) -> Pixels:
    """A picture under the colours of its classes.

    Args:
        picture: [H, W, 3]; brought to the size of the mask.
        mask: Class of each pixel.
        ignored: Class of pixels that stay as they are.
    """
    resized = Image.fromarray(picture).resize(mask.shape[::-1], Image.Resampling.BILINEAR)
    plain = np.asarray(resized, np.float64)
    colours = np.array([colour(label) for label in range(int(mask.max()) + 1)], np.float64)
    mixed = (1 - OPACITY) * plain + OPACITY * colours[mask]
    return np.where((mask == ignored)[..., None], plain, mixed).astype(np.uint8)


def boxed(
    picture: Pixels, boxes: NDArray[np.float32], classes: Iterable[int], names: Sequence[str]
) -> Pixels:
    """A picture, enlarged if it is small, with boxes and the names of their classes.

    Args:
        boxes: [K, 4] corners in pixels of the picture.
    """
    large = enlarged(picture)
    scale, image = large.shape[1] / picture.shape[1], Image.fromarray(large)
    draw = ImageDraw.Draw(image)
    for box, label in zip(boxes, classes, strict=True):
        corners = (box * scale).tolist()
        draw.rectangle(corners, outline=colour(label), width=2)
        draw.text((corners[0] + 3, corners[1] + 2), names[label], fill=colour(label))
    return np.asarray(image)
