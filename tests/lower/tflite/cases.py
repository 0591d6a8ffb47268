"""One small graph per operator and kind of parameter: what the parity tests of the lowering run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mcc.ir.graph import Graph, GraphBuilder

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """An operator on one input, with constants of the given shapes behind it.

    Attributes:
        constants: shapes of the constant operands, None for an absent one.
        positive: the input, or the constants at these positions (from 1), are made positive.
        batch: rows to run; 2 shows that the batch stays open, 1 where the format fixes it.
    """

    op: str
    shape: Shape
    attributes: dict[str, Any] = field(default_factory=dict)
    constants: tuple[Shape | None, ...] = ()
    positive: tuple[int, ...] = ()
    batch: int = 2
    note: str = ""

    @property
    def id(self) -> str:
        told = ",".join(f"{k}={v}".replace(" ", "") for k, v in self.attributes.items())
        return f"{self.op}{list(self.shape)}({told}){self.note}".replace(" ", "")

    def graph(self) -> Graph:
        generator = torch.Generator().manual_seed(1)
        b = GraphBuilder()
        operands: list[Any] = [b.input("x", self.shape)]
        for i, shape in enumerate(self.constants, 1):
            if shape is None:
                operands.append(None)
                continue
            value = torch.randn(shape, generator=generator)
            operands.append(b.constant(f"c{i}", value.abs() + 0.1 if i in self.positive else value))
        return b.finish(b.call(self.op, *operands, **self.attributes))

    def input(self) -> Tensor:
        value = torch.randn((self.batch, *self.shape[1:]), generator=torch.Generator().manual_seed(2)) * 2
        return value.abs() + 0.1 if 0 in self.positive else value


@dataclass(frozen=True)
class Composite:
    """A few operators together, built by a function."""

    name: str
    build: Callable[[GraphBuilder], Graph]
    inputs: tuple[Shape, ...]
    op: str = ""

    @property
    def id(self) -> str:
        return self.name

    def graph(self) -> Graph:
        torch.manual_seed(1)
        return self.build(GraphBuilder())


def _conv(k: int, s: int, p: int, d: int, g: int, act: str, ic: int, oc: int, size: int) -> Case:
    told = {"stride": (s, s), "padding": (p,) * 4, "dilation": (d, d), "groups": g, "activation": act}
    return Case("conv2d", (1, ic, size, size), told, ((oc, ic // g, k, k), (oc,)))


def _transposed(k: int, s: int, p: int, op: int, d: int, g: int) -> Case:
    told = {
        "stride": (s, s),
        "padding": (p,) * 4,
        "output_padding": (op, op),
        "dilation": (d, d),
        "groups": g,
    }
    told["activation"] = "relu"
    return Case("conv_transpose2d", (1, 4, 5, 6), told, ((4, 8 // g, k, k), (8,)), batch=1)


CONVOLUTIONS = [
    _conv(3, 1, 1, 1, 1, "relu", 8, 16, 9),
    _conv(3, 2, 1, 1, 1, "relu6", 3, 16, 10),
    _conv(1, 1, 0, 1, 1, "none", 8, 4, 5),
    _conv(1, 2, 0, 1, 1, "none", 4, 8, 10),
    _conv(2, 2, 0, 1, 1, "none", 4, 4, 8),
    _conv(5, 2, 2, 1, 1, "none", 4, 8, 11),
    _conv(3, 1, 2, 2, 1, "none", 4, 4, 8),
    _conv(3, 1, 1, 1, 8, "relu", 8, 8, 7),
    _conv(3, 2, 1, 1, 8, "none", 8, 16, 7),
    _conv(3, 1, 2, 2, 8, "none", 8, 8, 9),
    _conv(3, 1, 1, 1, 2, "none", 8, 12, 7),
    _conv(3, 1, 1, 1, 4, "none", 8, 8, 7),
    Case("conv2d", (1, 4, 8, 8), {"stride": (2, 2), "padding": (0, 1, 0, 1)}, ((4, 4, 3, 3), None)),
    Case("conv2d", (1, 4, 8, 6), {"stride": (2, 1), "padding": (1, 0, 0, 0)}, ((4, 4, 3, 1), None)),
    Case("conv2d", (1, 4, 8, 8), {"stride": (1, 1), "padding": (2, 1, 0, 3)}, ((4, 4, 3, 3), None)),
    *[
        _transposed(*numbers)
        for numbers in [
            (2, 2, 0, 0, 1, 1),
            (4, 2, 1, 0, 1, 1),
            (3, 2, 1, 1, 1, 1),
            (3, 1, 1, 0, 1, 1),
            (3, 1, 0, 0, 2, 1),
            (3, 2, 1, 0, 1, 2),
            (3, 2, 0, 1, 1, 4),
            (3, 3, 0, 2, 1, 1),
        ]
    ],
    Case("linear", (1, 7), {"activation": "relu"}, ((5, 7), (5,))),
    Case("linear", (1, 4, 7), {}, ((5, 7), None)),
    Case("linear", (1, 3, 4, 7), {}, ((5, 7), None)),
]

UNARY = ["identity", "relu", "relu6", "hardswish", "hardsigmoid", "sigmoid", "tanh", "silu", "mish"]
UNARY += ["softplus", "exp", "abs", "neg", "sign", "gelu", "elu"]

ELEMENTWISE = [
    *[Case(op, shape) for op in UNARY for shape in ((1, 6), (1, 6, 5, 4))],
    Case("sqrt", (1, 6, 3, 3), positive=(0,)),
    Case("log", (1, 6, 3, 3), positive=(0,)),
    Case("gelu", (1, 6, 3, 3), {"approximate": "tanh"}),
    Case("elu", (1, 6, 3, 3), {"alpha": 0.5}),
    Case("leaky_relu", (1, 6, 3, 3), {"slope": 0.2}),
    *[Case("clamp", (1, 6, 3, 3), {"min": a, "max": b}) for a, b in ((-0.5, 1.0), (0.0, 6.0), (-1.0, 1.0))],
    Case("clamp", (1, 6), {"max": 1.0}),
    Case("clamp", (1, 6), {"min": 0.0}),
    Case("prelu", (1, 6, 3, 3), {}, ((6,),)),
    Case("prelu", (1, 6, 3, 3), {}, ((1,),), note="shared"),
    Case("prelu", (1, 6), {}, ((6,),)),
    Case("prelu", (1, 6, 5), {}, ((6,),)),
    Case("batch_norm", (1, 6, 3, 3), {}, ((6,),) * 4, positive=(4,)),
    Case("batch_norm", (1, 6), {}, ((6,),) * 4, positive=(4,)),
    *[
        Case(op, (1, 6, 3, 4), {"activation": act}, (shape,), positive=(1,))
        for op in ("add", "sub", "mul", "div")
        for act, shape in (("none", (1, 6, 1, 1)), ("relu", (1,)), ("relu6", (6, 3, 4)))
    ],
]

POOLS = [
    *[
        Case(
            "max_pool2d",
            (1, 4, 9, 10),
            {"kernel": (k, k), "stride": (s, s), "padding": (p,) * 4, "dilation": (d, d)},
        )
        for k, s, p, d in ((2, 2, 0, 1), (3, 2, 1, 1), (3, 1, 1, 1), (3, 2, 0, 1), (2, 1, 0, 2), (3, 2, 1, 2))
    ],
    *[
        Case(
            "avg_pool2d",
            (1, 4, 7, 8),
            {"kernel": (k, k), "stride": (s, s), "padding": pad, "count_include_pad": count},
        )
        for count in (True, False)
        for k, s, pad in (
            (2, 2, (0,) * 4),
            (3, 2, (1,) * 4),
            (3, 1, (1,) * 4),
            (7, 1, (0,) * 4),
            (2, 2, (0, 1, 0, 0)),
        )
    ],
    *[
        Case("resize", (1, 4, 5, 6), {"size": size, "mode": mode, "align_corners": corners})
        for size, mode, corners in (
            ((10, 12), "nearest", False),
            ((7, 9), "nearest", False),
            ((3, 4), "nearest", False),
            ((10, 12), "bilinear", False),
            ((7, 9), "bilinear", True),
            ((3, 3), "bilinear", False),
        )
    ],
    Case("pixel_shuffle", (1, 12, 3, 4), {"factor": 2}),
    Case("pixel_shuffle", (1, 9, 3, 4), {"factor": 3}),
]

REDUCTIONS = [
    *[
        Case(op, shape, {"axes": axes, "keepdim": keep})
        for op in ("mean", "sum", "amax")
        for keep in (True, False)
        for shape, axes in (
            ((1, 4, 5, 6), (2, 3)),
            ((1, 4, 5, 6), (1,)),
            ((1, 4, 5, 6), (-1,)),
            ((1, 4, 5), (1,)),
            ((1, 4), (1,)),
        )
    ],
    *[Case("softmax", (1, 4, 5, 6), {"axis": axis}) for axis in (1, 2, -1)],
    Case("softmax", (1, 4), {"axis": 1}),
    Case("softmax", (1, 4, 5), {"axis": 1}),
    Case("layer_norm", (1, 5, 6), {"axes": (2,)}, ((6,), (6,))),
    Case("layer_norm", (1, 5, 6, 4), {"axes": (1, 2, 3)}, ((5, 6, 4), (5, 6, 4))),
    Case("layer_norm", (1, 5, 6, 4), {"axes": (1,)}, (None, (5,))),
    Case("group_norm", (1, 6, 4, 5), {"groups": 3}, ((6,), (6,))),
    Case("group_norm", (1, 6, 4), {"groups": 2}, ((6,), None)),
    Case("group_norm", (1, 6), {"groups": 2}, (None, None)),
    Case("global_response_norm", (1, 6, 4, 5), {"axis": 1}, ((6,), (6,))),
    Case("global_response_norm", (1, 4, 5, 6), {"axis": -1}, ((6,), (6,))),
    Case("global_response_norm", (1, 4, 6), {"axis": 2}, ((6,), (6,))),
]

SHAPES = [
    Case("pad", (1, 4, 5, 6), {"padding": ((0, 0), (0, 0), (1, 2), (2, 1))}),
    Case("pad", (1, 4, 5, 6), {"padding": ((0, 0), (1, 0), (1, 2), (2, 1)), "value": 1.5}),
    Case("pad", (1, 4, 5, 6), {"padding": ((0, 0), (0, 0), (1, 2), (2, 1)), "mode": "reflect"}),
    Case("pad", (1, 4, 5, 6), {"padding": ((0, 0), (0, 0), (1, 3), (2, 0)), "mode": "replicate"}),
    Case("pad", (1, 4), {"padding": ((0, 0), (1, 2))}),
    *[
        Case("slice", (1, 6, 7, 8), {"axis": axis, "start": 1, "stop": 5, "step": step})
        for axis in (1, 2, 3)
        for step in (1, 2)
    ],
    Case("slice", (1, 6), {"axis": 1, "start": 2, "stop": 4, "step": 1}),
    *[
        Case("reshape", before, {"shape": after})
        for before, after in (
            ((1, 4, 5, 6), (120,)),
            ((1, 4, 5, 6), (2, 2, 5, 6)),
            ((1, 4, 5, 6), (4, 30)),
            ((1, 120), (4, 5, 6)),
            ((1, 4, 1, 1), (4,)),
            ((1, 4), (4, 1, 1)),
            ((1, 4, 6), (4, 2, 3)),
            ((1, 4, 5, 6), (20, 6)),
            ((1, 4, 5, 6), (2, 60)),
        )
    ],
    *[
        Case("transpose", (1, 4, 5, 6)[: len(perm)], {"perm": perm})
        for perm in ((0, 2, 3, 1), (0, 3, 1, 2), (0, 2, 1), (0, 1, 3, 2))
    ],
]

RECURRENT = [
    Case("lstm", (1, 5, 6), {"reverse": False}, ((16, 6), (16, 4), (16,), (16,))),
    Case("lstm", (1, 5, 6), {"reverse": True}, ((16, 6), (16, 4), None, (16,))),
    Case("lstm", (1, 1, 6), {"reverse": False}, ((16, 6), (16, 4), None, None)),
    *[
        Case("gru", (1, 5, 6), {"reverse": reverse, "reset_after": after}, ((12, 6), (12, 4), (12,), (12,)))
        for reverse in (False, True)
        for after in (False, True)
    ],
    Case("gru", (1, 2, 6), {"reverse": False, "reset_after": True}, ((12, 6), (12, 4), (12,), None)),
    Case("gru", (1, 1, 6), {"reverse": False, "reset_after": False}, ((12, 6), (12, 4), None, (12,))),
]

CASES = [*CONVOLUTIONS, *ELEMENTWISE, *POOLS, *REDUCTIONS, *RECURRENT, *SHAPES]


def _joined(axis: int) -> Callable[[GraphBuilder], Graph]:
    def build(b: GraphBuilder) -> Graph:
        return b.finish(b.concat(b.input("x", (1, 4, 5, 6)), b.input("y", (1, 4, 5, 6)), axis=axis))

    return build


def _arithmetic(op: str, y: Shape) -> Callable[[GraphBuilder], Graph]:
    def build(b: GraphBuilder) -> Graph:
        return b.finish(b.call(op, b.input("x", (1, 6, 3, 4)), b.input("y", y), activation="relu6"))

    return build


def _product(transposed: bool) -> Callable[[GraphBuilder], Graph]:
    def build(b: GraphBuilder) -> Graph:
        x, y = b.input("x", (1, 2, 5)), b.input("y", (1, 4, 5) if transposed else (1, 5, 4))
        return b.finish(b.matmul(x, b.transpose(y, perm=(0, 2, 1)) if transposed else y))

    return build


def _attention(b: GraphBuilder) -> Graph:
    """Tokens of a map, two heads, back to a map: reshapes and transposes on both sides of the products."""
    x = b.input("x", (1, 8, 3, 4))
    tokens = b.transpose(b.reshape(x, shape=(8, 12)), perm=(0, 2, 1))

    def head(name: str) -> Any:
        projected = b.linear(tokens, b.constant(name, torch.randn(8, 8) * 0.3), None)
        return b.transpose(b.reshape(projected, shape=(12, 2, 4)), perm=(0, 2, 1, 3))

    scores = b.matmul(head("q"), b.transpose(head("k"), perm=(0, 1, 3, 2)))
    mixed = b.matmul(b.softmax(scores, axis=-1), head("v"))
    joined = b.reshape(b.transpose(mixed, perm=(0, 2, 1, 3)), shape=(12, 8))
    image = b.reshape(b.transpose(joined, perm=(0, 2, 1)), shape=(8, 3, 4))
    return b.finish(b.add(x, image))


def _flatten(activation: bool) -> Callable[[GraphBuilder], Graph]:
    def build(b: GraphBuilder) -> Graph:
        x = b.input("x", (1, 3, 4, 5))
        y = b.conv2d(x, b.constant("w", torch.randn(6, 3, 3, 3)), None, padding=(1, 1, 1, 1))
        flat = b.reshape(y, shape=(120,))
        flat = b.relu(flat) if activation else flat
        return b.finish(b.linear(flat, b.constant("v", torch.randn(7, 120)), b.constant("c", torch.randn(7))))

    return build


def _squeeze_excite(b: GraphBuilder) -> Graph:
    x = b.input("x", (1, 8, 5, 6))
    pooled = b.mean(x, axes=(2, 3), keepdim=True)
    inner = b.conv2d(pooled, b.constant("w", torch.randn(4, 8, 1, 1)), None, activation="relu")
    gate = b.sigmoid(
        b.conv2d(inner, b.constant("v", torch.randn(8, 4, 1, 1)), b.constant("c", torch.randn(8)))
    )
    return b.finish(b.mul(x, gate))


def _channel_shuffle(b: GraphBuilder) -> Graph:
    x = b.input("x", (1, 6, 4, 5))
    parted = b.transpose(b.reshape(x, shape=(2, 3, 4, 5)), perm=(0, 2, 1, 3, 4))
    return b.finish(b.relu(b.reshape(parted, shape=(6, 4, 5))))


def _super_resolution(b: GraphBuilder) -> Graph:
    x = b.input("x", (1, 3, 4, 5))
    y = b.conv2d(
        x, b.constant("w", torch.randn(12, 3, 3, 3)), b.constant("c", torch.randn(12)), padding=(1, 1, 1, 1)
    )
    return b.finish(b.pixel_shuffle(b.relu(y), factor=2))


def _channels_last_block(b: GraphBuilder) -> Graph:
    """ConvNeXt's block: depthwise, then layer norm and linear over the last axis behind a permute."""
    x = b.input("x", (1, 8, 5, 6))
    y = b.conv2d(x, b.constant("w", torch.randn(8, 1, 7, 7)), None, padding=(3, 3, 3, 3), groups=8)
    y = b.transpose(y, perm=(0, 2, 3, 1))
    y = b.layer_norm(y, b.constant("g", torch.randn(8)), b.constant("h", torch.randn(8)), axes=(3,))
    y = b.gelu(b.linear(y, b.constant("v", torch.randn(16, 8)), None))
    y = b.transpose(b.linear(y, b.constant("u", torch.randn(8, 16)), None), perm=(0, 3, 1, 2))
    return b.finish(b.add(x, y))


def _padded_pool_of_relu(b: GraphBuilder) -> Graph:
    x = b.relu(b.input("x", (1, 4, 8, 8)))
    return b.finish(b.max_pool2d(x, kernel=(3, 3), stride=(2, 2), padding=(1, 1, 1, 1)))


def _several_outputs(b: GraphBuilder) -> Graph:
    x = b.input("x", (1, 4, 5, 6))
    y = b.relu(x)
    return b.finish(y, b.mean(y, axes=(2, 3), keepdim=False), y)


COMPOSITES = [
    *[Composite(f"concat axis {axis}", _joined(axis), ((4, 5, 6),) * 2, "concat") for axis in (1, 2, -1)],
    *[
        Composite(f"{op} {list(y)}", _arithmetic(op, y), ((6, 3, 4), y[1:]), op)
        for op in ("add", "sub", "mul", "div")
        for y in ((1, 6, 3, 4), (1, 6, 1, 1))
    ],
    Composite("matmul", _product(False), ((2, 5), (5, 4)), "matmul"),
    Composite("matmul with a transpose", _product(True), ((2, 5), (4, 5)), "matmul"),
    Composite("attention", _attention, ((8, 3, 4),)),
    Composite("flatten, linear", _flatten(False), ((3, 4, 5),)),
    Composite("flatten, relu, linear", _flatten(True), ((3, 4, 5),)),
    Composite("squeeze and excite", _squeeze_excite, ((8, 5, 6),)),
    Composite("channel shuffle", _channel_shuffle, ((6, 4, 5),)),
    Composite("super resolution", _super_resolution, ((3, 4, 5),)),
    Composite("channels last block", _channels_last_block, ((8, 5, 6),)),
    Composite("padded pool of relu", _padded_pool_of_relu, ((4, 8, 8),)),
    Composite("several outputs", _several_outputs, ((4, 5, 6),)),
]
