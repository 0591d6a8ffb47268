"""Random valid graphs over the whole op table.

`random_graph` draws every decision from `Choices`: hypothesis stands behind them in tests, so that a failing
graph shrinks, and `random.Random` in long runs (`seeded_graph(n)` is graph number n, always the same).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import torch
from hypothesis import strategies as st
from torch import Tensor, fx

from mcc.ir import table
from mcc.ir.graph import Graph, GraphBuilder, add_call, calls, clean, is_constant, operand, output_node
from mcc.ir.notes import annotate, shape_of

T = TypeVar("T")
MAX_ELEMENTS = 2048
MAX_WIDTH = 8


class Choices(Protocol):
    """Where decisions come from."""

    def number(self, low: int, high: int) -> int:
        """A number in low..high, both included."""
        ...


class Seeded:
    """Decisions of a pseudo-random generator."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def number(self, low: int, high: int) -> int:
        return self._random.randint(low, high)


class Drawn:
    """Decisions of hypothesis."""

    def __init__(self, draw: Callable[[st.SearchStrategy[int]], int]) -> None:
        self._draw = draw

    def number(self, low: int, high: int) -> int:
        return self._draw(st.integers(low, high))


class Maker:
    """Grows a graph value by value; a recipe that finds nothing to work on leaves it as it is."""

    def __init__(self, choices: Choices) -> None:
        self.b = GraphBuilder()
        self.choices = choices
        self.pool: list[fx.Node] = []
        self.weights: list[fx.Node] = []
        self.count = 0
        self.integral = self.chance(3)

    # -- decisions

    def number(self, low: int, high: int) -> int:
        return low if low >= high else self.choices.number(low, high)

    def chance(self, one_in: int) -> bool:
        return self.choices.number(1, one_in) == one_in

    def pick(self, items: Sequence[T]) -> T:
        return items[self.number(0, len(items) - 1)]

    def value(self, ranks: tuple[int, ...] = (2, 3, 4, 5)) -> fx.Node | None:
        """A value of one of the ranks, a recent one most of the time."""
        fitting = [v for v in self.pool if len(shape_of(v)) in ranks]
        if not fitting:
            return None
        return self.pick(fitting[-3:]) if not self.chance(4) else self.pick(fitting)

    # -- building

    def constant(
        self, shape: Sequence[int], *, low: float | None = None, trains: bool = True, scale: float = 1.0
    ) -> fx.Node:
        """A constant of small integers or of normal numbers; at least `low` where given."""
        self.count += 1
        generator = torch.Generator().manual_seed(self.count)
        if self.integral:
            made = torch.randint(-3, 4, tuple(shape), generator=generator).float()
        else:
            made = torch.randn(tuple(shape), generator=generator) * scale
        if low is not None:
            made = made.abs() + low
        return self.b.constant(f"c{self.count}", made, trains=trains)

    def weight(self, shape: Sequence[int]) -> fx.Node:
        """A weight, now and then one that is used already, or one behind a quantiser."""
        same = [w for w in self.weights if shape_of(w) == tuple(shape)]
        if same and self.chance(2):
            return self.pick(same)
        fan_in = max(1, torch.Size(shape[1:]).numel())
        made = self.constant(shape, scale=fan_in**-0.5)
        if self.chance(8):
            made = self.quantised(made, 0)
        self.weights.append(made)
        return made

    def bias(self, length: int) -> fx.Node | None:
        return self.constant((length,)) if self.chance(2) else None

    def quantised(self, x: fx.Node, axis: int | None) -> fx.Node:
        lengths = () if axis is None else (shape_of(x)[axis],)
        self.count += 1
        scale = self.b.constant(f"c{self.count}", torch.full(lengths, 0.125), trains=False)
        zero = self.b.constant(f"z{self.count}", torch.zeros(lengths, dtype=torch.int32), trains=False)
        return self.b.call("fake_quantize", x, scale, zero, qmin=-128, qmax=127, axis=axis)

    def call(self, op: str, *operands: fx.Node | None, **attributes: Any) -> fx.Node:
        """An operator whose value later ones may read."""
        node = self.b.call(op, *operands, **attributes)
        if torch.Size(shape_of(node)).numel() <= MAX_ELEMENTS:
            self.pool.append(node)
        return node

    def activation(self) -> str:
        return self.pick(("none", "none", "relu", "relu6"))


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def _conv2d(m: Maker) -> None:
    x = m.value((4,))
    if x is None:
        return
    _, width, *size = shape_of(x)
    groups = m.pick((1, 1, 1, width, m.pick(_divisors(width))))
    out = groups * m.number(1, max(1, MAX_WIDTH // groups))
    padding = tuple(m.number(0, 1) for _ in range(4)) if m.chance(2) else (0, 0, 0, 0)
    room = [size[0] + padding[0] + padding[1], size[1] + padding[2] + padding[3]]
    kernel = tuple(m.number(1, min(3, length)) for length in room)
    dilation = tuple(
        m.number(1, 2) if k > 1 and 2 * (k - 1) < r else 1 for k, r in zip(kernel, room, strict=True)
    )
    weight = m.weight((out, width // groups, *kernel))
    stride = (m.number(1, 2), m.number(1, 2))
    m.call(
        "conv2d", x, weight, m.bias(out), stride=stride, padding=padding, dilation=dilation,
        groups=groups, activation=m.activation(),
    )  # fmt: skip


def _conv_transpose2d(m: Maker) -> None:
    x = m.value((4,))
    if x is None:
        return
    _, width, height, length = shape_of(x)
    if height * length > 64:
        return
    groups = m.pick((1, 1, width, m.pick(_divisors(width))))
    each = m.number(1, max(1, MAX_WIDTH // groups))
    kernel = (m.number(1, 3), m.number(1, 3))
    stride = (m.number(1, 2), m.number(1, 2))
    crop = tuple(m.number(0, (k - 1) // 2) for k in kernel for _ in range(2))
    extra = (m.number(0, stride[0] - 1), m.number(0, stride[1] - 1))
    weight = m.weight((width, each, *kernel))
    m.call(
        "conv_transpose2d", x, weight, m.bias(each * groups), stride=stride, padding=crop,
        output_padding=extra, groups=groups, activation=m.activation(),
    )  # fmt: skip


def _linear(m: Maker) -> None:
    x = m.value((2, 3, 4) if m.chance(4) else (2, 3))  # on a map it works along rows, across channels
    if x is not None:
        out = m.number(1, MAX_WIDTH)
        m.call("linear", x, m.weight((out, shape_of(x)[-1])), m.bias(out), activation=m.activation())


def _matmul(m: Maker) -> None:
    x = m.value((2, 3, 4))
    if x is None:
        return
    rank = len(shape_of(x))
    if rank > 2 and m.chance(2):
        other = m.call("transpose", x, perm=(*range(rank - 2), rank - 1, rank - 2))
        m.call("matmul", x, other)
    else:
        m.call("matmul", x, m.constant((shape_of(x)[-1], m.number(1, MAX_WIDTH)), scale=0.3))


def _batch_norm(m: Maker) -> None:
    x = m.value((2, 3, 4))
    if x is not None:
        width = (shape_of(x)[1],)
        m.call(
            "batch_norm", x, m.constant(width), m.constant(width), m.constant(width, trains=False),
            m.constant(width, low=1.0, trains=False), eps=1e-3,
        )  # fmt: skip


def _layer_norm(m: Maker) -> None:
    x = m.value()
    if x is None:
        return
    shape = shape_of(x)
    first = m.number(1, len(shape) - 1)
    axes = tuple(range(first, len(shape))) if m.chance(2) else (first,)
    held = [shape[axis] for axis in axes]
    weight = m.constant(held) if m.chance(2) else None
    m.call("layer_norm", x, weight, m.constant(held) if m.chance(2) else None, axes=axes, eps=1e-2)


def _group_norm(m: Maker) -> None:
    x = m.value()
    if x is None:
        return
    width = shape_of(x)[1]
    groups = m.pick(_divisors(width))
    if torch.Size(shape_of(x)[1:]).numel() // groups < 2:
        return  # torch refuses to normalise single numbers
    weight = m.constant((width,)) if m.chance(2) else None
    m.call("group_norm", x, weight, m.constant((width,)) if m.chance(2) else None, groups=groups, eps=1e-2)


def _global_response_norm(m: Maker) -> None:
    x = m.value((3, 4))
    if x is not None:
        axis = m.number(1, len(shape_of(x)) - 1)
        held = (shape_of(x)[axis],)
        m.call("global_response_norm", x, m.constant(held), m.constant(held), axis=axis, eps=1e-2)


def _recurrent(op: str, gates: int) -> Callable[[Maker], None]:
    def make(m: Maker) -> None:
        x = m.value((3, 4))
        if x is None:
            return
        if len(shape_of(x)) == 4:  # a map as a sequence of its places, as in text recognition
            _, channels, height, wide = shape_of(x)
            x = m.call("reshape", x, shape=(channels, height * wide))
            x = m.call("transpose", x, perm=(0, 2, 1))
        width, units = shape_of(x)[2], m.number(1, 4)
        weights = [m.weight((gates * units, length)) for length in (width, units)]
        biases = [m.constant((gates * units,)) if m.chance(2) else None for _ in range(2)]
        options: dict[str, Any] = {"reset_after": m.chance(2)} if op == "gru" else {}
        m.call(op, x, *weights, *biases, reverse=m.chance(2), **options)

    return make


def _unary(op: str, **attributes: Any) -> Callable[[Maker], None]:
    def make(m: Maker) -> None:
        x = m.value()
        if x is not None:
            m.call(op, x, **attributes)

    return make


def _positive(m: Maker, x: fx.Node) -> fx.Node:
    """|x| + 1: what logarithms, roots and divisors take."""
    magnitude = m.call("abs", x)
    m.count += 1
    return m.call("add", magnitude, m.b.constant(f"one{m.count}", torch.ones(())))


def _after_positive(op: str) -> Callable[[Maker], None]:
    def make(m: Maker) -> None:
        x = m.value()
        if x is not None:
            m.call(op, _positive(m, x))

    return make


def _exp(m: Maker) -> None:
    x = m.value()
    if x is not None:
        m.call("exp", m.call("clamp", x, min=-3.0, max=2.0))


def _clamp(m: Maker) -> None:
    x = m.value()
    if x is not None:
        low, high = m.pick(((float("-inf"), 1.0), (-1.5, float("inf")), (-2.0, 3.0)))
        m.call("clamp", x, min=low, max=high)


def _prelu(m: Maker) -> None:
    x = m.value()
    if x is not None:
        m.call("prelu", x, m.constant((shape_of(x)[1],) if m.chance(2) else (1,), scale=0.3))


def _window(m: Maker, x: fx.Node) -> dict[str, Any]:
    """Kernel, stride and padding of a pool; padding is narrower than the kernel."""
    kernel = tuple(m.number(1, min(3, length)) for length in shape_of(x)[2:])
    padding = tuple(m.number(0, k // 2) for k in kernel for _ in range(2)) if m.chance(2) else (0, 0, 0, 0)
    return {"kernel": kernel, "stride": (m.number(1, 2), m.number(1, 2)), "padding": padding}


def _max_pool2d(m: Maker) -> None:
    x = m.value((4,))
    if x is None:
        return
    window = _window(m, x)
    wide = not any(window["padding"]) and all(
        2 * (k - 1) < n for k, n in zip(window["kernel"], shape_of(x)[2:], strict=True)
    )
    m.call("max_pool2d", x, **window, dilation=(m.number(1, 2), 1) if wide else (1, 1))


def _avg_pool2d(m: Maker) -> None:
    x = m.value((4,))
    if x is not None:
        m.call("avg_pool2d", x, **_window(m, x), count_include_pad=m.chance(2))


def _reduce(op: str) -> Callable[[Maker], None]:
    def make(m: Maker) -> None:
        x = m.value((3, 4, 5))
        if x is None:
            return
        rank = len(shape_of(x))
        if rank == 4 and m.chance(2):
            axes: tuple[int, ...] = (2, 3)
        else:
            axes = (m.number(1, rank - 1),)
        m.call(op, x, axes=axes, keepdim=m.chance(2))

    return make


def _broadcasts(a: Sequence[int], b: Sequence[int]) -> bool:
    return len(a) == len(b) and all(n in (1, k) or k == 1 for n, k in zip(a, b, strict=True))


def _second(m: Maker, x: fx.Node) -> fx.Node:
    """Another value or a constant that broadcasts with x."""
    shape = shape_of(x)
    fitting = [v for v in m.pool if _broadcasts(shape_of(v), shape)]
    if fitting and not m.chance(3):
        return m.pick(fitting)
    kept = [1, *(n if m.chance(2) else 1 for n in shape[1:])]
    return m.constant(kept[m.number(0, len(kept)) :] if m.chance(2) else kept)


def _binary(op: str) -> Callable[[Maker], None]:
    def make(m: Maker) -> None:
        x = m.value()
        if x is None:
            return
        other = _second(m, x)
        if op == "div":
            other = _positive(m, other) if not is_constant(other) else m.constant((), low=1.0)
        pair = (other, x) if op in ("sub", "add") and m.chance(4) else (x, other)
        m.call(op, *pair, activation=m.activation())

    return make


def _concat(m: Maker) -> None:
    x = m.value()
    if x is None:
        return
    shape = shape_of(x)
    axis = 1 if m.chance(2) else m.number(1, len(shape) - 1)
    rest = (*shape[:axis], *shape[axis + 1 :])
    fitting = [
        v
        for v in m.pool
        if len(shape_of(v)) == len(shape) and (*shape_of(v)[:axis], *shape_of(v)[axis + 1 :]) == rest
    ]
    m.call("concat", *(m.pick(fitting) for _ in range(m.number(1, 3))), axis=axis)


def _slice(m: Maker) -> None:
    x = m.value()
    if x is None:
        return
    axis = 1 if m.chance(2) else m.number(1, len(shape_of(x)) - 1)
    length = shape_of(x)[axis]
    start = m.number(0, length - 1)
    stop = m.number(start + 1, length)
    m.call("slice", x, axis=axis, start=start, stop=stop, step=2 if m.chance(4) else 1)


def _pad(m: Maker) -> None:
    x = m.value()
    if x is None:
        return
    shape = shape_of(x)
    mode = m.pick(("constant", "constant", "reflect", "replicate")) if len(shape) == 4 else "constant"
    first = 2 if mode != "constant" else 1
    amounts = [(0, 0)] * first
    for length in shape[first:]:
        most = min(2, length - 1) if mode == "reflect" else 2
        amounts.append((m.number(0, most), m.number(0, most)))
    value = 1.0 if mode == "constant" and m.chance(2) else 0.0
    m.call("pad", x, padding=tuple(amounts), mode=mode, value=value)


def _resize(m: Maker) -> None:
    x = m.value((4,))
    if x is not None:
        mode = m.pick(("nearest", "bilinear"))
        corners = mode == "bilinear" and m.chance(2)
        m.call("resize", x, size=(m.number(1, 8), m.number(1, 8)), mode=mode, align_corners=corners)


def _reshape(m: Maker) -> None:
    x = m.value()
    if x is None:
        return
    shape = shape_of(x)
    if m.chance(2):  # flatten
        m.call("reshape", x, shape=(torch.Size(shape[1:]).numel(),))
    elif len(shape) < 5:  # split one axis in two
        axis = m.number(1, len(shape) - 1)
        factor = m.pick(_divisors(shape[axis]))
        m.call("reshape", x, shape=(*shape[1:axis], factor, shape[axis] // factor, *shape[axis + 1 :]))
    else:  # merge two axes
        axis = m.number(1, len(shape) - 2)
        m.call("reshape", x, shape=(*shape[1:axis], shape[axis] * shape[axis + 1], *shape[axis + 2 :]))


def _transpose(m: Maker) -> None:
    x = m.value()
    if x is None:
        return
    axes = list(range(1, len(shape_of(x))))
    order: list[int] = []
    while axes:
        order.append(axes.pop(m.number(0, len(axes) - 1)))
    m.call("transpose", x, perm=(0, *order))


def _pixel_shuffle(m: Maker) -> None:
    x = m.value((4,))
    if x is not None:
        m.call("pixel_shuffle", x, factor=2 if shape_of(x)[1] % 4 == 0 else 1)


def _softmax(m: Maker) -> None:
    x = m.value()
    if x is not None:
        m.call("softmax", x, axis=m.number(1, len(shape_of(x)) - 1))


def _fake_quantize(m: Maker) -> None:
    x = m.value()
    if x is not None:
        m.pool.append(m.quantised(x, 1 if m.chance(3) else None))


RECIPES: dict[str, Callable[[Maker], None]] = {
    "conv2d": _conv2d,
    "conv_transpose2d": _conv_transpose2d,
    "linear": _linear,
    "matmul": _matmul,
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "global_response_norm": _global_response_norm,
    "lstm": _recurrent("lstm", 4),
    "gru": _recurrent("gru", 3),
    **{
        name: _unary(name)
        for name in (
            *("identity", "relu", "relu6", "hardswish", "hardsigmoid", "sigmoid", "tanh", "silu", "mish"),
            *("softplus", "abs", "neg", "sign", "leaky_relu", "elu"),
        )
    },
    "gelu": _unary("gelu", approximate="tanh"),
    "exp": _exp,
    "sqrt": _after_positive("sqrt"),
    "log": _after_positive("log"),
    "clamp": _clamp,
    "prelu": _prelu,
    "max_pool2d": _max_pool2d,
    "avg_pool2d": _avg_pool2d,
    **{name: _reduce(name) for name in ("mean", "sum", "amax")},
    **{name: _binary(name) for name in ("add", "sub", "mul", "div")},
    "concat": _concat,
    "slice": _slice,
    "pad": _pad,
    "resize": _resize,
    "reshape": _reshape,
    "transpose": _transpose,
    "pixel_shuffle": _pixel_shuffle,
    "softmax": _softmax,
    "fake_quantize": _fake_quantize,
}


# -- structures that random steps would seldom form --------------------------------------------------------


def _residual(m: Maker) -> None:
    x = m.value((4,))
    if x is None:
        return
    width = shape_of(x)[1]
    y = m.call("conv2d", x, m.weight((width, width, 1, 1)), m.bias(width), activation="relu")
    m.call("add", x, y, activation=m.activation())


def _squeeze_excite(m: Maker) -> None:
    x = m.value((4,))
    if x is None:
        return
    width, inner = shape_of(x)[1], m.number(1, 4)
    y = m.call("mean", x, axes=(2, 3), keepdim=True)
    y = m.call("conv2d", y, m.weight((inner, width, 1, 1)), None, activation="relu")
    y = m.call("conv2d", y, m.weight((width, inner, 1, 1)), m.bias(width))
    m.call("mul", x, m.call("hardsigmoid", y))


def _shuffle(m: Maker) -> None:
    x = m.value((4,))
    if x is None:
        return
    _, width, *size = shape_of(x)
    groups = m.pick(_divisors(width))
    y = m.call("reshape", x, shape=(groups, width // groups, *size))
    y = m.call("transpose", y, perm=(0, 2, 1, 3, 4))
    m.call("reshape", y, shape=(width, *size))


def _normalised(m: Maker) -> None:
    x = m.value((4,))
    if x is None:
        return
    width, out = shape_of(x)[1], m.number(1, MAX_WIDTH)
    if m.chance(3):
        x = m.call("pad", x, padding=((0, 0), (0, 0), (1, 1), (0, 1)), mode="constant", value=0.0)
    y = m.call("conv2d", x, m.weight((out, width, 1, 1)), m.bias(out))
    rows = [m.constant((out,)), m.constant((out,)), m.constant((out,), trains=False)]
    y = m.call("batch_norm", y, *rows, m.constant((out,), low=1.0, trains=False), eps=1e-3)
    y = m.call(m.pick(("relu", "relu6", "identity", "hardswish")), y)
    m.pool = [v for v in m.pool if not v.users] or m.pool  # mostly nobody else reads what is in between


def _same_padding(m: Maker) -> None:
    """TensorFlow's `SAME` at stride 2 and even sizes: more below and right than above and left."""
    x = m.value((4,))
    if x is None or any(length % 2 for length in shape_of(x)[2:]):
        return
    width, side = shape_of(x)[1], m.pick((3, 3, 5))
    groups = m.pick((1, width))
    weight = m.weight((width, width // groups, side, side))
    small, large = side // 2 - 1, side // 2
    m.call(
        "conv2d", x, weight, m.bias(width), stride=(2, 2), padding=(small, large, small, large),
        dilation=(1, 1), groups=groups, activation=m.activation(),
    )  # fmt: skip


STRUCTURES = (_residual, _squeeze_excite, _shuffle, _normalised, _normalised, _same_padding)
FREQUENT = ("conv2d", "conv2d", "linear", "add", "concat", "slice", "batch_norm", "relu", "mul", "reshape")


LATER = ("global_response_norm", "sign", "lstm", "gru")
"""Added after graphs that had failed once were noted by their seeds: those are made without."""


def random_graph(choices: Choices, steps: int = 10, without: Sequence[str] = ()) -> Graph:
    """A graph of up to about `steps` random operators that works at any batch length.

    Args:
        choices: where all decisions come from; the same ones give the same graph.
        steps: most recipes followed; some add several operators, some none.
        without: recipes that are left out.
    """
    m = Maker(choices)
    names = tuple(name for name in RECIPES if name not in without)
    for index in range(1 + m.chance(4)):
        m.pool.append(m.b.input(f"x{index}", _input_shape(m)))
    if not m.chance(3):  # channels that something makes can go; those of the input cannot
        _stem(m)
    for _ in range(m.number(1, steps)):
        kind = m.number(0, 5)
        if kind == 0:
            m.pick(STRUCTURES)(m)
        else:
            RECIPES[m.pick(FREQUENT if kind <= 3 else names)](m)
    return clean(m.b.finish(*_outputs(m)))  # some recipes make a constant that they do not need


def _stem(m: Maker) -> None:
    x = m.pool.pop(0)
    width = m.number(2, MAX_WIDTH)
    if len(shape_of(x)) == 4:
        m.call("conv2d", x, m.weight((width, shape_of(x)[1], 1, 1)), m.bias(width), activation=m.activation())
    else:
        m.call("linear", x, m.weight((width, shape_of(x)[-1])), m.bias(width), activation=m.activation())


def _input_shape(m: Maker) -> tuple[int, ...]:
    if m.chance(5):
        return (1, m.number(1, MAX_WIDTH), *((m.number(1, 6),) if m.chance(2) else ()))
    return (1, m.number(1, 4), m.number(1, 8), m.number(1, 8))


def _outputs(m: Maker) -> list[fx.Node]:
    """Every value that nobody reads, most of them behind a weight, so that channels before it may go."""
    found: list[fx.Node] = []
    loose = [node for node in m.b.graph.nodes if node.op != "get_attr" and not node.users]
    for node in [n for n in loose if n.op == "call_function"] or loose[:1]:
        shape = shape_of(node)
        if len(shape) == 4 and not m.chance(4):
            node = m.call("conv2d", node, m.weight((2, shape[1], 1, 1)), m.bias(2))
        elif len(shape) > 1 and not m.chance(4):
            node = m.call("linear", node, m.weight((2, shape[-1])), m.bias(2))
        found.append(node)
    return found


def with_keep_notes(graph: Graph, choices: Choices) -> Graph:
    """Note random channels to keep on some of the nodes that weights produce, in place."""
    for node in graph.graph.nodes:
        if node.op != "call_function" or table.row_of(node).scales != "weighted":
            continue
        width = shape_of(node)[1 if table.row_of(node).name != "linear" else -1]
        if choices.number(0, 2):
            keep = [channel for channel in range(width) if choices.number(0, 2)]
            annotate(node, keep=tuple(keep or [choices.number(0, width - 1)]))
    return graph


def with_frozen_nodes(graph: Graph, choices: Choices) -> Graph:
    """Freeze about one operator in six, in place."""
    for node in graph.graph.nodes:
        if node.op == "call_function" and choices.number(0, 5) == 0:
            annotate(node, frozen="by chance")
    return graph


def with_dead_code(graph: Graph, choices: Choices) -> Graph:
    """Let some values be read by operators that lead nowhere, in place."""
    end = output_node(graph)
    for node in calls(graph):
        if choices.number(0, 3) == 0:
            add_call(graph, end, "abs", add_call(graph, end, "relu", node))
    return graph


def with_constant_calls(graph: Graph, choices: Choices) -> Graph:
    """Let some weights come from an operator on constants, in place."""
    for node in calls(graph):
        weighted = table.row_of(node).scales == "weighted" and is_constant(operand(node, 1))
        if weighted and choices.number(0, 1):
            node.update_arg(1, add_call(graph, node, "abs", operand(node, 1)))
    return graph


def seeded_graph(seed: int, steps: int = 10) -> Graph:
    """Graph number `seed`, always the same."""
    return random_graph(Seeded(seed), steps)


def batch_of(graph: Graph, length: int, seed: int = 0) -> list[Tensor]:
    """Normal float32 inputs of a batch length."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [shape_of(node) for node in graph.graph.nodes if node.op == "placeholder"]
    return [torch.randn((length, *shape[1:]), generator=generator) for shape in shapes]


@st.composite
def graphs(draw: Any, steps: int = 10) -> Graph:
    """Random valid graphs, as a strategy of hypothesis."""
    return random_graph(Drawn(draw), steps)


@st.composite
def noted_graphs(draw: Any, steps: int = 10) -> Graph:
    """Random graphs in which some nodes note channels to keep and some are frozen."""
    choices = Drawn(draw)
    graph = with_keep_notes(random_graph(choices, steps), choices)
    return with_frozen_nodes(graph, choices) if choices.number(0, 2) == 0 else graph
