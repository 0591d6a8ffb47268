"""Conversion of a canonical graph to a module for `torch.export` and ExecuTorch's partitioner.

The operators of the canonical form are plain functions of torch, so the graph itself is exported; only
patterns that XNNPACK's partitioner would not recognise are rewritten:

    fake_quantize of a value        quantize_per_tensor, and one dequantize_per_tensor for each reader
    fake_quantize of a weight       int8 constant and dequantize_per_channel or _per_tensor
    mean over the image             keepdim, then a reshape
    pooling, transposed convolution torch's own operator, where it is equivalent

A dequantise with several readers causes "dependency cycles" in the partitioner.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from mcc.errors import UnsupportedError
from mcc.ir import ops
from mcc.ir.graph import constant, inputs, is_constant, live_nodes, op_name, operand, outputs
from mcc.ir.table import WEIGHTED
from mcc.quant.params import INT8_MAX, INT8_MIN, QuantParams, is_fake_quantize, quant_params
from mcc.quant.regions import integer_nodes
from mcc.quant.scales import integer_weights, quantized_constant

Arguments = dict[str, Any]


def exportable(graph: fx.GraphModule) -> fx.GraphModule:
    """A module with the same inputs and outputs whose quantisers are explicit integer operators.

    Raises:
        UnsupportedError: A quantiser has more than 8 bits.
    """
    import torch.ao.quantization.fx._decomposed  # noqa: F401  # pyright: ignore  (registers the operators)

    return _Writer(graph).run()


class _Writer:
    """Copies a graph node by node; `codes` has the integer values of quantisers."""

    def __init__(self, graph: fx.GraphModule) -> None:
        self.source = graph
        self.integer = integer_nodes(graph)
        self.root = nn.Module()
        self.graph = fx.Graph()
        self.values: dict[fx.Node, fx.Node] = {}
        self.codes: dict[fx.Node, tuple[fx.Node, tuple[Any, ...], Any]] = {}

    def run(self) -> fx.GraphModule:
        for node in inputs(self.source):
            self.values[node] = self.graph.placeholder(node.name)
        for node in live_nodes(self.source):
            if node.op == "call_function":
                self._add(node)
        self.graph.output(tuple(self.read(node) for node in outputs(self.source)))
        return fx.GraphModule(self.root, self.graph)

    def read(self, node: fx.Node) -> fx.Node:
        """The value of a node for one reader: after a quantiser, with a dequantise of its own."""
        if node in self.codes:
            codes, parameters, dequantise = self.codes[node]
            return self.graph.call_function(dequantise, (codes, *parameters))
        if node not in self.values:
            assert is_constant(node)
            self.values[node] = self.buffer(str(node.target), constant(self.source, node).detach())
        return self.values[node]

    def buffer(self, name: str, value: Tensor) -> fx.Node:
        """A constant of the new module."""
        unique, count = name, 1
        while hasattr(self.root, unique):
            unique, count = f"{name}_{count}", count + 1
        self.root.register_buffer(unique, value.contiguous())
        return self.graph.get_attr(unique)

    def _add(self, node: fx.Node) -> None:
        if is_fake_quantize(node):
            self._quantise(node)
            return
        args = [self.read(arg) if isinstance(arg, fx.Node) else None for arg in node.args]
        if node in self.integer and op_name(node) in WEIGHTED and len(args) > 2 and args[2] is not None:
            args[2] = self._bias(node)
        name = op_name(node)
        function: Callable[..., Tensor] = PLAIN[name] if name in PLAIN else getattr(ops, name)
        self.values[node] = self.graph.call_function(function, tuple(args), dict(node.kwargs))

    def _bias(self, node: fx.Node) -> fx.Node:
        """The bias rounded to its int32 steps, so that ExecuTorch computes the same integers."""
        weights = integer_weights(self.source, self.integer[node])
        real = (weights.bias.astype(np.float64) * weights.bias_scale).astype(np.float32)
        return self.buffer(f"{node.name}_bias", torch.from_numpy(real))

    def _quantise(self, node: fx.Node) -> None:
        params, operators = quant_params(self.source, node), torch.ops.quantized_decomposed
        if params.qmin < INT8_MIN or params.qmax > INT8_MAX:
            raise UnsupportedError(
                f"fake_quantize to {params.qmin}..{params.qmax} has no 8-bit form in ExecuTorch",
                where=node.name,
                hint="use at most 8 bits",
            )
        value = operand(node, 0)
        grid = self._grid(node, params)
        kind = "tensor" if params.axis is None else "channel"
        dequantise = getattr(operators, f"dequantize_per_{kind}").default
        if is_constant(value):
            codes = self.buffer(f"{node.name}_int8", torch.from_numpy(quantized_constant(self.source, node)))
        else:
            quantise = getattr(operators, f"quantize_per_{kind}").default
            codes = self.graph.call_function(quantise, (self.read(value), *grid))
        self.codes[node] = (codes, grid, dequantise)

    def _grid(self, node: fx.Node, params: QuantParams) -> tuple[Any, ...]:
        limits = (params.qmin, params.qmax, torch.int8)
        if params.axis is None:
            return (float(params.scale), params.zero_point, *limits)
        scales = self.buffer(f"{node.name}_scale", torch.from_numpy(params.scale_vector))
        zeros = self.buffer(f"{node.name}_zero", torch.tensor(params.zero_points, dtype=torch.int64))
        return (scales, zeros, params.axis, *limits)


def _mean(x: Tensor, *, axes: tuple[int, ...], keepdim: bool) -> Tensor:
    whole = x.mean(axes, keepdim=True)
    if keepdim:
        return whole
    gone = {axis % x.dim() for axis in axes}
    return whole.reshape([length for axis, length in enumerate(whole.shape) if axis not in gone])


def _avg_pool2d(x: Tensor, **options: Any) -> Tensor:
    top, bottom, left, right = options["padding"]
    kernel, stride, counted = options["kernel"], options["stride"], bool(options["count_include_pad"])
    if counted or not any(options["padding"]):
        padded = F.pad(x, (left, right, top, bottom)) if any(options["padding"]) else x
        return F.avg_pool2d(padded, kernel, stride)
    if top == bottom and left == right:
        return F.avg_pool2d(x, kernel, stride, (top, left), count_include_pad=False)
    return ops.avg_pool2d(x, **options)


def _max_pool2d(x: Tensor, **options: Any) -> Tensor:
    top, bottom, left, right = options["padding"]
    kernel = options["kernel"]
    if top == bottom and left == right and 2 * top <= kernel[0] and 2 * left <= kernel[1]:
        return F.max_pool2d(x, kernel, options["stride"], (top, left), options["dilation"])
    return ops.max_pool2d(x, **options)


def _conv_transpose2d(x: Tensor, weight: Tensor, bias: Tensor | None, **options: Any) -> Tensor:
    top, bottom, left, right = options["padding"]
    if top != bottom or left != right:
        return ops.conv_transpose2d(x, weight, bias, **options)
    stride, output_padding = options["stride"], options["output_padding"]
    groups, dilation = options["groups"], options["dilation"]
    result = F.conv_transpose2d(x, weight, bias, stride, (top, left), output_padding, groups, dilation)
    return ops.activate(result, options["activation"])


PLAIN: dict[str, Callable[..., Tensor]] = {
    "mean": _mean,
    "avg_pool2d": _avg_pool2d,
    "max_pool2d": _max_pool2d,
    "conv_transpose2d": _conv_transpose2d,
}
"""Operators exported as torch's own operators, which the partitioner recognises."""
