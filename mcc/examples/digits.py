"""A small mobile network for the handwritten digits: what `bash tools/demo` trains and compresses.

mcc compress mcc.examples.digits:network --weights digits.safetensors --data digits --target litert-host
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mcc.data.digits import PREPROCESSING
from mcc.data.preprocessing import Preprocessing

STEM = 16
# Inverted residuals: channels inside, channels out, stride.
BLOCKS = ((48, 24, 2), (144, 48, 1), (192, 48, 1), (192, 64, 2), (256, 64, 1))
HEAD = 192


def _conv_norm(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Convolution with symmetric padding, and its batch norm."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(outputs)]


class InvertedResidual(nn.Module):
    """1x1 up to `inside` channels, depthwise 3x3, 1x1 down to `outputs` (Sandler 2018)."""

    def __init__(self, inputs: int, inside: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.residual = stride == 1 and inputs == outputs
        self.layers = nn.Sequential(
            *_conv_norm(inputs, inside, 1),
            nn.ReLU6(),
            *_conv_norm(inside, inside, 3, stride, groups=inside),
            nn.ReLU6(),
            *_conv_norm(inside, outputs, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] -> [N, outputs, H/stride, W/stride]."""
        return x + self.layers(x) if self.residual else self.layers(x)


class DigitsNet(nn.Module):
    """3x3 stem with stride 2, five inverted residuals, 1x1 head, linear layer: eleven 1x1 convolutions."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = [*_conv_norm(3, STEM, 3, stride=2), nn.ReLU6()]
        channels = STEM
        for inside, outputs, stride in BLOCKS:
            layers.append(InvertedResidual(channels, inside, outputs, stride))
            channels = outputs
        layers += [*_conv_norm(channels, HEAD, 1), nn.ReLU6()]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(HEAD, classes)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, 32, 32] -> logits [N, classes]."""
        return self.classifier(self.features(x).mean((2, 3)))


def network() -> tuple[nn.Module, Tensor, Preprocessing]:
    """The network with fresh weights, an example input, and the preprocessing that belongs to it."""
    return DigitsNet().eval(), torch.zeros(1, 3, 32, 32), PREPROCESSING
