"""A small mobile network for the handwritten digits: what `bash tools/demo` trains and compresses.

mcc compress mcc.examples.digits:network --weights digits.safetensors --data digits --target litert-host
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mcc.data.digits import PREPROCESSING
from mcc.data.preprocessing import Preprocessing

STEM = 24
# Inverted residuals: channels inside, channels out, stride.
# Wide outside and narrow inside: on a CPU in float, training spends as long on batch norms and activations of
# the inner channels as on all convolutions (profiled 2026-11-23), so expansion 2 learns faster than 6.
BLOCKS = ((96, 128, 2), (256, 128, 1), (256, 128, 1), (256, 160, 2), (320, 160, 1), (320, 160, 1))
HEAD = 320


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
    """3x3 stem with stride 2, six inverted residuals, 1x1 head, linear layer: thirteen 1x1 convolutions.

    17.3 million multiply-adds, 501,218 parameters.
    """

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
