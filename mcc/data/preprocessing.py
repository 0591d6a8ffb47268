"""What a network expects done to its images before they reach it.

A network is trained behind one fixed preprocessing, and measuring it behind another silently costs
accuracy. So the preprocessing travels with the network: a model factory may return it as a third value,
`(module, example_input, Preprocessing(...))`, and it is attached to whatever data the network is used with.

    pixel (0-255)  ->  / 255  ->  - mean  ->  / std  ->  bilinear resize to `size`  ->  float32 NCHW
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mcc.errors import DataError

WHITE = 255.0


def image_shape(stored: tuple[int, int, int], size: tuple[int, int] | None) -> tuple[int, int, int]:
    """(C, H, W) of images stored as `stored` once they are resized to `size`."""
    height, width = size or stored[1:]
    return stored[0], height, width


@dataclass(frozen=True)
class Preprocessing:
    """Normalisation and size of the images of one network.

    Args:
        mean: subtracted, one per channel or one for all, in units where white is 1.
        std: divided by, like `mean`.
        size: (height, width) in pixels that the network expects; None keeps the size of the data.
        crop: of an image folder's pictures, the centre part used: the shorter side is resized to
            `size / crop` and the middle cut out (0.875 is 256 -> 224, customary for ImageNet).

    Raises:
        DataError: a value that cannot be one of these.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    size: tuple[int, int] | None = None
    crop: float = 1.0

    def __post_init__(self) -> None:
        if not self.mean or not self.std or not all(math.isfinite(v) for v in (*self.mean, *self.std)):
            raise DataError(
                f"mean {self.mean} and deviation {self.std} must be finite numbers", where="preprocessing"
            )
        if any(v <= 0 for v in self.std):
            raise DataError(f"the deviation {self.std} must be above zero", where="preprocessing")
        if len({len(self.mean), len(self.std)} - {1}) > 1:
            raise DataError(
                f"mean has {len(self.mean)} values and the deviation {len(self.std)}",
                where="preprocessing",
                hint="give one for each channel",
            )
        if self.size is not None and min(self.size) < 1:
            raise DataError(f"the size {self.size} must be at least one pixel", where="preprocessing")
        if not 0 < self.crop <= 1:
            raise DataError(f"the cropped part {self.crop} must lie in (0, 1]", where="preprocessing")

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

    def for_channels(self, channels: int) -> Preprocessing:
        """This preprocessing with exactly one mean and deviation for each of `channels`.

        Raises:
            DataError: it is made for another number of channels.
        """
        wrong = max(len(self.mean), len(self.std))
        if wrong not in (1, channels):
            raise DataError(
                f"the preprocessing is for {wrong} channels, the network takes {channels}",
                where="preprocessing",
            )
        mean = self.mean * channels if len(self.mean) == 1 else self.mean
        std = self.std * channels if len(self.std) == 1 else self.std
        return Preprocessing(mean, std, self.size, self.crop)

    def apply(self, images: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.float32]:
        """Normalise and resize.

        Args:
            images: [N, C, H, W], 0-255; C as many as `mean` (see `for_channels`).
            size: (height, width) of the result.

        Returns:
            float32 [N, C, *size], contiguous.
        """
        scale = torch.tensor([1 / (WHITE * s) for s in self.std], dtype=torch.float32).view(1, -1, 1, 1)
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
        return {"mean": list(self.mean), "std": list(self.std), "size": size, "crop": self.crop}
