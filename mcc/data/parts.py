"""What a part of a data set must be of any origin: checked once, where it enters.

A `Split` of a user's own may give anything. What comes out of it is checked here, so that no consumer has to
look again, and what is wrong is said of the part and not of a convolution.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from mcc.data.augment import IndexArray
from mcc.data.split import FloatImages, ImageSplit, MemoryImages, Split
from mcc.errors import DataError, MccError
from mcc.user_code import reason_of

Shape = tuple[int, ...]
Shapes = Shape | tuple[Shape, ...] | Mapping[str, Shape]
"""Of a network's only input; or of several, by position or by name."""
Inputs = FloatImages | tuple[FloatImages, ...]

MEMBERS = ("targets", "inputs", "augmented", "__len__")
SHARED = 0.01  # of the smaller part: pictures that two parts have in common by accident are fewer
COMPARED = 32  # inputs of splits of a user's own that tell whether two are the same


def check_part(name: str, part: Split, where: str, shape: Shapes) -> None:
    """Refuse a part that is no `Split`, is empty, or whose targets or inputs are not what they should be.

    Which numbers targets may be, and of which shape, is their task's to say.

    Args:
        shape: of an example; for several inputs, a shape for each.

    Raises:
        DataError: naming the part.
    """
    lacking = [member for member in MEMBERS if not hasattr(part, member)]
    if lacking:
        raise DataError(
            f"the {name} split is {type(part).__name__}, which lacks {lacking[0].strip('_')}", where=where,
            hint="see mcc.data.Split, or use mcc.data.from_arrays",
        )  # fmt: skip
    count, targets = len(part), part.targets
    if not count:
        raise DataError(f"there are no images for the {name} split", where=where)
    if not isinstance(targets, np.ndarray) or targets.dtype.kind not in "biuf":  # pyright: ignore
        kind = getattr(targets, "dtype", type(targets).__name__)
        raise DataError(f"the targets of the {name} split are {kind}, not an array of numbers", where=where)
    if targets.ndim < 1 or len(targets) != count:
        have = len(targets) if targets.ndim else 1
        raise DataError(f"the {name} split has {count} inputs and {have} targets", where=where)
    inputs_of(name, part, np.array([0, count - 1], np.int64), where, shape)


def handed_on(targets: NDArray[Any]) -> NDArray[Any]:
    """Targets of a batch as tasks get them: whole numbers as int64, others as float32."""
    return targets.astype(np.float32 if targets.dtype.kind == "f" else np.int64)


def several(shape: Shapes) -> bool:
    """Whether these are the shapes of several inputs."""
    return isinstance(shape, Mapping) or (bool(shape) and isinstance(shape[0], tuple))


def inputs_of(name: str, part: Split, index: IndexArray, where: str, shape: Shapes) -> Inputs:
    """The inputs at `index`; of several, a tuple. Raises DataError where they are not float32 [N, *shape] and
    finite."""
    try:
        found = part.inputs(index)
    except MccError:
        raise
    except Exception as error:  # a user's split may raise anything
        raise DataError(f"reading the {name} split fails ({reason_of(error)})", where=where) from error
    return checked(found, len(index), name, where, shape)


def varied(
    name: str, part: Split, index: IndexArray, where: str, shape: Shapes, *, seed: int, epoch: int
) -> tuple[Inputs, NDArray[Any]]:
    """Varied inputs at `index` with their targets. Raises DataError as `inputs_of` does."""
    both = getattr(part, "varied", None)
    try:
        found = (
            (part.augmented(index, seed=seed, epoch=epoch), part.targets[index])
            if both is None
            else both(index, seed=seed, epoch=epoch)
        )
    except MccError:
        raise
    except Exception as error:  # a user's split may raise anything
        raise DataError(f"varying the {name} split fails ({reason_of(error)})", where=where) from error
    if not isinstance(found, tuple) or len(cast(Sequence[Any], found)) != 2:
        raise DataError(f"varied of the {name} split returns no inputs and targets", where=where)
    inputs, targets = cast(tuple[Any, Any], found)
    targets = np.asarray(targets)
    if targets.shape != (len(index), *part.targets.shape[1:]):
        raise DataError(
            f"the targets of the {name} split come as {list(targets.shape)} when they are varied, not as "
            f"{[len(index), *part.targets.shape[1:]]}", where=where,
        )  # fmt: skip
    return checked(inputs, len(index), name, where, shape), targets


def checked(found: Any, count: int, name: str, where: str, shape: Shapes) -> Inputs:
    """Inputs as they came out of a split, where they are what they should be. Raises DataError."""
    if isinstance(shape, Mapping):
        if not isinstance(found, Mapping) or set(cast(Mapping[str, Any], found)) != set(shape):
            kind = sorted(map(str, cast(Any, found))) if isinstance(found, Mapping) else type(found).__name__
            raise DataError(
                f"the inputs of the {name} split are {kind}, not a dictionary with {', '.join(shape)}",
                where=where,
            )
        named = cast(Mapping[str, Any], found)
        return tuple(_array(named[key], count, f"{name} split, {key}", where, shape[key]) for key in shape)
    if several(shape):
        shapes = cast(tuple[Shape, ...], shape)
        if not isinstance(found, tuple | list) or len(cast(Sequence[Any], found)) != len(shapes):
            kind = f"{len(cast(Any, found))}" if isinstance(found, tuple | list) else type(found).__name__
            raise DataError(
                f"the inputs of the {name} split are {kind}, not {len(shapes)} arrays", where=where
            )
        pairs = enumerate(zip(cast(Sequence[Any], found), shapes, strict=True))
        return tuple(_array(one, count, f"{name} split, {at}", where, each) for at, (one, each) in pairs)
    return _array(found, count, f"{name} split", where, cast(Shape, shape))


def _array(found: Any, count: int, name: str, where: str, shape: Shape) -> FloatImages:
    if not isinstance(found, np.ndarray) or found.dtype != np.float32:
        kind = getattr(found, "dtype", type(found).__name__)
        raise DataError(f"the inputs of the {name} are {kind}, not an array of float32", where=where)
    # A network without an axis of channels in front, [1, L] or [1, C, L], says its shape with the batch.
    if found.shape[:1] != (count,) or found.shape[1:] not in _shapes(shape):
        raise DataError(
            f"the inputs of the {name} come as {list(found.shape)}, not as {[count, *shape]}",
            where=where,
        )
    if not np.isfinite(found).all():
        raise DataError(f"inputs of the {name} hold values that are not finite", where=where)
    return found


def _shapes(shape: Shape) -> tuple[Shape, ...]:
    return (shape, shape[1:]) if len(shape) == 3 and shape[0] == 1 else (shape,)


# -- parts that should have nothing in common ---------------------------------------------------------------


def shared_words(first: tuple[str, Split], second: tuple[str, Split]) -> str:
    """That two parts hold the same images, in words; empty where they do not, as far as can be seen.

    Pictures in memory are compared one by one; pictures in files by name; of a user's own split the first
    `COMPARED` and the targets.
    """
    (name, one), (other_name, other) = first, second
    if isinstance(one, ImageSplit) and isinstance(other, ImageSplit):
        found = _shared_images(one, other)
        smaller = min(len(one), len(other))
        if found > SHARED * smaller:
            return f"{found:,} of the {len(one):,} {name} images are among the {other_name} images"
        return ""
    same = one is other or (
        len(one) == len(other)
        and np.array_equal(one.targets, other.targets)
        and _same(_first(one), _first(other))
    )
    return f"the {name} images are the {other_name} images" if same else ""


def _first(part: Split) -> list[FloatImages]:
    found: Any = part.inputs(np.arange(min(COMPARED, len(part)), dtype=np.int64))
    if isinstance(found, Mapping):
        return list(cast(Mapping[str, Any], found).values())
    return list(cast(Sequence[Any], found)) if isinstance(found, tuple | list) else [found]


def _same(one: list[FloatImages], other: list[FloatImages]) -> bool:
    return len(one) == len(other) and all(map(np.array_equal, one, other))


def _shared_images(one: ImageSplit, other: ImageSplit) -> int:
    """How many members of `one` are members of `other` as well."""
    if one.source is other.source:
        return int(np.isin(one.members, other.members).sum())
    if not isinstance(one.source, MemoryImages) or not isinstance(other.source, MemoryImages):
        return 0
    if one.source.shape != other.source.shape:
        return 0
    known = set(_marks(other.source.pixels, other.members))
    return sum(mark in known for mark in _marks(one.source.pixels, one.members))


def _marks(pixels: NDArray[Any], members: IndexArray) -> list[int]:
    return [hash(pixels[place].tobytes()) for place in members]


def check_labels(targets: NDArray[Any], part: str, where: str, classes: int) -> None:
    """Refuse targets that are not one class for each input.

    Args:
        part: Of the data, for the message.
        classes: How many there are; 0 where nothing names them.

    Raises:
        DataError: Naming the part.
    """
    if targets.dtype.kind not in "iu":
        raise DataError(
            f"the targets of the {part} split are {targets.dtype}, not an array of int64", where=where
        )
    if targets.ndim != 1:
        raise DataError(
            f"the targets of the {part} split have the shape {list(targets.shape)}, not one class for each "
            "input",
            where=where,
        )
    if classes and not 0 <= int(targets.min()) <= int(targets.max()) < classes:
        raise DataError(
            f"the targets of the {part} split run from {targets.min()} to {targets.max()} and there are "
            f"{classes} classes",
            where=where,
        )
