"""A U-Net (Ronneberger 2015): neither torchvision nor timm has one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

WIDTHS = (16, 32, 64, 128)
CLASSES = 21


def _double(before: int, width: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (before, width):
        layers += [
            nn.Conv2d(channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Four levels; transposed convolutions on the way up, joined with what came down."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(_double(a, b) for a, b in zip((3, *WIDTHS), WIDTHS, strict=False))
        self.widen = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, 2) for w in WIDTHS[-2::-1])
        self.up = nn.ModuleList(_double(2 * w, w) for w in WIDTHS[-2::-1])
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Conv2d(WIDTHS[0], CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Scores [N, classes, H, W] of pictures [N, 3, H, W], H and W multiples of 8."""
        levels: list[Tensor] = []
        for index, block in enumerate(self.down):
            x = block(self.pool(x) if index else x)
            levels.append(x)
        for widen, block, beside in zip(self.widen, self.up, levels[-2::-1], strict=True):
            x = block(torch.cat((widen(x), beside), 1))
        return self.head(x)
