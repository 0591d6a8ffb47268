"""Heads of detectors, in whose outputs boxes in pixels stand beside scores of 0..1."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, fx

from mcc.ir.graph import Graph, GraphBuilder

BOXES = 4
IMAGE = (1, 3, 32, 32)


def _draw(b: GraphBuilder, name: str, *shape: int, gain: float = 1.0) -> fx.Node:
    generator = torch.Generator().manual_seed(sum(name.encode()))
    fan = shape[1] * shape[2] * shape[3] if len(shape) == 4 else 1
    return b.constant(name, torch.randn(shape, generator=generator) * gain / fan**0.5)


def _body(b: GraphBuilder) -> fx.Node:
    """A feature map [N, 16, 8, 8]."""
    x = b.input("x", IMAGE)
    for name, cin, cout in (("first", 3, 16), ("second", 16, 16)):
        x = b.conv2d(
            x, _draw(b, name, cout, cin, 3, 3, gain=1.5), _draw(b, f"{name}_bias", cout, gain=0.1),
            stride=(2, 2), padding=(1, 1, 1, 1), activation="relu", name=f"{name}_map",
        )  # fmt: skip
    return x


def pixels_and_scores(gain: float = 300.0, function: str = "sigmoid", ends_in_conv: bool = False) -> Graph:
    """cat(conv * gain, sigmoid(conv)), as in exports of YOLOv5; with a convolution behind where asked."""
    b = GraphBuilder()
    x = _body(b)
    boxes = b.conv2d(
        x, _draw(b, "box", BOXES, 16, 1, 1), _draw(b, "box_bias", BOXES, gain=0.1), name="box_map"
    )
    boxes = b.mul(boxes, b.constant("gain", torch.tensor(gain)), name="pixels")
    scores = b.conv2d(x, _draw(b, "kind", 3, 16, 1, 1), None, name="class_map")
    scores = b.call(function, scores, name="scores", **({"axis": 1} if function == "softmax" else {}))
    both = b.concat(boxes, scores, axis=1, name="joined")
    return b.finish(
        b.conv2d(both, _draw(b, "last", 4, 7, 3, 3), None, name="last_map") if ends_in_conv else both
    )


def one_map(cut: bool) -> Graph:
    """One convolution whose channels are boxes in pixels and logits; sliced apart, or the output as it is."""
    b = GraphBuilder()
    x = _body(b)
    gain = torch.tensor([100.0] * BOXES + [1.0] * 3).reshape(7, 1, 1, 1)
    w = torch.randn((7, 16, 1, 1), generator=torch.Generator().manual_seed(3)) / 4 * gain
    y = b.conv2d(x, b.constant("head", w), None, name="head_map")
    if not cut:
        return b.finish(y)
    boxes = b.slice(y, axis=1, start=0, stop=BOXES, name="boxes")
    logits = b.slice(y, axis=1, start=BOXES, stop=7, name="logits")
    return b.finish(b.concat(boxes, b.sigmoid(logits, name="scores"), axis=1, name="joined"))


def yolo_v8() -> Graph:
    """Distributions over 16 distances beside class logits, split, decoded, joined: [N, 4+3, 64]."""
    b = GraphBuilder()
    x = _body(b)
    boxes = b.conv2d(x, _draw(b, "box", 64, 16, 1, 1, gain=2.0), None, name="box_map")
    classes = b.conv2d(x, _draw(b, "kind", 3, 16, 1, 1), None, name="class_map")
    both = b.reshape(b.concat(boxes, classes, axis=1, name="maps"), shape=(67, 64))
    bins = b.reshape(b.slice(both, axis=1, start=0, stop=64), shape=(4, 16, 64))
    shares = b.softmax(b.transpose(bins, perm=(0, 2, 1, 3)), axis=1, name="shares")
    ramp = b.constant("ramp", torch.arange(16.0).reshape(1, 16, 1, 1))
    far = b.sum(b.mul(shares, ramp), axes=(1,), keepdim=False, name="distances")
    before, behind = (b.slice(far, axis=1, start=i, stop=i + 2) for i in (0, 2))
    rows, columns = torch.meshgrid(torch.arange(8.0) + 0.5, torch.arange(8.0) + 0.5, indexing="ij")
    anchors = b.constant("anchors", torch.stack((columns, rows)).reshape(1, 2, 64))
    low, high = b.sub(anchors, before), b.add(anchors, behind)
    centre = b.mul(b.add(low, high), b.constant("one_half", torch.tensor(0.5)))
    pixels = b.mul(b.concat(centre, b.sub(high, low), axis=1), b.constant("stride", torch.tensor(4.0)))
    logits = b.slice(both, axis=1, start=64, stop=67)
    return b.finish(b.concat(pixels, b.sigmoid(logits, name="scores"), axis=1, name="joined"))


def ssd() -> Graph:
    """Offsets decoded against priors of a 300 pixel image, beside softmax scores: [N, 64, 4+3]."""
    b = GraphBuilder()
    x = _body(b)
    offsets = b.conv2d(x, _draw(b, "offset", BOXES, 16, 3, 3), None, padding=(1, 1, 1, 1), name="offset_map")
    logits = b.conv2d(x, _draw(b, "kind", 3, 16, 3, 3), None, padding=(1, 1, 1, 1), name="class_map")
    offsets, logits = (
        b.reshape(b.transpose(value, perm=(0, 2, 3, 1)), shape=(64, width))
        for value, width in ((offsets, BOXES), (logits, 3))
    )
    rows, columns = torch.meshgrid(torch.arange(8.0) * 37.5, torch.arange(8.0) * 37.5, indexing="ij")
    priors = b.constant("priors", torch.stack((columns, rows), -1).reshape(1, 64, 2) + 18.75)
    centre, size = (b.slice(offsets, axis=2, start=i, stop=i + 2) for i in (0, 2))
    centre = b.add(b.mul(centre, b.constant("reach", torch.tensor(9.0))), priors)
    size = b.mul(
        b.exp(b.mul(size, b.constant("fifth", torch.tensor(0.2)))), b.constant("side", torch.tensor(90.0))
    )
    half = b.mul(size, b.constant("one_half", torch.tensor(0.5)))
    boxes = b.concat(b.sub(centre, half), b.add(centre, half), axis=2)
    return b.finish(b.concat(boxes, b.softmax(logits, axis=2, name="scores"), axis=2, name="joined"))


HEADS: dict[str, tuple[Callable[[], Graph], int]] = {
    "pixels": (pixels_and_scores, 1),
    "offsets": (lambda: pixels_and_scores(5.0), 1),
    "tanh": (lambda: pixels_and_scores(5.0, "tanh"), 1),
    "softmax": (lambda: pixels_and_scores(5.0, "softmax"), 1),
    "forty": (lambda: pixels_and_scores(40.0), 1),
    "one map, cut": (lambda: one_map(True), 1),
    "yolo v8": (yolo_v8, 1),
    "ssd": (ssd, 2),
}
"""By name: the graph, and the axis along which `BOXES` coordinates stand before the scores."""


def images(count: int, seed: int) -> Tensor:
    """Smooth pictures of bounded brightness, as cameras take them."""
    generator = torch.Generator().manual_seed(seed)
    coarse = 2 * torch.rand((count, 3, 8, 8), generator=generator) - 1
    return torch.nn.functional.interpolate(coarse, (32, 32), mode="bilinear")
