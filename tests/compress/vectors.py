"""A network of vectors, and a data module for it, as docs/data.md describes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mcc.data import DataModule, Preprocessing

WIDTH = 40


class Net(nn.Module):
    """Four classes from forty sensor values."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(WIDTH, 48), nn.Linear(48, 32), nn.Linear(32, 4)

    def forward(self, values: Tensor) -> Tensor:
        return self.head(torch.relu(self.second(torch.relu(self.first(values)))))


def network() -> tuple[nn.Module, Tensor]:
    """The network and an example."""
    torch.manual_seed(0)
    return Net(), torch.zeros(1, WIDTH)


class Windows:
    """Random values with the classes that the network gives them."""

    def __init__(self, count: int, seed: int) -> None:
        self.held = np.random.default_rng(seed).standard_normal((count, WIDTH)).astype(np.float32)
        with torch.no_grad():
            scores = network()[0](torch.from_numpy(self.held))
        self.targets: NDArray[Any] = scores.argmax(1).numpy().astype(np.int64)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, NDArray[Any]]:
        return self.held[index], np.asarray(self.targets[index])

    def inputs(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """[N, 40]."""
        return self.held[index]

    def augmented(self, index: NDArray[np.int64], *, seed: int, epoch: int) -> NDArray[np.float32]:
        """The same."""
        return self.inputs(index)


def data() -> DataModule:
    """The four parts."""
    return DataModule(
        "windows", train=Windows(96, 1), calibration=Windows(64, 2), validation=Windows(40, 3),
        test=Windows(40, 4), class_names=tuple("abcd"), input_shape=(WIDTH,),
        preprocessing=Preprocessing((0.0,), (1.0,), scale=1.0),
    )  # fmt: skip
