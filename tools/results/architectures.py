"""Random convolutional networks of the kinds used on phones, to test predictions on unseen networks.

Built straight in deployment form (batch norms folded, activations fused), with random weights: no latency
depends on them. One seed gives one network.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import fx

from mcc.ir.graph import Graph, GraphBuilder
from mcc.ir.notes import shape_of

Kind = Literal["inverted", "separable", "residual", "bottleneck", "plain"]

SMALLEST = 4  # pixels: no stage goes below
DIVISOR = 8
SLIM = 0.2  # share of networks whose widths are multiples of 4 only


@dataclass(frozen=True)
class Scale:
    """Ranges of the sizes to draw.

    Attributes:
        sides: Sides of the input, in pixels.
        stages: Minimum and maximum number of stages.
        head: Channels of the last 1x1 convolution, minimum and maximum.
        classes: Numbers of classes.
        wide: Factor on the largest width of a stage.
        growth: Additional growth of a stage's channels, beyond that of its kind.
    """

    sides: tuple[int, ...] = (32, 48, 64, 80, 96)
    stages: tuple[int, int] = (3, 4)
    head: tuple[int, int] = (160, 480)
    classes: tuple[int, ...] = (10, 100)
    wide: int = 1
    growth: float = 0.0


SMALL = Scale()
FULL = Scale((128, 160, 192, 224), (5, 6), (640, 1280), (100, 1000), 4, 1.0)  # as networks for ImageNet are


def random_network(seed: int, scale: Scale = SMALL) -> Graph:
    """The network of a seed."""
    net = _Network(random.Random(seed), seed, scale)
    kinds: dict[Kind, Callable[[fx.Node], fx.Node]] = {
        "inverted": net.inverted,
        "separable": net.separable,
        "residual": net.residual,
        "bottleneck": net.bottleneck,
        "plain": net.plain,
    }
    return net.build(kinds[tuple(kinds)[seed % len(kinds)]])


class _Network:
    """One network under construction, with sizes drawn on the way."""

    def __init__(self, draw: random.Random, seed: int, scale: Scale) -> None:
        self.draw = draw
        self.scale = scale
        self.b = GraphBuilder()
        self.generator = torch.Generator().manual_seed(seed)
        self.count = 0
        self.divisor = DIVISOR // 2 if draw.random() < SLIM else DIVISOR
        self.act = draw.choice(("relu", "relu6"))
        self.windows = draw.choice(((3,), (3,), (3, 5)))
        self.squeezes = draw.random() < 0.3

    def build(self, stage: Callable[[fx.Node], fx.Node]) -> Graph:
        """Stem, stages of doubling width, head."""
        side = self.draw.choice(self.scale.sides)
        x = self.conv(self.b.input("image", (1, 3, side, side)), self.width(16, 32), 3,
                      stride=2 if side > 32 else 1)  # fmt: skip
        for _ in range(self.draw.randint(*self.scale.stages)):
            x = stage(x)
        if self.draw.random() < 0.5:
            x = self.conv(x, self.width(*self.scale.head), 1)
        pooled = self.b.mean(x, axes=(2, 3), keepdim=False)
        classes = self.draw.choice(self.scale.classes)
        weight = self.weight((classes, shape_of(pooled)[1]))
        return self.b.finish(self.b.linear(pooled, weight, self.weight((classes,))))

    def inverted(self, x: fx.Node) -> fx.Node:
        """Inverted residuals (Sandler 2018), sometimes with squeeze and excitation (Howard 2019)."""
        made = self.wider(x, 1.5, limit=128)
        for index in range(self.draw.randint(1, 3)):
            stride = self.stride(x) if index == 0 else 1
            expanded = self.rounded(shape_of(x)[1] * self.draw.choice((3, 4, 6)))
            y = self.conv(self.conv(x, expanded, 1), expanded, self.window(), stride=stride, depthwise=True)
            y = self.conv(self.squeezed(y) if self.squeezes else y, made, 1, act="none")
            x = self.b.add(x, y) if stride == 1 and shape_of(x) == shape_of(y) else y
        return x

    def separable(self, x: fx.Node) -> fx.Node:
        """Depthwise separable convolutions (Howard 2017)."""
        made = self.wider(x, 2.0, limit=320)
        for index in range(self.draw.randint(1, 3)):
            stride = self.stride(x) if index == 0 else 1
            x = self.conv(x, shape_of(x)[1], self.window(), stride=stride, depthwise=True)
            x = self.conv(x, made, 1)
        return x

    def residual(self, x: fx.Node) -> fx.Node:
        """Basic blocks (He 2016)."""
        made = self.wider(x, 1.6, limit=128)
        for index in range(self.draw.randint(1, 2)):
            stride = self.stride(x) if index == 0 else 1
            same = stride == 1 and shape_of(x)[1] == made
            short = x if same else self.conv(x, made, 1, stride=stride, act="none")
            y = self.conv(self.conv(x, made, 3, stride=stride), made, 3, act="none")
            x = self.b.add(y, short, activation="relu")
        return x

    def bottleneck(self, x: fx.Node) -> fx.Node:
        """Bottlenecks (He 2016): 1x1, 3x3, 1x1."""
        made = self.wider(x, 2.0, limit=320)
        for index in range(self.draw.randint(1, 2)):
            stride = self.stride(x) if index == 0 else 1
            inner = self.rounded(made / self.draw.choice((2, 4)))
            same = stride == 1 and shape_of(x)[1] == made
            short = x if same else self.conv(x, made, 1, stride=stride, act="none")
            y = self.conv(self.conv(x, inner, 1), inner, 3, stride=stride)
            x = self.b.add(self.conv(y, made, 1, act="none"), short, activation="relu")
        return x

    def plain(self, x: fx.Node) -> fx.Node:
        """Convolutions and max pools (Simonyan 2015)."""
        made = self.wider(x, 1.6, limit=128)
        for _ in range(self.draw.randint(1, 2)):
            x = self.conv(x, made, 3)
        if shape_of(x)[2] >= 2 * SMALLEST:
            x = self.b.max_pool2d(x, kernel=(2, 2), stride=(2, 2), padding=(0,) * 4)
        return x

    def squeezed(self, x: fx.Node) -> fx.Node:
        """Squeeze and excitation."""
        channels = shape_of(x)[1]
        inner = self.conv(
            self.b.mean(x, axes=(2, 3), keepdim=True), self.rounded(channels / 4), 1, act="relu"
        )
        return self.b.mul(x, self.b.sigmoid(self.conv(inner, channels, 1, act="none")))

    def conv(
        self, x: fx.Node, channels: int, window: int, *, stride: int = 1, depthwise: bool = False,
        act: str | None = None,
    ) -> fx.Node:  # fmt: skip
        """A convolution with bias and activation."""
        read = shape_of(x)[1]
        weight = self.weight((channels, 1 if depthwise else read, window, window))
        return self.b.conv2d(
            x, weight, self.weight((channels,)), stride=(stride, stride), padding=(window // 2,) * 4,
            groups=read if depthwise else 1, activation=act or self.act,
        )  # fmt: skip

    def weight(self, shape: tuple[int, ...]) -> fx.Node:
        """A random constant."""
        self.count += 1
        fan_in = max(1, torch.Size(shape[1:]).numel())
        return self.b.constant(f"w{self.count}", torch.randn(shape, generator=self.generator) / fan_in**0.5)

    def window(self) -> int:
        """Window of a depthwise convolution."""
        return self.draw.choice(self.windows)

    def stride(self, x: fx.Node) -> int:
        """Two while the image is large enough."""
        return 2 if shape_of(x)[2] >= 2 * SMALLEST and self.draw.random() < 0.85 else 1

    def width(self, low: int, high: int) -> int:
        """A random number of channels."""
        return self.rounded(self.draw.uniform(low, high))

    def wider(self, x: fx.Node, ratio: float, *, limit: int) -> int:
        """About `ratio` times the channels of a value."""
        channels = shape_of(x)[1]
        wanted = max(self.rounded(channels * self.draw.uniform(1.0, ratio + self.scale.growth)), self.divisor)
        return min(limit * self.scale.wide, wanted)

    def rounded(self, channels: float) -> int:
        """The nearest multiple."""
        return max(self.divisor, round(channels / self.divisor) * self.divisor)
