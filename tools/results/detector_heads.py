"""Detectors of the usual families with random weights: small bodies, and heads with the box decoding of their
exports.

Statistics of the batch norms are computed on the images, so that ranges and noise are similar to those of
trained networks; the last convolutions are scaled so that the spread of logits is about one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

IMAGE = (1, 3, 96, 96)
STRIDES = (8, 16, 32)
CLASSES = 5
BINS = 16
WIDTHS = (32, 48, 64)  # channels of the three feature maps
LOGIT_SPREAD = 1.0  # standard deviation of the outputs of the last convolutions
SIZE_SPREAD = 0.3  # the same for inputs of an exponential

SIDE = IMAGE[2]


def scenes(count: int, seed: int) -> Tensor:
    """Pictures [count, 3, 96, 96]: a smooth background, discs and boxes of one colour each, sensor noise."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    coarse = 0.6 * draw(count, 3, 4, 4) + 0.4 * draw(count, 1, 1, 1)
    pictures = functional.interpolate(coarse, (SIDE, SIDE), mode="bicubic").clamp(0, 1)
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    for _ in range(4):
        y, x, high, wide = (
            SIDE * draw(4, count, 1, 1) * torch.tensor([1, 1, 0.3, 0.3]).reshape(4, 1, 1, 1)
        ) + 3
        near_y, near_x = (rows - y) / high, (columns - x) / wide
        round_ones = draw(count, 1, 1) < 0.5
        inside = torch.where(
            round_ones, near_y.square() + near_x.square() < 1, (near_y.abs() < 1) & (near_x.abs() < 1)
        )
        pictures = torch.where(inside[:, None], draw(count, 3, 1, 1), pictures)
    return ((pictures + 0.02 * torch.randn(pictures.shape, generator=generator)).clamp(0, 1) - 0.45) / 0.25


class Block(nn.Sequential):
    """Convolution, batch norm, activation."""

    def __init__(
        self,
        cin: int,
        cout: int,
        size: int = 3,
        stride: int = 1,
        groups: int = 1,
        act: type[nn.Module] = nn.SiLU,
    ) -> None:
        super().__init__(
            nn.Conv2d(cin, cout, size, stride, size // 2, groups=groups, bias=False),
            nn.BatchNorm2d(cout),
            act(),
        )


class Residual(nn.Module):
    """Two blocks beside a shortcut."""

    def __init__(self, width: int, act: type[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Block(width, width, 1, act=act), Block(width, width, act=act))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.blocks(x)


class Body(nn.Module):
    """Feature maps at strides 8, 16 and 32, with the coarse ones joined to the fine ones on the way back."""

    def __init__(self, act: type[nn.Module]) -> None:
        super().__init__()
        first, second, third = WIDTHS
        self.stem = nn.Sequential(
            Block(3, 16, 3, 2, act=act),
            Block(16, 24, 3, 2, act=act),
            Block(24, first, 3, 2, act=act),
            Residual(first, act),
        )
        self.down = nn.Sequential(Block(first, second, 3, 2, act=act), Residual(second, act))
        self.deep = nn.Sequential(Block(second, third, 3, 2, act=act), Residual(third, act))
        self.middle = Block(second + third, second, 1, act=act)
        self.fine = Block(first + second, first, 1, act=act)

    def forward(self, x: Tensor) -> list[Tensor]:
        fine = self.stem(x)
        middle = self.down(fine)
        deep = self.deep(middle)
        middle = self.middle(torch.cat((middle, functional.interpolate(deep, scale_factor=2.0)), 1))
        return [
            self.fine(torch.cat((fine, functional.interpolate(middle, scale_factor=2.0)), 1)),
            middle,
            deep,
        ]


def cells() -> tuple[Tensor, Tensor]:
    """Column and row [2, A] of each cell of the three maps, level by level, and its stride [1, A]."""
    places: list[Tensor] = []
    strides: list[Tensor] = []
    for stride in STRIDES:
        steps = torch.arange(float(SIDE // stride))
        rows, columns = torch.meshgrid(steps, steps, indexing="ij")
        places.append(torch.stack((columns, rows)).reshape(2, -1))
        strides.append(torch.full((1, len(steps) ** 2), float(stride)))
    return torch.cat(places, 1), torch.cat(strides, 1)


def heads(
    width: int | None, depth: int, cout: int, act: type[nn.Module], separable: bool = False
) -> nn.ModuleList:
    """For each map some blocks and a last convolution."""
    found: list[nn.Module] = []
    for cin in WIDTHS:
        layers: list[nn.Module] = []
        wide = width or cin
        for index in range(depth):
            inner = cin if index == 0 else wide
            if separable:
                layers += [Block(inner, inner, groups=inner, act=act), Block(inner, wide, 1, act=act)]
            else:
                layers.append(Block(inner, wide, act=act))
        found.append(nn.Sequential(*layers, nn.Conv2d(wide if depth else cin, cout, 1)))
    return nn.ModuleList(found)


class Detector(nn.Module):
    """A body, and the parts shared by all heads."""

    places: Tensor
    strides: Tensor

    def __init__(self, act: type[nn.Module]) -> None:
        super().__init__()
        self.body = Body(act)
        places, strides = cells()
        self.register_buffer("places", places[None])
        self.register_buffer("strides", strides[None])

    def over_maps(self, heads: nn.ModuleList, maps: list[Tensor]) -> Tensor:
        """Results of heads on the maps [N, C, A]."""
        return torch.cat([head(x).flatten(2) for head, x in zip(heads, maps, strict=True)], 2)


class YoloV5(Detector):
    """Three anchors a place, sigmoid over all, boxes by squares: [N, 3 A, 5 + classes]."""

    ANCHORS = (
        ((10, 13), (16, 30), (33, 23)),
        ((30, 61), (62, 45), (59, 119)),
        ((116, 90), (156, 198), (373, 326)),
    )

    def __init__(self) -> None:
        super().__init__(nn.SiLU)
        self.width = 5 + CLASSES
        self.last = nn.ModuleList(nn.Conv2d(cin, 3 * self.width, 1) for cin in WIDTHS)
        for index, stride in enumerate(STRIDES):
            steps = torch.arange(float(SIDE // stride))
            rows, columns = torch.meshgrid(steps, steps, indexing="ij")
            self.register_buffer(f"grid{index}", torch.stack((columns, rows), -1)[None, None] - 0.5)
            anchors = torch.tensor(self.ANCHORS[index]).float() * SIDE / 640
            self.register_buffer(f"anchors{index}", anchors.reshape(1, 3, 1, 1, 2))

    def forward(self, x: Tensor) -> Tensor:
        found: list[Tensor] = []
        for index, (last, value) in enumerate(zip(self.last, self.body(x), strict=True)):
            n, side = value.shape[0], SIDE // STRIDES[index]
            y = last(value).view(n, 3, self.width, side, side).permute(0, 1, 3, 4, 2).contiguous().sigmoid()
            xy, wh, scores = y.split((2, 2, self.width - 4), 4)
            xy = (xy * 2 + self.get_buffer(f"grid{index}")) * STRIDES[index]
            wh = (wh * 2) ** 2 * self.get_buffer(f"anchors{index}")
            found.append(torch.cat((xy, wh, scores), 4).view(n, -1, self.width))
        return torch.cat(found, 1)


class YoloV8(Detector):
    """Distributions over distances, of which a fixed convolution takes the mean: [N, 4 + classes, A]."""

    def __init__(self) -> None:
        super().__init__(nn.SiLU)
        self.box = heads(64, 2, 4 * BINS, nn.SiLU)
        self.kind = heads(32, 2, CLASSES, nn.SiLU)
        self.mean = nn.Conv2d(BINS, 1, 1, bias=False)
        with torch.no_grad():
            self.mean.weight.copy_(torch.arange(float(BINS)).reshape(1, BINS, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        maps = self.body(x)
        joined = [
            torch.cat((box(value), kind(value)), 1).flatten(2)
            for box, kind, value in zip(self.box, self.kind, maps, strict=True)
        ]
        box, kind = torch.cat(joined, 2).split((4 * BINS, CLASSES), 1)
        n, _, count = box.shape
        far = self.mean(box.view(n, 4, BINS, count).transpose(2, 1).softmax(1)).view(n, 4, count)
        before, behind = far.chunk(2, 1)
        low, high = self.places + 0.5 - before, self.places + 0.5 + behind
        return torch.cat((torch.cat(((low + high) / 2, high - low), 1) * self.strides, kind.sigmoid()), 1)


class YoloX(Detector):
    """Decoupled heads, exponential sizes: [N, A, 5 + classes]."""

    def __init__(self) -> None:
        super().__init__(nn.SiLU)
        self.box, self.seen = heads(32, 2, 4, nn.SiLU), heads(32, 1, 1, nn.SiLU)
        self.kind = heads(32, 2, CLASSES, nn.SiLU)

    def forward(self, x: Tensor) -> Tensor:
        found = [
            torch.cat((box(value), seen(value).sigmoid(), kind(value).sigmoid()), 1).flatten(2)
            for box, seen, kind, value in zip(self.box, self.seen, self.kind, self.body(x), strict=True)
        ]
        y = torch.cat(found, 2).permute(0, 2, 1)
        places, strides = self.places.transpose(1, 2), self.strides.transpose(1, 2)
        return torch.cat(((y[..., :2] + places) * strides, torch.exp(y[..., 2:4]) * strides, y[..., 4:]), 2)


class Priors(Detector):
    """Offsets against two priors a place, decoded to corners, and scores: [N, 2 A, 4], [N, 2 A, classes]."""

    priors: Tensor

    def __init__(
        self, act: type[nn.Module], depth: int, separable: bool, joined: bool, raw: str = "softmax"
    ) -> None:
        super().__init__(act)
        self.joined, self.function = joined, raw
        self.box = heads(None, depth, 2 * 4, act, separable)
        self.kind = heads(None, depth, 2 * CLASSES, act, separable)
        places, strides = cells()
        centres = ((places + 0.5) * strides).t()
        sides = torch.cat([2 * strides, 3.5 * strides]).t()
        shape = (len(centres), 2, 2)
        corners = (centres[:, None].expand(shape), sides[:, :, None].expand(shape))
        self.register_buffer("priors", torch.cat(corners, 2).reshape(1, -1, 4))

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        maps = self.body(x)
        n = x.shape[0]
        offsets, logits = (
            torch.cat(
                [
                    head(v).permute(0, 2, 3, 1).reshape(n, -1, width)
                    for head, v in zip(part, maps, strict=True)
                ],
                1,
            )
            for part, width in ((self.box, 4), (self.kind, CLASSES))
        )
        centre = self.priors[..., :2] + offsets[..., :2] * 0.1 * self.priors[..., 2:]
        size = torch.exp((offsets[..., 2:] * 0.2).clamp(max=4.0)) * self.priors[..., 2:]
        boxes = torch.cat((centre - size / 2, centre + size / 2), 2)
        scores = logits.softmax(2) if self.function == "softmax" else logits.sigmoid()
        return torch.cat((boxes, scores), 2) if self.joined else (boxes, scores)


class CenterNet(Detector):
    """A heat map, sizes and offsets at one stride, as three outputs."""

    def __init__(self) -> None:
        super().__init__(nn.ReLU)
        cin = WIDTHS[0]
        self.heat, self.size, self.shift = (
            nn.Sequential(Block(cin, 32, act=nn.ReLU), nn.Conv2d(32, cout, 1)) for cout in (CLASSES, 2, 2)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        value = self.body(x)[0]
        return functional.relu(self.size(value)) * STRIDES[0], self.shift(value), self.heat(value).sigmoid()


class Sliced(Detector):
    """As YOLOv3: one convolution a map, cut into centres, sizes and logits: [N, 5 + classes, A]."""

    def __init__(self) -> None:
        super().__init__(lambda: nn.LeakyReLU(0.1))  # type: ignore[arg-type]
        self.last = heads(None, 1, 5 + CLASSES, lambda: nn.LeakyReLU(0.1))  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        y = self.over_maps(self.last, self.body(x))
        centre = (y[:, :2].sigmoid() + self.places) * self.strides
        size = torch.exp(y[:, 2:4]) * self.strides * 2
        return torch.cat((centre, size, y[:, 4:].sigmoid()), 1)


HEADS: dict[str, Callable[[], nn.Module]] = {
    "YOLOv5": YoloV5,
    "YOLOv8": YoloV8,
    "YOLOX": YoloX,
    "SSD": lambda: Priors(nn.ReLU, 0, False, True),
    "SSDLite": lambda: Priors(nn.ReLU6, 1, True, False),
    "RetinaNet": lambda: Priors(nn.ReLU, 3, False, False, "sigmoid"),
    "CenterNet": CenterNet,
    "sliced": Sliced,
}
"""Factories by name."""


def detector(name: str, seed: int = 0) -> nn.Module:
    """A detector whose statistics fit `scenes`; ready for inference."""
    torch.manual_seed(seed)
    made = HEADS[name]().train()
    with torch.no_grad():
        for module in made.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.mul_(torch.exp(torch.randn_like(module.weight) * 0.3))
                module.bias.normal_(0, 0.3)
                module.momentum = None  # the plain mean over all batches
        for batch in scenes(128, seed + 1000).split(32):
            made(batch)
        made.eval()
        spread = SIZE_SPREAD if isinstance(made, (YoloX, Sliced)) else LOGIT_SPREAD
        _spread_logits(made, scenes(16, seed + 2000), spread)
    return made


def _spread_logits(made: nn.Module, pictures: Tensor, wanted: float) -> None:
    """Scale the last convolutions (those with a bias) to the spread of outputs of trained heads."""
    last = [m for m in made.modules() if isinstance(m, nn.Conv2d) and m.bias is not None]
    seen: dict[nn.Module, Tensor] = {}
    hooks = [m.register_forward_hook(lambda m, _, y: seen.__setitem__(m, y)) for m in last]
    made(pictures)
    for hook in hooks:
        hook.remove()
    for module in last:
        spread = seen[module].std((0, 2, 3)).clamp_min(1e-3)
        module.weight.mul_((wanted / spread).reshape(-1, 1, 1, 1))
