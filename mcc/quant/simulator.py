"""The integer simulator: a quantised graph executed as a mobile runtime executes it, to the bit.

Nodes that `mcc.quant.regions.integer_nodes` names run on int8 codes with `mcc.quant.kernels`; all others in
float32, between dequantise and quantise, as `mcc.quant.float_kernels` says. A value behind a `fake_quantize`
over int8 lives as codes and is turned into real numbers only for a float reader.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from mcc.errors import GraphError
from mcc.ir.graph import constant, inputs, op_name, operand, operands, outputs
from mcc.quant import arithmetic
from mcc.quant.float_kernels import evaluate
from mcc.quant.kernels import Call, run_kernel
from mcc.quant.params import QuantParams, is_fake_quantize, quant_params
from mcc.quant.regions import REQUANTISE_LIMITS, WEIGHTED, IntegerNode, integer_nodes
from mcc.quant.scales import IntegerWeights, integer_weights


@dataclass(frozen=True)
class Codes:
    """A value that lives as int8 codes."""

    codes: Tensor
    params: QuantParams


Value = Tensor | Codes


class Simulator:
    """A quantised graph made ready to run: integer weights and biases are computed once.

    Args:
        graph: canonical, quantised by `fake_quantize` nodes; later changes to it are not seen.

    Raises GraphError for unusable quantisation parameters.
    """

    def __init__(self, graph: fx.GraphModule) -> None:
        self._graph = graph
        self._integer = integer_nodes(graph)
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
        """Like `run`, but an output behind a `fake_quantize` over int8 as its int8 codes."""
        found = self._outputs(values)
        return tuple(value.codes if isinstance(value, Codes) else value for value in found)

    @torch.no_grad()
    def trace(self, *values: Tensor) -> dict[str, Tensor]:
        """Every computed value by node name: int8 codes where the value lives as codes, else float32."""
        found = self._execute(values, keep=True)
        return {node.name: v.codes if isinstance(v, Codes) else v for node, v in found.items()}

    def _outputs(self, values: Sequence[Tensor]) -> list[Value]:
        found = self._execute(values, keep=False)
        return [found[node] for node in outputs(self._graph)]

    def _execute(self, values: Sequence[Tensor], keep: bool) -> dict[fx.Node, Value]:
        """All values by node; without `keep`, only those that are still read behind the last node."""
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
                    if not keep and readers[read] == 0:
                        found.pop(read, None)
        return found

    def _evaluate(self, node: fx.Node, found: dict[fx.Node, Value]) -> Value:
        entry = self._integer.get(node)
        if entry is not None:
            return self._integer_result(entry, found)
        if is_fake_quantize(node):
            return self._quantized(node, found)
        return evaluate(node, [_real(found[arg]) if isinstance(arg, fx.Node) else None for arg in node.args])

    def _integer_result(self, entry: IntegerNode, found: dict[fx.Node, Value]) -> Codes:
        values = [found[arg] for arg in operands(entry.node)[: len(entry.inputs)]]
        codes = tuple(value.codes for value in values if isinstance(value, Codes))
        assert len(codes) == len(values)
        return Codes(run_kernel(Call(entry, codes, self._weights.get(entry.node))), entry.output)

    def _quantized(self, node: fx.Node, found: dict[fx.Node, Value]) -> Value:
        params, value = self._params[node], found[operand(node, 0)]
        if not params.is_int8_activation:
            return evaluate(node, [_real(found[arg]) for arg in operands(node)])
        if not isinstance(value, Codes):
            return Codes(arithmetic.quantize(value, params), params)
        if operand(node, 0) in self._integer:
            return value  # the kernel has already written the codes of this node
        least, greatest = REQUANTISE_LIMITS
        if least <= float(value.params.scale / params.scale) <= greatest:
            return Codes(arithmetic.requantize(value.codes, value.params, params), params)
        return Codes(arithmetic.quantize(_real(value), params), params)


def simulate(graph: fx.GraphModule, values: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Run a quantised graph on real inputs [N, ...] as LiteRT with XNNPACK would; outputs as float32.

    Raises GraphError for unusable quantisation parameters or a wrong number of inputs.
    """
    return Simulator(graph).run(*values)


def _real(value: Value) -> Tensor:
    return arithmetic.dequantize(value.codes, value.params) if isinstance(value, Codes) else value
