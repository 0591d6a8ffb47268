"""Random mobile networks with hard swishes, squeeze and excitation and 5x5 windows, as torch modules.

Similar to MobileNetV3 (Howard 2019) and EfficientNet (Tan 2019), with sizes drawn at random, so that their
kernels are not in tables made for other networks. One seed gives one network.
"""

from __future__ import annotations

import random

import torch
from torch import Tensor, nn

SIDES = (64, 96, 112, 128, 160, 192, 224)  # of the input, in pixels
STAGES = (3, 5)
BLOCKS = (1, 3)  # of a stage
EXPANSIONS = (2.0, 3.0, 4.0, 6.0)
STEM = (8, 24)  # channels of the first convolution, from and to
GROWTH = (1.2, 1.9)  # of channels from one stage to the next, minimum and maximum
WIDEST = 160  # channels of a block
HEAD = (160, 960)  # channels of the last 1x1 convolution, minimum and maximum
CLASSES = (10, 100, 1000)
DIVISOR = 8
SMALLEST = 4  # pixels: no stage goes below
SQUEEZE = 4  # channels of a block over those inside its squeeze


MACS = (4e6, 220e6)  # of a network, minimum and maximum: about 0.3 to 20 ms on one core


def mobile_network(seed: int) -> MobileNetwork:
    """The network of a seed, in evaluation mode with random weights; redrawn if outside of `MACS`."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    while True:
        network = MobileNetwork(draw).eval()
        if MACS[0] <= network.macs() <= MACS[1]:
            return network


class MobileNetwork(nn.Module):
    """Stem, inverted residuals, head; every network has hard swishes, squeezes and 5x5 windows."""

    def __init__(self, draw: random.Random) -> None:
        super().__init__()
        self.side = side = draw.choice(SIDES)
        channels = _rounded(draw.uniform(*STEM))
        layers: list[nn.Module] = [_conv(3, channels, 3, stride=2), nn.Hardswish()]
        side //= 2
        stages = draw.randint(*STAGES)
        # The first two stages are one of 3x3 and one of 5x5 with squeezes, so that no network lacks either.
        windows = [3, 5, *(draw.choice((3, 5)) for _ in range(stages - 2))]
        squeezed = [False, True, *(draw.random() < 0.6 for _ in range(stages - 2))]
        for window, squeeze in zip(windows, squeezed, strict=True):
            made = min(WIDEST, _rounded(channels * draw.uniform(*GROWTH)))
            hard = window == 5 or draw.random() < 0.6
            for index in range(draw.randint(*BLOCKS)):
                stride = 2 if index == 0 and side >= 2 * SMALLEST and draw.random() < 0.85 else 1
                layers.append(Block(channels, made, draw.choice(EXPANSIONS), window, stride, squeeze, hard))
                channels, side = made, side // stride
        head = _rounded(draw.uniform(*HEAD))
        layers += [_conv(channels, head, 1), nn.Hardswish(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        self.layers = nn.Sequential(*layers, nn.Linear(head, draw.choice(CLASSES)))

    def forward(self, image: Tensor) -> Tensor:
        """Logits."""
        return self.layers(image)

    def macs(self) -> float:
        """Multiply-accumulates of its convolutions, counted on one inference."""
        counted = 0.0

        def count(module: nn.Module, _: object, value: Tensor) -> None:
            nonlocal counted
            if isinstance(module, nn.Conv2d):
                counted += value.numel() * module.weight[0].numel()

        hooks = [module.register_forward_hook(count) for module in self.modules()]
        with torch.no_grad():
            self(*self.example_inputs())
        for hook in hooks:
            hook.remove()
        return counted

    def example_inputs(self) -> tuple[Tensor, ...]:
        """One picture of the network's size."""
        return (torch.zeros(1, 3, self.side, self.side),)


class Block(nn.Module):
    """An inverted residual, with squeeze and excitation where asked for."""

    def __init__(
        self, read: int, made: int, expansion: float, window: int, stride: int, squeeze: bool, hard: bool
    ) -> None:
        super().__init__()
        inner = _rounded(read * expansion)
        act = nn.Hardswish if hard else nn.ReLU
        self.body = nn.Sequential(
            _conv(read, inner, 1), act(),
            _conv(inner, inner, window, stride=stride, groups=inner), act(),
            Squeeze(inner) if squeeze else nn.Identity(),
            _conv(inner, made, 1),
        )  # fmt: skip
        self.same = read == made and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        """The block's value."""
        return x + self.body(x) if self.same else self.body(x)


class Squeeze(nn.Module):
    """Squeeze and excitation (Hu 2018) with a hard sigmoid (Howard 2019)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = _rounded(channels / SQUEEZE)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, inner, 1), nn.ReLU(), nn.Conv2d(inner, channels, 1),
            nn.Hardsigmoid(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """The value, each channel scaled."""
        return x * self.gate(x)


def _conv(read: int, made: int, window: int, *, stride: int = 1, groups: int = 1) -> nn.Module:
    conv = nn.Conv2d(read, made, window, stride, window // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(made))


def _rounded(channels: float) -> int:
    """The nearest multiple."""
    return max(DIVISOR, round(channels / DIVISOR) * DIVISOR)
