"""One small graph per row of the op table, some networks, and min/max quantisation of any of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, fx

from mcc.ir.graph import Graph, GraphBuilder, clean, constant, inputs, op_name, outputs
from mcc.ir.notes import shape_of
from mcc.ir.table import MOVING, WEIGHTED
from mcc.quant.regions import FIXED_OUTPUTS

Make = Callable[[GraphBuilder, fx.Node], fx.Node]
PAD1 = (1, 1, 1, 1)


def _conv(cin: int, cout: int, kernel: int, groups: int = 1, **options: object) -> Make:
    def make(b: GraphBuilder, x: fx.Node) -> fx.Node:
        fan = cin // groups * kernel * kernel
        weight = b.constant("weight", torch.randn(cout, cin // groups, kernel, kernel) * fan**-0.5)
        bias = b.constant("bias", torch.randn(cout) * 0.2)
        return b.conv2d(x, weight, bias, groups=groups, **options)

    return make


def _transposed(cin: int, cout: int, kernel: int, groups: int = 1, **options: object) -> Make:
    def make(b: GraphBuilder, x: fx.Node) -> fx.Node:
        weight = b.constant("weight", torch.randn(cin, cout // groups, kernel, kernel) * 0.2)
        return b.conv_transpose2d(x, weight, b.constant("bias", torch.randn(cout)), groups=groups, **options)

    return make


def _linear(width: int, out: int, bias: bool = True, **options: object) -> Make:
    def make(b: GraphBuilder, x: fx.Node) -> fx.Node:
        weight = b.constant("weight", torch.randn(out, width) * width**-0.5)
        return b.linear(x, weight, b.constant("bias", torch.randn(out)) if bias else None, **options)

    return make


def _op(name: str, *operands: tuple[str, Tensor], **options: object) -> Make:
    def make(b: GraphBuilder, x: fx.Node) -> fx.Node:
        return b.call(name, x, *(b.constant(key, value) for key, value in operands), **options)

    return make


def _recurrent(name: str, gates: int, **options: object) -> Make:
    """Six units that read 8 features, from the last step to the first."""

    def make(b: GraphBuilder, x: fx.Node) -> fx.Node:
        weights = [b.constant(key, torch.randn(6 * gates, n) * n**-0.5) for key, n in (("w", 8), ("own", 6))]
        biases = [b.constant(key, torch.randn(6 * gates) * 0.2) for key in ("b", "own_b")]
        return b.call(name, x, *weights, *biases, reverse=True, **options)

    return make


def _second(b: GraphBuilder, x: fx.Node) -> fx.Node:
    """Another value of the shape of x, with another scale."""
    return _conv(8, 8, 1)(b, x)


def _two(name: str, **options: object) -> Make:
    def make(b: GraphBuilder, x: fx.Node) -> fx.Node:
        return b.call(name, x, _second(b, x), **options)

    return make


def _concat(b: GraphBuilder, x: fx.Node) -> fx.Node:
    return b.concat(x, _second(b, x), x, axis=1)


def _divide(b: GraphBuilder, x: fx.Node) -> fx.Node:
    return b.div(x, b.constant("divisor", torch.rand(1, 8, 1, 1) + 0.5))


def _log(b: GraphBuilder, x: fx.Node) -> fx.Node:
    return b.log(b.add(b.abs(x), b.constant("one", torch.ones(1))))


def _sqrt(b: GraphBuilder, x: fx.Node) -> fx.Node:
    return b.sqrt(b.abs(x))


def _matmul(b: GraphBuilder, x: fx.Node) -> fx.Node:
    rows = b.reshape(x, shape=(8, 81))
    return b.matmul(rows, b.transpose(rows, perm=(0, 2, 1)))


_C = torch.linspace(-1, 1, 8)
_IMAGE = (1, 8, 9, 9)

# Case name to (row of the op table, shape of the input, how to build it).
CASES: dict[str, tuple[str, tuple[int, ...], Make]] = {
    "conv3x3": ("conv2d", _IMAGE, _conv(8, 12, 3, padding=PAD1, activation="relu6")),
    "conv1x1": ("conv2d", _IMAGE, _conv(8, 24, 1)),
    "conv_stem": ("conv2d", (1, 3, 16, 16), _conv(3, 8, 3, stride=(2, 2), padding=PAD1, activation="relu")),
    "conv_asymmetric": ("conv2d", _IMAGE, _conv(8, 8, 3, stride=(2, 2), padding=(0, 1, 0, 1))),
    "conv_dilated": ("conv2d", _IMAGE, _conv(8, 8, 3, dilation=(2, 2), padding=(2, 2, 2, 2))),
    "conv_grouped": ("conv2d", _IMAGE, _conv(8, 12, 3, groups=4, padding=PAD1)),
    "depthwise": ("conv2d", _IMAGE, _conv(8, 8, 3, groups=8, padding=PAD1, activation="relu6")),
    "depthwise5x5": ("conv2d", _IMAGE, _conv(8, 8, 5, groups=8, stride=(2, 2), padding=(2, 2, 2, 2))),
    "transposed": ("conv_transpose2d", _IMAGE, _transposed(8, 6, 3, stride=(2, 2), padding=PAD1)),
    "transposed_output": (
        "conv_transpose2d", _IMAGE,
        _transposed(8, 6, 3, stride=(2, 2), padding=PAD1, output_padding=(1, 1), activation="relu"),
    ),
    "transposed_grouped": ("conv_transpose2d", _IMAGE, _transposed(8, 8, 2, groups=2, stride=(2, 2))),
    "linear": ("linear", (1, 40), _linear(40, 10)),
    "linear_relu": ("linear", (1, 40), _linear(40, 10, bias=False, activation="relu")),
    "linear_rank3": ("linear", (1, 6, 40), _linear(40, 10)),
    "matmul": ("matmul", _IMAGE, _matmul),
    "batch_norm": (
        "batch_norm", _IMAGE,
        _op("batch_norm", ("w", _C + 2), ("b", _C), ("m", _C * 0.3), ("v", _C**2 + 0.5)),
    ),
    "layer_norm": (
        "layer_norm", (1, 6, 8), _op("layer_norm", ("w", _C + 2), ("b", _C), axes=(2,)),
    ),
    "layer_norm_maps": ("layer_norm", _IMAGE, lambda b, x: b.layer_norm(x, None, None, axes=(1, 2, 3))),
    "group_norm": ("group_norm", _IMAGE, _op("group_norm", ("w", _C + 2), ("b", _C), groups=4)),
    "response_norm": (
        "global_response_norm", _IMAGE, _op("global_response_norm", ("w", _C + 2), ("b", _C), axis=1),
    ),
    "response_norm_last": (
        "global_response_norm", (1, 5, 6, 8), _op("global_response_norm", ("w", _C), ("b", _C), axis=3),
    ),
    "lstm": ("lstm", (1, 5, 8), _recurrent("lstm", 4)),
    "gru": ("gru", (1, 5, 8), _recurrent("gru", 3, reset_after=False)),
    "identity": ("identity", _IMAGE, _op("identity")),
    "relu": ("relu", _IMAGE, _op("relu")),
    "relu6": ("relu6", _IMAGE, _op("relu6")),
    "hardswish": ("hardswish", _IMAGE, _op("hardswish")),
    "hardsigmoid": ("hardsigmoid", _IMAGE, _op("hardsigmoid")),
    "sigmoid": ("sigmoid", _IMAGE, _op("sigmoid")),
    "tanh": ("tanh", _IMAGE, _op("tanh")),
    "silu": ("silu", _IMAGE, _op("silu")),
    "mish": ("mish", _IMAGE, _op("mish")),
    "softplus": ("softplus", _IMAGE, _op("softplus")),
    "exp": ("exp", _IMAGE, _op("exp")),
    "log": ("log", _IMAGE, _log),
    "sqrt": ("sqrt", _IMAGE, _sqrt),
    "abs": ("abs", _IMAGE, _op("abs")),
    "sign": ("sign", _IMAGE, _op("sign")),
    "neg": ("neg", _IMAGE, _op("neg")),
    "gelu": ("gelu", _IMAGE, _op("gelu", approximate="none")),
    "gelu_tanh": ("gelu", _IMAGE, _op("gelu", approximate="tanh")),
    "leaky_relu": ("leaky_relu", _IMAGE, _op("leaky_relu", slope=0.1)),
    "elu": ("elu", _IMAGE, _op("elu", alpha=1.0)),
    "clamp": ("clamp", _IMAGE, _op("clamp", min=-0.5, max=1.25)),
    "prelu": ("prelu", _IMAGE, _op("prelu", ("slope", _C))),
    "max_pool": ("max_pool2d", _IMAGE, _op("max_pool2d", kernel=(3, 3), stride=(2, 2), padding=PAD1)),
    "avg_pool": ("avg_pool2d", _IMAGE, _op("avg_pool2d", kernel=(2, 2), stride=(2, 2))),
    "avg_pool_counted": (
        "avg_pool2d", _IMAGE, _op("avg_pool2d", kernel=(3, 3), stride=(2, 2), padding=PAD1)
    ),
    "avg_pool_uncounted": (
        "avg_pool2d", _IMAGE,
        _op("avg_pool2d", kernel=(3, 3), stride=(2, 2), padding=PAD1, count_include_pad=False),
    ),
    "global_mean": ("mean", _IMAGE, _op("mean", axes=(2, 3), keepdim=True)),
    "global_mean_flat": ("mean", _IMAGE, _op("mean", axes=(2, 3), keepdim=False)),
    "channel_mean": ("mean", _IMAGE, _op("mean", axes=(1,), keepdim=True)),
    "sum": ("sum", _IMAGE, _op("sum", axes=(2, 3), keepdim=False)),
    "amax": ("amax", _IMAGE, _op("amax", axes=(2, 3), keepdim=True)),
    "add": ("add", _IMAGE, _two("add", activation="relu")),
    "add_constant": ("add", _IMAGE, _op("add", ("term", torch.randn(1, 8, 1, 1)))),
    "sub": ("sub", _IMAGE, _two("sub")),
    "mul": ("mul", _IMAGE, _two("mul")),
    "mul_constant": ("mul", _IMAGE, _op("mul", ("factor", torch.randn(1, 8, 1, 1)), activation="relu6")),
    "div": ("div", _IMAGE, _divide),
    "concat": ("concat", _IMAGE, _concat),
    "slice": ("slice", _IMAGE, _op("slice", axis=1, start=2, stop=7)),
    "slice_step": ("slice", _IMAGE, _op("slice", axis=2, start=0, stop=9, step=2)),
    "pad": ("pad", _IMAGE, _op("pad", padding=((0, 0), (0, 0), (1, 2), (0, 1)), mode="constant", value=0.0)),
    "pad_value": (
        "pad", _IMAGE, _op("pad", padding=((0, 0), (0, 0), (1, 1), (1, 1)), mode="constant", value=0.7)
    ),
    "pad_reflect": (
        "pad", _IMAGE, _op("pad", padding=((0, 0), (0, 0), (2, 1), (1, 2)), mode="reflect", value=0.0)
    ),
    "pad_replicate": (
        "pad", _IMAGE, _op("pad", padding=((0, 0), (0, 0), (2, 1), (1, 2)), mode="replicate", value=0.0)
    ),
    "resize_nearest": ("resize", _IMAGE, _op("resize", size=(18, 13), mode="nearest")),
    "resize_bilinear": ("resize", _IMAGE, _op("resize", size=(18, 13), mode="bilinear")),
    "resize_corners": ("resize", _IMAGE, _op("resize", size=(5, 17), mode="bilinear", align_corners=True)),
    "reshape": ("reshape", _IMAGE, _op("reshape", shape=(648,))),
    "transpose": ("transpose", _IMAGE, _op("transpose", perm=(0, 2, 3, 1))),
    "pixel_shuffle": ("pixel_shuffle", _IMAGE, _op("pixel_shuffle", factor=2)),
    "softmax": ("softmax", (1, 30), _op("softmax", axis=1)),
    "softmax_channels": ("softmax", _IMAGE, _op("softmax", axis=1)),
}  # fmt: skip


def case_graph(name: str) -> Graph:
    """The float graph of a case, with random weights."""
    _, shape, make = CASES[name]
    b = GraphBuilder()
    return b.finish(make(b, b.input("x", shape)))


def mobile_net(size: int = 32, width: int = 8) -> Graph:
    """A small network of inverted residuals: stem, depthwise, pointwise, additions, pool, head."""
    b = GraphBuilder()
    count = 0

    def conv(
        x: fx.Node, cout: int, kernel: int, stride: int = 1, groups: int = 1, act: str = "relu6"
    ) -> fx.Node:
        nonlocal count
        count += 1
        cin = shape_of(x)[1] // groups
        weight = b.constant(
            f"w{count}", torch.randn(cout, cin, kernel, kernel) * (2 / (cin * kernel**2)) ** 0.5
        )
        bias = b.constant(f"b{count}", torch.randn(cout) * 0.1)
        pad = (kernel // 2,) * 4
        return b.conv2d(x, weight, bias, stride=(stride, stride), padding=pad, groups=groups, activation=act)

    x = conv(b.input("x", (1, 3, size, size)), width, 3, stride=2)
    for channels, stride in ((width, 1), (2 * width, 2), (2 * width, 1), (3 * width, 2), (3 * width, 1)):
        inner = shape_of(x)[1] * 4
        y = conv(conv(x, inner, 1), inner, 3, stride, groups=inner)
        y = conv(y, channels, 1, act="none")
        x = b.add(x, y) if stride == 1 and channels == shape_of(x)[1] else y
    x = b.mean(conv(x, 64, 1), axes=(2, 3))
    return b.finish(
        b.linear(x, b.constant("w", torch.randn(10, 64) * 0.2), b.constant("bias", torch.randn(10) * 0.1))
    )


def residual_net(size: int = 32) -> Graph:
    """A small network of 3x3 residual blocks whose shortcuts subsample and pad, as ResNet on CIFAR-10 has."""
    b = GraphBuilder()
    count = 0

    def conv(x: fx.Node, cout: int, stride: int, act: str) -> fx.Node:
        nonlocal count
        count += 1
        cin = shape_of(x)[1]
        weight = b.constant(f"w{count}", torch.randn(cout, cin, 3, 3) * (2 / (cin * 9)) ** 0.5)
        bias = b.constant(f"b{count}", torch.randn(cout) * 0.1)
        return b.conv2d(x, weight, bias, stride=(stride, stride), padding=PAD1, activation=act)

    x = conv(b.input("x", (1, 3, size, size)), 16, 1, "relu")
    for channels, stride in ((16, 1), (16, 1), (32, 2), (32, 1), (64, 2), (64, 1)):
        y = conv(conv(x, channels, stride, "relu"), channels, 1, "none")
        if stride == 2:
            for axis in (2, 3):
                x = b.slice(x, axis=axis, start=0, stop=shape_of(x)[axis], step=2)
            extra = (channels - shape_of(x)[1]) // 2
            x = b.pad(x, padding=((0, 0), (extra, extra), (0, 0), (0, 0)), mode="constant", value=0.0)
        x = b.add(x, y, activation="relu")
    x = b.mean(x, axes=(2, 3))
    return b.finish(
        b.linear(x, b.constant("w", torch.randn(10, 64) * 0.2), b.constant("bias", torch.randn(10) * 0.1))
    )


def quantise(
    graph: Graph, sample: Tensor, *, weight_limit: int = 127, float_nodes: tuple[str, ...] = ()
) -> Graph:
    """Min/max quantisation of every value, from one batch; tied values share their scale's constants.

    Args:
        sample: input batch that gives the ranges.
        weight_limit: greatest integer of a weight (63: 7 bits).
        float_nodes: names of operators that stay float, with whatever they alone read.
    """
    values = _record(graph, sample)
    b = GraphBuilder()
    done: dict[fx.Node, fx.Node] = {}  # by node of the float graph: its value for integer readers
    real: dict[fx.Node, fx.Node] = {}  # and for float readers
    for node in graph.graph.nodes:
        stays_float = node.name in float_nodes
        if node.op == "placeholder":
            done[node] = _activation(b, b.input(node.name, shape_of(node)), values[node])
        elif node.op == "get_attr":
            done[node] = b.constant(str(node.target), constant(graph, node).detach())
        elif node.op == "call_function":
            name = op_name(node)
            sources = {**done, **real} if stays_float else done
            args = [_operand(b, node, i, sources, weight_limit, stays_float) for i in range(len(node.args))]
            result = b.call(name, *args, name=node.name, **node.kwargs)
            done[node] = _quantised(b, name, result, args[0], values[node])
            if stays_float:
                real[node] = result
    return clean(b.finish(*(real.get(node, done[node]) for node in outputs(graph))))


def _record(graph: Graph, sample: Tensor) -> dict[fx.Node, Tensor]:
    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> object:
            found[n] = super().run_node(n)
            return found[n]

    found: dict[fx.Node, Tensor] = {}
    assert len(inputs(graph)) == 1
    with torch.no_grad():
        Recorder(graph).run(sample)
    return found


def _quantised(b: GraphBuilder, name: str, result: fx.Node, source: fx.Node | None, value: Tensor) -> fx.Node:
    if name in FIXED_OUTPUTS:
        scale, zero = FIXED_OUTPUTS[name]
        return _fake(b, result, torch.tensor(scale), torch.tensor(zero, dtype=torch.int32))
    if (
        name in (MOVING | {"avg_pool2d"}) - {"concat"}
        and source is not None
        and op_name(source) == "fake_quantize"
    ):
        return b.fake_quantize(result, source.args[1], source.args[2], qmin=-128, qmax=127, axis=None)
    return _activation(b, result, value)


def _operand(
    b: GraphBuilder, node: fx.Node, index: int, done: dict[fx.Node, fx.Node], limit: int, stays_float: bool
) -> fx.Node | None:
    source = node.args[index]
    if not isinstance(source, fx.Node):
        return None
    new, name = done[source], op_name(node)
    if new.op != "get_attr" or stays_float:
        return new
    value = constant_of(b, new)
    if name in WEIGHTED and index == 1:
        axis = 1 if name == "conv_transpose2d" else 0
        others = tuple(a for a in range(value.dim()) if a != axis)
        scale = value.abs().amax(others).clamp_min(1e-6) / limit
        zero = torch.zeros(len(scale), dtype=torch.int32)
        return _fake(b, new, scale, zero, -limit, limit, axis)
    if name in ("add", "sub", "mul"):
        return _activation(b, new, value)
    return new


def constant_of(b: GraphBuilder, node: fx.Node) -> Tensor:
    """The value of a constant under construction."""
    value = getattr(b.module, str(node.target))
    assert isinstance(value, Tensor)
    return value.detach()


def _activation(b: GraphBuilder, x: fx.Node, value: Tensor) -> fx.Node:
    low, high = min(float(value.min()), 0.0), max(float(value.max()), 0.0)
    scale = torch.tensor(max(high - low, 1e-3) / 255)
    zero = torch.tensor(round(-128 - low / float(scale)), dtype=torch.int32)
    return _fake(b, x, scale, zero.clamp(-128, 127))


def _fake(
    b: GraphBuilder,
    x: fx.Node,
    scale: Tensor,
    zero: Tensor,
    qmin: int = -128,
    qmax: int = 127,
    axis: int | None = None,
) -> fx.Node:
    s = b.constant(f"{x.name}_scale", scale.to(torch.float32), trains=False)
    z = b.constant(f"{x.name}_zero_point", zero, trains=False)
    return b.fake_quantize(x, s, z, qmin=qmin, qmax=qmax, axis=axis, name=f"{x.name}_q")
