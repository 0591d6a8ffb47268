"""MobileNets with random weights in deployment form: costs depend on shapes and places of zeros alone."""

from __future__ import annotations

import torch
from torch import fx

from mcc.ir.graph import Graph, GraphBuilder
from mcc.ir.notes import SparseNote, annotate, shape_of

# Output channels and stride of the separable convolutions of MobileNetV1 (Howard 2017, table 1).
V1 = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
# Expansion, channels, repeats, stride of the inverted residuals of MobileNetV2 (Sandler 2018, table 2), with
# one stride less, as is usual for small images.
V2 = (
    (1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip


def mobilenet_v1(
    size: int, width: float = 1.0, sparse: SparseNote | None = None, classes: int = 1000
) -> Graph:
    """MobileNetV1 with symmetric padding, as required by XNNPACK's sparse path."""
    net = _Network(sparse)
    x = net.conv(net.b.input("image", (1, 3, size, size)), int(32 * width), 3, stride=2)
    for channels, stride in V1:
        x = net.conv(net.conv(x, shape_of(x)[1], 3, stride=stride, depthwise=True), int(channels * width), 1)
    return net.head(x, classes)


def mobilenet_v2(size: int, width: float = 1.0, sparse: SparseNote | None = None, classes: int = 10) -> Graph:
    """MobileNetV2 with symmetric padding; widths are multiples of 8."""

    def wide(channels: int) -> int:
        return max(8, int(channels * width + 4) // 8 * 8)

    net = _Network(sparse)
    x = net.conv(net.b.input("image", (1, 3, size, size)), wide(32), 3, stride=2)
    for expansion, channels, repeats, first in V2:
        for repeat in range(repeats):
            stride, read = first if repeat == 0 else 1, shape_of(x)[1]
            y = net.conv(x, read * expansion, 1) if expansion > 1 else x
            y = net.conv(y, shape_of(y)[1], 3, stride=stride, depthwise=True)
            y = net.conv(y, wide(channels), 1, activation="none")
            x = net.b.add(x, y) if stride == 1 and read == wide(channels) else y
    return net.head(net.conv(x, int(1280 * max(0.5, width)), 1), classes)


class _Network:
    """Convolutions with random weights of unit gain; 1x1 ones optionally sparse in blocks."""

    def __init__(self, sparse: SparseNote | None) -> None:
        self.b = GraphBuilder()
        self.sparse = sparse
        self.generator = torch.Generator().manual_seed(0)
        self.count = 0

    def conv(
        self, x: fx.Node, channels: int, kernel: int, *, stride: int = 1, depthwise: bool = False,
        activation: str = "relu6",
    ) -> fx.Node:  # fmt: skip
        self.count += 1
        read = shape_of(x)[1]
        shape = (channels, 1 if depthwise else read, kernel, kernel)
        weight = torch.randn(shape, generator=self.generator) * (2.0 / (shape[1] * kernel**2)) ** 0.5
        thin = self.sparse if kernel == 1 else None
        if thin is not None:
            places = (channels // thin.block, read)
            keep = torch.rand(places, generator=self.generator) >= thin.sparsity
            weight *= keep.repeat_interleave(thin.block, 0)[:, :, None, None]
        bias = torch.randn(channels, generator=self.generator) * 0.1
        node = self.b.conv2d(
            x, self.b.constant(f"w{self.count}", weight), self.b.constant(f"b{self.count}", bias),
            stride=(stride, stride), padding=(kernel // 2,) * 4, groups=read if depthwise else 1,
            activation=activation, name=f"conv{self.count}",
        )  # fmt: skip
        if thin is not None:
            annotate(node, sparse=thin)
        return node

    def head(self, x: fx.Node, classes: int) -> Graph:
        channels = shape_of(x)[1]
        weight = torch.randn((classes, channels), generator=self.generator) * channels**-0.5
        pooled = self.b.mean(x, axes=(2, 3), keepdim=False)
        constants = self.b.constant("wf", weight), self.b.constant("bf", torch.zeros(classes))
        return self.b.finish(self.b.linear(pooled, *constants))
