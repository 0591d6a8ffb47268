"""The interface of cost models: kernels as keys, estimates with their error and source.

A *kernel* is one node of a graph in deployment form as a runtime executes it: the operator, the shapes of its
operands, its attributes, precision, the storage of its weight, and the layout of the region it runs in. It is
the key of the lookup table and sufficient to build a micro-model.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

import torch
from torch import Tensor, fx

from mcc.ir import table
from mcc.ir.channels import channel_axis
from mcc.ir.graph import Graph, GraphBuilder, calls, is_constant, op_name
from mcc.ir.notes import SparseNote, note, shape_of, type_of

Source = Literal["measured", "fitted", "roofline"]
Layout = Literal["nhwc", "nchw"]
Precision = Literal["float", "int8", "int7"]


@dataclass(frozen=True)
class OperandShape:
    """Shape of an operand, and whether it is a constant of the network."""

    shape: tuple[int, ...]
    constant: bool = False

    def __str__(self) -> str:
        return ("@" if self.constant else "") + "x".join(map(str, self.shape))


@dataclass(frozen=True)
class Kernel:
    """The key of a measured latency.

    Attributes:
        op: Operator of the op table.
        operands: Shapes in elements, axis 0 of activations being the batch; None for an absent bias.
        output: Shape of the result.
        attributes: Attributes of the operator, in table order.
        precision: `float`, `int8`, or `int7` (int8 storage, weights limited to 7 bits).
        sparse: Sparsity and storage of the weight; None for a dense one.
        layout: `nchw` inside XNNPACK's sparse clusters, where other kernels run; `nhwc` elsewhere.
    """

    op: str
    operands: tuple[OperandShape | None, ...]
    output: tuple[int, ...]
    attributes: tuple[tuple[str, Any], ...]
    precision: Precision = "float"
    sparse: SparseNote | None = None
    layout: Layout = "nhwc"

    def __str__(self) -> str:
        operands = ",".join("-" if o is None else str(o) for o in self.operands)
        attributes = " ".join(f"{key}={_plain(value)}" for key, value in self.attributes)
        stored = f" sparse{self.sparse.block}:{self.sparse.sparsity:.2f}" if self.sparse else ""
        return f"{self.op}({operands}) {attributes} {self.precision}{stored} {self.layout}"

    @property
    def macs(self) -> int:
        """Multiply-accumulate operations, zeros included."""
        row = table.row(self.op)
        types = [None if o is None else table.TensorType(o.shape) for o in self.operands]
        return row.macs(types, dict(self.attributes), table.TensorType(self.output))

    @property
    def bytes_moved(self) -> int:
        """Bytes of all operands and the result at the kernel's precision."""
        width = 4 if self.precision == "float" else 1
        elements = sum(torch.Size(o.shape).numel() for o in self.operands if o is not None)
        return (elements + torch.Size(self.output).numel()) * width

    def resized(self, *, read: int | None = None, made: int | None = None) -> Kernel:
        """The kernel with `read` input channels and `made` output channels, where given.

        Channels are on axis 1, or on the last axis of a value with fewer axes. Further operands of the width
        of the first follow it; for other cases (concatenation, transposed values) see `reshaped`.
        """
        return _resize(self, read, made)

    def reshaped(self, operands: Sequence[tuple[int, ...] | None], output: tuple[int, ...]) -> Kernel:
        """The kernel at other shapes; attributes that count channels follow.

        Args:
            operands: One shape for each operand, None for an absent one.
        """
        pairs = zip(operands, self.operands, strict=True)
        shaped = tuple(None if s is None or o is None else OperandShape(s, o.constant) for s, o in pairs)
        attributes = tuple(_attributes_at(self, operands, output).items())
        return dataclasses.replace(self, operands=shaped, output=output, attributes=attributes)

    def build(self, seed: int = 0) -> Graph:
        """A canonical graph of this one operator with random constants (no quantisation, dense weights)."""
        generator = torch.Generator().manual_seed(seed)
        builder = GraphBuilder()
        args: list[fx.Node | None] = []
        for index, operand in enumerate(self.operands):
            if operand is None:
                args.append(None)
            elif operand.constant:
                args.append(builder.constant(f"c{index}", _random(operand.shape, generator)))
            else:
                args.append(builder.input(f"x{index}", operand.shape))
        return builder.finish(builder.call(self.op, *args, name="kernel", **dict(self.attributes)))

    def to_json(self) -> dict[str, Any]:
        """Plain values from which `from_json` rebuilds the kernel."""
        return {
            "op": self.op,
            "operands": [None if o is None else [list(o.shape), o.constant] for o in self.operands],
            "output": list(self.output),
            "attributes": [[key, _INFINITE_WORDS.get(value, value)] for key, value in self.attributes],
            "precision": self.precision,
            "sparse": None if self.sparse is None else [self.sparse.block, self.sparse.sparsity],
            "layout": self.layout,
        }

    @staticmethod
    def from_json(stored: Mapping[str, Any]) -> Kernel:
        """The kernel that `to_json` stored. Raises KeyError, TypeError or ValueError for other values."""
        operands = (None if o is None else OperandShape(tuple(o[0]), bool(o[1])) for o in stored["operands"])
        sparse = stored["sparse"]
        return Kernel(
            str(stored["op"]),
            tuple(operands),
            tuple(stored["output"]),
            tuple((str(key), _tuples(value)) for key, value in stored["attributes"]),
            stored["precision"],
            None if sparse is None else SparseNote(*sparse),
            stored["layout"],
        )


_INFINITE_WORDS: dict[object, str] = {math.inf: "inf", -math.inf: "-inf"}
"""JSON has no infinite numbers; a clamp with one bound has one."""


def _tuples(value: Any) -> Any:
    if isinstance(value, str) and value in _INFINITE_WORDS.values():
        return float(value)
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _plain(value: object) -> str:
    return str(value).replace(" ", "")


def _random(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    fan_in = max(1, torch.Size(shape[1:]).numel())
    return torch.randn(shape, generator=generator) / fan_in**0.5


def _resize(kernel: Kernel, read: int | None, made: int | None) -> Kernel:
    x = kernel.operands[0]
    assert x is not None
    old_read, old_made = x.shape[channel_axis(x.shape)], kernel.output[channel_axis(kernel.output)]
    read, made = read or old_read, made or old_made
    groups = int(dict(kernel.attributes).get("groups", 1))
    operands: list[tuple[int, ...] | None] = []
    for index, operand in enumerate(kernel.operands):
        if operand is None:
            operands.append(None)
            continue
        shape = operand.shape
        if not operand.constant:
            operands.append(_with_channels(shape, old_read, read))
        elif index == 1 and kernel.op in ("conv2d", "linear"):
            operands.append((made, (1 if groups == old_read > 1 else read // groups), *shape[2:]))
        elif index == 1 and kernel.op == "conv_transpose2d":
            operands.append((read, made if groups == 1 else shape[1], *shape[2:]))
        else:
            operands.append(_constant_with_channels(shape, kernel.output, made))
    return kernel.reshaped(operands, _with_channels(kernel.output, old_made, made))


def _with_channels(shape: tuple[int, ...], old: int, new: int) -> tuple[int, ...]:
    axis = channel_axis(shape)
    if shape[axis] != old:
        return shape  # another operand (of a concatenation, for example) keeps its own width
    return (*shape[:axis], new, *shape[axis + 1 :])


def _constant_with_channels(shape: tuple[int, ...], output: tuple[int, ...], made: int) -> tuple[int, ...]:
    """A bias or another vector of one entry per channel, or a constant that broadcasts against the output."""
    old = output[channel_axis(output)]
    axis = 0 if shape == (old,) else channel_axis(output) - (len(output) - len(shape))
    if axis < 0 or shape[axis] != old:
        return shape
    return (*shape[:axis], made, *shape[axis + 1 :])


def _attributes_at(
    kernel: Kernel, operands: Sequence[tuple[int, ...] | None], output: tuple[int, ...]
) -> dict[str, Any]:
    """Attributes at other shapes: counts of channels follow, attributes that do not affect cost are reset."""
    given = dict(kernel.attributes)
    old, new = kernel.operands[0], operands[0]
    if old is None or new is None:
        return given
    match table.row(kernel.op).counts:
        case ("groups",) if given["groups"] == old.shape[1] > 1:
            given["groups"] = new[1]
        case ("shape",):
            given["shape"] = output[1:]
        case ("start", "stop") if given["step"] == 1:
            given.update(start=0, stop=output[given["axis"]])
        case ("padding",):
            added = (o - n for o, n in zip(output, new, strict=True))
            given["padding"] = tuple((amount // 2, amount - amount // 2) for amount in added)
        case _:
            pass
    return given


def kernel_of(
    node: fx.Node,
    *,
    precision: Precision = "float",
    sparse: SparseNote | None = None,
    layout: Layout = "nhwc",
) -> Kernel:
    """The kernel that a runtime runs for an operator node in deployment form.

    The start of a slice and the side on which a pad adds more do not change the cost, so the key leaves them
    out: slices start at 0, and padding is split evenly.
    """
    operands: list[OperandShape | None] = []
    for arg in node.args:
        if not isinstance(arg, fx.Node):
            operands.append(None)
            continue
        operands.append(OperandShape(shape_of(arg), is_constant(_source(arg))))
    found = Kernel(
        op_name(node), tuple(operands), shape_of(node), tuple(node.kwargs.items()), precision, sparse, layout
    )
    return found.reshaped([None if o is None else o.shape for o in operands], found.output)


def _source(node: fx.Node) -> fx.Node:
    while node.op == "call_function" and op_name(node) == "fake_quantize":
        node = cast(fx.Node, node.args[0])
    return node


@dataclass(frozen=True)
class Estimate:
    """A predicted latency.

    Attributes:
        cost: Latency in microseconds, or model cycles on a simulated core.
        error: One standard deviation of the prediction; for sums see `mcc.cost_sum`.
        source: Origin of the value: this kernel measured, a fit between measured kernels of its kind, or a
            roofline from a few figures of the device.
    """

    cost: float
    error: float
    source: Source


@dataclass(frozen=True)
class Measurement:
    """The measured latency of one kernel, in microseconds.

    Attributes:
        latency_us: Median of the repetitions.
        low_us, high_us: Minimum and maximum of the repetitions, or the 95 % interval of a difference.
        runs: Number of timed inferences.
        date: Time of the measurement, ISO 8601 in UTC.
        others_cores: Number of cores that other processes kept busy meanwhile.
    """

    kernel: Kernel
    latency_us: float
    low_us: float
    high_us: float
    runs: int
    date: str
    others_cores: float

    @property
    def error_us(self) -> float:
        """One standard deviation of the latency, from its spread."""
        return max((self.high_us - self.low_us) / 2, 0.01 * self.latency_us)


# Relative, of a network against the sum of its measured kernels: the root mean square is 2.3 to 4.5 % in six
# series of 20 networks (docs/results/prediction.md), rounded up.
WHOLE_ERROR = 0.05


class CostModel(Protocol):
    """Predicts the cost of one kernel on one target."""

    @property
    def name(self) -> str:
        """Name of the kind of model."""
        ...

    @property
    def whole_error(self) -> float:
        """Relative error common to all kernels of a network; `WHOLE_ERROR` where nothing better is known."""
        ...

    def kernel(self, kernel: Kernel) -> Estimate:
        """Latency of a kernel inside a network."""
        ...

    def overhead(self, precision: Precision) -> Estimate:
        """Latency outside the kernels: invoking the runtime, converting input and output."""
        ...


def graph_kernels(
    graph: Graph, integer: Iterable[str] = (), cluster: Iterable[str] = ()
) -> dict[str, Kernel]:
    """Kernels of a graph in deployment form, by node name; fake_quantize nodes have no cost of their own.

    Args:
        integer: Nodes that run as integer kernels.
        cluster: Nodes inside a sparse cluster.
    """
    whole, inside = set(integer), set(cluster)
    found: dict[str, Kernel] = {}
    for node in calls(graph):
        if op_name(node) == "fake_quantize" or all(is_constant(a) for a in node.all_input_nodes):
            continue
        precision: Precision = "float"
        if node.name in whole:
            precision = "int7" if _seven_bits(node) else "int8"
        layout: Layout = "nchw" if node.name in inside else "nhwc"
        sparse = note(node).sparse if layout == "nchw" else None
        found[node.name] = kernel_of(node, precision=precision, sparse=sparse, layout=layout)
    return found


def _seven_bits(node: fx.Node) -> bool:
    weight = node.args[1] if len(node.args) > 1 else None
    return (
        isinstance(weight, fx.Node)
        and op_name(weight) == "fake_quantize"
        and type_of(weight).shape != ()
        and cast(int, weight.kwargs["qmax"]) < 127
    )
