"""Small graphs and data that train in a second: the handwritten digits at 8x8."""

from __future__ import annotations

import numpy as np
import torch
from sklearn import datasets
from torch import fx

from mcc.data import DataModule, Preprocessing, from_arrays, load_task
from mcc.finetune import FineTuneSettings, fine_tune
from mcc.ir.graph import Graph, GraphBuilder, constants, run

TASK = load_task()


def digits(count: int = 1797) -> DataModule:
    """Digits as they are, 8x8 grey; the last 297 of them for testing."""
    grey, labels = datasets.load_digits(return_X_y=True)
    pixels = (np.asarray(grey).reshape(-1, 1, 8, 8) * 15).astype(np.uint8)
    labels = np.asarray(labels, np.int64)
    split = min(1500, count * 5 // 6)
    return from_arrays(
        (pixels[:split], labels[:split]),
        (pixels[split:count], labels[split:count]),
        class_names=tuple("0123456789"),
        preprocessing=Preprocessing((0.3,), (0.35,)),
    )


class _Maker:
    def __init__(self, seed: int) -> None:
        self.b = GraphBuilder()
        self.generator = torch.Generator().manual_seed(seed)

    def layer(
        self, x: fx.Node, name: str, shape: tuple[int, ...], act: str = "relu6", **options: object
    ) -> fx.Node:
        fan = shape[1] * shape[2] * shape[3]
        w = torch.randn(shape, generator=self.generator) * (2 / fan) ** 0.5
        y = self.b.conv2d(x, self.b.constant(f"{name}_w", w), None, name=name, **options)
        n = shape[0]
        y = self.b.batch_norm(
            y,
            self.b.constant(f"{name}_gain", torch.ones(n)),
            self.b.constant(f"{name}_shift", torch.zeros(n)),
            self.b.constant(f"{name}_mean", torch.zeros(n), trains=False),
            self.b.constant(f"{name}_var", torch.ones(n), trains=False),
            name=f"{name}_norm",
        )
        return y if act == "none" else self.b.call(act, y, name=f"{name}_act")


def network(seed: int = 0) -> Graph:
    """Stem, one inverted residual with a stride, one with a sum, head; untrained, batch norms live."""
    m = _Maker(seed)
    x = m.b.input("x", (1, 1, 8, 8))
    x = m.layer(x, "stem", (8, 1, 3, 3), padding=(1, 1, 1, 1))
    y = m.layer(x, "wide", (24, 8, 1, 1))
    y = m.layer(y, "deep", (24, 1, 3, 3), padding=(1, 1, 1, 1), stride=(2, 2), groups=24)
    x = m.layer(y, "thin", (12, 24, 1, 1), act="none")
    y = m.layer(x, "wide2", (24, 12, 1, 1))
    y = m.layer(y, "thin2", (12, 24, 1, 1), act="none")
    x = m.b.add(x, y)
    x = m.layer(x, "last", (32, 12, 1, 1))
    x = m.b.mean(x, axes=(2, 3))
    w = torch.randn(10, 32, generator=m.generator) * 0.1
    return m.b.finish(
        m.b.linear(x, m.b.constant("head_w", w), m.b.constant("head_b", torch.zeros(10)), name="head")
    )


def trained(data: DataModule) -> Graph:
    """The network after some training: nine in ten right."""
    settings = FineTuneSettings(images=10_000, batch_size=32, learning_rate=0.8, norm_images=512)
    return fine_tune(network(), None, data, TASK, settings).graph


def accuracy(graph: Graph, data: DataModule) -> float:
    """Share of test images that the graph gets right."""
    right = total = 0
    for batch in data.batches("test", 100):
        logits = run(graph, torch.from_numpy(batch.inputs))[0]
        right += int((logits.argmax(1) == torch.from_numpy(batch.targets)).sum())
        total += len(batch.targets)
    return right / total


def same(a: Graph, b: Graph) -> bool:
    """Whether all constants are equal to the bit."""
    left, right = constants(a), constants(b)
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
