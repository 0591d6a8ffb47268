"""One small module for each construct that a frontend must read, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Shape = tuple[int, ...]
MAP: Shape = (1, 4, 8, 8)


class Of(nn.Module):
    """A module from a function of its parts and inputs."""

    def __init__(self, function: Callable[..., Any], **parts: nn.Module | Tensor) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            if isinstance(part, nn.Parameter | nn.Module):
                setattr(self, name, part)
            else:
                self.register_buffer(name, part)

    def forward(self, *values: Tensor) -> Any:
        return self.function(self, *values)


def trained(module: nn.Module) -> nn.Module:
    """Statistics and affine parameters away from their defaults, which would hide mistakes."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d | nn.BatchNorm1d) and part.running_mean is not None:
            part.running_mean.normal_()
            assert part.running_var is not None
            part.running_var.uniform_(0.5, 2.0)
        if isinstance(part, nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm) and part.weight is not None:
            nn.init.normal_(part.weight)
            nn.init.normal_(part.bias)
    return module


def squeeze_and_excite() -> nn.Module:
    gate = nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 2, 1), nn.ReLU(), nn.Conv2d(2, 4, 1), nn.Sigmoid()
    )
    return Of(lambda s, x: x * s.gate(x), gate=gate)


def dense_gate() -> nn.Module:
    def function(s: Any, x: Tensor) -> Tensor:
        n, c, _, _ = x.size()
        weights = s.fc(s.pool(x).view(n, c)).view(n, c, 1, 1)
        return x * weights.expand_as(x)

    fc = nn.Sequential(nn.Linear(4, 2), nn.ReLU(inplace=True), nn.Linear(2, 4), nn.Hardsigmoid())
    return Of(function, pool=nn.AdaptiveAvgPool2d(1), fc=fc)


def shuffle() -> nn.Module:
    def function(s: Any, x: Tensor) -> Tensor:
        left, right = x.chunk(2, dim=1)
        y = torch.cat((left, s.c(right)), 1)
        n, c, h, w = y.shape
        return y.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, -1, h, w)

    return Of(function, c=nn.Conv2d(2, 2, 3, padding=1, groups=2))


def attention() -> nn.Module:
    def function(s: Any, x: Tensor) -> Tensor:
        n, length, width = x.shape
        q, k, v = s.qkv(x).reshape(n, length, 3, 2, width // 2).permute(2, 0, 3, 1, 4).unbind(0)
        y = (q * 0.5) @ k.transpose(-2, -1)
        return (y.softmax(-1) @ v).transpose(1, 2).reshape(n, length, width)

    return Of(function, qkv=nn.Linear(6, 18))


def turned() -> nn.Module:
    def function(s: Any, x: Tensor) -> Any:
        y = x.permute(1, 2, 0, 3)
        a, b = y.chunk(2, 0)
        return (
            y[1:3, ::2].permute(2, 0, 1, 3),
            a.transpose(0, 2),
            b[0, 1].contiguous(),
            y.select(3, 1).movedim(2, 0),
        )

    return Of(function)


def without_autocast() -> nn.Module:
    def function(s: Any, x: Tensor) -> Tensor:
        y = s.c(x)
        with torch.autocast("cpu", enabled=False):
            z = y.float().relu_()
        return z + y

    return Of(function, c=nn.Conv2d(4, 4, 1))


def channel_attention() -> nn.Module:
    """ECA (Wang 2020): a one-dimensional convolution over the channels of a pooled map."""

    def function(s: Any, x: Tensor) -> Tensor:
        y = s.c(x.mean((2, 3)).view(x.shape[0], 1, -1))
        return x * y.view(x.shape[0], -1, 1, 1).sigmoid()

    return Of(function, c=nn.Conv1d(1, 1, 3, padding=1, bias=False))


def option_a() -> nn.Module:
    return Of(lambda s, x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)) + s.c(x), c=nn.Conv2d(4, 8, 3, 2, 1))


def weight_standardised() -> nn.Module:
    def function(s: Any, x: Tensor) -> Tensor:
        mean = s.w.mean(dim=(1, 2, 3), keepdim=True)
        return F.conv2d(x, (s.w - mean) / (s.w.std(dim=(1, 2, 3), keepdim=True) + 1e-5), padding=1)

    return Of(function, w=nn.Parameter(torch.randn(6, 4, 3, 3)))


def overlapping_writes() -> nn.Module:
    def function(s: Any, x: Tensor) -> Tensor:
        y = s.bn(s.c(x))
        y[:, :2].relu_()
        y[:, 2:] = y[:, 2:] * 2
        return y

    return Of(function, c=nn.Conv2d(4, 4, 1), bn=nn.BatchNorm2d(4))


def keyword_spotting() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(1, 6, 20, 4), nn.BatchNorm1d(6), nn.ReLU(), nn.MaxPool1d(2),
        nn.Conv1d(6, 6, 3, padding="same", groups=6), nn.Conv1d(6, 8, 1), nn.BatchNorm1d(8), nn.PReLU(8),
        nn.GroupNorm(2, 8), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 5),
    )  # fmt: skip


def separating() -> nn.Module:
    """An encoder and a decoder with a skip and a gate between them."""

    def function(s: Any, x: Tensor) -> Tensor:
        y = s.down(x)
        gate = s.gate(y.mean(2, keepdim=True)).sigmoid()
        return s.up(y * gate) + F.pad(x, (0, 0, 0, 2))[:, 2:]

    return Of(
        function, down=nn.Sequential(nn.Conv1d(4, 8, 4, 2, 1), nn.ReLU()), gate=nn.Conv1d(8, 8, 1),
        up=nn.ConvTranspose1d(8, 4, 4, 2, 1, output_padding=0),
    )  # fmt: skip


def conv(*args: Any, **kwargs: Any) -> nn.Module:
    return Of(lambda s, x: s.c(x), c=nn.Conv2d(*args, **kwargs))


def of(function: Callable[..., Any]) -> Callable[[], nn.Module]:
    """A case without parts."""
    return lambda: Of(function)


def chain(*layers: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(*(layer() for layer in layers))


CONVOLUTIONS: dict[str, tuple[Callable[[], nn.Module], Shape]] = {
    "symmetric": (lambda: conv(4, 6, 3, stride=2, padding=1), MAP),
    "rectangular": (lambda: conv(4, 6, (3, 5), (2, 1), (1, 2), bias=False), MAP),
    "same, odd and even": (
        lambda: nn.Sequential(conv(4, 6, 3, padding="same"), conv(6, 4, 4, padding="same")),
        MAP,
    ),
    "dilated and grouped": (lambda: conv(4, 8, 3, padding=2, dilation=2, groups=2), MAP),
    "depthwise with multiplier": (lambda: conv(4, 8, 3, padding=1, groups=4), MAP),
    "padding modes": (
        lambda: nn.Sequential(
            *(conv(4, 4, 3, padding=1, padding_mode=mode) for mode in ("reflect", "circular", "replicate"))
        ),
        MAP,
    ),
    "transposed": (lambda: Of(lambda s, x: s.c(x), c=nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2)), MAP),
    "functional, padded before": (
        lambda: Of(
            lambda s, x: F.conv2d(F.pad(x, (0, 1, 0, 1)), s.w, stride=2),
            w=nn.Parameter(torch.randn(6, 4, 3, 3)),
        ),
        MAP,
    ),
    "pad modules": (
        lambda: nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.ConstantPad2d(1, 0.5), nn.Conv2d(4, 4, 3)),
        MAP,
    ),
    "negative pad": (of(lambda s, x: F.pad(x, (-1, 0, 2, -3))), MAP),
    "weight standardised": (weight_standardised, MAP),
    "linear layers": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(256, 5), nn.Linear(5, 2, bias=False)),
        MAP,
    ),
    "matrix products": (
        lambda: Of(lambda s, x: torch.matmul(x @ s.w, x.transpose(2, 3)), w=nn.Parameter(torch.randn(8, 8))),
        MAP,
    ),
    "attention": (of(lambda s, x: F.scaled_dot_product_attention(x, x, x)), MAP),
}

NORMS: dict[str, tuple[Callable[[], nn.Module], Shape]] = {
    "batch": (lambda: nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)), MAP),
    "batch, without affine": (lambda: nn.BatchNorm2d(4, affine=False), MAP),
    "batch, of vectors": (lambda: nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)), (1, 5)),
    "layer, group, instance": (
        lambda: nn.Sequential(
            nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True), nn.LayerNorm([8, 8]), nn.RMSNorm([8])
        ),
        MAP,
    ),
    "instance, with statistics": (lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True), MAP),
    "layer, channels last": (
        lambda: Of(lambda s, x: s.n(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), n=nn.LayerNorm(4)),
        MAP,
    ),
    "functional": (of(lambda s, x: F.normalize(x, dim=1) + F.softmax(x, 1) + F.log_softmax(x, -1)), MAP),
    "variances": (
        of(lambda s, x: (x.var((2, 3)), x.std(1, keepdim=True), *torch.var_mean(x, 1, correction=0))),
        MAP,
    ),
}

ACTIVATIONS: dict[str, tuple[Callable[[], nn.Module], Shape]] = {
    repr(kind): (lambda kind=kind: nn.Sequential(kind), MAP)
    for kind in (
        nn.SiLU(),
        nn.Hardswish(),
        nn.Mish(),
        nn.GELU(),
        nn.GELU("tanh"),
        nn.LeakyReLU(0.2),
        nn.ELU(0.7),
        nn.PReLU(4),
        nn.PReLU(),
        nn.Softplus(),
        nn.Softplus(beta=2.0),
        nn.SELU(),
        nn.CELU(0.7),
        nn.Hardtanh(-0.5, 2.0),
        nn.Hardtanh(0.0, 6.0),
        nn.LogSigmoid(),
        nn.Tanh(),
        nn.Sigmoid(),
        nn.Hardsigmoid(),
        nn.ReLU6(),
        nn.ReLU(),
        nn.GLU(1),
        nn.Identity(),
        nn.Dropout(0.5),
        nn.Dropout2d(0.5),
        nn.Softmax(1),
        nn.LogSoftmax(1),
        nn.Threshold(0.0, 0.0),
        nn.SiLU(inplace=True),
        nn.Softmin(1),
        nn.Tanhshrink(),
        nn.Softsign(),
    )
}

POOLS: dict[str, tuple[Callable[[], nn.Module], Shape]] = {
    f"{kind!r} on {size}": (
        lambda kind=kind: nn.Sequential(kind),
        (1, 4, *size),
    )
    for size in ((8, 8), (7, 10))
    for kind in (
        nn.MaxPool2d(2),
        nn.MaxPool2d(3, 2, 1),
        nn.MaxPool2d(3, 2, 1, ceil_mode=True),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.MaxPool2d(3, 1, 1, dilation=2),
        nn.MaxPool2d(2, 2, ceil_mode=True),
        nn.AvgPool2d(2),
        nn.AvgPool2d((3, 2), 2),
        nn.AvgPool2d(3, 2, 1),
        nn.AvgPool2d(3, 2, 1, count_include_pad=False),
        nn.AvgPool2d(2, 2, ceil_mode=True),
        nn.AvgPool2d(3, 2, 1, ceil_mode=True),
        nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
        nn.AvgPool2d(3, 2, 1, divisor_override=5),
        nn.AvgPool2d(7, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.AdaptiveAvgPool2d((2, 1)),
        nn.AdaptiveAvgPool2d((None, 1)),
        nn.AdaptiveAvgPool2d(3),
        nn.AdaptiveAvgPool2d(6),
        nn.AdaptiveAvgPool2d(9),
        nn.AdaptiveMaxPool2d(1),
        nn.AdaptiveMaxPool2d((2, 5)),
        nn.Upsample(scale_factor=2),
        nn.UpsamplingBilinear2d((9, 5)),
        nn.Upsample((16, 20), mode="bilinear"),
        nn.Upsample((5, 5)),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.PixelShuffle(2),
        nn.ChannelShuffle(2),
        nn.Upsample(scale_factor=2, mode="nearest-exact"),
    )
}

SHAPES: dict[str, tuple[Callable[[], nn.Module], Shape]] = {
    "option A shortcut": (option_a, MAP),
    "channel shuffle": (shuffle, MAP),
    "split, chunk, unbind, stack": (
        of(
            lambda s, x: torch.cat(
                [x.chunk(2, 1)[0], x.split(1, 1)[1], x.split([1, 3], 1)[1], torch.stack(x.unbind(1), 1)], 1
            )
        ),
        MAP,
    ),
    "index, select, narrow, step": (
        of(
            lambda s, x: (
                x[:, 1:3],
                x[:, -1],
                x[..., 0],
                x.narrow(2, 1, 5),
                x[:, :, 1::3],
                x[:, None, 0],
                x[:],
            )
        ),
        MAP,
    ),
    "flatten, view, squeeze": (
        of(
            lambda s, x: (
                x.flatten(1),
                x.view(x.size(0), -1),
                x.flatten(2).squeeze(-1),
                x.unsqueeze(2).squeeze(2),
                x.mean((2, 3), True).squeeze(),
                x.unflatten(1, (2, 2)),
                x.reshape(-1, 4, 64),
            )
        ),
        MAP,
    ),
    "permute, transpose, movedim": (
        of(lambda s, x: (x.permute(0, 2, 3, 1), x.transpose(1, -1), x.movedim(1, 3), x.mT, x.swapaxes(2, 3))),
        MAP,
    ),
    "expand, repeat, tile": (
        of(
            lambda s, x: torch.cat(
                [
                    x[:, :1].expand(-1, 4, -1, -1),
                    x.repeat(1, 2, 1, 1),
                    x.repeat_interleave(2, 1),
                    x.mean((2, 3), True).expand(-1, -1, 8, 8),
                ],
                1,
            )
        ),
        MAP,
    ),
    "flip and roll": (of(lambda s, x: x.flip(1) + torch.roll(x, (1, -2), (2, 3))), MAP),
    "pixel unshuffle": (of(lambda s, x: F.pixel_unshuffle(x, 2)), MAP),
    "constant joined": (
        of(lambda s, x: torch.cat([torch.zeros_like(x[:, :2]), x, x.new_zeros(x.size(0), 1, 8, 8)], 1)),
        MAP,
    ),
    "overlapping writes": (overlapping_writes, MAP),
}

ARITHMETIC: dict[str, tuple[Callable[[], nn.Module], Shape]] = {
    "scalars": (of(lambda s, x: (x * 2 + 1 - 3 / (x + 10), 2 - x, x / 3, x / 4, -x, x * 1 + 0)), MAP),
    "powers": (
        of(lambda s, x: (x**2, x**3, (x * x + 1) ** 0.5, (x * x + 1).rsqrt(), x.square(), x.abs().sqrt())),
        MAP,
    ),
    "alpha": (of(lambda s, x: torch.add(x, x * x, alpha=2) - torch.sub(x, 1, alpha=3)), MAP),
    "limits": (
        of(
            lambda s, x: (
                x.clamp(0, 6),
                x.clamp(min=0),
                x.clamp(-1, 1),
                x.clip(max=2),
                torch.maximum(x, x * x),
                torch.minimum(x, -x),
            )
        ),
        MAP,
    ),
    "in place": (of(lambda s, x: (x * 1.5).add_(1).mul_(x).relu_().clamp_(0, 2)), MAP),
    "in place on the input": (of(lambda s, x: x.add_(1) * x), MAP),
    "reductions": (
        of(
            lambda s, x: (
                x.mean([2, 3]),
                x.sum(1),
                x.amax((2, 3)),
                x.amin(1, True),
                x.max(1)[0],
                x.max(2, True).values,
                x.norm(dim=1),
                x.abs().mean((1, 2, 3)),
            )
        ),
        MAP,
    ),
    "layer scale": (
        lambda: Of(
            lambda s, x: x + s.g.view(1, -1, 1, 1) * x + s.g[:, None, None], g=nn.Parameter(torch.randn(4))
        ),
        MAP,
    ),
    "buffers and plain tensors": (
        lambda: Of(
            lambda s, x: x * s.b + torch.arange(8).float() + torch.tensor([1.0, 2, 3, 4]).view(4, 1, 1),
            b=torch.randn(4, 1, 1),
        ),
        MAP,
    ),
    "constant for the batch": (of(lambda s, x: x + torch.ones(x.shape[0], 4, 1, 1)), MAP),
    "channel attention": (channel_attention, MAP),
    "rows": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2), (1, 4, 9)),
    "rows: a network": (keyword_spotting, (1, 1, 400)),
    "rows: a separating network": (separating, (1, 4, 16)),
    "rows: pooling": (
        of(
            lambda s, x: (
                F.max_pool1d(x, 3, 2, 1),
                F.max_pool1d(x, 2, ceil_mode=True),
                F.avg_pool1d(x, 3, 2, 1, count_include_pad=False),
                F.adaptive_avg_pool1d(x, 3),
                F.adaptive_max_pool1d(x, 5),
                F.lp_pool1d(x.abs() + 1, 2, 3),
            )
        ),
        (1, 4, 15),
    ),
    "rows: resizing": (
        of(
            lambda s, x: (
                F.interpolate(x, scale_factor=2, mode="linear"),
                F.interpolate(x, size=11, mode="linear", align_corners=True),
                F.interpolate(x, scale_factor=1.7, mode="nearest"),
                F.interpolate(x, scale_factor=2, mode="nearest-exact"),
            )
        ),
        (1, 4, 7),
    ),
    "rows: shapes and sums": (
        of(
            lambda s, x: (
                torch.cat((x.relu()[:, 1:], F.pad(x.relu(), (1, 2))[..., 3:]), 1).mean(-1),
                (x.relu() * x.sigmoid().mean(2, keepdim=True) + torch.arange(9.0)).amax(1),
                x.relu().softmax(1).transpose(1, 2) @ torch.ones(4, 2),
                x.unsqueeze(2).relu().squeeze(2).flatten(1),
                F.pad(x.relu(), (2, 2), mode="reflect").sum((1, 2)),
                x.relu() - x.mean((1, 2), keepdim=True),
                (x.relu() > 0.5).float() * x + x.relu().sum(1, keepdim=True),
            )
        ),
        (1, 4, 9),
    ),
    "self-attention": (attention, (1, 5, 6)),
    "batch seen elsewhere": (turned, MAP),
    "autocast off": (without_autocast, MAP),
    "squeeze and excite": (squeeze_and_excite, MAP),
    "dense gate": (dense_gate, MAP),
    "reused layers": (
        lambda: Of(
            lambda s, x: s.r(s.bn(s.c(s.r(s.bn(s.c(x)))))),
            c=nn.Conv2d(4, 4, 3, padding=1),
            bn=nn.BatchNorm2d(4),
            r=nn.ReLU(inplace=True),
        ),
        MAP,
    ),
    "results in a dictionary": (of(lambda s, x: {"a": x + 1, "b": [x * 2, (x - 1, None)]}), MAP),
}

SMALL: dict[str, tuple[Callable[[], nn.Module], Shape]] = {
    "comparisons": (
        of(
            lambda s, x: (
                (x > 0.5).float() * x,
                torch.where(x >= -0.2, x, 0.1),
                torch.where(x < 0, 0.3 * x, x),
                torch.where((x <= 1) & ~(x == 0) | (x.abs() > 2), x * 2, x.exp()),
                torch.where(x != x.relu(), 1.0, 0.0) + x.sign(),
                x.masked_fill(x < 0, -5.0) + F.threshold(x, 0.1, 20),
                F.softshrink(x) + F.hardshrink(x, 0.3),
            )
        ),
        MAP,
    ),
    "constant masks": (
        of(
            lambda s, x: (
                x.masked_fill(torch.triu(torch.ones(8, 8), 1) > 0, float("-inf")).softmax(-1),
                torch.where(torch.eye(8) > 0, x, x.flip(-1)),
                torch.where(torch.eye(8) > 0, torch.tensor(2.0), x),
            )
        ),
        MAP,
    ),
    "products over named axes": (
        lambda: Of(
            lambda s, x: (
                torch.einsum("nchw,kc->nkhw", x, s.w),
                torch.einsum("nchw,ncvw->nchv", x, x.relu()),
                torch.einsum("nchw,nc->nhw", x, x.mean((2, 3))),
                torch.einsum("kc,nchw->nwhk", s.w, x),
                torch.einsum("nchw,c->nchw", x, s.w[0]),
                torch.einsum("nchw,nkhw->nck", x, x.relu()),
            ),
            w=nn.Parameter(torch.randn(5, 4)),
        ),
        MAP,
    ),
    "norms and sums": (
        of(
            lambda s, x: (
                torch.logsumexp(x, 1),
                torch.logsumexp(x, (2, 3), keepdim=True),
                F.cosine_similarity(x, x.flip(1), dim=1),
                F.cosine_similarity(x, torch.ones(1, 4, 8, 8), dim=-1),
                x.cumsum(2),
                F.local_response_norm(x, 3, alpha=0.1),
                (x.abs() + 0.1) ** 1.3,
            )
        ),
        MAP,
    ),
    "resized by matrices": (
        of(
            lambda s, x: (
                F.interpolate(x, scale_factor=1.7, mode="bilinear"),
                F.interpolate(x, scale_factor=(1.7, 0.6), mode="nearest"),
                F.interpolate(x, size=(13, 5), mode="nearest-exact"),
                F.interpolate(x, scale_factor=2, mode="bicubic"),
                F.interpolate(x, size=(5, 3), mode="bicubic", align_corners=True),
                F.interpolate(x, size=(4, 3), mode="bilinear", antialias=True),
                F.interpolate(x, size=(5, 12), mode="bicubic", antialias=True),
            )
        ),
        (1, 4, 9, 7),
    ),
}

INDEXING: dict[str, tuple[Callable[[], nn.Module], Shape]] = {
    "positions in a list": (
        of(
            lambda s, x: (
                x[:, [0, 2]],
                x[:, [-1, 0, 0, 1]],
                x[..., [5, 3, 1]],
                x[:, [True, False, False, True]],
                x[:, torch.tensor([3, 2, 1, 0])][:, :, torch.tensor([1, 2, 0])],
                torch.index_select(x, 2, torch.tensor([1, 2, 3, 0])),
            )
        ),
        MAP,
    ),
}

ALL = {
    f"{group}: {name}": case
    for group, cases in (
        ("convolution", CONVOLUTIONS),
        ("norm", NORMS),
        ("activation", ACTIVATIONS),
        ("pool", POOLS),
        ("shape", SHAPES),
        ("arithmetic", ARITHMETIC),
        ("indexing", INDEXING),
        ("small", SMALL),
    )
    for name, case in cases.items()
}
