"""One picture file as bytes: what is read of the many kinds there are, and what is refused.

Read as torchvision's `ImageFolder` reads them: the first frame of an animation, opacity dropped where the
network takes three channels, palettes and CMYK turned into RGB. Otherwise than there, a picture is turned
upright by the camera's note on how it was held (EXIF orientation), as apps show it; and 16 bits keep their
upper eight: Pillow alone would turn them white.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from mcc.errors import DataError, MccError
from mcc.files import readable_file

Size = tuple[int, int]

MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's names, by channels
FULL_16 = 65_535
# A set of 16-bit pictures that stays below has fewer bits, 12 or 10, and would be black.
LEAST_16 = FULL_16 // 8
# A side so many times as long as what is seen of it is cut first: resized whole, it would fill the memory.
LONG = 16
MAX_PICTURE_BYTES = 512 << 20  # Pillow's bound of 89 million pixels, in 16-bit RGB, plain

_ORIENTATION = 0x0112
_SIDEWAYS = (5, 6, 7, 8)  # orientations whose width is the height of what was stored (EXIF 2.32)


@dataclass(frozen=True)
class Fit:
    """How a picture of any size becomes the stored one.

    Args:
        size: (height, width) stored.
        crop: the centre part of the picture that is kept.
        channels: 1 for grey, 3 for colour, 4 for colour with opacity.
        whole: whether the whole picture is seen, its sides scaled each by its own factor; else the centre.
    """

    size: Size
    crop: float
    channels: int
    whole: bool = False

    def decode(self, path: Path) -> NDArray[np.uint8]:
        """The picture at `path`: [C, H, W], 0-255.

        Raises:
            DataError: it cannot be decoded.
        """
        with opened_picture(path) as opened:
            _turn_upright(opened)
            picture = _with_channels(opened, MODES[self.channels], path)
        height, width = self.size
        if (picture.height, picture.width) != self.size or self.crop != 1:
            picture = self._resized(picture)
        pixels = np.asarray(picture, np.uint8).reshape(height, width, self.channels)
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))

    def _resized(self, picture: Image.Image) -> Image.Image:
        height, width = self.size
        if self.whole:
            return picture.resize((width, height), Image.Resampling.BILINEAR)
        high = min(picture.height, -(-LONG * picture.width * height // width))
        wide = min(picture.width, -(-LONG * picture.height * width // height))
        if (high, wide) != (picture.height, picture.width):
            left, top = (picture.width - wide) // 2, (picture.height - high) // 2
            picture = picture.crop((left, top, left + wide, top + high))
        scale = max(height / picture.height, width / picture.width) / self.crop
        wide, high = max(width, round(picture.width * scale)), max(height, round(picture.height * scale))
        left, top = (wide - width) // 2, (high - height) // 2
        picture = picture.resize((wide, high), Image.Resampling.BILINEAR)
        return picture.crop((left, top, left + width, top + height))


@contextmanager
def opened_picture(path: Path) -> Generator[Image.Image]:
    """A picture file, open. Raises DataError where it, or what is done with it, fails."""
    try:
        with Image.open(readable_file(path, at_most_bytes=MAX_PICTURE_BYTES)) as opened:
            yield opened
    except MccError:
        raise
    except Image.DecompressionBombError:
        raise _too_large(path) from None
    except Exception as error:  # a damaged file may raise anything
        reason = str(error).split(" '")[0].splitlines()
        raise DataError(
            f"cannot be read as an image ({reason[0] if reason else type(error).__name__})",
            where=str(path), hint="mend or remove the file",
        ) from None  # fmt: skip


def _too_large(path: Path) -> DataError:
    return DataError(
        f"has more than {Image.MAX_IMAGE_PIXELS:,} pixels",
        where=str(path),
        hint="scale it down, or remove it",
    )


def _turn_upright(opened: Image.Image) -> None:
    """Turn a picture as its note on how it was held has it; damaged notes say nothing of the pixels."""
    with suppress(Exception):  # they may raise anything; of damaged pixels, reading them says so
        ImageOps.exif_transpose(opened, in_place=True)


def _is_sideways(opened: Image.Image) -> bool:
    """Whether turning a picture upright swaps its sides."""
    if opened.format == "TIFF":  # its size is that of the picture turned already
        return False
    try:
        return opened.getexif().get(_ORIENTATION) in _SIDEWAYS
    except Exception:  # see `_turn_upright`
        return False


@dataclass(frozen=True)
class Head:
    """What the first bytes of a picture file say.

    Attributes:
        size: (height, width), upright.
        sixteen: whether it holds one channel of 16 bits.
    """

    size: Size
    sixteen: bool


def read_head(path: Path) -> Head:
    """The head of a picture file. Raises DataError where it is none, or too large a picture."""
    with opened_picture(path) as opened:
        # Pillow only warns up to twice its limit; such a picture takes half a gigabyte, in each thread.
        if Image.MAX_IMAGE_PIXELS and opened.width * opened.height > Image.MAX_IMAGE_PIXELS:
            raise _too_large(path)
        height, width = opened.height, opened.width
        return Head((width, height) if _is_sideways(opened) else (height, width), _is_sixteen(opened))


def greatest(path: Path) -> int:
    """The greatest value of a picture of 16 bits."""
    with opened_picture(path) as opened:
        return int(np.asarray(opened).max())


def _is_sixteen(opened: Image.Image) -> bool:
    # Pillow gives 16 bits of a PNG or PGM as 32 bits in some of its versions.
    return opened.mode.startswith("I;16") or (opened.mode == "I" and opened.format in ("PNG", "PPM"))


def _with_channels(opened: Image.Image, mode: str, path: Path) -> Image.Image:
    """The picture with one byte for each channel."""
    if _is_sixteen(opened):
        values: NDArray[Any] = np.asarray(opened)
        return Image.fromarray((values >> 8).astype(np.uint8)).convert(mode)
    if opened.mode in ("I", "F"):
        kind = "32-bit numbers" if opened.mode == "I" else "floats"
        raise DataError(
            f"holds {kind}, which have no white", where=str(path), hint="save it with 8 or 16 bits a channel"
        )
    if opened.mode == "CMYK" and mode == "RGBA":
        return opened.convert("RGB").convert(mode)
    if opened.mode == "P" and "transparency" in opened.info:  # else Pillow warns
        return opened.convert("RGBA").convert(mode)
    return opened.convert(mode)
