"""Networks for the main job that are small enough to be compressed in seconds; their weights are seeded."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mcc.data.digits import PREPROCESSING
from mcc.data.preprocessing import Preprocessing


class TinyNet(nn.Module):
    """3x3 stem with stride 2, one inverted residual, head, linear layer: three 1x1 convolutions."""

    def __init__(self, classes: int = 10, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1, bias=False)
        self.stem_norm = nn.BatchNorm2d(16)
        self.wide = nn.Conv2d(16, width, 1, bias=False)
        self.wide_norm = nn.BatchNorm2d(width)
        self.deep = nn.Conv2d(width, width, 3, 2, 1, groups=width, bias=False)
        self.deep_norm = nn.BatchNorm2d(width)
        self.head = nn.Conv2d(width, 48, 1, bias=False)
        self.head_norm = nn.BatchNorm2d(48)
        self.classifier = nn.Linear(48, classes)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, 32, 32] -> logits [N, classes]."""
        x = torch.relu(self.stem_norm(self.stem(x)))
        x = torch.relu(self.wide_norm(self.wide(x)))
        x = torch.relu(self.deep_norm(self.deep(x)))
        x = torch.relu(self.head_norm(self.head(x)))
        return self.classifier(x.mean((2, 3)))


Example = tuple[nn.Module, Tensor, Preprocessing]


def _seeded(module_of: type[nn.Module], **options: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return module_of(**options).eval()


def tiny() -> Example:
    """A network for the digits at 32x32."""
    return _seeded(TinyNet), torch.zeros(1, 3, 32, 32), PREPROCESSING


class ConvolutionHead(TinyNet):
    """As `TinyNet`, with a 1x1 convolution of one pixel in place of the linear layer."""

    def __init__(self) -> None:
        super().__init__()
        weight, bias = self.classifier.weight, self.classifier.bias
        self.classifier = nn.Conv2d(48, len(bias), 1)
        self.classifier.weight, self.classifier.bias = nn.Parameter(weight[..., None, None]), bias

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, 32, 32] -> logits [N, classes]."""
        x = torch.relu(self.stem_norm(self.stem(x)))
        x = torch.relu(self.wide_norm(self.wide(x)))
        x = torch.relu(self.deep_norm(self.deep(x)))
        x = torch.relu(self.head_norm(self.head(x)))
        return torch.flatten(self.classifier(x.mean((2, 3), keepdim=True)), 1)


class SameStem(TinyNet):
    """As `TinyNet`, with a stem that is padded as TensorFlow does at stride 2."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 16, 3, 2, bias=False))


def convolution_head() -> Example:
    """A network that one exact pass brings into the sparse path."""
    return _seeded(ConvolutionHead), torch.zeros(1, 3, 32, 32), PREPROCESSING


def same_stem() -> Example:
    """A network that only a pass which changes its numbers brings into the sparse path."""
    return _seeded(SameStem), torch.zeros(1, 3, 32, 32), PREPROCESSING


def seven_classes() -> Example:
    """As `tiny`, with an output that does not fit the digits."""
    return _seeded(TinyNet, classes=7), torch.zeros(1, 3, 32, 32), PREPROCESSING


class Branching(nn.Module):
    """Its way depends on the values of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 10, 3)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, 32, 32] -> [N, 10]."""
        y = self.layer(x).mean((2, 3))
        return y if bool(y.sum() > 0) else -y


class TwoInputs(nn.Module):
    """A network of two images."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 10, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Two [N, 3, 32, 32] -> [N, 10]."""
        return self.layer(x + y).mean((2, 3))


def branching() -> Example:
    """A network with dynamic control flow."""
    return _seeded(Branching), torch.zeros(1, 3, 32, 32), PREPROCESSING


def two_inputs() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """A network with two inputs."""
    return _seeded(TwoInputs), (torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 32, 32))
