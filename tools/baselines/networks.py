"""The benchmark networks of mcc: MobileNetV2 and two ResNets for CIFAR-10, the digits network, a
segmenter and a detector.

Each factory returns `(module, example_input, Preprocessing)`, which `mcc` reads as it is:

    mcc compress tools/baselines/networks.py:mobilenet_v2 --weights FILE --data cifar10:DIR --target T
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mcc.data import Preprocessing
from mcc.examples.digits import network as digits_net

__all__ = [
    "NETWORKS", "Detector", "MobileNetV2", "ResNet", "Segmenter", "bccd_detector", "camvid_segmenter",
    "digits_net", "mobilenet_v2", "resnet20", "resnet56",
]  # fmt: skip

Factory = tuple[nn.Module, Tensor, Preprocessing]

# MobileNetV2, table 2 (Sandler 2018): expansion, channels at width 1, blocks, stride of the first.
MOBILENET_V2_BLOCKS = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
# The paper's 24-channel group has stride 2; at 64x64 it stays at 1, since the last maps would be 2x2.

# Usual for CIFAR-10, in 0-255.
CIFAR10_MEAN = (125.3, 123.0, 113.9)
CIFAR10_STD = (63.0, 62.1, 66.7)
# ImageNet's, which the published ResNet weights for CIFAR-10 were trained with, in 0-1.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def _round_channels(value: float, divisor: int = 8) -> int:
    """The nearest multiple of `divisor`, at least 90 % of `value` (as torchvision rounds widths)."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def _conv_norm(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution with symmetric padding, batch norm, ReLU6 (children 0, 1, 2, as torchvision names them)."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(inplace=True),
    )


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise 3x3, project 1x1 without activation; added to its input where shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        expand = [] if expansion == 1 else [_conv_norm(inputs, hidden, 1)]
        self.conv = nn.Sequential(
            *expand,
            _conv_norm(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] -> [N, outputs, H/stride, W/stride]."""
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(nn.Module):
    """MobileNetV2 in torchvision's layout and parameter names (torchvision itself is not needed)."""

    def __init__(self, width: float = 0.5, classes: int = 10, dropout: float = 0.2) -> None:
        super().__init__()
        channels = _round_channels(32 * width)
        # torchvision widens the last layer only above width 1; these weights have it narrowed too (640).
        last = _round_channels(1280 * width)
        layers: list[nn.Module] = [_conv_norm(3, channels, 3, stride=2)]
        for expansion, base, count, stride in MOBILENET_V2_BLOCKS:
            outputs = _round_channels(base * width)
            for block in range(count):
                layers.append(InvertedResidual(channels, outputs, stride if block == 0 else 1, expansion))
                channels = outputs
        layers.append(_conv_norm(channels, last, 1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(last, classes))
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] -> logits [N, classes]."""
        return self.classifier(self.features(x).mean((2, 3)))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; if the shape changes, the shortcut is He 2015's parameter-free option A."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.changes = stride != 1 or inputs != outputs
        self.side = outputs // 4

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] -> [N, outputs, H/stride, W/stride]."""
        out = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if self.changes:
            # Every second pixel; a quarter of the new width in zero channels on each side.
            x = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.side, self.side))
        return torch.relu(out + x)


class ResNet(nn.Module):
    """ResNet for CIFAR-10 (He 2015, section 4.2): stages of 16, 32 and 64 channels, `blocks` blocks each."""

    def __init__(self, blocks: int, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(BasicBlock(16, 16, 1) for _ in range(blocks)))
        self.layer2 = nn.Sequential(
            *(BasicBlock(16 if i == 0 else 32, 32, 2 if i == 0 else 1) for i in range(blocks))
        )
        self.layer3 = nn.Sequential(
            *(BasicBlock(32 if i == 0 else 64, 64, 2 if i == 0 else 1) for i in range(blocks))
        )
        self.linear = nn.Linear(64, classes)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, 32, 32] -> logits [N, classes]."""
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def _stages(channels: int, stages: tuple[tuple[int, int, int], ...]) -> nn.ModuleList:
    """Inverted residuals after so many channels, for each (expansion, channels, blocks); each begins with
    stride 2."""
    found: list[nn.Module] = []
    for expansion, width, blocks in stages:
        first = InvertedResidual(channels, width, 2, expansion)
        rest = (InvertedResidual(width, width, 1, expansion) for _ in range(blocks - 1))
        found.append(nn.Sequential(first, *rest))
        channels = width
    return nn.ModuleList(found)


SEGMENTER_STAGES = ((4, 24, 2), (4, 40, 3), (4, 64, 3))
"""Expansion, channels and blocks; each begins with stride 2."""


class Segmenter(nn.Module):
    """A MobileNetV2-like backbone with a feature pyramid (Lin 2017) of three levels, up to stride 4.

    The logits are enlarged bilinearly inside the network, as in LR-ASPP (Howard 2019).

    Args:
        classes: Number of classes.
        pyramid: Channels of the pyramid.
    """

    def __init__(self, classes: int, pyramid: int = 64) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv_norm(3, 16, 3, 2), InvertedResidual(16, 16, 1, 1))
        self.stages = _stages(16, SEGMENTER_STAGES)
        self.lateral = nn.ModuleList(_conv_norm(width, pyramid, 1) for _, width, _ in SEGMENTER_STAGES)
        self.smooth = nn.ModuleList(
            nn.Sequential(_conv_norm(pyramid, pyramid, 3, groups=pyramid), _conv_norm(pyramid, pyramid, 1))
            for _ in SEGMENTER_STAGES[1:]
        )
        self.classifier = nn.Conv2d(pyramid, classes, 1)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] -> logits [N, classes, H, W]."""
        size = x.shape[2:]
        x = self.stem(x)
        maps: list[Tensor] = []
        for stage, lateral in zip(self.stages, self.lateral, strict=True):
            x = stage(x)
            maps.append(lateral(x))
        y = maps.pop()
        for smooth in self.smooth:
            finer = maps.pop()
            y = smooth(finer + nn.functional.interpolate(y, finer.shape[2:], mode="bilinear"))
        return nn.functional.interpolate(self.classifier(y), size, mode="bilinear")


DETECTOR_STAGES = ((4, 24, 2), (4, 40, 3), (4, 64, 3), (4, 96, 2))
"""As `SEGMENTER_STAGES`; the last three have heads."""
DETECTOR_STRIDES = (8, 16, 32)
RARE = -4.6  # logit of a probability of 0.01, which a detector starts with (Lin 2017, section 4.1)
USUAL_DISTANCE = 1.5  # cells from the middle of a box to its sides, which a detector starts with


class Detector(nn.Module):
    """A MobileNetV2-like backbone, a feature pyramid of three levels, and an anchor-free head for each.

    A head gives class logits and distances to the left, top, right and bottom, in cells, as FCOS (Tian 2019).
    They are outputs of their own, so that each has its own scale when it is quantised.

    Args:
        classes: Number of classes.
        pyramid: Channels of the pyramid.
    """

    def __init__(self, classes: int, pyramid: int = 64) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv_norm(3, 16, 3, 2), InvertedResidual(16, 16, 1, 1))
        self.stages = _stages(16, DETECTOR_STAGES)
        headed = [width for _, width, _ in DETECTOR_STAGES[-len(DETECTOR_STRIDES) :]]
        self.lateral = nn.ModuleList(_conv_norm(width, pyramid, 1) for width in headed)
        self.towers = nn.ModuleList(nn.Sequential(*(_separable(pyramid) for _ in range(2))) for _ in headed)
        self.cls = nn.ModuleList(nn.Conv2d(pyramid, classes, 1) for _ in headed)
        self.box = nn.ModuleList(nn.Conv2d(pyramid, 4, 1) for _ in headed)
        _initialise(self)
        for heads, start in ((self.cls, RARE), (self.box, USUAL_DISTANCE)):
            for head in heads:
                nn.init.normal_(head.weight, 0.0, 0.01)
                nn.init.constant_(head.bias, start)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """[N, 3, H, W] -> cls_8, box_8, cls_16, ...: [N, classes or 4, H / stride, W / stride]."""
        x = self.stem(x)
        maps: list[Tensor] = []
        for number, stage in enumerate(self.stages):
            x = stage(x)
            if number > 0:
                maps.append(self.lateral[number - 1](x))
        for place in range(len(maps) - 2, -1, -1):
            enlarged = nn.functional.interpolate(maps[place + 1], maps[place].shape[2:], mode="bilinear")
            maps[place] = maps[place] + enlarged
        found: dict[str, Tensor] = {}
        for place, stride in enumerate(DETECTOR_STRIDES):
            y = self.towers[place](maps[place])
            found[f"cls_{stride}"], found[f"box_{stride}"] = self.cls[place](y), self.box[place](y)
        return found


def _separable(channels: int) -> nn.Sequential:
    """Depthwise 3x3 and pointwise convolution."""
    return nn.Sequential(
        _conv_norm(channels, channels, 3, groups=channels), _conv_norm(channels, channels, 1)
    )


def _initialise(network: nn.Module) -> None:
    """He initialisation of convolutions, small normal classifier, as in both papers."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0.0, 0.01)
            nn.init.zeros_(module.bias)


def mobilenet_v2() -> Factory:
    """MobileNetV2 of width 0.5 for CIFAR-10 at 64x64."""
    preprocessing = Preprocessing.from_bytes(CIFAR10_MEAN, CIFAR10_STD, size=(64, 64))
    return MobileNetV2().eval(), torch.zeros(1, 3, 64, 64), preprocessing


def resnet20() -> Factory:
    """ResNet-20 for CIFAR-10: the control without stride-1 1x1 convolutions."""
    return ResNet(3).eval(), torch.zeros(1, 3, 32, 32), Preprocessing(IMAGENET_MEAN, IMAGENET_STD)


def resnet56() -> Factory:
    """ResNet-56 for CIFAR-10."""
    return ResNet(9).eval(), torch.zeros(1, 3, 32, 32), Preprocessing(IMAGENET_MEAN, IMAGENET_STD)


def camvid_segmenter() -> Factory:
    """The segmenter for CamVid's eleven classes at 240x180."""
    preprocessing = Preprocessing(IMAGENET_MEAN, IMAGENET_STD, size=(180, 240))
    return Segmenter(11).eval(), torch.zeros(1, 3, 180, 240), preprocessing


def bccd_detector() -> Factory:
    """The detector for the three kinds of blood cell of BCCD at 320x240."""
    preprocessing = Preprocessing(IMAGENET_MEAN, IMAGENET_STD, size=(240, 320))
    return Detector(3).eval(), torch.zeros(1, 3, 240, 320), preprocessing


NETWORKS = {
    "bccd_detector": bccd_detector,
    "camvid_segmenter": camvid_segmenter,
    "mobilenet_v2": mobilenet_v2,
    "resnet20": resnet20,
    "resnet56": resnet56,
    "digits": digits_net,
}
