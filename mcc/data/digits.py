"""The handwritten digits that ship with scikit-learn: 1,797 grey images of 8x8 (Alpaydin, Kaynak 1998)."""

from __future__ import annotations

import numpy as np
import torch

from mcc.data.assembly import assemble
from mcc.data.augment import Augmentation
from mcc.data.held_out import TEST_SHARE, hold_out, validation_count
from mcc.data.module import DataModule
from mcc.data.preprocessing import WHITE, Preprocessing, image_shape
from mcc.data.split import MemoryImages
from mcc.errors import DataError

INK = 16  # grey levels run from 0 to 16
SIZE = (32, 32)
# Mean and deviation of the training images at 32x32, where 1 is full ink.
PREPROCESSING = Preprocessing((0.306,), (0.348,), SIZE)
# A tenth of the side either way; digits are never mirrored.
AUGMENTATION = Augmentation(shift=3, mirror=False)


def load_digits(
    *,
    seed: int,
    input_shape: tuple[int, int, int] | None,
    preprocessing: Preprocessing | None,
    train_unseen: bool = False,
) -> DataModule:
    """The digits, enlarged bilinearly to 32x32, repeated to the channels that the network takes (else 3).

    They come in no parts of their own. Here they have three, the same for every seed: a fifth is the test,
    and of the rest a fifth is for validation. A network for them is trained on the `train` part alone, as
    `tools/baselines/train.py` does.

    Args:
        train_unseen: makes no difference.

    Raises:
        DataError: scikit-learn is not installed.
    """
    try:
        from sklearn import datasets
    except ImportError:
        raise DataError(
            "scikit-learn is not installed", where="digits", hint="pip install scikit-learn"
        ) from None
    grey, labels = datasets.load_digits(return_X_y=True)
    images = torch.as_tensor(np.asarray(grey, np.float32).reshape(-1, 1, 8, 8)) * (WHITE / INK)
    enlarged = torch.nn.functional.interpolate(images, size=SIZE, mode="bilinear", align_corners=False)
    pixels = enlarged.round().to(torch.uint8).numpy()
    targets = np.asarray(labels, np.int64)
    training, test = hold_out(targets, round(len(targets) * TEST_SHARE))
    kept, held = (training[places] for places in hold_out(targets[training], validation_count(len(training))))
    preprocessing = preprocessing or PREPROCESSING
    return assemble(
        "digits",
        (MemoryImages(pixels[kept]), targets[kept]),
        (MemoryImages(pixels[test]), targets[test]),
        class_names=tuple("0123456789"),
        input_shape=input_shape or image_shape((3, *SIZE), preprocessing.size),
        preprocessing=preprocessing,
        seed=seed,
        augmentation=AUGMENTATION,
        validation=(MemoryImages(pixels[held]), targets[held]),
        train_unseen=train_unseen,
    )
