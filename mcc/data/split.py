"""One part of a data set: images kept as bytes, given as the float32 tensors that the network takes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mcc.data.arrays import BLACK, WHITE, Pixels
from mcc.data.augment import Augmentation, IndexArray, Moves
from mcc.data.preprocessing import Preprocessing
from mcc.errors import DataError

FloatImages = NDArray[np.float32]
Targets = NDArray[Any]
MoveTargets = Callable[[Targets, Moves], Targets]
"""Targets [N, ...] of images that were moved, from those of the images as they are."""
SplitInputs = FloatImages | tuple[FloatImages, ...] | Mapping[str, FloatImages]


class ImageSource(Protocol):
    """Where bytes of images come from: memory, or files that are decoded when asked for."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width), the same for all images."""
        ...

    def __len__(self) -> int: ...

    def read(self, index: IndexArray) -> Pixels:
        """The images at `index` [N]: [N, C, H, W], 0-255; of your own source, uint8."""
        ...


@dataclass(frozen=True, eq=False)
class MemoryImages:
    """Images in memory, [N, C, H, W] from 0 to 255: uint8, or float32 where bytes would round them.

    Raises:
        DataError: another kind, shape or scale; `mcc.data.from_arrays` takes more.
    """

    pixels: Pixels

    def __post_init__(self) -> None:
        pixels = self.pixels
        if pixels.ndim != 4 or pixels.dtype.name not in ("uint8", "float32"):
            raise DataError(f"images are {pixels.dtype} {list(pixels.shape)}, not uint8 [N, C, H, W]")
        if pixels.dtype == np.float32 and len(pixels) and not BLACK <= pixels.max() <= WHITE:
            raise DataError(
                f"float images reach up to {pixels.max():.4g}, and they are kept from 0 to 255",
                hint="use mcc.data.from_arrays",
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        _, channels, height, width = self.pixels.shape
        return channels, height, width

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, index: IndexArray) -> Pixels:
        """The images at `index`: [N, C, H, W]."""
        return self.pixels[index]


class Split(Protocol):
    """What the rest of mcc asks of a split; write your own for data that is not images in bytes.

    A split whose targets are varied together with the inputs, such as masks and boxes, has a further method
    `varied(index, *, seed, epoch)`, which returns both in place of `augmented`.
    """

    @property
    def targets(self) -> NDArray[Any]:
        """[N, ...] what the network should give: numbers of any kind and shape that the task takes; the
        labels, for classification."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Any, NDArray[Any]]:
        """One input [C, H, W] and its target."""
        ...

    def inputs(self, index: IndexArray) -> SplitInputs:
        """The inputs at `index` [N]: [N, C, H, W], as the network takes them; of several inputs, a tuple or a
        dictionary of arrays."""
        ...

    def augmented(self, index: IndexArray, *, seed: int, epoch: int) -> SplitInputs:
        """The same, randomly varied; a pure function of its arguments."""
        ...


@dataclass(frozen=True, eq=False)
class ImageSplit:
    """A split of images, transformed when it is read.

    Args:
        source: all images of the data set's part.
        members: [N] which images of `source` belong to this split.
        targets: [N, ...] their labels, or what else the network should give.
        preprocessing: the network's own, one mean and deviation per channel.
        input_shape: (C, H, W) that the network takes; one grey channel is repeated to C.
        augmentation: how training images are varied; None leaves them as they are.
        move_targets: how targets follow images that move; None: they do not change (labels).
    """

    source: ImageSource
    members: IndexArray
    targets: NDArray[Any]
    preprocessing: Preprocessing
    input_shape: tuple[int, int, int]
    augmentation: Augmentation | None = None
    move_targets: MoveTargets | None = None
    fill: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        given, wanted = self.source.shape[0], self.input_shape[0]
        if given not in (1, wanted):
            raise DataError(
                f"the network takes {wanted} channels and the images have {given}",
                hint="use data with as many channels, or grey images, which are repeated",
            )
        if len(self.members) != len(self.targets):
            raise DataError(
                f"{len(self.members)} images and {len(self.targets)} labels do not belong together"
            )
        if len(self.members) and not 0 <= self.members.min() <= self.members.max() < len(self.source):
            raise DataError(f"members beyond the {len(self.source)} images of the source")
        # Zero after normalisation, so that a shifted image brings no new contrast.
        fill = self.preprocessing.neutral_pixel[:given]
        object.__setattr__(self, "fill", fill)

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, index: int) -> tuple[FloatImages, NDArray[Any]]:
        """Image [C, H, W] and label [] at `index`; a negative one counts from the end."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        place = np.array([index % len(self)], np.int64)
        return self.inputs(place)[0], np.asarray(self.targets[place[0]])

    def inputs(self, index: IndexArray) -> FloatImages:
        """The images at `index` [N]: float32 [N, C, H, W]."""
        return self._transformed(self._read(index))

    def augmented(self, index: IndexArray, *, seed: int, epoch: int) -> FloatImages:
        """The images at `index`, varied as a pure function of seed, epoch and each image's place."""
        return self.varied(index, seed=seed, epoch=epoch)[0]

    def varied(self, index: IndexArray, *, seed: int, epoch: int) -> tuple[FloatImages, Targets]:
        """The images at `index`, varied as by `augmented`, and their targets, which have followed them."""
        pixels, targets = self._read(index), self.targets[index]
        if self.augmentation is not None:
            height, width = pixels.shape[2:]
            moves = self.augmentation.moves((height, width), index, seed=seed, epoch=epoch)
            pixels = moves.apply(pixels, self.fill)
            targets = targets if self.move_targets is None else self.move_targets(targets, moves)
        return self._transformed(pixels), targets

    def select(self, index: IndexArray) -> ImageSplit:
        """The part of this split at `index`, without augmentation."""
        return replace(self, members=self.members[index], targets=self.targets[index], augmentation=None)

    def digest(self) -> str:
        """A short hash of which images and labels these are and how they are preprocessed."""
        text = repr((self.preprocessing.to_json(), self.input_shape, len(self.source))).encode()
        parts = (
            np.ascontiguousarray(self.members).tobytes(),
            np.ascontiguousarray(self.targets).tobytes(),
            text,
        )
        return hashlib.sha256(b"".join(parts)).hexdigest()[:16]

    def _read(self, index: IndexArray) -> Pixels:
        pixels = self.source.read(self.members[index])
        wanted = (len(index), *self.source.shape)
        # A user's source that gives floats from 0 to 1 would be black.
        if pixels.shape != wanted or not (pixels.dtype == np.uint8 or isinstance(self.source, MemoryImages)):
            raise DataError(
                f"the source of images gives {pixels.dtype} {list(pixels.shape)}, not uint8 {list(wanted)}"
            )
        return pixels

    def _transformed(self, pixels: Pixels) -> FloatImages:
        channels, height, width = self.input_shape
        if pixels.shape[1] != channels:
            pixels = np.repeat(pixels, channels, axis=1)
        return self.preprocessing.apply(pixels, (height, width))
