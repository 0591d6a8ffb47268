"""Random networks whose branches have unlike ranges: what integer joins are tried on.

`join_graph(n)` is graph number n, always the same: convolutions whose results differ by factors of 1..4096,
gates of sigmoid, tanh and softmax, slices of channels with unlike ranges, pooling, resizing and padding, and
joins of any two of these values, which are read once or several times.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from mcc.ir.graph import Graph, GraphBuilder
from mcc.ir.notes import shape_of
from tests.property.graphs import Choices, Seeded

SIZE = 8
WIDTH = 4
GREATEST_FACTOR = 12  # as a power of two
LIKELY = 3  # values of which most operands come


class _Network:
    def __init__(self, choices: Choices, seed: int) -> None:
        self.choices = choices
        self.b = GraphBuilder()
        self.generator = torch.Generator().manual_seed(seed)
        self.count = 0
        self.pool: list[fx.Node] = []

    def constant(self, value: Tensor) -> fx.Node:
        self.count += 1
        return self.b.constant(f"c{self.count}", value)

    def factor(self) -> float:
        return 2.0 ** self.choices.number(0, GREATEST_FACTOR)

    def value(self) -> fx.Node:
        """A value, a recent one most of the time; it may be read already."""
        recent = self.pool[-LIKELY:] if self.choices.number(0, 3) else self.pool
        return recent[self.choices.number(0, len(recent) - 1)]

    def conv(self, x: fx.Node, gains: Tensor) -> fx.Node:
        """A convolution whose output channels are so much wider than its input; `gains` of them."""
        width, kernel = shape_of(x)[1], 1 + 2 * self.choices.number(0, 1)
        shape = (len(gains), width, kernel, kernel)
        weight = torch.randn(shape, generator=self.generator) * (width * kernel**2) ** -0.5
        if kernel > 1 and self.choices.number(0, 1):  # little is left of its result when it is averaged
            weight -= weight.mean((2, 3), keepdim=True)
        bias = (
            None if self.choices.number(0, 1) else torch.randn(len(gains), generator=self.generator) * gains
        )
        return self.b.conv2d(
            x, self.constant(weight * gains[:, None, None, None]),
            bias if bias is None else self.constant(bias), padding=(kernel // 2,) * 4,
            activation="none" if self.choices.number(0, 2) else "relu",
        )  # fmt: skip

    # -- what a step may make of values [1, C, 8, 8]

    def branch(self) -> fx.Node:
        return self.conv(self.value(), torch.full((WIDTH,), self.factor() / 64))

    def scaled(self) -> fx.Node:
        least = (64, 4096)[self.choices.number(0, 1)]
        return self.b.mul(self.value(), self.constant(torch.tensor(self.factor() / least)))

    def gate(self) -> fx.Node:
        x, kind = self.value(), ("sigmoid", "tanh", "softmax")[self.choices.number(0, 2)]
        return self.b.softmax(x, axis=1) if kind == "softmax" else self.b.call(kind, x)

    def part(self) -> fx.Node:
        """Some channels of a map whose channels have unlike ranges."""
        gains = torch.tensor([self.factor()] * WIDTH + [1.0] * WIDTH) / 64
        whole, start = self.conv(self.value(), gains), WIDTH * self.choices.number(0, 1)
        return self.b.slice(whole, axis=1, start=start, stop=start + WIDTH)

    def moved(self) -> fx.Node:
        x, kind = self.value(), self.choices.number(0, 6)
        if kind == 5:
            return self.b.relu(x)
        if kind == 6:
            return self.b.clamp(x, min=-self.factor() / 64, max=self.factor() / 64)
        if kind == 0:
            return self.b.max_pool2d(x, kernel=(3, 3), stride=(1, 1), padding=(1, 1, 1, 1))
        if kind == 1:
            return self.b.avg_pool2d(x, kernel=(3, 3), stride=(1, 1), padding=(1, 1, 1, 1))
        if kind == 2:
            small = self.b.slice(x, axis=2, start=0, stop=SIZE // 2)
            return self.b.pad(small, padding=((0, 0), (0, 0), (0, SIZE // 2), (0, 0)))
        window = (2, SIZE)[self.choices.number(0, 1)]
        small = self.b.avg_pool2d(x, kernel=(window, window), stride=(window, window))
        mode = ("nearest", "bilinear")[kind - 3]
        return self.b.resize(small, size=(SIZE, SIZE), mode=mode)

    def joined(self) -> fx.Node:
        x, y = self.value(), self.value()
        if self.choices.number(0, 1) or shape_of(x) != shape_of(y):
            both = self.b.concat(x, y, axis=1)
            return self.conv(both, torch.full((WIDTH,), 1.0)) if shape_of(both)[1] > 2 * WIDTH else both
        if self.choices.number(0, 2) == 0:  # a term that is nothing beside the other
            y = self.b.mul(y, self.constant(torch.tensor(2.0 ** -self.choices.number(0, 20))))
        return self.b.call(("add", "sub", "mul")[self.choices.number(0, 2)], x, y)


def join_graph(seed: int, steps: int = 9) -> Graph:
    """Graph number `seed`."""
    n = _Network(Seeded(seed), seed)
    n.pool.append(n.conv(n.b.input("x", (1, 3, SIZE, SIZE)), torch.ones(WIDTH)))
    makers = (n.branch, n.branch, n.scaled, n.gate, n.part, n.moved, n.moved, n.joined, n.joined, n.joined)
    for _ in range(steps):
        n.pool.append(makers[n.choices.number(0, len(makers) - 1)]())
    return n.b.finish(*(n.conv(value, torch.ones(2)) for value in n.pool if not value.users))
