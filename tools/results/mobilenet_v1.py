"""MobileNetV1 1.0 (Howard 2017) in deployment form with random weights: no latency depends on them."""

from __future__ import annotations

import torch
from torch import fx

from mcc.ir.graph import Graph, GraphBuilder
from mcc.ir.notes import shape_of

BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
"""Output channels and stride of each pair of a depthwise 3x3 and a 1x1."""


def mobilenet_v1(side: int = 224, classes: int = 1000, seed: int = 0) -> Graph:
    """The network for pictures of `side` pixels, padded by one on every side as PyTorch's are."""
    b, generator = GraphBuilder(), torch.Generator().manual_seed(seed)

    def weight(name: str, *shape: int) -> fx.Node:
        fan = shape[1] * shape[2] * shape[3] if len(shape) == 4 else shape[-1]
        return b.constant(name, torch.randn(*shape, generator=generator) * (2 / fan) ** 0.5)

    def conv(x: fx.Node, out: int, kernel: int, stride: int, name: str, groups: int = 1) -> fx.Node:
        w = weight(f"{name}_w", out, shape_of(x)[1] // groups, kernel, kernel)
        return b.conv2d(
            x, w, b.constant(f"{name}_b", torch.zeros(out)), name=name, stride=(stride, stride),
            padding=(kernel // 2,) * 4, groups=groups, activation="relu6",
        )  # fmt: skip

    x = conv(b.input("image", (1, 3, side, side)), 32, 3, 2, "stem")
    for index, (out, stride) in enumerate(BLOCKS):
        width = shape_of(x)[1]
        x = conv(x, width, 3, stride, f"depthwise{index}", width)
        x = conv(x, out, 1, 1, f"pointwise{index}")
    pooled = b.mean(x, axes=(2, 3), keepdim=False)
    head = weight("head", classes, shape_of(pooled)[1])
    return b.finish(b.linear(pooled, head, b.constant("head_b", torch.zeros(classes))))
