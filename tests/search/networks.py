"""Small networks, one for each way in which channels are coupled; as captured, with batch norms."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import fx

from mcc.ir.graph import Graph, GraphBuilder
from mcc.ir.notes import shape_of

BLOCKS = ((8, 1, 1), (12, 2, 4), (12, 1, 4))  # channels, stride, expansion


class Net:
    """Adds layers with named random weights."""

    def __init__(self, size: int = 16, channels: int = 3) -> None:
        self.b = GraphBuilder()
        self.random = torch.Generator().manual_seed(0)  # the same weights whatever ran before
        self.x = self.b.input("x", (1, channels, size, size))
        self.count = 0

    def _name(self, kind: str) -> str:
        self.count += 1
        return f"{kind}{self.count}"

    def conv(
        self, x: fx.Node, out: int, kernel: int = 1, stride: int = 1, groups: int = 1, activation: str = ""
    ) -> fx.Node:
        """Convolution with symmetric padding, batch norm and an activation."""
        name, read = self._name("conv"), shape_of(x)[1]
        fan = read // groups * kernel * kernel
        weight = self.b.constant(
            f"{name}_w", torch.randn(out, read // groups, kernel, kernel, generator=self.random) * fan**-0.5
        )
        y = self.b.conv2d(
            x, weight, None, name=name, stride=(stride, stride), padding=(kernel // 2,) * 4, groups=groups
        )
        norm = [
            self.b.constant(f"{name}_{part}", torch.rand(out, generator=self.random) + 0.5)
            for part in ("gain", "shift")
        ]
        stats = [
            self.b.constant(f"{name}_{p}", torch.rand(out, generator=self.random) + 0.5, trains=False)
            for p in ("mean", "var")
        ]
        y = self.b.batch_norm(y, *norm, *stats)
        return self.b.call(activation, y) if activation else y

    def depthwise(self, x: fx.Node, kernel: int = 3, stride: int = 1, multiplier: int = 1) -> fx.Node:
        """Depthwise convolution with ReLU6."""
        channels = shape_of(x)[1]
        return self.conv(x, channels * multiplier, kernel, stride, groups=channels, activation="relu6")

    def block(self, x: fx.Node, out: int, stride: int, expansion: int) -> fx.Node:
        """MobileNetV2's inverted residual."""
        wide = self.conv(x, shape_of(x)[1] * expansion, activation="relu6") if expansion > 1 else x
        y = self.conv(self.depthwise(wide, stride=stride), out)
        return self.b.add(x, y) if stride == 1 and shape_of(x)[1] == out else y

    def basic(self, x: fx.Node, out: int, stride: int) -> fx.Node:
        """ResNet's basic block with the parameter-free shortcut: every second pixel, zero channels around."""
        y = self.conv(self.conv(x, out, 3, stride, activation="relu"), out, 3)
        if stride > 1:
            size = shape_of(x)[2]
            for axis in (2, 3):
                x = self.b.slice(x, axis=axis, start=0, stop=size, step=2)
            side = (out - shape_of(x)[1]) // 2
            x = self.b.pad(x, padding=((0, 0), (side, side), (0, 0), (0, 0)))
        return self.b.relu(self.b.add(y, x))

    def linear(self, x: fx.Node, out: int) -> fx.Node:
        """Fully connected layer."""
        name = self._name("linear")
        weight = self.b.constant(f"{name}_w", torch.randn(out, shape_of(x)[-1], generator=self.random) * 0.1)
        return self.b.linear(
            x, weight, self.b.constant(f"{name}_b", torch.randn(out, generator=self.random)), name=name
        )

    def head(self, x: fx.Node, classes: int = 10) -> Graph:
        """Global average pool and a linear layer."""
        return self.b.finish(self.linear(self.b.mean(x, axes=(2, 3)), classes))


def mobile(blocks: tuple[tuple[int, int, int], ...] = BLOCKS, size: int = 16) -> Graph:
    """Like MobileNetV2: blocks of (channels, stride, expansion)."""
    net = Net(size)
    x = net.conv(net.x, 16, 3, 2, activation="relu6")
    for out, stride, expansion in blocks:
        x = net.block(x, out, stride, expansion)
    return net.head(net.conv(x, 40, activation="relu6"))


def residual(stages: tuple[int, ...] = (8, 16, 32), blocks: int = 2) -> Graph:
    """Like ResNet for CIFAR-10: widths of a stage are sums over the groups of all stages before."""
    net = Net()
    x = net.conv(net.x, stages[0], 3, activation="relu")
    for index, out in enumerate(stages):
        for block in range(blocks):
            x = net.basic(x, out, 2 if index and not block else 1)
    return net.head(x)


def concatenated() -> Graph:
    """Branches joined by a concatenation of three, one of which is used again, and a slice of the join."""
    net = Net()
    x = net.conv(net.x, 12, 3, 2, activation="relu")
    parts = [net.conv(x, 8, activation="relu"), net.conv(x, 16, 3, activation="relu"), x]
    joined = net.b.concat(*parts, axis=1)
    y = net.b.max_pool2d(joined, kernel=(2, 2), stride=(2, 2))
    left = net.b.slice(y, axis=1, start=0, stop=20, step=1)
    right = net.b.slice(y, axis=1, start=20, stop=36, step=1)
    z = net.b.concat(net.conv(left, 8), net.conv(right, 12), right, axis=1)
    return net.head(net.conv(z, 20, activation="relu"))


def flattened() -> Graph:
    """A map flattened into a linear layer, and another behind it."""
    net = Net(8)
    x = net.conv(net.x, 12, 3, 2, activation="relu")
    x = net.conv(x, 8, 3, 2, activation="relu")
    x = net.b.reshape(x, shape=(8 * 2 * 2,))
    hidden = net.b.relu(net.linear(x, 24))
    return net.b.finish(net.linear(hidden, 10))


def gated() -> Graph:
    """Squeeze-and-excitation: the gate's channels are those of the map, its inner ones its own."""
    net = Net()
    x = net.conv(net.x, 16, 3, 2, activation="hardswish")
    x = net.depthwise(x)
    inner = net.conv(net.b.mean(x, axes=(2, 3), keepdim=True), 8, activation="relu")
    gate = net.b.hardsigmoid(net.conv(inner, 16))
    return net.head(net.conv(net.b.mul(x, gate), 24, activation="relu"))


def shuffled() -> Graph:
    """Grouped convolutions with a channel shuffle: a reshape and a transposition on which channels move."""
    net = Net()
    x = net.conv(net.x, 16, 3, 2, activation="relu")
    x = net.conv(x, 16, groups=2, activation="relu")
    x = net.b.reshape(x, shape=(2, 8, 8, 8))
    x = net.b.transpose(x, perm=(0, 2, 1, 3, 4))
    x = net.b.reshape(x, shape=(16, 8, 8))
    x = net.depthwise(x, stride=2, multiplier=2)
    return net.head(net.conv(x, 12, activation="relu"))


def channels_last() -> Graph:
    """Channels moved to the last axis and added to constants there; a linear layer over every pixel."""
    net = Net(8)
    x = net.conv(net.x, 16, 3, 2, activation="relu")
    y = net.b.transpose(x, perm=(0, 2, 3, 1))
    y = net.b.add(y, net.b.constant("offset", torch.randn(16, generator=net.random)))
    y = net.b.mul(net.linear(y, 12), net.b.constant("gain", torch.randn(1, 4, 4, 12, generator=net.random)))
    y = net.b.transpose(y, perm=(0, 3, 1, 2))
    return net.head(net.b.add(net.conv(x, 12), y))


def upsampled() -> Graph:
    """A transposed convolution back to the size of an earlier map, which it is joined with."""
    net = Net()
    x = net.conv(net.x, 8, 3, activation="relu")
    y = net.conv(x, 16, 3, 2, activation="relu")
    weight = net.b.constant("up_w", torch.randn(16, 12, 2, 2, generator=net.random))
    y = net.b.conv_transpose2d(
        y, weight, net.b.constant("up_b", torch.randn(12, generator=net.random)), stride=(2, 2)
    )
    y = net.b.prelu(y, net.b.constant("slope", torch.rand(12, generator=net.random)))
    return net.head(net.conv(net.b.concat(y, x, axis=1), 16, 3, activation="relu"))


NETWORKS: dict[str, Callable[[], Graph]] = {
    factory.__name__: factory
    for factory in (mobile, residual, concatenated, flattened, gated, shuffled, channels_last, upsampled)
}
