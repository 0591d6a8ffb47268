"""Arrays that users bring: images and labels of every kind that can be meant in one way only.

Pixels are kept as bytes, or as float32 on the same scale of 0 to 255 where bytes would round them. What may
mean two things is refused: a picture on the wrong scale is black or white, and nothing else would say so.
"""

from __future__ import annotations

import logging
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from mcc.errors import DataError

logger = logging.getLogger(__name__)

Pixels = NDArray[Any]  # uint8 or float32
Labels = NDArray[np.int64]

CHANNELS = (1, 3, 4)  # grey, colour, colour with opacity
WHITE = 255
HALF_WHITE = 128  # pictures on a scale of 0 to 255 reach beyond its middle somewhere
BLACK = 2  # of 255: what stays below in a whole set of pictures is on another scale
ROUNDING = 1e-6  # of a division by 255 in float32


def pixels_of(raw: object, part: str, where: str, channels: int | None = None) -> Pixels:
    """Images [N, C, H, W] from 0 to 255: bytes, or float32 where bytes would round them.

    Args:
        raw: integers or whole floats from 0 to 255, floats from 0 to 1, or booleans.
        part: `train`, `test` or `validation`, for the message.
        channels: that the network takes, where they are known.

    Raises:
        DataError: another kind, shape or scale.
    """
    found = _array(raw, f"{part} images", where)
    shape = found.shape
    if found.dtype.kind not in "buif":
        raise DataError(
            f"the {part} images are of the kind {found.dtype}, not numbers", where=where,
            hint="give one array [N, C, H, W] of bytes; pictures of unlike sizes go into an image folder",
        )  # fmt: skip
    if found.ndim != 4 or 0 in shape[1:]:
        grey = "; grey images need an axis of one channel: images[:, None]" if found.ndim == 3 else ""
        raise DataError(
            f"the {part} images have the shape {list(shape)}", where=where, hint=f"give [N, C, H, W]{grey}"
        )
    if shape[1] not in (*CHANNELS, channels) and shape[3] in CHANNELS:
        raise DataError(
            f"the {part} images have the shape {list(shape)}, with the channels last", where=where,
            hint="give [N, C, H, W]: images.transpose(0, 3, 1, 2)",
        )  # fmt: skip
    if not len(found):
        return found.astype(np.uint8)
    if found.dtype.kind == "b":
        return found.astype(np.uint8) * np.uint8(WHITE)
    return _on_scale(found, part, where)


def _on_scale(found: NDArray[Any], part: str, where: str) -> Pixels:
    """Numbers on the scale of 0 to 255."""
    if found.dtype.kind == "f":
        wrong = np.flatnonzero(~np.isfinite(found.reshape(len(found), -1)).all(1))
        if len(wrong):
            raise DataError(
                f"{len(wrong)} of the {len(found)} {part} images hold values that are not finite, image "
                f"{wrong[0]} first",
                where=where,
            )
    low, high = float(found.min()), float(found.max())
    span = f"the {part} images run from {low:.4g} to {high:.4g}"
    if found.dtype.kind == "f" and low >= 0 and BLACK / WHITE <= high <= 1 + ROUNDING:
        return _bytes_if_exact(np.clip(found.astype(np.float64), 0, 1) * WHITE)
    if low < 0 or high > WHITE:
        hint = (
            "give bytes, or floats from 0 to 1, not normalised; the network's Preprocessing normalises them"
        )
        raise DataError(f"{span}, which is neither 0 to 255 nor 0 to 1", where=where, hint=hint)
    if high < (BLACK if found.dtype.kind in "ui" else HALF_WHITE):
        hint = "give bytes from 0 to 255, or floats from 0 to 1"
        raise DataError(f"{span}: on a scale of 0 to 255 they would be black", where=where, hint=hint)
    return _bytes_if_exact(found)


def _bytes_if_exact(values: NDArray[Any]) -> Pixels:
    """Bytes where the values are whole but for rounding, else float32."""
    if values.dtype.kind in "ui":
        return np.ascontiguousarray(values, dtype=np.uint8)
    whole = np.rint(values)
    if np.abs(values - whole).max() <= WHITE * ROUNDING * 4:
        return whole.astype(np.uint8)
    return np.ascontiguousarray(values, dtype=np.float32)


def labels_of(raw: object, count: int, classes: int, part: str, where: str) -> Labels:
    """Labels [N] from 0 to `classes` - 1.

    Args:
        raw: whole numbers [N] or [N, 1], or exactly one 1 among zeros for each image [N, classes].
        count: images that they belong to.

    Raises:
        DataError: another kind, shape or number of them, or labels outside the classes.
    """
    found = _array(raw, f"{part} labels", where)
    kind = found.dtype.kind
    if kind not in "buif":
        raise DataError(
            f"the {part} labels are of the kind {found.dtype}, not numbers", where=where,
            hint="give the place of each class in class_names",
        )  # fmt: skip
    if found.ndim < 1 or len(found) != count:
        have = len(found) if found.ndim else 1
        raise DataError(f"the {count} {part} images have {have} labels", where=where)
    if found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    elif found.ndim == 2 and found.shape[1] == classes:
        one_hot = ((found == 0) | (found == 1)).all() and (found.sum(1) == 1).all()
        if not one_hot:
            raise DataError(
                f"the {part} labels are shares of {classes} classes, not one class for each image",
                where=where, hint="give labels.argmax(1), if the likeliest class is meant",
            )  # fmt: skip
        found = found.argmax(1)
    if found.ndim != 1:
        raise DataError(
            f"the {part} labels have the shape {list(found.shape)}", where=where,
            hint=f"give one number for each image, [N], or one-hot [N, {classes}]",
        )  # fmt: skip
    if kind == "f" and not (np.isfinite(found).all() and (found == np.rint(found)).all()):
        wrong = found[~(np.isfinite(found) & (found == np.rint(found)))][0]
        raise DataError(f"the {part} labels hold {wrong:g}, which is no class", where=where)
    if len(found) and not 0 <= int(found.min()) <= int(found.max()) < classes:
        raise DataError(
            f"the {part} labels run from {int(found.min())} to {int(found.max())} and there are {classes} "
            "classes",
            where=where,
            hint=f"number the classes from 0 to {classes - 1}",
        )
    return found.astype(np.int64)


def targets_of(raw: object, count: int, part: str, where: str) -> NDArray[Any]:
    """Targets [N, ...] that are no classes: whole numbers, floats or booleans, as they are.

    Args:
        count: images that they belong to.

    Raises:
        DataError: another kind or number of them, or values that are not finite.
    """
    found = _array(raw, f"{part} targets", where)
    if found.dtype.kind not in "buif":
        raise DataError(f"the {part} targets are of the kind {found.dtype}, not numbers", where=where)
    if found.ndim < 1 or len(found) != count:
        have = len(found) if found.ndim else 1
        raise DataError(f"the {count} {part} images have {have} targets", where=where)
    if not np.isfinite(found).all():
        raise DataError(f"the {part} targets hold values that are not finite", where=where)
    return found


def class_names_of(raw: object, where: str) -> tuple[str, ...]:
    """Names of the classes, each another one. Raises DataError for anything else."""
    names = cast("tuple[object, ...]", tuple(raw)) if isinstance(raw, list | tuple) else None
    if names is None or not all(isinstance(name, str) and name for name in names):
        raise DataError(
            f"class_names is {raw!r:.80}", where=where, hint="give a tuple with one name for each class"
        )
    found = tuple(str(name) for name in names)
    twice = next((name for place, name in enumerate(found) if name in found[:place]), None)
    if twice is not None:
        raise DataError(
            f"class_names holds {twice!r} more than once", where=where, hint="give each class its own name"
        )
    return found


def _array(raw: object, what: str, where: str) -> NDArray[Any]:
    try:
        return np.asarray(raw)
    except Exception as error:  # ragged lists, tensors with a gradient or on another device
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(f"the {what} are no array ({reason[0][:120]})", where=where) from error


def pair_of(raw: object, part: str, where: str) -> tuple[object, object]:
    """Images and labels of a part. Raises DataError for anything but two values."""
    if not isinstance(raw, tuple | list) or len(cast("tuple[object, ...]", raw)) != 2:
        raise DataError(
            f"the {part} part is {type(raw).__name__}, not images with their labels", where=where,
            hint="give (images, labels)",
        )  # fmt: skip
    images, labels = cast("tuple[object, object]", tuple(cast("tuple[object, ...]", raw)))
    return images, labels
