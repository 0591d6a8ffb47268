"""A plain min/max quantiser for tests of the lowering: a float graph gets its fake quantisations."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from mcc.ir import table
from mcc.ir.graph import Graph, GraphBuilder, constant, is_constant, op_name, outputs
from mcc.ir.notes import shape_of

WEIGHT_AXIS = {"conv2d": 0, "linear": 0, "conv_transpose2d": 1}
FIXED = {"sigmoid": (1 / 256, -128), "softmax": (1 / 256, -128), "tanh": (1 / 128, 0)}


class _Recorder(fx.Interpreter):
    """Runs a graph and keeps every value."""

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self.values: dict[fx.Node, Tensor] = {}

    def run_node(self, n: fx.Node):
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.values[n] = result.detach()
        return result


def grid(value: Tensor) -> tuple[float, int]:
    """Scale and zero point of int8 over the range of a tensor, zero included."""
    low, high = min(float(value.min()), 0.0), max(float(value.max()), 0.0)
    scale = max((high - low) / 255, 1e-8)
    return scale, round(-128 - low / scale)


class _Quantiser:
    def __init__(self, graph: Graph, samples: tuple[Tensor, ...], weight_bits: int) -> None:
        self.graph = graph
        self.b = GraphBuilder()
        self.weight_limit = 2 ** (weight_bits - 1) - 1
        recorder = _Recorder(graph)
        with torch.no_grad():
            recorder.run(*samples)
        self.values = recorder.values
        self.map: dict[fx.Node, fx.Node] = {}
        self.grids: dict[fx.Node, tuple[fx.Node, fx.Node]] = {}

    def parameters(self, name: str, scale: float, zero: int) -> tuple[fx.Node, fx.Node]:
        return (
            self.b.constant(f"{name}_scale", torch.tensor(scale), trains=False),
            self.b.constant(f"{name}_zero", torch.tensor(zero, dtype=torch.int32), trains=False),
        )

    def activation(
        self, node: fx.Node, value: fx.Node, grids: tuple[fx.Node, fx.Node] | None = None
    ) -> fx.Node:
        if grids is None:
            name = op_name(node) if node.op == "call_function" else ""
            scale, zero = FIXED.get(name) or grid(self.values[node])
            grids = self.parameters(node.name, scale, zero)
        self.grids[node] = grids
        return self.b.fake_quantize(value, *grids, qmin=-128, qmax=127, axis=None)

    def weight(self, node: fx.Node, source: fx.Node) -> fx.Node:
        w = constant(self.graph, source).detach()
        axis = WEIGHT_AXIS[op_name(node)]
        others = [i for i in range(w.dim()) if i != axis]
        scale = (w.abs().amax(others) / self.weight_limit).clamp(min=1e-6)
        c = self.b.constant(str(source.target), w)
        s = self.b.constant(f"{source.target}_scale", scale, trains=False)
        z = self.b.constant(f"{source.target}_zero", torch.zeros(len(scale), dtype=torch.int32), trains=False)
        return self.b.fake_quantize(c, s, z, qmin=-self.weight_limit, qmax=self.weight_limit, axis=axis)

    def operand(self, node: fx.Node, index: int, source: fx.Node) -> fx.Node:
        if not is_constant(source):
            return self.map[source]
        if index == 1 and op_name(node) in WEIGHT_AXIS:
            return self.weight(node, source)
        value = constant(self.graph, source).detach()
        c = self.b.constant(str(source.target), value)
        if (index == 2 and op_name(node) in WEIGHT_AXIS) or table.row_of(node).scales == "float":
            return c
        return self.b.fake_quantize(
            c, *self.parameters(str(source.target), *grid(value)), qmin=-128, qmax=127, axis=None
        )

    def call(self, node: fx.Node) -> fx.Node:
        args = [None if a is None else self.operand(node, i, a) for i, a in enumerate(node.args)]
        value = self.b.call(op_name(node), *args, **node.kwargs)
        tied = table.row_of(node).scales == "tied" and op_name(node) not in ("relu", "relu6", "concat")
        return self.activation(node, value, self.grids[node.args[0]] if tied else None)

    def copy(self, node: fx.Node) -> fx.Node:
        """The node as it is, in float, its notes kept."""
        args = [None if a is None else self.float_operand(a) for a in node.args]
        value = self.b.call(op_name(node), *args, name=node.name, **node.kwargs)
        value.meta = dict(node.meta)
        return value

    def float_operand(self, source: fx.Node) -> fx.Node:
        if is_constant(source):
            return self.b.constant(str(source.target), constant(self.graph, source).detach())
        return self.map[source]

    def run(self, float_until: str = "") -> Graph:
        """Quantise what comes after the named node; everything if none is named."""
        in_float = bool(float_until)
        for node in self.graph.graph.nodes:
            if node.op == "placeholder":
                value = self.b.input(node.name, shape_of(node))
                self.map[node] = value if in_float else self.activation(node, value)
            elif node.op == "call_function":
                self.map[node] = self.copy(node) if in_float else self.call(node)
            if in_float and node.name == float_until:
                in_float = False
                self.map[node] = self.activation(node, self.map[node])
        return self.b.finish(*(self.map[node] for node in outputs(self.graph)))


def quantised(graph: Graph, *samples: Tensor, weight_bits: int = 8) -> Graph:
    """The graph with all activations in int8 and weights per output channel; ranges from one sample batch."""
    return _Quantiser(graph, samples, weight_bits).run()


def quantised_head(graph: Graph, *samples: Tensor) -> Graph:
    """The graph in float up to its pool, and its linear head in int8."""
    pool = next(node.name for node in graph.graph.nodes if op_name(node) == "mean")
    return _Quantiser(graph, samples, 8).run(float_until=pool)
