"""A small classifier in canonical form, in deployment form already, for tests of what runs files."""

import torch
from torch import Tensor

from mcc.ir.graph import Graph, GraphBuilder


def classifier(*, batch_norm: bool = False, quantised: bool = False, side: int = 32) -> Graph:
    """3x3 stem with stride 2, depthwise 3x3, 1x1, pool, linear: [1, 3, side, side] -> [1, 10]."""
    generator = torch.Generator().manual_seed(0)

    def weight(*shape: int) -> Tensor:
        fan_in = max(1, torch.Size(shape[1:]).numel())
        return torch.randn(*shape, generator=generator) * (2 / fan_in) ** 0.5

    b = GraphBuilder()

    def grid(value: Tensor, name: str, scale: float) -> Tensor:
        if not quantised:
            return value
        constants = (
            b.constant(f"{name}_scale", torch.tensor(scale), trains=False),
            b.constant(f"{name}_zero", torch.tensor(0, dtype=torch.int32), trains=False),
        )
        return b.fake_quantize(value, *constants, name=f"{name}_q")

    def weights(name: str, *shape: int) -> Tensor:
        value = weight(*shape)
        node = b.constant(f"{name}_weight", value)
        if not quantised:
            return node
        scale = value.abs().flatten(1).amax(1) / 127
        constants = (
            b.constant(f"{name}_weight_scale", scale, trains=False),
            b.constant(f"{name}_weight_zero", torch.zeros(shape[0], dtype=torch.int32), trains=False),
        )
        return b.fake_quantize(node, *constants, qmin=-127, qmax=127, axis=0, name=f"{name}_weight_q")

    x = grid(b.input("x", (1, 3, side, side)), "x", 0.03)
    bias = b.constant("stem_bias", 0.1 * weight(8))
    y = b.conv2d(x, weights("stem", 8, 3, 3, 3), bias, name="stem", stride=(2, 2), padding=(1, 1, 1, 1),
                 activation="none" if batch_norm else "relu")  # fmt: skip
    if batch_norm:
        parts = [b.constant(f"norm_{n}", torch.full((8,), v), trains=False)
                 for n, v in (("weight", 1.1), ("bias", 0.1), ("mean", 0.2), ("var", 1.3))]  # fmt: skip
        y = b.relu(b.batch_norm(y, *parts, name="norm"), name="act")
    y = grid(y, "stem", 0.03)
    y = b.conv2d(y, weights("deep", 8, 1, 3, 3), None, name="deep", padding=(1, 1, 1, 1), groups=8,
                 activation="relu")  # fmt: skip
    y = grid(y, "deep", 0.03)
    y = grid(b.conv2d(y, weights("wide", 16, 8, 1, 1), None, name="wide", activation="relu"), "wide", 0.03)
    y = grid(b.mean(y, axes=(2, 3), keepdim=False, name="pool"), "pool", 0.02)
    y = b.linear(y, weights("head", 10, 16), b.constant("head_bias", 0.1 * weight(10)), name="head")
    return b.finish(grid(y, "head", 0.03))
