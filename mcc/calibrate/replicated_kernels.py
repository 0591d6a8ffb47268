"""Networks of many copies of one kernel, for measuring by difference; also inside sparse clusters."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from mcc.calibrate.micro import KERNEL_NAME, Branches, clamps, takes_sink
from mcc.cost_api import Kernel, OperandShape
from mcc.errors import UnsupportedError
from mcc.ir.graph import Graph
from mcc.ir.notes import SparseNote, annotate, shape_of
from mcc.quant.regions import integer_nodes

SINK_CHANNELS = 16  # one block of onnxruntime's layout
SINK_STRIDE = 4
HELPER_CHANNELS = 8  # of the sparse convolution that activates a cluster for a kernel without sparse weights
HELPER_SPARSITY = 0.95


def copies_network(kernel: Kernel, sinks: int, distinct: int, *, blocked: bool = False) -> Graph:
    """A network with `distinct` copies of a kernel and `sinks` sinks, evenly distributed over the copies.

    Args:
        blocked: Whether onnxruntime keeps its blocked layout and merges no copies; requires a kernel with
            weights.

    Raises:
        UnsupportedError: The kernel has no integer form, or none inside a sparse cluster.
    """
    kind = _Cluster if kernel.layout == "nchw" else _Blocked if blocked else _Plain
    branches = kind(kernel)
    values = [branches.copy(index) for index in range(distinct)]
    ends = [branches.end(index, values[index % distinct]) for index in range(sinks)]
    total = ends[0]
    for end in ends[1:]:
        total = branches.joined(total, end)
    graph = branches.b.finish(branches.closed(total), *branches.helpers(values[0]))
    if branches.integer and KERNEL_NAME.format(0) not in {node.name for node in integer_nodes(graph)}:
        raise UnsupportedError("has no integer kernel", where=str(kernel))
    return graph


class _Plain(Branches):
    """Copies after a cheap producer."""

    def __init__(self, kernel: Kernel, blocked: bool = False) -> None:
        super().__init__(kernel.precision != "float", blocked, seed=0)
        self.kernel = kernel
        self.values = [
            None if operand is None or operand.constant else self.source(place, operand)
            for place, operand in enumerate(kernel.operands)
        ]

    def source(self, place: int, operand: OperandShape) -> fx.Node:
        """The value that all copies read as operand `place`."""
        return self.produced(f"first_{place}", operand.shape)

    def copy(self, index: int) -> fx.Node:
        """One copy with weights of its own."""
        args: list[fx.Node | None] = []
        for place, operand in enumerate(self.kernel.operands):
            name = f"{KERNEL_NAME.format(index)}_{place}"
            if operand is not None and operand.constant:
                args.append(self.constant(name, operand, self.kernel, place))
            else:
                args.append(self.values[place])
        name, attributes = KERNEL_NAME.format(index), dict(self.kernel.attributes)
        node = self.b.call(self.kernel.op, *args, name=name, **attributes)
        if self.kernel.sparse is not None:
            annotate(node, sparse=self.kernel.sparse)
        return self.quantised(node, clamps(self.kernel))

    def end(self, index: int, value: fx.Node) -> fx.Node:
        """The part of a copy's result that is added to the sum."""
        return self.sink(f"sink{index}", value) if takes_sink(self.kernel) else value

    def helpers(self, result: fx.Node) -> list[fx.Node]:
        """Further outputs of the network."""
        return []

    def closed(self, total: fx.Node) -> fx.Node:
        """The output of the network."""
        return total

    def joined(self, total: fx.Node, end: fx.Node) -> fx.Node:
        """The sum so far plus one more end."""
        return self.quantised(self.b.call("add", total, end))


class _Blocked(_Plain):
    """Copies in onnxruntime's blocked layout; sinks have weights, since equal ones would be merged."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel, blocked=True)

    def end(self, index: int, value: fx.Node) -> fx.Node:
        """The mean of a small convolution of a few pixels."""
        shape = shape_of(value)
        if len(shape) != 4:
            return value
        weight = OperandShape((SINK_CHANNELS, shape[1], 1, 1), constant=True)
        conv = Kernel("conv2d", (None, weight), shape, (), self.kernel.precision)
        stride = (min(SINK_STRIDE, shape[2]), min(SINK_STRIDE, shape[3]))
        constant = self.constant(f"sink{index}_w", weight, conv, 1)
        thin = self.quantised(self.b.conv2d(value, constant, None, stride=stride, name=f"thin{index}"))
        return self.sink(f"sink{index}", thin)


class _Cluster(_Plain):
    """Copies inside a cluster that XNNPACK's sparse path accepts."""

    def __init__(self, kernel: Kernel) -> None:
        first = kernel.operands[0]
        if kernel.precision != "float" or first is None or len(first.shape) != 4:
            raise UnsupportedError("cannot run inside a sparse cluster", where=str(kernel))
        weight = kernel.operands[1] if len(kernel.operands) > 1 else None
        pointwise = weight is not None and weight.constant and weight.shape[2:] == (1, 1)
        if pointwise and kernel.sparse is None:
            raise UnsupportedError("a cluster of dense 1x1 convolutions is no sparse one", where=str(kernel))
        super().__init__(kernel)

    def source(self, place: int, operand: OperandShape) -> fx.Node:
        """The result of the stem that begins every cluster, or its image; a second operand comes after it."""
        n, channels, height, width = operand.shape
        if channels == 3:
            return self.input(operand.shape)
        stem = self.stem(self.input((n, 3, 2 * height, 2 * width)), channels)
        if place == 0:
            return stem
        weight = self.b.constant(f"second{place}_w", self.random((channels, 1, 3, 3)))
        return self.b.conv2d(stem, weight, None, padding=(1,) * 4, groups=channels, name=f"second{place}")

    def stem(self, image: fx.Node, channels: int) -> fx.Node:
        """A 3x3 convolution of stride 2, shared by all callers."""
        for node in self.b.graph.nodes:
            if node.name == "stem":
                return node
        weight = self.b.constant("stem_w", self.random((channels, 3, 3, 3)))
        bias = self.b.constant("stem_b", torch.zeros(channels))
        return self.b.conv2d(
            image, weight, bias, stride=(2, 2), padding=(1,) * 4, activation="relu6", name="stem"
        )

    def constant(self, name: str, operand: OperandShape, kernel: Kernel, place: int) -> fx.Node:
        """A constant operand; a weight has the kernel's sparsity."""
        if place != 1 or kernel.sparse is None:
            return super().constant(name, operand, kernel, place)
        return self.b.constant(name, self.thinned(self.random(operand.shape), kernel.sparse))

    def thinned(self, weight: Tensor, sparse: SparseNote) -> Tensor:
        """The weight [O, I, 1, 1] with a random share of its blocks zero."""
        rows = -(-weight.shape[0] // sparse.block)
        count = int(rows * weight.shape[1] * sparse.sparsity)
        order = torch.randperm(rows * weight.shape[1], generator=self.generator)
        keep = torch.ones(rows * weight.shape[1])
        keep[order[:count]] = 0.0
        mask = keep.reshape(rows, -1).repeat_interleave(sparse.block, 0)[: weight.shape[0]]
        return weight * mask[:, :, None, None]

    def helpers(self, result: fx.Node) -> list[fx.Node]:
        """A small sparse convolution if the kernel is none, since a cluster needs one to be active."""
        if self.kernel.sparse is not None:
            return []
        value = self.values[0]
        assert value is not None
        if value.op == "placeholder":  # the kernel is a stem
            value = result
        sparse = SparseNote(1, HELPER_SPARSITY)
        weight = self.thinned(self.random((HELPER_CHANNELS, shape_of(value)[1], 1, 1)), sparse)
        node = self.b.conv2d(value, self.b.constant("helper_w", weight), None, name="helper")
        annotate(node, sparse=sparse)
        return [self.sink("helper_sink", node)]

    def end(self, index: int, value: fx.Node) -> fx.Node:
        """An end that is summed inside the cluster, since many pools of one value crash LiteRT.js 2.5.

        Ends are distinct values: a sum that reads one value twice would deactivate the cluster.
        """
        return value if self.kernel.op == "mean" else self.b.call("abs", value, name=f"end{index}")

    def closed(self, total: fx.Node) -> fx.Node:
        """The global mean that closes the cluster."""
        return total if self.kernel.op == "mean" else self.sink("sink", total)
