"""Pictures that are seen whole, never cropped, since masks or boxes belong to them: shared by both tasks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from mcc.data.assembly import assemble
from mcc.data.augment import Augmentation
from mcc.data.image_folder import SHIFT_SHARE, check_bits, decode_pictures, heads_of, preprocessing_for
from mcc.data.module import DataModule
from mcc.data.picture import Fit, Head, Size
from mcc.data.preprocessing import Preprocessing
from mcc.errors import DataError

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class WholePictures:
    """The pictures of a folder and the size that they are brought to, each side by its own factor.

    Attributes:
        parts: Files of the pictures, by part.
        heads: What the first bytes of each file say.
        size: (height, width) that all are brought to.
        channels: Channels that the network takes.
        preprocessing: The network's own, with as many means as channels.
    """

    parts: Mapping[str, tuple[Path, ...]]
    heads: Mapping[Path, Head]
    size: Size
    channels: int
    preprocessing: Preprocessing

    @staticmethod
    def looked_at(
        parts: Mapping[str, Sequence[Path]],
        folder: Path,
        input_shape: Shape | None,
        preprocessing: Preprocessing | None,
    ) -> WholePictures:
        """Look at every file. Raises DataError where one is no picture, or nothing says the size."""
        files = [file for each in parts.values() for file in each]
        heads = dict(zip(files, heads_of(files), strict=True))
        check_bits([file for file in files if heads[file].sixteen], folder)
        channels = input_shape[0] if input_shape else 3
        own = preprocessing_for(preprocessing, channels, folder)
        size = _whole_size([head.size for head in heads.values()], input_shape, own, folder)
        return WholePictures({p: tuple(each) for p, each in parts.items()}, heads, size, channels, own)

    def data_module(
        self,
        name: str,
        targets: Mapping[str, NDArray[Any]],
        *,
        classes: Sequence[str],
        seed: int,
        task: str,
        unseen: bool,
        remarks: Sequence[str],
    ) -> DataModule:
        """The data module of the pictures.

        Args:
            targets: [N, ...] for each part, in the order of its pictures.
            unseen: Whether the network has not been trained on the part `train`.

        Raises:
            DataError: A picture cannot be read.
        """
        fit = Fit(self.size, 1.0, self.channels, whole=True)
        read = {part: (decode_pictures(files, fit), targets[part]) for part, files in self.parts.items()}
        both = "test" in read and "validation" in read
        return assemble(
            name,
            read["train"],
            read.get("test", read.get("validation")),
            class_names=tuple(classes),
            input_shape=(self.channels, *self.size),
            preprocessing=self.preprocessing,
            seed=seed,
            augmentation=Augmentation(max(1, min(self.size) // SHIFT_SHARE), mirror=True),
            validation=read.get("validation") if both else None,
            train_unseen=unseen or len(read) == 1,
            task=task,
            remarks=tuple(remarks),
        )


def _whole_size(
    sizes: Sequence[Size],
    input_shape: Shape | None,
    preprocessing: Preprocessing,
    folder: Path,
) -> Size:
    """(height, width) that whole pictures are brought to. Raises DataError where nothing says it."""
    if preprocessing.crop != 1:
        raise DataError(
            "pictures with masks or boxes are seen whole, and a crop was asked for", where=str(folder),
            hint="leave out the crop",
        )  # fmt: skip
    wanted = input_shape[1:] if input_shape else preprocessing.size
    if wanted is not None:
        return wanted
    ((common, _), *others) = Counter(sizes).most_common(2)
    if others:
        raise DataError(
            "pictures have different sizes and the network names none", where=str(folder),
            hint="let the model's factory return a Preprocessing with a size, or give --image-size",
        )  # fmt: skip
    return common
