"""Blocks of published phone tables: parsing of their names, and their operators.

The tables are those of ProxylessNAS (Cai 2019, Pixel 1) and Once-for-all (Cai 2020, Note10): mean
milliseconds of whole blocks in TensorFlow Lite, float32, on one core of the phone. A name states the sizes:

    expanded_conv-input:14x14x80-output:14x14x96-expand:6-kernel:5-stride:1-idskip:0

`expand` is a ratio in the first table and a number of channels in the second, which adds `se` (squeeze and
excitation) and `hs` (hard swish).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import fx

from mcc.cost_api import Kernel, graph_kernels
from mcc.errors import DataError
from mcc.ir.graph import Graph, GraphBuilder
from mcc.ir.notes import shape_of

Kind = Literal["stem", "bottleneck", "pointwise", "pool", "classifier"]

MOST_RATIO = 6  # maximum of an `expand` that is a ratio; the narrowest expansion in channels is 24
SQUEEZE = 4  # ratio of channels to those of the squeeze, rounded to a multiple of 8 (Howard 2019)
_STEM = re.compile(r"Conv-input:(\d+)x\d+x(\d+)-output:\d+x\d+x(\d+)")
_POINTWISE = re.compile(r"Conv_\d-input:(\d+)x\d+x(\d+)-output:\d+x\d+x(\d+)")
_POOL = re.compile(r"AvgPool2D-input:(\d+)x\d+x(\d+)-output:1x1x(\d+)")
_CLASSIFIER = re.compile(r"Logits-input:(\d+)x\d+x(\d+)-output:(\d+)")
_BOTTLENECK = re.compile(
    r"expanded_conv-input:(\d+)x\d+x(\d+)-output:\d+x\d+x(\d+)-expand:(\d+)-kernel:(\d+)-stride:(\d+)"
    r"-idskip:([01])(?:-se:([01])-hs:([01]))?"
)
_OTHERS: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    ("stem", _STEM),
    ("pointwise", _POINTWISE),
    ("pool", _POOL),
    ("classifier", _CLASSIFIER),
)


@dataclass(frozen=True)
class Block:
    """One row of a table.

    Attributes:
        kind: Stem (3x3, stride 2), bottleneck (Sandler 2018), 1x1 convolution, global mean, or the mean and
            the classifier.
        side: Side of the square input, in pixels.
        read, made: Channels of input and output.
        expanded: Channels between the two 1x1 convolutions of a bottleneck; `read` if there is only one.
        window, stride: Kernel size and stride of the depthwise convolution.
        skip: Whether the input is added.
        squeeze: Whether there is a squeeze and excitation.
        hard: Whether activations are hard swishes, else ReLUs.
    """

    kind: Kind
    side: int
    read: int
    made: int
    expanded: int = 0
    window: int = 1
    stride: int = 1
    skip: bool = False
    squeeze: bool = False
    hard: bool = False

    @property
    def side_out(self) -> int:
        """Side of the output, in pixels."""
        stride = 2 if self.kind == "stem" else self.stride
        return 1 if self.kind in ("pool", "classifier") else -(-self.side // stride)

    def graph(self) -> Graph:
        """The block as a canonical graph, batch 1, with zero weights."""
        net = _Layers()
        x = net.b.input("x", (1, self.read, self.side, self.side))
        return net.b.finish(self._built(net, x))

    def kernels(self) -> tuple[Kernel, ...]:
        """The kernels that a runtime runs for the block, float32."""
        return tuple(graph_kernels(self.graph()).values())

    def _built(self, net: _Layers, x: fx.Node) -> fx.Node:
        if self.kind == "stem":
            return net.conv(x, self.made, 3, stride=2, hard=self.hard)
        if self.kind == "pointwise":
            return net.conv(x, self.made, 1, hard=self.hard)
        if self.kind == "pool":
            return net.b.mean(x, axes=(2, 3), keepdim=True)
        if self.kind == "classifier":
            return net.linear(net.b.mean(x, axes=(2, 3), keepdim=False), self.made)
        y = x if self.expanded == self.read else net.conv(x, self.expanded, 1, hard=self.hard)
        y = net.conv(y, self.expanded, self.window, stride=self.stride, depthwise=True, hard=self.hard)
        y = net.squeezed(y) if self.squeeze else y
        y = net.conv(y, self.made, 1, activation="none")
        return net.b.add(x, y) if self.skip else y


class _Layers:
    """Builder of convolutions with zero weights."""

    def __init__(self) -> None:
        self.b = GraphBuilder()
        self.count = 0

    def conv(
        self, x: fx.Node, channels: int, window: int, *, stride: int = 1, depthwise: bool = False,
        activation: str = "relu6", hard: bool = False,
    ) -> fx.Node:  # fmt: skip
        read = shape_of(x)[1]
        self.count += 1
        weight = torch.zeros(channels, 1 if depthwise else read, window, window)
        y = self.b.conv2d(
            x, self.b.constant(f"w{self.count}", weight),
            self.b.constant(f"b{self.count}", torch.zeros(channels)), stride=(stride, stride),
            padding=(window // 2,) * 4, groups=read if depthwise else 1,
            activation="none" if hard else activation,
        )  # fmt: skip
        return self.b.hardswish(y) if hard and activation != "none" else y

    def linear(self, x: fx.Node, channels: int) -> fx.Node:
        self.count += 1
        weight = self.b.constant(f"w{self.count}", torch.zeros(channels, shape_of(x)[1]))
        return self.b.linear(x, weight, self.b.constant(f"b{self.count}", torch.zeros(channels)))

    def squeezed(self, x: fx.Node) -> fx.Node:
        channels = shape_of(x)[1]
        narrow = max(8, round(channels / SQUEEZE / 8) * 8)
        inner = self.conv(self.b.mean(x, axes=(2, 3), keepdim=True), narrow, 1, activation="relu")
        return self.b.mul(x, self.b.hardsigmoid(self.conv(inner, channels, 1, activation="none")))


def block_named(name: str, hard: bool = False) -> Block:
    """The block described by the name of a row.

    Args:
        hard: Whether stem and 1x1 convolutions have hard swishes; the names of bottlenecks state it.

    Raises:
        ValueError: The name has another form.
    """
    if found := _BOTTLENECK.fullmatch(name):
        side, read, made, expand, window, stride, skip = map(int, found.groups()[:7])
        squeeze, swish = (value == "1" for value in found.groups()[7:])
        expanded = expand * read if expand <= MOST_RATIO else expand
        return Block("bottleneck", side, read, made, expanded, window, stride, bool(skip), squeeze, swish)
    for kind, pattern in _OTHERS:
        if found := pattern.fullmatch(name):
            side, read, made = map(int, found.groups())
            return Block(kind, side, read, made, hard=hard and kind in ("stem", "pointwise"))
    raise ValueError(f"{name!r} names no block")


@dataclass(frozen=True)
class PhoneNetwork:
    """A network from architecture search whose latency on a phone was published.

    Attributes:
        name: Name of its file.
        phone: Phone that it was searched for.
        stated_ms: Latency stated in the file's name, in milliseconds.
        layers: Stored description, see `blocks`.
    """

    name: str
    phone: str
    stated_ms: float
    layers: Mapping[str, Any]

    def blocks(self, side: int) -> tuple[Block, ...]:
        """The network at a square input of `side` pixels, as blocks."""
        first = self.layers["first_conv"]
        found = [Block("stem", side, 3, int(first["out_channels"]), hard=_hard(first))]
        for entry in self.layers["blocks"]:
            found.append(_bottleneck(entry, found[-1].side_out))
        last = self.layers["final_expand_layer"]
        side = found[-1].side_out
        found.append(Block("pointwise", side, int(last["in_channels"]), int(last["out_channels"]), hard=True))
        found.append(Block("pool", side, found[-1].made, found[-1].made))
        mixed, head = self.layers["feature_mix_layer"], self.layers["classifier"]
        found.append(Block("pointwise", 1, int(mixed["in_channels"]), int(mixed["out_channels"]), hard=True))
        found.append(Block("classifier", 1, int(head["in_features"]), int(head["out_features"])))
        return tuple(found)


def _hard(layer: Mapping[str, Any]) -> bool:
    return layer["act_func"] == "h_swish"


def _bottleneck(entry: Mapping[str, Any], side: int) -> Block:
    inner = entry["mobile_inverted_conv"]
    read, made = int(inner["in_channels"]), int(inner["out_channels"])
    expanded = inner["mid_channels"] or round(read * inner["expand_ratio"])
    return Block(
        "bottleneck", side, read, made, int(expanded), int(inner["kernel_size"]), int(inner["stride"]),
        entry["shortcut"] is not None, bool(inner["use_se"]), _hard(inner),
    )  # fmt: skip


_STATED = re.compile(r"(?P<phone>\w+?)_lat-(?P<ms>\d+)ms_")


def read_network(path: Path | str) -> PhoneNetwork:
    """Read a network (JSON) whose file name states phone and latency.

    Raises:
        DataError: The file does not exist, or its content or its name has another form.
    """
    path = Path(path)
    stated = _STATED.match(path.name)
    if stated is None:
        raise DataError("its name states no phone and latency, as note10_lat-8ms_...", where=str(path))
    try:
        network = PhoneNetwork(
            path.stem, stated["phone"], float(stated["ms"]), json.loads(path.read_text("utf-8"))
        )
        network.blocks(224)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(path)) from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError("describes no network of inverted bottlenecks", where=str(path)) from error
    return network
