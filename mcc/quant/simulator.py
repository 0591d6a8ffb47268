"""The integer simulator: bit-exact execution of a quantised graph as by a mobile runtime.

Nodes selected by `mcc.quant.regions.integer_nodes` run on int8 codes with `mcc.quant.kernels`; all others in
float32, between dequantise and quantise, with `mcc.quant.float_kernels`. A value after a `fake_quantize` over
int8 is kept as codes and dequantised only for a float reader.

The flavour selects the arithmetic of a runtime. `xnnpack` is LiteRT's, bit for bit. onnxruntime agrees with
it for operators with weights, but computes all others in float32 and rounds once, half to even, where XNNPACK
has multipliers of 8 bits (leaky_relu, requantise) or rounds half up (bilinear resize) or half away from zero
(average pooling). `onnxruntime` is that arithmetic; a code next to a tie may still be rounded either way.

`executorch` is XNNPACK's arithmetic, too, but ExecuTorch has none of the built-in kernels of LiteRT: average
pooling and softmax run in float32 between conversions.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, fx

from mcc.errors import GraphError
from mcc.ir.graph import constant, inputs, op_name, operand, operands, outputs
from mcc.ir.table import WEIGHTED
from mcc.quant import arithmetic, onnxruntime_kernels
from mcc.quant.float_kernels import evaluate
from mcc.quant.kernels import Call, run_kernel
from mcc.quant.params import QuantParams, is_fake_quantize, quant_params
from mcc.quant.regions import REQUANTISE_LIMITS, IntegerNode, integer_nodes
from mcc.quant.scales import IntegerWeights, integer_weights


@dataclass(frozen=True)
class Codes:
    """A value kept as int8 codes."""

    codes: Tensor
    params: QuantParams


Value = Tensor | Codes
Flavour = Literal["xnnpack", "onnxruntime", "executorch"]

BUILT_IN = frozenset({"avg_pool2d", "softmax"})
"""Operators whose int8 kernels are LiteRT's own, not XNNPACK's."""

_FLAVOURS: dict[str, Flavour] = {".onnx": "onnxruntime", ".ort": "onnxruntime", ".pte": "executorch"}


def flavour_of(suffix: str) -> Flavour:
    """The flavour of a lowered file with that suffix."""
    return _FLAVOURS.get(suffix, "xnnpack")


class Simulator:
    """A quantised graph prepared for execution: integer weights and biases are computed once.

    Args:
        graph: Canonical graph, quantised by `fake_quantize` nodes; later changes to it have no effect.
        flavour: Arithmetic of a runtime; see the module.

    Raises GraphError for unusable quantisation parameters, ValueError for an unknown flavour.
    """

    def __init__(self, graph: fx.GraphModule, flavour: Flavour = "xnnpack") -> None:
        if flavour not in get_args(Flavour):
            raise ValueError(f"flavour must be {' or '.join(get_args(Flavour))}, not {flavour!r}")
        self._graph = graph
        self._divides = flavour == "onnxruntime"
        self._integer = integer_nodes(graph)
        if flavour == "executorch":
            self._integer = {n: e for n, e in self._integer.items() if op_name(n) not in BUILT_IN}
        self._weights: dict[fx.Node, IntegerWeights] = {
            node: integer_weights(graph, entry)
            for node, entry in self._integer.items()
            if op_name(node) in WEIGHTED
        }
        self._packed = {
            operand(node, 1)
            for node in self._weights
            if all(u in self._weights for u in operand(node, 1).users)
        }
        self._params = {n: quant_params(graph, n) for n in graph.graph.nodes if is_fake_quantize(n)}

    @torch.no_grad()
    def run(self, *values: Tensor) -> tuple[Tensor, ...]:
        """The outputs for real inputs [N, ...], as float32; N may differ from the declared batch."""
        return tuple(_real(value) for value in self._outputs(values))

    @torch.no_grad()
    def codes(self, *values: Tensor) -> tuple[Tensor, ...]:
        """Like `run`, but an output of a `fake_quantize` over int8 is returned as its int8 codes."""
        found = self._outputs(values)
        return tuple(value.codes if isinstance(value, Codes) else value for value in found)

    @torch.no_grad()
    def trace(self, *values: Tensor) -> dict[str, Tensor]:
        """Every computed value by node name: int8 codes where the value is kept as codes, else float32."""
        found = self._execute(values, keep=None)
        return {node.name: v.codes if isinstance(v, Codes) else v for node, v in found.items()}

    @torch.no_grad()
    def named(self, names: Collection[str], *values: Tensor) -> dict[str, Tensor]:
        """The named values as real numbers; a quantised one after quantisation."""
        wanted = {node for node in self._graph.graph.nodes if node.name in names}
        found = self._execute(values, keep=wanted)
        return {node.name: _real(found[node]) for node in wanted}

    def _outputs(self, values: Sequence[Tensor]) -> list[Value]:
        found = self._execute(values, keep=())
        return [found[node] for node in outputs(self._graph)]

    def _execute(self, values: Sequence[Tensor], keep: Collection[fx.Node] | None) -> dict[fx.Node, Value]:
        """Values by node: those still in use after the last node, and those to keep (all if None)."""
        placeholders = inputs(self._graph)
        if len(placeholders) != len(values):
            raise GraphError(f"the graph takes {len(placeholders)} inputs, not {len(values)}")
        found: dict[fx.Node, Value] = dict(zip(placeholders, values, strict=True))
        readers = {node: len(node.users) for node in self._graph.graph.nodes}
        for node in self._graph.graph.nodes:
            if node.op == "get_attr":
                found[node] = constant(self._graph, node).detach()
            elif node.op == "call_function" and node not in self._packed:
                found[node] = self._evaluate(node, found)
                for read in node.all_input_nodes:
                    readers[read] -= 1
                    if keep is not None and readers[read] == 0 and read not in keep:
                        found.pop(read, None)
        return found

    def _evaluate(self, node: fx.Node, found: dict[fx.Node, Value]) -> Value:
        entry = self._integer.get(node)
        if entry is not None and not (self._divides and entry.weight is None):
            return self._integer_result(entry, found)
        if is_fake_quantize(node):
            return self._quantized(node, found)
        if self._divides:
            result = _onnxruntime_result(node, found)
            if result is not None:
                return result
        values = [_real(found[arg]) if isinstance(arg, fx.Node) else None for arg in node.args]
        return evaluate(node, values)

    def _integer_result(self, entry: IntegerNode, found: dict[fx.Node, Value]) -> Codes:
        values = [found[arg] for arg in operands(entry.node)[: len(entry.inputs)]]
        codes = tuple(value.codes for value in values if isinstance(value, Codes))
        assert len(codes) == len(values)
        return Codes(run_kernel(Call(entry, codes, self._weights.get(entry.node))), entry.output)

    def _quantized(self, node: fx.Node, found: dict[fx.Node, Value]) -> Value:
        params, value = self._params[node], found[operand(node, 0)]
        if not params.is_int8_activation:
            return evaluate(node, [_real(found[arg]) for arg in operands(node)])
        if isinstance(value, Codes) and value.params.same_mapping(params):
            return value  # the kernel has already written the codes of this node
        if self._divides:
            return Codes(arithmetic.quantize_by_division(_real(value), params), params)
        if isinstance(value, Codes) and _convertible(value.params, params):
            return Codes(arithmetic.requantize(value.codes, value.params, params), params)
        return Codes(arithmetic.quantize(_real(value), params), params)


def simulate(
    graph: fx.GraphModule, values: Sequence[Tensor], *, flavour: Flavour = "xnnpack"
) -> tuple[Tensor, ...]:
    """Run a quantised graph on real inputs [N, ...] as by a runtime; outputs as float32.

    Raises GraphError for unusable quantisation parameters or a wrong number of inputs.
    """
    return Simulator(graph, flavour).run(*values)


def _onnxruntime_result(node: fx.Node, found: dict[fx.Node, Value]) -> Value | None:
    """The result of an operator that onnxruntime computes differently, or None for other operators."""
    options: dict[str, Any] = dict(node.kwargs)
    if op_name(node) == "resize" and options["mode"] == "bilinear":
        x = _real(found[operand(node, 0)])
        return onnxruntime_kernels.resize_bilinear(x, options["size"], bool(options["align_corners"]))
    value = found[operand(node, 0)]
    if op_name(node) == "avg_pool2d" and isinstance(value, Codes):
        codes = onnxruntime_kernels.average_pool(value.codes, value.params.zero_point, options)
        return Codes(codes, value.params)
    return None


def _convertible(source: QuantParams, target: QuantParams) -> bool:
    least, greatest = REQUANTISE_LIMITS
    return least <= float(source.scale / target.scale) <= greatest


def _real(value: Value) -> Tensor:
    return arithmetic.dequantize(value.codes, value.params) if isinstance(value, Codes) else value
