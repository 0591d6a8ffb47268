"""Whole networks with random weights in deployment form, for the tests of the TFLite lowering."""

from __future__ import annotations

import torch
from torch import fx

from mcc.ir.graph import Graph, GraphBuilder
from mcc.ir.notes import SparseNote, annotate

# Expansion, channels, repeats, stride of the inverted residuals (Sandler 2018, table 2).
MOBILENET_V2 = [
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
]


class _Net:
    """Convolutions with random weights of unit gain, sparse where asked."""

    def __init__(self, sparsity: float, block: int) -> None:
        self.b = GraphBuilder()
        self.sparsity = sparsity
        self.block = block
        self.count = 0

    def conv(
        self, x: fx.Node, ic: int, oc: int, k: int, s: int, groups: int = 1, act: str = "relu6"
    ) -> fx.Node:
        n = self.count
        self.count += 1
        weight = torch.randn(oc, ic // groups, k, k) * (2.0 / (ic // groups * k * k)) ** 0.5
        sparse = k == 1 and self.sparsity > 0
        if sparse:
            keep = torch.rand(oc // self.block, ic) >= self.sparsity
            weight *= keep.repeat_interleave(self.block, 0)[:, :, None, None]
        w = self.b.constant(f"w{n}", weight)
        bias = self.b.constant(f"b{n}", torch.randn(oc) * 0.1)
        y = self.b.conv2d(
            x, w, bias, stride=(s, s), padding=(k // 2,) * 4, groups=groups, activation=act, name=f"conv{n}"
        )
        if sparse:
            annotate(y, sparse=SparseNote(self.block, self.sparsity))
        return y

    def head(self, x: fx.Node, channels: int, classes: int) -> Graph:
        pooled = self.b.mean(x, axes=(2, 3), keepdim=False)
        w = self.b.constant("wf", torch.randn(classes, channels) * channels**-0.5)
        return self.b.finish(self.b.linear(pooled, w, self.b.constant("bf", torch.zeros(classes))))


def mobilenet_v2(
    width: float = 0.5, size: int = 64, sparsity: float = 0.0, block: int = 1, classes: int = 10
) -> Graph:
    """MobileNetV2 with symmetric padding; `sparsity` of all 1x1 weights zero in blocks of output channels."""
    net = _Net(sparsity, block)
    x = net.b.input("image", (1, 3, size, size))

    def wide(channels: int) -> int:
        return max(8, int(channels * width + 4) // 8 * 8)

    ic = wide(32)
    x = net.conv(x, 3, ic, 3, 2)
    for expansion, channels, repeats, stride in MOBILENET_V2:
        for i in range(repeats):
            oc, inner, s = wide(channels), ic * expansion, stride if i == 0 else 1
            y = net.conv(x, ic, inner, 1, 1) if expansion > 1 else x
            y = net.conv(y, inner, inner, 3, s, groups=inner)
            y = net.conv(y, inner, oc, 1, 1, act="none")
            x = net.b.add(x, y) if s == 1 and ic == oc else y
            ic = oc
    last = int(1280 * width)
    return net.head(net.conv(x, ic, last, 1, 1), last, classes)


def mobilenet_v1(size: int = 224, sparsity: float = 0.0, block: int = 1, classes: int = 1000) -> Graph:
    """MobileNetV1 with symmetric padding."""
    net = _Net(sparsity, block)
    x = net.b.input("image", (1, 3, size, size))
    ic = 32
    x = net.conv(x, 3, ic, 3, 2)
    for oc, s in (
        [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)] + [(512, 1)] * 5 + [(1024, 2), (1024, 1)]
    ):
        x = net.conv(net.conv(x, ic, ic, 3, s, groups=ic), ic, oc, 1, 1)
        ic = oc
    return net.head(x, ic, classes)


def resnet20(size: int = 32) -> Graph:
    """ResNet20 for CIFAR-10 with the parameter-free shortcut: every second pixel, zeros for new channels."""
    net = _Net(0.0, 1)
    x = net.conv(net.b.input("image", (1, 3, size, size)), 3, 16, 3, 1, act="relu")
    ic = 16
    for oc in (16, 32, 64):
        for _ in range(3):
            s = 2 if oc != ic else 1
            y = net.conv(x, ic, oc, 3, s, act="relu")
            y = net.conv(y, oc, oc, 3, 1, act="none")
            if oc != ic:
                for axis in (2, 3):
                    length = int(x.meta["mcc"].type.shape[axis])
                    x = net.b.slice(x, axis=axis, start=0, stop=length, step=2)
                quarter = (oc - ic) // 2
                x = net.b.pad(x, padding=((0, 0), (quarter, quarter), (0, 0), (0, 0)))
            x = net.b.add(y, x, activation="relu")
            ic = oc
    return net.head(x, ic, 10)
