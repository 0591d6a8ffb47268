"""Small networks on sequences in int8, and the distance of their lowered files from float."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mcc.frontend.torch_module import capture
from mcc.ir.graph import outputs
from mcc.ir.notes import shape_of
from mcc.lower.formats import get_format
from mcc.pass_api import PassContext
from mcc.pipeline import Pipeline, deployment_form
from mcc.report.measure import run_file
from mcc.runtime.registry import get_target

TARGETS = ("litert-host", "ort-host", "executorch-host")


def keywords() -> nn.Module:
    """Spoken words in rows [N, 1, 2000] of samples."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv1d(1, 16, 40, 8), nn.BatchNorm1d(16), nn.ReLU(), nn.MaxPool1d(4)),
        *(nn.Conv1d(16, 32, 3), nn.BatchNorm1d(32), nn.ReLU(), nn.AdaptiveAvgPool1d(1)),
        *(nn.Flatten(), nn.Linear(32, 10)),
    ).eval()


class _Recogniser(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, (4, 1), 1), nn.ReLU()),
        )
        self.rnn = nn.LSTM(64, 24, bidirectional=True, batch_first=True)
        self.letters = nn.Linear(48, 11)

    def forward(self, x: Tensor) -> Tensor:
        return self.letters(self.rnn(self.features(x).flatten(1, 2).permute(0, 2, 1))[0])


def recogniser() -> nn.Module:
    """Letters along a line of text: convolutions, then an LSTM in both directions over 20 columns."""
    torch.manual_seed(0)
    return _Recogniser().eval()


SHAPES: dict[Callable[[], nn.Module], tuple[int, ...]] = {keywords: (1, 2000), recogniser: (1, 16, 40)}


@dataclass(frozen=True)
class Lowered:
    """An int8 file: its signal-to-noise ratio against the float network, and the kinds of its kernels."""

    decibels: float
    kernels: tuple[str, ...]


def lowered(make: Callable[[], nn.Module], name: str, folder: Path) -> Lowered:
    """A network quantised on random inputs, lowered, and run on others by a target on this machine."""
    network, target, shape = make(), get_target(name), SHAPES[make]
    calibration, x = torch.randn(64, *shape), torch.randn(32, *shape)
    graph = deployment_form(capture(network, (torch.zeros(1, *shape),), ()))
    quantised = Pipeline.parse("insert-qdq").run(graph, PassContext((calibration,))).graph
    file = get_format(target.format).write(quantised, folder / make.__name__)
    (got,) = run_file(target, file, [x.numpy()], [shape_of(o) for o in outputs(quantised)], threads=1)
    with torch.no_grad():
        wanted = network(x).numpy()
    noise = float(((got - wanted) ** 2).sum())
    decibels = 10 * np.log10(float((wanted**2).sum()) / noise) if noise else np.inf
    profiled = name != "executorch-host"  # which has no profile of delegated kernels by precision
    return Lowered(float(decibels), tuple(op.kind for op in target.profile(file)) if profiled else ())
