"""Large networks written by hand: chains, trees, and ResNet-50, to see how passes grow with the graph."""

from __future__ import annotations

import torch
from torch import fx

from mcc.ir.graph import Graph, GraphBuilder
from mcc.ir.notes import shape_of


class _Layers:
    """Layers with He-scaled random weights, counted for their names."""

    def __init__(self, batch_norm: bool = True) -> None:
        self.b = GraphBuilder()
        self.batch_norm = batch_norm
        self.count = 0

    def conv(
        self, x: fx.Node, out: int, kernel: int = 1, stride: int = 1, activation: str = "none"
    ) -> fx.Node:
        self.count += 1
        width, pad, name = shape_of(x)[1], kernel // 2, f"conv{self.count}"
        weight = torch.randn(out, width, kernel, kernel) * (2 / (width * kernel**2)) ** 0.5
        x = self.b.conv2d(
            x, self.b.constant(f"{name}_w", weight), None, name=name, stride=(stride, stride),
            padding=(pad, pad, pad, pad), activation="none" if self.batch_norm else activation,
        )  # fmt: skip
        if not self.batch_norm:
            return x
        rows = (torch.rand(out) + 0.5, torch.randn(out) * 0.1, torch.randn(out) * 0.1, torch.rand(out) + 0.5)
        held = [self.b.constant(f"{name}_n{i}", row, trains=i < 2) for i, row in enumerate(rows)]
        x = self.b.batch_norm(x, *held)
        return self.b.relu(x) if activation == "relu" else x


def resnet50(size: int = 224) -> Graph:
    """ResNet-50 (He 2016, the variant with the stride on the 3x3), batch norms unfolded."""
    n = _Layers()
    x = n.conv(n.b.input("image", (1, 3, size, size)), 64, 7, 2, "relu")
    x = n.b.max_pool2d(x, kernel=(3, 3), stride=(2, 2), padding=(1, 1, 1, 1))
    for stage, (width, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3))):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            short = n.conv(x, width * 4, 1, stride) if not block else x
            y = n.conv(x, width, 1, 1, "relu")
            y = n.conv(y, width, 3, stride, "relu")
            x = n.b.add(short, n.conv(y, width * 4), activation="relu")
    x = n.b.mean(x, axes=(2, 3), keepdim=False)
    weight = n.b.constant("fc_w", torch.randn(1000, 2048) * 0.02)
    return n.b.finish(n.b.linear(x, weight, n.b.constant("fc_b", torch.zeros(1000))))


def chain(operators: int, width: int = 8) -> Graph:
    """Convolutions, batch norms and activations in a row, two of three with a shortcut."""
    n = _Layers()
    x = n.conv(n.b.input("x", (1, 3, 8, 8)), width)
    for index in range(operators // 4):
        y = n.conv(x, width, activation="relu")
        x = n.b.mul(n.b.add(x, y), n.b.constant("factor", torch.tensor(0.5))) if index % 3 else y
    return n.b.finish(n.conv(x, 4))


def tree(operators: int, width: int = 8) -> Graph:
    """Convolutions that read earlier ones, their last two hundred joined."""
    n = _Layers(batch_norm=False)
    root = n.b.input("x", (1, 3, 8, 8))
    values = [n.conv(root, width, activation="relu")]
    for index in range(operators):
        values.append(n.conv(values[index // 2], width, activation="relu"))
    return n.b.finish(n.conv(n.b.concat(*values[-200:], axis=1), 4))
