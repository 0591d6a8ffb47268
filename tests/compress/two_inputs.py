"""A network with a picture and a vector, and data modules for it that supply both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mcc.data import DataModule, Preprocessing

SHAPES = {"picture": (3, 16, 12), "facts": (4,)}
CLASSES = ("a", "b", "c", "d", "e")


class Net(nn.Module):
    """Classes from a picture and four numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU(),
        )  # fmt: skip
        self.facts = nn.Linear(4, 8)
        self.head = nn.Linear(40, 5)

    def forward(self, picture: Tensor, facts: Tensor) -> Tensor:
        told = torch.relu(self.facts(facts))
        return self.head(torch.cat([self.body(picture).mean((2, 3)), told], 1))


def network() -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The network and one example of each input."""
    torch.manual_seed(0)
    return Net(), tuple(torch.zeros(1, *shape) for shape in SHAPES.values())


class Examples:
    """Random inputs with the classes that the network gives them."""

    def __init__(self, count: int, seed: int, named: bool) -> None:
        chance = np.random.default_rng(seed)
        self.named = named
        self.held = {
            name: chance.standard_normal((count, *shape)).astype(np.float32) for name, shape in SHAPES.items()
        }
        # Another range than the picture's; bounded, so that few examples show all of it.
        self.held["facts"] = chance.uniform(-40, 40, (count, 4)).astype(np.float32)
        with torch.no_grad():
            scores = network()[0].eval()(*map(torch.from_numpy, self.held.values()))
        self.targets: NDArray[Any] = scores.argmax(1).numpy().astype(np.int64)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, NDArray[Any]]:
        return {name: value[index] for name, value in self.held.items()}, np.asarray(self.targets[index])

    def inputs(
        self, index: NDArray[np.int64]
    ) -> Mapping[str, NDArray[np.float32]] | tuple[NDArray[np.float32], ...]:
        """By name in another order than the network's, or by position."""
        found = {name: value[index] for name, value in self.held.items()}
        return dict(reversed(found.items())) if self.named else tuple(found.values())

    def augmented(self, index: NDArray[np.int64], *, seed: int, epoch: int) -> Any:
        """The same."""
        return self.inputs(index)


def module(named: bool) -> DataModule:
    """The four parts."""
    return DataModule(
        "examples", train=Examples(96, 1, named), calibration=Examples(64, 2, named),
        validation=Examples(40, 3, named), test=Examples(40, 4, named), class_names=CLASSES,
        input_shape=dict(reversed(SHAPES.items())) if named else tuple(SHAPES.values()),
        preprocessing=Preprocessing((0.0,), (1.0,), scale=1.0),
    )  # fmt: skip


def by_name() -> DataModule:
    """Inputs as dictionaries."""
    return module(named=True)


def by_position() -> DataModule:
    """Inputs as tuples."""
    return module(named=False)
