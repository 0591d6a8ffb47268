"""The state of one lowering: the ONNX value of each graph value.

A graph value has real numbers, and so has its ONNX value: after a `fake_quantize` it is the result of a
DequantizeLinear. onnxruntime recognises DequantizeLinear -> operator -> QuantizeLinear and runs it on
integers.

Activations are quantised to uint8, the codes of the graph plus 128, and weights stay int8: only this
combination is fully fused. A clamp fused into an integer operator has no operator of its own: it is the
saturation of the codes where zero point and range allow it, and otherwise a Clip of the codes, after the
QuantizeLinear, so that it is not between operator and quantisation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import fx

from mcc.errors import UnsupportedError
from mcc.ir.graph import constant, is_constant, op_name, operand, operands
from mcc.ir.notes import shape_of
from mcc.ir.table import WEIGHTED
from mcc.lower.onnx.builder import Array, OnnxGraph
from mcc.quant.arithmetic import clamp_bounds
from mcc.quant.params import INT8_MAX, INT8_MIN, QuantParams, is_fake_quantize, quant_params
from mcc.quant.regions import IntegerNode, integer_nodes
from mcc.quant.scales import integer_weights, quantized_constant

UINT8_SHIFT = 128
Emit = Callable[["Lowering", fx.Node], str]
EMITTERS: dict[str, Emit] = {}


def emits(name: str) -> Callable[[Emit], Emit]:
    """Register the emit function of a row of the op table: it adds operators and names their result."""

    def register(emit: Emit) -> Emit:
        EMITTERS[name] = emit
        return emit

    return register


def attributes(node: fx.Node) -> dict[str, Any]:
    """The static attributes of a node."""
    return dict(node.kwargs)


class Lowering:
    """Mapping of graph values to ONNX values.

    Args:
        graph: Graph to lower.
        model: ONNX graph under construction.
    """

    def __init__(self, graph: fx.GraphModule, model: OnnxGraph) -> None:
        self.graph = graph
        self.model = model
        self.integer: dict[fx.Node, IntegerNode] = integer_nodes(graph)
        self._values: dict[fx.Node, str] = {}

    def bind(self, node: fx.Node, name: str) -> None:
        """Set the ONNX value of a graph value."""
        self._values[node] = name

    def value(self, node: fx.Node) -> str:
        """The ONNX value of a graph value."""
        if node not in self._values and is_constant(node):
            name = str(node.target)
            self._values[node] = self.model.constant(self.array(node), name, owner=name)
        return self._values[node]

    def weight(self, node: fx.Node) -> str:
        """The weight of a node: float, or int8 with a DequantizeLinear of its own.

        onnxruntime rewrites the integers and the zero point of a weight in place and fails if two nodes share
        either, so no part of a quantised weight is shared.
        """
        source = operand(node, 1)
        if not is_fake_quantize(source) or not is_constant(operand(source, 0)):
            return self.value(source)
        params = eight_bits(self.graph, source)
        integers = self.model.own_constant(quantized_constant(self.graph, source), f"{source.name}/integers")
        zeros = np.asarray(params.zero_points, np.int8)
        scales = params.scale_vector
        if params.axis is None:
            zeros, scales = zeros.reshape(()), scales.reshape(())
        scale = self.model.constant(scales, f"{source.name}/scale", owner=source.name)
        zero = self.model.own_constant(zeros, f"{source.name}/zero_point")
        return self.add(source, "DequantizeLinear", [integers, scale, zero], **along(params))

    def array(self, node: fx.Node) -> Array:
        """A constant of the graph as an array."""
        value: Array = constant(self.graph, node).detach().to("cpu").numpy()
        return value.astype(np.float32) if value.dtype == np.float64 else value

    def operands(self, node: fx.Node) -> list[str]:
        """The ONNX values of all operands that are present."""
        return [self.value(source) for source in operands(node)]

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """The declared shape of a graph value."""
        return shape_of(node)

    def add(self, node: fx.Node, op: str, inputs: list[str], suffix: str = "", **options: Any) -> str:
        """Add an operator for a node; the result is named after the node."""
        return self.model.node(op, inputs, f"{node.name}/{suffix}" if suffix else node.name, **options)

    def activated(self, node: fx.Node, emit: Callable[[str], str]) -> str:
        """The result of an operator with its fused clamp; on integers, quantisation applies the clamp.

        Args:
            emit: Function that adds the operator with a given suffix and returns its result.
        """
        activation = attributes(node)["activation"]
        if activation == "none" or node in self.integer:
            return emit("")
        result = emit("linear")
        if activation == "relu":
            return self.add(node, "Relu", [result])
        limits = [self.model.number(0.0, "zero"), self.model.number(6.0, "six")]
        return self.add(node, "Clip", [result, *limits])

    def bias(self, node: fx.Node, index: int = 2) -> list[str]:
        """The bias of a weighted operator, if it has one: float, or int32 with a DequantizeLinear."""
        source = node.args[index] if index < len(node.args) else None
        if not isinstance(source, fx.Node):
            return []
        entry = self.integer.get(node)
        if entry is None:
            return [self.value(source)]
        weights = integer_weights(self.graph, entry)
        steps = self.model.constant(weights.bias, f"{node.name}/bias", owner=node.name)
        scale = self.model.constant(weights.bias_scale, f"{node.name}/bias_scale", owner=node.name)
        zero = self.model.constant(np.zeros(len(weights.bias), np.int32), f"{node.name}/bias_zero")
        return [self.add(node, "DequantizeLinear", [steps, scale, zero], "bias_real", axis=0)]

    def grid(self, params: QuantParams, wished: str) -> tuple[str, str]:
        """Scale and zero point of an activation as constants: those of the graph, codes plus 128."""
        zeros, scales = np.asarray(params.zero_points), params.scale_vector
        if params.axis is None:
            zeros, scales = zeros.reshape(()), scales.reshape(())
        codes = (zeros + UINT8_SHIFT).astype(np.uint8)
        scale = self.model.constant(scales, f"{wished}/scale", owner=wished)
        zero = self.model.constant(codes, f"{wished}/zero_point", owner=wished)
        return scale, zero

    def quantized(
        self, value: str, params: QuantParams, wished: str, bounds: tuple[int, int] | None = None
    ) -> str:
        """A value after QuantizeLinear, Clip of its codes if `bounds` are narrower, and DequantizeLinear."""
        grid = self.grid(params, wished)
        codes = self.model.node("QuantizeLinear", [value, *grid], f"{wished}/quantized", **along(params))
        low, high = bounds or (params.qmin, params.qmax)
        if (low, high) != (INT8_MIN, INT8_MAX):
            limits = [
                self.model.constant(np.asarray(v + UINT8_SHIFT, np.uint8), "limit") for v in (low, high)
            ]
            codes = self.model.node("Clip", [codes, *limits], f"{wished}/clipped")
        return self.model.node("DequantizeLinear", [codes, *grid], wished, **along(params))

    def requantize_operand(self, node: fx.Node, value: str, wished: str) -> str:
        """A value on the grid of the node's first operand, so that an operator is between two equal grids."""
        return self.quantized(value, self.integer[node].inputs[0], f"{node.name}/{wished}")


def along(params: QuantParams) -> dict[str, Any]:
    """The axis attribute of a per-channel quantisation."""
    return {} if params.axis is None else {"axis": params.axis}


def eight_bits(graph: fx.GraphModule, node: fx.Node) -> QuantParams:
    """Parameters of a `fake_quantize` node. Raises UnsupportedError where they do not fit into 8 bits."""
    params = quant_params(graph, node)
    if params.qmin < INT8_MIN or params.qmax > INT8_MAX:
        raise UnsupportedError(
            f"fake_quantize to {params.qmin}..{params.qmax} has no 8-bit form in ONNX",
            where=node.name,
            hint="use at most 8 bits",
        )
    return params


@emits("fake_quantize")
def fake_quantize(low: Lowering, node: fx.Node) -> str:
    """QuantizeLinear and DequantizeLinear; for a constant, its codes and a DequantizeLinear."""
    source, params = operand(node, 0), eight_bits(low.graph, node)
    if is_constant(source):
        codes = quantized_constant(low.graph, node).astype(np.int16) + UINT8_SHIFT
        stored = low.model.constant(codes.astype(np.uint8), f"{node.name}/codes", owner=node.name)
        return low.add(node, "DequantizeLinear", [stored, *low.grid(params, node.name)], **along(params))
    entry = low.integer.get(source)
    value = low.value(source)
    if entry is None:
        return low.quantized(value, params, node.name)
    if entry.requantise == "output":
        value = low.requantize_operand(source, value, "moved")
    activation = str(source.kwargs.get("activation", "none"))
    return low.quantized(value, params, node.name, clamp_bounds(activation, params))


def is_only_weight(node: fx.Node) -> bool:
    """Whether a value is a quantised constant read only as weight of weighted operators."""
    constant_source = is_fake_quantize(node) and is_constant(operand(node, 0))
    return constant_source and all(op_name(u) in WEIGHTED and operand(u, 1) is node for u in node.users)
