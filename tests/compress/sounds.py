"""A network on rows of samples that ends in a GRU, and a data module that supplies the rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mcc.data import DataModule, Preprocessing

SHAPE = (1, 200)
CLASSES = ("a", "b", "c", "d")


class Net(nn.Module):
    """Classes of sounds: convolutions along time, a GRU over their frames, and its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.frames = nn.Sequential(
            *(nn.Conv1d(1, 16, 9, 4), nn.BatchNorm1d(16), nn.ReLU()),
            *(nn.Conv1d(16, 32, 5, 4), nn.BatchNorm1d(32), nn.ReLU()),
        )
        self.rnn = nn.GRU(32, 12, batch_first=True)
        self.head = nn.Linear(12, len(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(self.frames(x).permute(0, 2, 1))[1][-1])


def network() -> tuple[nn.Module, Tensor]:
    """The network and an example."""
    torch.manual_seed(0)
    return Net(), torch.zeros(1, *SHAPE)


class Sounds:
    """Random rows with the classes that the network gives them."""

    def __init__(self, count: int, seed: int) -> None:
        self.held = np.random.default_rng(seed).standard_normal((count, *SHAPE)).astype(np.float32)
        self.held *= np.random.default_rng(seed).uniform(0.1, 4, (count, 1, 1)).astype(np.float32)
        with torch.no_grad():
            scores = network()[0].eval()(torch.from_numpy(self.held))
        self.targets: NDArray[Any] = (scores - scores.mean(0)).argmax(1).numpy().astype(np.int64)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, NDArray[Any]]:
        return self.held[index], np.asarray(self.targets[index])

    def inputs(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """Rows as the network takes them."""
        return self.held[index]

    def augmented(self, index: NDArray[np.int64], *, seed: int, epoch: int) -> NDArray[np.float32]:
        """The same."""
        return self.inputs(index)


def data() -> DataModule:
    """The four parts."""
    return DataModule(
        "sounds", train=Sounds(96, 1), calibration=Sounds(64, 2), validation=Sounds(40, 3),
        test=Sounds(40, 4), class_names=CLASSES, input_shape=SHAPE,
        preprocessing=Preprocessing((0.0,), (1.0,), scale=1.0),
    )  # fmt: skip
