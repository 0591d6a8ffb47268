"""Operators that exporters spell out in several ONNX nodes, put back together before translation.

GELU before opset 20 is `0.5 x (1 + erf(x / sqrt 2))`; the canonical form has GELU, but no error function.
"""

from __future__ import annotations

import math

import onnx
from onnx import helper, numpy_helper

_CLOSE = 1e-5


def restore_gelu(graph: onnx.GraphProto) -> None:
    """Replace every spelled-out GELU by a `Gelu` node, in place; its parts stay, read by nobody."""
    finder = _Finder(graph)
    for node in graph.node:
        if node.op_type == "Erf" and (found := finder.gelu(node)) is not None:
            x, last = found
            gelu = helper.make_node("Gelu", [x], list(last.output), name=node.name or "gelu")
            last.CopyFrom(gelu)


class _Finder:
    """Makers and readers of values by name."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.makers = {name: node for node in graph.node for name in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.stored = {tensor.name: tensor for tensor in graph.initializer}

    def number(self, name: str) -> float | None:
        """The number in a constant of one element."""
        tensor = self.stored.get(name)
        maker = self.makers.get(name)
        if tensor is None and maker is not None and maker.op_type == "Constant":
            tensor = next((entry.t for entry in maker.attribute if entry.name == "value"), None)
        if tensor is None or math.prod(tensor.dims) != 1:
            return None
        return float(numpy_helper.to_array(tensor).reshape(-1)[0])

    def is_number(self, name: str, wanted: float) -> bool:
        """Whether a value is a constant close to a number."""
        found = self.number(name)
        return found is not None and abs(found - wanted) < _CLOSE

    def with_number(self, node: onnx.NodeProto, op: str, wanted: float) -> str | None:
        """The other operand of a node that combines a value with a number."""
        if node.op_type != op:
            return None
        a, b = node.input
        if self.is_number(b, wanted):
            return a
        return b if op != "Div" and self.is_number(a, wanted) else None

    def only_reader(self, name: str) -> onnx.NodeProto | None:
        """The node that reads a value, where there is one alone."""
        found = self.readers.get(name, [])
        return found[0] if len(found) == 1 else None

    def gelu(self, erf: onnx.NodeProto) -> tuple[str, onnx.NodeProto] | None:
        """Name of x and the last node of a GELU around an error function."""
        scaling = self.makers.get(erf.input[0])
        if scaling is None:
            return None
        x = self.with_number(scaling, "Div", math.sqrt(2)) or self.with_number(scaling, "Mul", math.sqrt(0.5))
        plus = self.only_reader(erf.output[0])
        if x is None or plus is None or self.with_number(plus, "Add", 1.0) is None:
            return None
        product = self.only_reader(plus.output[0])
        if product is None or product.op_type != "Mul":
            return None
        other = product.input[1] if product.input[0] == plus.output[0] else product.input[0]
        if self._is_half(other, x):
            return x, product
        last = self.only_reader(product.output[0])
        if last is None or last.op_type != "Mul":
            return None
        if other == x:
            return (x, last) if self.with_number(last, "Mul", 0.5) is not None else None
        if self.is_number(other, 0.5) and x in last.input:
            return x, last
        return None

    def _is_half(self, name: str, x: str) -> bool:
        maker = self.makers.get(name)
        return maker is not None and self.with_number(maker, "Mul", 0.5) == x
