"""Small networks with sparse 1x1 convolutions, for what LiteRT's ARM64 build does with them."""

import torch
from torch import fx

from mcc.ir.graph import Graph, GraphBuilder
from mcc.ir.notes import SparseNote, annotate, shape_of

THIN = SparseNote(2, 0.8)


class Net:
    """Convolutions with random weights; 1x1 ones are thinned in pairs unless told otherwise."""

    def __init__(self, size: int = 32) -> None:
        self.b = GraphBuilder()
        self.generator = torch.Generator().manual_seed(0)
        self.count = 0
        self.x = self.b.input("image", (1, 3, size, size))

    def conv(
        self, x: fx.Node, channels: int, kernel: int, *, stride: int = 1, depthwise: bool = False,
        thin: bool = True, activation: str = "relu",
    ) -> fx.Node:  # fmt: skip
        self.count += 1
        read = shape_of(x)[1]
        shape = (channels, 1 if depthwise else read, kernel, kernel)
        weight = torch.randn(shape, generator=self.generator) * (2.0 / (shape[1] * kernel**2)) ** 0.5
        sparse = kernel == 1 and thin
        if sparse:
            keep = torch.rand((channels // 2, read), generator=self.generator) >= THIN.sparsity
            weight *= keep.repeat_interleave(2, 0)[:, :, None, None]
        node = self.b.conv2d(
            x, self.b.constant(f"w{self.count}", weight),
            self.b.constant(f"b{self.count}", torch.ones(channels)),
            stride=(stride, stride), padding=(kernel // 2,) * 4, groups=read if depthwise else 1,
            activation=activation, name=f"conv{self.count}",
        )  # fmt: skip
        if sparse:
            annotate(node, sparse=THIN)
        return node

    def cluster(self) -> fx.Node:
        """A stem, and two separable convolutions."""
        y = self.conv(self.x, 16, 3, stride=2)
        for channels in (32, 64):
            y = self.conv(self.conv(y, shape_of(y)[1], 3, depthwise=True), channels, 1)
        return y

    def linear(self, x: fx.Node, classes: int = 10) -> Graph:
        weight = torch.randn((classes, shape_of(x)[1]), generator=self.generator) * 0.2
        constants = self.b.constant("wf", weight), self.b.constant("bf", torch.zeros(classes))
        return self.b.finish(self.b.linear(x, *constants))


def eligible() -> Graph:
    """A network that XNNPACK's sparse path takes."""
    net = Net()
    return net.linear(net.b.mean(net.cluster(), axes=(2, 3), keepdim=False))


def interrupted() -> Graph:
    """A compatible sparse prefix, an operator that the path does not know, and a global pool behind it."""
    net = Net()
    y = net.b.max_pool2d(net.cluster(), kernel=(2, 2), stride=(2, 2))
    y = net.conv(y, 64, 1)
    return net.linear(net.b.mean(y, axes=(2, 3), keepdim=False))


def not_started() -> Graph:
    """Sparse weights that XNNPACK runs dense: its sparse path begins at a stem of stride 2 only."""
    net = Net()
    y = net.conv(net.conv(net.x, 16, 3), 32, 1)
    return net.linear(net.b.mean(y, axes=(2, 3), keepdim=False))


def convolution_head(classes: int = 100) -> Graph:
    """A global pool with a 1x1 convolution as its head, thinned like the others."""
    net = Net()
    pooled = net.b.mean(net.cluster(), axes=(2, 3), keepdim=True)
    return net.b.finish(net.conv(pooled, classes, 1, activation="none"))
