"""Emit functions: reductions, softmax, layer, group and global response norm."""

from __future__ import annotations

import numpy as np
from torch import fx

from mcc.ir.graph import optional_operand
from mcc.lower.layout import Layout, Shape, plain, reshaped, settle, stored
from mcc.lower.tflite.builder import Options
from mcc.lower.tflite.emit_conv import attributes
from mcc.lower.tflite.emit_elementwise import ADD, DIV, MUL, SUB, step
from mcc.lower.tflite.lowering import Lowering, Value, emits
from mcc.lower.tflite.quantisation import Quantisation


def reduce(
    low: Lowering,
    node: fx.Node,
    code: str,
    x: Value,
    axes: tuple[int, ...],
    *,
    quantisation: Quantisation | None = None,
    suffix: str = "",
) -> Value:
    """Add a reduction over axes of the graph value, which are kept with length 1."""
    rank = len(x.shape)
    positions = sorted(x.layout.position(axis) for axis in axes)
    gone = {axis % rank for axis in axes}
    shape = tuple(1 if axis in gone else length for axis, length in enumerate(x.shape))
    return low.call(
        node, code, [x, low.integers(positions, "axes")], shape, x.layout,
        Options("ReducerOptions", {"keepDims": True}), quantisation=quantisation, suffix=suffix,
    )  # fmt: skip


def _emit_reduction(name: str, code: str) -> None:
    """Register a reduction.

    The reduced axes are kept, and removed by a RESHAPE afterwards: XNNPACK's sparse path ends only in a mean
    that keeps its axes.
    """

    @emits(name)
    def emit(low: Lowering, node: fx.Node) -> None:
        at = attributes(node)
        x = low.operand(node, 0)
        if x.layout.flat is not None:
            x = low.operand(node, 0, plain(len(x.shape)))
        quantisation = low.output_quantisation(node)
        suffix = "" if at["keepdim"] else "kept"
        result = reduce(low, node, code, x, at["axes"], quantisation=quantisation, suffix=suffix)
        low.bind(node, result if at["keepdim"] else _drop_axes(low, node, result, at["axes"]))


def _drop_axes(low: Lowering, node: fx.Node, value: Value, axes: tuple[int, ...]) -> Value:
    """Remove axes of length 1 from a value."""
    rank = len(value.shape)
    gone = {axis % rank for axis in axes}
    kept = [axis for axis in range(rank) if axis not in gone]
    order = tuple(kept.index(axis) for axis in value.layout.order if axis in kept)
    shape = tuple(value.shape[axis] for axis in kept)
    return low.reshape(node, value, shape, settle(shape, Layout(order)), "")


_emit_reduction("mean", "MEAN")
_emit_reduction("sum", "SUM")
_emit_reduction("amax", "REDUCE_MAX")


@emits("softmax")
def softmax(low: Lowering, node: fx.Node) -> None:
    """SOFTMAX over the last stored axis: another axis is moved there first."""
    x = low.operand(node, 0)
    axis = int(attributes(node)["axis"]) % len(x.shape)
    if x.layout.flat is not None:
        x = low.operand(node, 0, plain(len(x.shape)))
    if x.layout.order[-1] != axis:
        order = (*(a for a in x.layout.order if a != axis), axis)
        x = low.operand(node, 0, Layout(order))
    options = Options("SoftmaxOptions", {"beta": 1.0})
    quantisation = low.output_quantisation(node)
    low.bind(node, low.call(node, "SOFTMAX", [x], x.shape, x.layout, options, quantisation=quantisation))


def _normalise(low: Lowering, node: fx.Node, x: Value, axes: tuple[int, ...], eps: float) -> Value:
    """(x - mean) / sqrt(variance + eps) over axes of x."""
    mean = reduce(low, node, "MEAN", x, axes, suffix="mean")
    centred = step(low, node, "SUB", [x, mean], SUB, "centred")
    squares = step(low, node, "MUL", [centred, centred], MUL, "squares")
    variance = reduce(low, node, "MEAN", squares, axes, suffix="variance")
    guarded = step(low, node, "ADD", [variance, low.number(eps, "eps")], ADD, "guarded")
    factor = step(low, node, "RSQRT", [guarded], suffix="factor")
    return step(low, node, "MUL", [centred, factor], MUL, "normalised")


def _affine(low: Lowering, node: fx.Node, x: Value, shape: Shape) -> Value:
    """Multiply by the weight and add the bias (operands 1 and 2, if present), broadcast with this shape."""
    for index, code, options in ((1, "MUL", MUL), (2, "ADD", ADD)):
        if optional_operand(node, index) is not None:
            value = stored(low.weight(node, index).value.reshape(shape), x.layout)
            name = f"{node.name}/{code.lower()}"
            constant = low.model.constant(name, np.ascontiguousarray(value), owner=node.name)
            x = step(low, node, code, [x, constant], options, code.lower())
    return x


@emits("layer_norm")
def layer_norm(low: Lowering, node: fx.Node) -> None:
    """Layer normalisation, composed of means and arithmetic."""
    at = attributes(node)
    x = low.operand(node, 0)
    if x.layout.flat is not None:
        x = low.operand(node, 0, plain(len(x.shape)))
    axes = {axis % len(x.shape) for axis in at["axes"]}
    shape = tuple(length if axis in axes else 1 for axis, length in enumerate(x.shape))
    normalised = _normalise(low, node, x, at["axes"], at["eps"])
    low.bind(node, _affine(low, node, normalised, shape))


@emits("group_norm")
def group_norm(low: Lowering, node: fx.Node) -> None:
    """Group normalisation: the channel axis is split in two, and the mean is over all but the first."""
    at = attributes(node)
    x = low.operand(node, 0)
    groups, channels = int(at["groups"]), x.shape[1]
    split = (x.shape[0], groups, channels // groups, *x.shape[2:])
    layout = reshaped(x.shape, x.layout, split)
    if layout is None:
        x = low.operand(node, 0, plain(len(x.shape)))
        layout = plain(len(split))
    parted = low.reshape(node, x, split, layout, "groups")
    normalised = _normalise(low, node, parted, tuple(range(2, len(split))), at["eps"])
    joined = low.reshape(node, normalised, x.shape, x.layout, "joined")
    low.bind(node, _affine(low, node, joined, (1, channels, *(1 for _ in x.shape[2:]))))


@emits("global_response_norm")
def global_response_norm(low: Lowering, node: fx.Node) -> None:
    """Global response normalisation, composed of sums, a mean and arithmetic."""
    at = attributes(node)
    x = low.operand(node, 0)
    if x.layout.flat is not None:
        x = low.operand(node, 0, plain(len(x.shape)))
    axis = at["axis"] % len(x.shape)
    others = tuple(other for other in range(1, len(x.shape)) if other != axis)
    shape = tuple(length if other == axis else 1 for other, length in enumerate(x.shape))
    squares = step(low, node, "MUL", [x, x], MUL, "squares")
    energy = reduce(low, node, "SUM", squares, others, suffix="energy")
    norms = step(low, node, "SQRT", [energy], suffix="norms")
    mean = reduce(low, node, "MEAN", norms, (axis,), suffix="mean")
    guarded = step(low, node, "ADD", [mean, low.number(at["eps"], "eps")], ADD, "guarded")
    response = step(low, node, "DIV", [norms, guarded], DIV, "response")
    scaled = _affine(low, node, step(low, node, "MUL", [x, response], MUL, "responding"), shape)
    low.bind(node, step(low, node, "ADD", [x, scaled], ADD))
