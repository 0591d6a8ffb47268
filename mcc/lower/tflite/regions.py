"""Which nodes of a quantised graph run as integer kernels, and with which parameters.

A fake quantisation stands for an int8 tensor. An operator whose tensor operands are all fake quantisations
(constants too, a bias excepted) and whose only reader is one runs in integers, provided that TFLite has
such a kernel for its parameters; every other operator runs in float between DEQUANTIZE and QUANTIZE, which
is what the graph says, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import fx

from mcc.errors import UnsupportedError
from mcc.ir.graph import Graph, constant, is_constant, op_name, operand, operands
from mcc.lower.tflite.quantisation import INT8_MAX, INT8_MIN, Quantisation

# Operands that are a float bias, by operator: lowered to int32 with the scale of the accumulator.
BIAS_INDEX = {"conv2d": 2, "conv_transpose2d": 2, "linear": 2}


def is_fake_quantize(node: fx.Node) -> bool:
    """Whether the node is a quantisation followed by its inverse."""
    return node.op == "call_function" and op_name(node) == "fake_quantize"


def is_quantised_constant(node: fx.Node) -> bool:
    """Whether the node is the fake quantisation of a constant (a weight)."""
    return is_fake_quantize(node) and is_constant(operand(node, 0))


def array_of(graph: Graph, node: fx.Node) -> npt.NDArray[Any]:
    """A constant of the graph as a numpy array."""
    return constant(graph, node).detach().cpu().numpy()


def activation_quantisation(graph: Graph, node: fx.Node) -> Quantisation:
    """int8 parameters of a fake quantisation of an activation.

    A range of 0..255 (uint8) is shifted by 128. Raises UnsupportedError for per-channel parameters and for
    ranges other than 8 bits, which an int8 tensor would not saturate at.
    """
    qmin, qmax = int(node.kwargs["qmin"]), int(node.kwargs["qmax"])  # pyright: ignore[reportArgumentType]
    if node.kwargs["axis"] is not None:
        raise UnsupportedError(
            "an activation quantised per channel has no form in TFLite",
            where=node.name,
            hint="quantise activations per tensor",
        )
    if qmax - qmin != INT8_MAX - INT8_MIN:
        raise UnsupportedError(
            f"fake_quantize to {qmin}..{qmax} has no activation type in TFLite",
            where=node.name,
            hint="use 8 bits for activations",
        )
    scale = array_of(graph, operand(node, 1)).astype(np.float32).reshape(-1)
    zero = array_of(graph, operand(node, 2)).astype(np.int64).reshape(-1)
    return Quantisation(scale, zero + (INT8_MIN - qmin))


def constant_quantisation(graph: Graph, node: fx.Node) -> tuple[Quantisation, int, int]:
    """int8 parameters and range of a fake quantisation of a constant, along its own axis.

    A range of 0..255 (uint8) is shifted by 128. Raises UnsupportedError for a range that int8 cannot hold.
    """
    qmin, qmax = int(node.kwargs["qmin"]), int(node.kwargs["qmax"])  # pyright: ignore[reportArgumentType]
    shift = INT8_MIN if qmax > INT8_MAX else 0
    if qmin + shift < INT8_MIN or qmax + shift > INT8_MAX:
        raise UnsupportedError(
            f"fake_quantize to {qmin}..{qmax} does not fit into int8",
            where=node.name,
            hint="use 8 bits or fewer",
        )
    parameters = weight_quantisation(graph, node)
    shifted = Quantisation(parameters.scales, parameters.zero_points + shift, parameters.axis)
    return shifted, qmin + shift, qmax + shift


def weight_quantisation(graph: Graph, node: fx.Node) -> Quantisation:
    """Parameters of a fake quantisation of a constant, along its own axis."""
    scale = array_of(graph, operand(node, 1)).astype(np.float32).reshape(-1)
    zero = array_of(graph, operand(node, 2)).astype(np.int64).reshape(-1)
    axis = node.kwargs["axis"]
    return Quantisation(scale, zero, axis if isinstance(axis, int) else 0)


def reader_quantisation(graph: Graph, node: fx.Node) -> Quantisation | None:
    """Parameters of the one fake quantisation that alone reads the node, or None."""
    users = list(node.users)
    if len(users) != 1 or not is_fake_quantize(users[0]):
        return None
    return activation_quantisation(graph, users[0])


def compute_operands(node: fx.Node) -> list[fx.Node]:
    """Tensor operands of a node without its bias."""
    bias = BIAS_INDEX.get(op_name(node))
    return [arg for i, arg in enumerate(node.args) if isinstance(arg, fx.Node) and i != bias]


def integer_nodes(
    graph: Graph, nodes: Iterable[fx.Node], has_kernel: Callable[[fx.Node], bool]
) -> frozenset[fx.Node]:
    """The nodes that run as integer kernels.

    Args:
        nodes: the live nodes.
        has_kernel: whether TFLite has an integer kernel for an operator with these parameters.
    """
    return frozenset(
        node
        for node in nodes
        if node.op == "call_function"
        and not is_fake_quantize(node)
        and operands(node)
        and all(is_fake_quantize(arg) for arg in compute_operands(node))
        and reader_quantisation(graph, node) is not None
        and has_kernel(node)
    )
