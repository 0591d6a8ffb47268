"""Micro-networks: kernels under test, each in a branch of its own under the conditions of a network.

    x[1,1,1,C] --producer--> value --kernel--> result --sink--> small output

The producer is another operator, so that the kernel reads a value just written, in the runtime's preferred
layout; the sink keeps the result inside the runtime's arena, which the branches share like the layers of a
network. Inputs and outputs of the file are small. Weights are random: no kernel's time depends on the values
of dense weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from mcc.cost_api import Kernel, OperandShape
from mcc.errors import UnsupportedError
from mcc.ir import table
from mcc.ir.channels import channel_axis
from mcc.ir.graph import Graph, GraphBuilder, op_name
from mcc.ir.table import WEIGHTED
from mcc.quant.params import INT8_MAX, INT8_MIN
from mcc.quant.regions import FIXED_OUTPUTS, integer_nodes

SCALE = 1 / 64  # of all int8 values: operands and results share it, as some kernels require
CLAMPED_AT_ZERO = -128  # zero point after a ReLU, which then has no cost; 255 / 64 is below 6, too
WEIGHT_LIMITS = {"int8": 127, "int7": 63}
KERNEL_NAME = "kernel{}"  # of the i-th node under test

Shape = tuple[int, ...]


@dataclass(frozen=True)
class MicroNetwork:
    """A graph with one branch for each kernel.

    Attributes:
        graph: Graph in deployment form, quantised if its kernels are.
        kernels: Kernels in the order of the branches; node i is named `kernel<i>`.
        producers: Number of operators before the kernel, for each branch.
        twinned: Whether each branch has another producer without the kernel, see `fuses`.
    """

    graph: Graph
    kernels: tuple[Kernel, ...]
    producers: tuple[int, ...]
    twinned: tuple[bool, ...]


def micro_network(kernels: Sequence[Kernel], *, blocked: bool = False, seed: int = 0) -> MicroNetwork:
    """Build a micro-network for dense kernels.

    Args:
        kernels: Kernels, all float or none; `layout` is `nhwc`.
        blocked: Whether producers of images are convolutions, after which onnxruntime keeps its own layout;
            otherwise they are broadcast additions, which cost less.
        seed: Seed of the weights.

    Raises:
        UnsupportedError: A kernel is int8 and has no integer form, or is of a sparse cluster.
    """
    for kernel in kernels:
        if kernel.layout != "nhwc" or kernel.sparse is not None:
            raise UnsupportedError("runs in sparse clusters only", where=str(kernel))
    branches = Branches(kernels[0].precision != "float", blocked, seed)
    outputs = [branches.add(index, kernel) for index, kernel in enumerate(kernels)]
    outputs += branches.twins
    graph = branches.b.finish(*outputs)
    if kernels[0].precision != "float":
        integer = {node.name for node in integer_nodes(graph)}
        for index, kernel in enumerate(kernels):
            if KERNEL_NAME.format(index) not in integer:
                raise UnsupportedError("has no integer kernel", where=str(kernel))
    twinned = tuple(branches.twinned(kernel) for kernel in kernels)
    return MicroNetwork(graph, tuple(kernels), tuple(branches.producers), twinned)


def single(kernel: Kernel) -> Graph:
    """A network of this kernel alone, with float inputs and outputs in any precision."""
    branches = Branches(kernel.precision != "float", blocked=False, seed=0)
    args = [
        None
        if o is None
        else branches.constant(f"c{i}", o, kernel, i)
        if o.constant
        else branches.input(o.shape)
        for i, o in enumerate(kernel.operands)
    ]
    made = branches.b.call(kernel.op, *args, name=KERNEL_NAME.format(0), **dict(kernel.attributes))
    return branches.b.finish(branches.quantised(made))


def chain(kernel: Kernel, copies: int, *, seed: int = 0) -> Graph:
    """A chain of copies of a kernel, each with weights of its own.

    The kernel's result must have the shape of its operand; a further operand is the first input.
    """
    branches = Branches(kernel.precision != "float", blocked=True, seed=seed)
    first = value = branches.produced("first", kernel.output)
    for index in range(copies):
        args: list[fx.Node | None] = [value]
        for place, operand in enumerate(kernel.operands[1:], start=1):
            name = f"{KERNEL_NAME.format(index)}_{place}"
            if operand is not None:
                args.append(branches.constant(name, operand, kernel, place) if operand.constant else first)
            else:
                args.append(None)
        value = branches.b.call(kernel.op, *args, name=KERNEL_NAME.format(index), **dict(kernel.attributes))
        value = branches.quantised(value, clamps(kernel))
    return branches.b.finish(branches.sink("sink", value))


class Branches:
    """Builds branches in one graph; `integer` ones are quantised throughout."""

    def __init__(self, integer: bool, blocked: bool, seed: int) -> None:
        self.b = GraphBuilder()
        self.integer = integer
        self.blocked = blocked
        self.generator = torch.Generator().manual_seed(seed)
        self.inputs: dict[Shape, fx.Node] = {}
        self.producers: list[int] = []
        self.twins: list[fx.Node] = []

    def add(self, index: int, kernel: Kernel) -> fx.Node:
        """Add one branch; returns its output."""
        producers, args = 0, list[fx.Node | None]()
        for place, operand in enumerate(kernel.operands):
            name = f"{KERNEL_NAME.format(index)}_{place}"
            if operand is None:
                args.append(None)
            elif operand.constant:
                args.append(self.constant(name, operand, kernel, place))
            else:
                args.append(self.produced(name, operand.shape))
                producers += 1
        result = self.b.call(kernel.op, *args, name=KERNEL_NAME.format(index), **dict(kernel.attributes))
        result = self.quantised(result, clamps(kernel))
        self.producers.append(producers)
        if self.twinned(kernel):
            twin = self.produced(f"{KERNEL_NAME.format(index)}_1", kernel.output)
            self.twins.append(self.sink(f"twin{index}", twin))
        return self.sink(f"sink{index}", result) if takes_sink(kernel) else result

    def twinned(self, kernel: Kernel) -> bool:
        """Whether the kernel's branch has a second producer without the kernel."""
        return self.blocked and not self.integer and fuses(kernel)

    def sink(self, name: str, value: fx.Node) -> fx.Node:
        """The mean over the image, which is small and computed in the value's layout."""
        return self.quantised(self.b.call("mean", value, axes=(2, 3), keepdim=True, name=name))

    def quantised(self, value: fx.Node, clamped: bool = False) -> fx.Node:
        """The value with its quantiser, if the network is quantised."""
        if not self.integer:
            return value
        scale, zero = FIXED_OUTPUTS.get(op_name(value), (SCALE, CLAMPED_AT_ZERO if clamped else 0))
        grid = (
            self.b.constant(f"scale_{scale}".replace(".", "_"), torch.tensor(scale), trains=False),
            self.b.constant(
                f"zero_{zero}".replace("-", "m"), torch.tensor(zero, dtype=torch.int32), trains=False
            ),
        )
        return self.b.call("fake_quantize", value, *grid, qmin=INT8_MIN, qmax=INT8_MAX, axis=None)

    def random(self, shape: Shape) -> Tensor:
        fan_in = max(1, math.prod(shape[1:]))
        return torch.randn(shape, generator=self.generator) / fan_in**0.5

    def constant(self, name: str, operand: OperandShape, kernel: Kernel, place: int) -> fx.Node:
        """A constant operand, quantised if the integer kernel requires it."""
        value = self.random(operand.shape)
        node = self.b.constant(name, value)
        if not self.integer or (kernel.op in WEIGHTED and place == 2):
            return node
        if kernel.op not in WEIGHTED:
            return self.quantised(node)
        limit, axis = WEIGHT_LIMITS[kernel.precision], 1 if kernel.op == "conv_transpose2d" else 0
        length = operand.shape[axis]
        scale = torch.full((length,), 2.0 / limit / max(1, math.prod(operand.shape[1:])) ** 0.5)
        grid = (
            self.b.constant(f"{name}_scale", scale, trains=False),
            self.b.constant(f"{name}_zero", torch.zeros(length, dtype=torch.int32), trains=False),
        )
        return self.b.call("fake_quantize", node, *grid, qmin=-limit, qmax=limit, axis=axis)

    def produced(self, name: str, shape: Shape) -> fx.Node:
        """A value of that shape, computed by a cheap operator from a small input of the file."""
        axis = channel_axis(shape)
        if self.blocked and len(shape) == 4:
            weight = OperandShape((shape[1], 1, 1, 1), constant=True)
            kernel = Kernel("conv2d", (None, weight), shape, (), "int8" if self.integer else "float")
            made = self.b.call(
                "conv2d", self.input((shape[0], 1, *shape[2:])),
                self.constant(f"{name}_w", weight, kernel, 1), None, name=f"{name}_producer",
            )  # fmt: skip
        else:
            long = tuple(length if place == axis else 1 for place, length in enumerate(shape))
            across = tuple(1 if place in (0, axis) else length for place, length in enumerate(shape))
            other = self.quantised(self.b.constant(f"{name}_c", self.random(across)))
            made = self.b.call("add", self.input((shape[0], *long[1:])), other, name=f"{name}_producer")
        return self.quantised(made)

    def input(self, shape: Shape) -> fx.Node:
        """The file's input of that shape, quantised."""
        if shape not in self.inputs:
            node = self.b.input(f"x{len(self.inputs)}", shape)
            self.inputs[shape] = self.quantised(node)
        return self.inputs[shape]


def clamps(kernel: Kernel) -> bool:
    """Whether an activation is fused into the kernel."""
    return dict(kernel.attributes).get("activation", "none") != "none"


def fuses(kernel: Kernel) -> bool:
    """Whether onnxruntime may fuse the kernel into the convolution before it, so that it has no time of its
    own.

    In its blocked layout it does so with most element-wise functions. The branch then has a second producer
    without the kernel, and the kernel's time is the difference of both.
    """
    return table.row(kernel.op).unary and len(kernel.output) == 4


def takes_sink(kernel: Kernel) -> bool:
    """Whether a sink (a mean over the image) follows the kernel: not after a reduction, or without image."""
    return len(kernel.output) == 4 and kernel.op not in ("mean", "sum", "amax")
