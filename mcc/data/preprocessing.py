"""What a network expects done to its images before they reach it.

A network is trained behind one fixed preprocessing, and measuring it behind another silently costs
accuracy. So the preprocessing travels with the network: a model factory may return it as a third value,
`(module, example_input, Preprocessing(...))`, and it is attached to whatever data the network is used with.

    pixel (0-255)  ->  * scale  ->  channel order  ->  - mean  ->  / std  ->  bilinear resize to `size`
                   ->  float32 NCHW

`mcc.data.stated` decides which preprocessing counts where several places state one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from mcc.errors import DataError

WHITE = 255.0
CUSTOMARY_SCALE = 1 / WHITE
Channels = Literal["rgb", "bgr"]
COLOURS = 3  # channels that have an order


def image_shape(stored: tuple[int, int, int], size: tuple[int, int] | None) -> tuple[int, int, int]:
    """(C, H, W) of images stored as `stored` once they are resized to `size`."""
    height, width = size or stored[1:]
    return stored[0], height, width


@dataclass(frozen=True)
class Preprocessing:
    """Normalisation and size of the images of one network.

    Args:
        mean: subtracted, one per channel or one for all, in the unit of the scaled pixel (white is 1 for the
            customary scale, 255 for a scale of 1) and in the order of the network's channels.
        std: divided by, like `mean`.
        size: (height, width) in pixels that the network expects; None keeps the size of the data.
        crop: of an image folder's pictures, the centre part used: the shorter side is resized to
            `size / crop` and the middle cut out (0.875 is 256 -> 224, customary for ImageNet).
        scale: what a pixel of 0 to 255 is multiplied by first; 1 leaves it as it is.
        channels: order in which the network takes red, green and blue.

    Raises:
        DataError: a value that cannot be one of these.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    size: tuple[int, int] | None = None
    crop: float = 1.0
    scale: float = CUSTOMARY_SCALE
    channels: Channels = "rgb"

    def __post_init__(self) -> None:
        def refuse(reason: str, hint: str | None = None) -> DataError:
            return DataError(reason, where="preprocessing", hint=hint)

        if not self.mean or not self.std or not all(_is_number(v) for v in (*self.mean, *self.std)):
            raise refuse(f"mean {self.mean} and deviation {self.std} must be finite numbers")
        if any(v <= 0 for v in self.std):
            raise refuse(f"the deviation {self.std} must be above zero")
        if len({len(self.mean), len(self.std)} - {1}) > 1:
            raise refuse(
                f"mean has {len(self.mean)} values and the deviation {len(self.std)}",
                "give one for each channel",
            )
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 1):
            raise refuse(f"the size {self.size} must be at least one pixel high and wide")
        if not _is_number(self.crop) or not 0 < self.crop <= 1:
            raise refuse(f"the cropped part {self.crop} must lie in (0, 1]")
        if not _is_number(self.scale) or self.scale <= 0:
            raise refuse(f"the scale {self.scale} must be a finite number above zero")
        if self.channels not in ("rgb", "bgr"):
            raise refuse(f"the channel order {self.channels!r} is unknown", "use rgb or bgr")

    @property
    def neutral_pixel(self) -> tuple[int, ...]:
        """The pixel that comes nearest to zero, in the order of the pictures (red first)."""
        values = tuple(round(min(max(v, 0.0), WHITE)) for v in self.byte_mean)
        return values[::-1] if self.channels == "bgr" else values

    @classmethod
    def from_bytes(
        cls,
        mean: Sequence[float],
        std: Sequence[float],
        size: tuple[int, int] | None = None,
        crop: float = 1.0,
    ) -> Preprocessing:
        """The same with mean and deviation in units where white is 255."""
        return cls(tuple(v / WHITE for v in mean), tuple(v / WHITE for v in std), size, crop)

    @property
    def white(self) -> float:
        """The pixel value that the scale takes to 1: 255 for the customary one."""
        return 1 / self.scale

    @property
    def byte_mean(self) -> tuple[float, ...]:
        """The mean in units of pixels of 0 to 255, whatever the scale."""
        return tuple(self.white * v for v in self.mean)

    @property
    def byte_std(self) -> tuple[float, ...]:
        """The deviation in units of pixels of 0 to 255, whatever the scale."""
        return tuple(self.white * v for v in self.std)

    def for_channels(self, channels: int) -> Preprocessing:
        """This preprocessing with exactly one mean and deviation for each of `channels`.

        Raises:
            DataError: it is made for another number of channels.
        """
        wrong = max(len(self.mean), len(self.std))
        if wrong not in (1, channels):
            raise DataError(
                f"the preprocessing is for {wrong} channels, the network takes {channels}",
                where="preprocessing", hint=f"give one mean and one deviation, or {channels} of each",
            )  # fmt: skip
        if self.channels != "rgb" and channels != COLOURS:
            raise DataError(
                f"the channel order {self.channels} is for {COLOURS} channels, the network takes {channels}",
                where="preprocessing", hint="leave the order out",
            )  # fmt: skip
        mean = self.mean * channels if len(self.mean) == 1 else self.mean
        std = self.std * channels if len(self.std) == 1 else self.std
        return replace(self, mean=mean, std=std)

    def per_channel(self) -> Preprocessing:
        """This preprocessing with as many means as deviations, for files that store both."""
        most = COLOURS if self.channels != "rgb" else max(len(self.mean), len(self.std))
        return self.for_channels(most)

    def apply(self, images: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.float32]:
        """Normalise and resize.

        Args:
            images: [N, C, H, W], 0-255; C as many as `mean` (see `for_channels`).
            size: (height, width) of the result.

        Returns:
            float32 [N, C, *size], contiguous.
        """
        if self.channels == "bgr":
            images = images[:, ::-1]
        scale = torch.tensor([1 / s for s in self.byte_std], dtype=torch.float32).view(1, -1, 1, 1)
        shift = torch.tensor(
            [-m / s for m, s in zip(self.mean, self.std, strict=True)], dtype=torch.float32
        ).view(1, -1, 1, 1)
        value = torch.from_numpy(np.ascontiguousarray(images)).to(torch.float32) * scale + shift
        if tuple(value.shape[2:]) != size:
            # Shrinking without the low-pass filter would alias; enlarging is plain interpolation.
            shrinks = size[0] < value.shape[2] or size[1] < value.shape[3]
            value = torch.nn.functional.interpolate(
                value, size=size, mode="bilinear", align_corners=False, antialias=shrinks
            )
        return value.contiguous().numpy()

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values, for reports and checkpoints."""
        size = None if self.size is None else list(self.size)
        return {
            "mean": list(self.mean),
            "std": list(self.std),
            "scale": self.scale,
            "size": size,
            "crop": self.crop,
            "channels": self.channels,
        }

    @property
    def words(self) -> str:
        """The arithmetic in one line, as `(pixel / 255 - 0.5) / 0.25`."""
        term = "pixel" if self.scale == 1 else f"pixel * {self.scale:.6g}"
        if self.scale == CUSTOMARY_SCALE:
            term = "pixel / 255"
        if any(self.mean):
            term = f"({term} - {_list_words(self.mean)})"
        if any(value != 1 for value in self.std):
            term = f"{term} / {_list_words(self.std)}"
        if self.channels != "rgb":
            term += f", channels as {self.channels.upper()}"
        if self.size is not None:
            term += f", {self.size[0]}x{self.size[1]} pixels"
        return term if self.crop == 1 else f"{term}, the centre {100 * self.crop:g} % of the picture"


def _is_number(value: object) -> bool:
    """Whether it is a finite number; a user's file may hold anything."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _list_words(values: tuple[float, ...]) -> str:
    if len(set(values)) == 1:
        return f"{values[0]:.4g}"
    return "[" + ", ".join(f"{value:.4g}" for value in values) + "]"
