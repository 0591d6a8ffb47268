"""Emit functions: convolutions and matrix products."""

from __future__ import annotations

from math import prod

from torch import fx

from mcc.ir.graph import operand
from mcc.lower.onnx.lowering import Lowering, attributes, emits


def onnx_pads(padding: tuple[int, int, int, int]) -> list[int]:
    """(top, bottom, left, right) in ONNX's order: all begins, then all ends."""
    top, bottom, left, right = padding
    return [top, left, bottom, right]


@emits("conv2d")
def conv2d(low: Lowering, node: fx.Node) -> str:
    """Conv."""
    at = attributes(node)
    inputs = [low.value(operand(node, 0)), low.weight(node), *low.bias(node)]
    return low.activated(
        node,
        lambda suffix: low.add(
            node, "Conv", inputs, suffix,
            kernel_shape=list(low.shape(operand(node, 1))[2:]), strides=list(at["stride"]),
            pads=onnx_pads(at["padding"]), dilations=list(at["dilation"]), group=at["groups"],
        ),
    )  # fmt: skip


@emits("conv_transpose2d")
def conv_transpose2d(low: Lowering, node: fx.Node) -> str:
    """ConvTranspose, whose pads crop the output as the operator's padding does."""
    at = attributes(node)
    inputs = [low.value(operand(node, 0)), low.weight(node), *low.bias(node)]
    return low.activated(
        node,
        lambda suffix: low.add(
            node, "ConvTranspose", inputs, suffix,
            kernel_shape=list(low.shape(operand(node, 1))[2:]), strides=list(at["stride"]),
            pads=onnx_pads(at["padding"]), dilations=list(at["dilation"]), group=at["groups"],
            output_padding=list(at["output_padding"]),
        ),
    )  # fmt: skip


@emits("linear")
def linear(low: Lowering, node: fx.Node) -> str:
    """Gemm; the leading axes of an operand with more than two are flattened around it."""
    shape, out = low.shape(operand(node, 0)), low.shape(node)
    x = low.value(operand(node, 0))
    flat = len(shape) == 2
    if not flat:
        rows = low.model.integers([prod(shape[:-1]), shape[-1]])
        x = low.add(node, "Reshape", [x, rows], "rows")
        if node in low.integer:
            x = low.requantize_operand(node, x, "rows_real")
    inputs = [x, low.weight(node), *low.bias(node)]
    result = low.activated(
        node, lambda suffix: low.add(node, "Gemm", inputs, suffix if flat else f"{suffix}product", transB=1)
    )
    if flat:
        return result
    if node in low.integer:
        result = low.quantized(result, low.integer[node].output, f"{node.name}/product_real")
    return low.add(node, "Reshape", [result, low.model.integers(out)], "shaped")


@emits("matmul")
def matmul(low: Lowering, node: fx.Node) -> str:
    """MatMul."""
    return low.add(node, "MatMul", low.operands(node))
