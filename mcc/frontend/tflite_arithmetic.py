"""TFLite rules: arithmetic, activations, reductions, norms, products of computed values."""

from __future__ import annotations

import math

import numpy as np
from torch import fx

from mcc.frontend import aten_arithmetic as arithmetic
from mcc.frontend.tflite_table import Result, Site, tflite_op
from mcc.frontend.tflite_values import Array, View
from mcc.frontend.values import AnyValue, Const
from mcc.ir.notes import shape_of
from mcc.lower.layout import Layout, plain, settle

INFINITY = math.inf

L2_EPSILON = 1e-6
"""Least norm of L2_NORMALIZATION in LiteRT (`kernels/l2norm.cc`)."""

MAX_PADDED_RANK = 6  # of a broadcast; no kernel of LiteRT takes more


# -- two operands ------------------------------------------------------------------------------------------


def operands(site: Site) -> tuple[View, list[AnyValue]]:
    """The operands of an operator that broadcasts, in one order, and a value in that order.

    Constants come into the axes of the computed operand; one of a single number has rank 0.
    """
    views = [view for view in site.inputs if view is not None]
    if not views:
        site.emitter.refuse("reads constants only")
    values = site.values
    largest = max(
        len(tensor.shape) for i in range(len(site.inputs)) if (tensor := site.tensor(i)) is not None
    )
    if largest > MAX_PADDED_RANK:
        site.emitter.refuse(f"broadcasts over {largest} axes")
    views = [
        values.reshape(v, (1,) * (largest - v.rank) + values.shape(v)) if v.rank < largest else v
        for v in views
    ]
    views = values.together(views)
    constant = any(_several(site, i) for i, view in enumerate(site.inputs) if view is None)
    if constant and views[0].layout.flat is not None:
        views = [values.plain(view) for view in views]
    pending = iter(views)
    found: list[AnyValue] = []
    for index, given in enumerate(site.inputs):
        found.append(next(pending).node if given is not None else _constant(site, index, views[0]))
    return views[0], found


def _several(site: Site, index: int) -> bool:
    return site.array(index).size > 1


def _constant(site: Site, index: int, like: View) -> AnyValue:
    tensor = site.tensor(index)
    assert tensor is not None

    def form(value: Array) -> Array:
        return value.reshape(()) if value.size == 1 else site.values.constant(value, like)

    return site.constants.operand(tensor, form, integer=like.grid is not None)


def _binary(site: Site, op: str) -> Result:
    like, (a, b) = operands(site)
    fused, other = site.fused()
    node = site.emitter.call_node(op, a, b, activation=fused)
    return site.as_made(like, node, other)


for _code, _op in (("ADD", "add"), ("SUB", "sub"), ("MUL", "mul"), ("DIV", "div")):

    @tflite_op(_code)
    def _(site: Site, op: str = _op) -> Result:
        """Arithmetic with broadcasting and a fused activation."""
        return _binary(site, op)


@tflite_op("SQUARED_DIFFERENCE")
def squared_difference(site: Site) -> Result:
    """(a - b)^2."""
    like, (a, b) = operands(site)
    apart = site.emitter.call_node("sub", a, b)
    return site.as_made(like, site.emitter.call_node("mul", apart, apart))


@tflite_op("ADD_N")
def total(site: Site) -> Result:
    """The sum of any number of values."""
    like, parts = operands(site)
    node = parts[0]
    for part in parts[1:]:
        node = site.emitter.call_node("add", node, part)
    return site.as_made(like, site.emitter.node(node))


@tflite_op("MAXIMUM", "MINIMUM")
def extremum(site: Site) -> Result:
    """A clamp where one operand is a number."""
    like, found = operands(site)
    a, b = sorted(found, key=lambda value: isinstance(value, Const) or _is_constant(value))
    number = _number(site, b)
    if number is not None:
        low, high = (number, INFINITY) if site.code == "MAXIMUM" else (-INFINITY, number)
        return site.as_made(like, site.emitter.node(arithmetic.limit(site.emitter, a, low, high)))
    take = arithmetic.maximum if site.code == "MAXIMUM" else arithmetic.minimum
    return site.as_made(like, site.emitter.node(take(site.emitter, a, b)))


def _is_constant(value: AnyValue) -> bool:
    return isinstance(value, fx.Node) and bool(value.args) and _source(value) is not None


def _source(value: fx.Node) -> fx.Node | None:
    """The constant behind a quantiser."""
    first = value.args[0]
    return first if isinstance(first, fx.Node) and first.op == "get_attr" else None


def _number(site: Site, value: AnyValue) -> float | None:
    """The number of a constant of one element, as the file's integers stand for it."""
    index = next((i for i, given in enumerate(site.inputs) if given is None), None)
    if index is None or (isinstance(value, fx.Node) and not _is_constant(value)):
        return None
    tensor = site.tensor(index)
    if tensor is None or site.array(index).size != 1:
        return None
    return float(site.constants.real(tensor, lambda v: v.reshape(())).tensor)


@tflite_op("POW")
def power(site: Site) -> Result:
    """A power with a constant exponent."""
    x = site.view()
    exponent = float(site.array(1).reshape(-1)[0]) if site.array(1).size == 1 else math.nan
    if math.isnan(exponent):
        site.emitter.refuse("raises to powers that are not one number")
    return site.as_made(x, site.emitter.node(arithmetic.power(site.emitter, x.node, exponent)))


# -- one operand -------------------------------------------------------------------------------------------

UNARY = {
    "RELU": "relu", "RELU6": "relu6", "LOGISTIC": "sigmoid", "TANH": "tanh", "HARD_SWISH": "hardswish",
    "EXP": "exp", "LOG": "log", "SQRT": "sqrt", "ABS": "abs", "NEG": "neg", "SIGN": "sign",
}  # fmt: skip


@tflite_op(*UNARY)
def unary(site: Site) -> Result:
    """Operators of the same function."""
    x = site.view()
    return site.as_made(x, site.emitter.call_node(UNARY[site.code], x.node))


@tflite_op("RELU_N1_TO_1", "RELU_0_TO_1")
def clamp(site: Site) -> Result:
    """Clamps."""
    x = site.view()
    low = -1.0 if site.code == "RELU_N1_TO_1" else 0.0
    return site.as_made(x, site.emitter.call_node("clamp", x.node, min=low, max=1.0))


@tflite_op("SQUARE", "RSQRT")
def simple(site: Site) -> Result:
    """x^2, and 1 / sqrt(x)."""
    x = site.view()
    made = (
        arithmetic.square(site.emitter, x.node)
        if site.code == "SQUARE"
        else arithmetic.rsqrt(site.emitter, x.node)
    )
    return site.as_made(x, site.emitter.node(made))


@tflite_op("LEAKY_RELU", "ELU", "GELU")
def parametric(site: Site) -> Result:
    """Activations with one parameter."""
    e, x = site.emitter, site.view()
    if site.code == "LEAKY_RELU":
        node = e.call_node("leaky_relu", x.node, slope=float(np.float32(site.get("alpha", 0.0))))
    elif site.code == "ELU":
        node = e.call_node("elu", x.node, alpha=1.0)
    else:
        node = e.call_node("gelu", x.node, approximate="tanh" if site.get("approximate", False) else "none")
    return site.as_made(x, node)


@tflite_op("PRELU")
def prelu(site: Site) -> Result:
    """A slope for each channel; other slopes as relu(x) - slope * relu(-x)."""
    e, x = site.emitter, site.view()
    x = site.values.image(x) if x.rank == 4 and x.batched else site.values.plain(x)
    tensor = site.tensor(1)
    if tensor is None:
        e.refuse("lacks its input 1")
    channels = shape_of(x.node)[1] if len(shape_of(x.node)) > 1 else 1
    slope = site.values.constant(site.array(1), x)
    if slope.size == 1 or (slope.size == channels and slope.shape[1] == channels):
        return site.as_made(
            x, e.call_node("prelu", x.node, site.constants.real(tensor, lambda v: v.reshape(-1)))
        )
    weight = site.constants.real(tensor, lambda v: site.values.constant(v, x))
    below = e.call_node("mul", e.call_node("relu", e.call_node("neg", x.node)), weight)
    return site.as_made(x, e.call_node("sub", e.call_node("relu", x.node), below))


@tflite_op("SOFTMAX", "LOG_SOFTMAX")
def softmax(site: Site) -> Result:
    """Along the last axis of the file."""
    e, x = site.emitter, site.view()
    x = x if x.layout.flat is None else site.values.plain(x)
    beta = float(site.get("beta", 1.0)) if site.code == "SOFTMAX" else 1.0
    node = x.node if beta == 1.0 else e.node(e.broadcast("mul", x.node, beta))
    made = e.call_node("softmax", node, axis=x.axis(-1))
    return site.as_made(x, made if site.code == "SOFTMAX" else e.call_node("log", made))


# -- reductions --------------------------------------------------------------------------------------------

REDUCTIONS = {"MEAN": "mean", "SUM": "sum", "REDUCE_MAX": "amax", "REDUCE_MIN": "amax"}


@tflite_op(*REDUCTIONS)
def reduction(site: Site) -> Result:
    """Over constant axes; those that are not kept leave the order of the others."""
    x = site.view()
    x = x if x.layout.flat is None else site.values.plain(x)
    axes = sorted({x.axis(place) for place in site.numbers(1)})
    if 0 in axes:
        site.emitter.refuse("reduces over the batch axis")
    keep = bool(site.get("keepDims", False))
    node = x.node if site.code != "REDUCE_MIN" else site.emitter.call_node("neg", x.node)
    if axes:
        node = site.emitter.call_node(REDUCTIONS[site.code], node, axes=tuple(axes), keepdim=keep)
    node = node if site.code != "REDUCE_MIN" else site.emitter.call_node("neg", node)
    if keep or not axes:
        return site.as_made(x, node)
    left = [axis for axis in range(len(shape_of(x.node))) if axis not in axes]
    order = tuple(left.index(axis) for axis in x.layout.order if axis in left)
    return site.made(node, _best(shape_of(node), Layout(order)), x.batched)


def _best(shape: tuple[int, ...], layout: Layout) -> Layout:
    """The plain order where it is the same memory."""
    return settle(shape, layout)


@tflite_op("L2_NORMALIZATION")
def l2_normalisation(site: Site) -> Result:
    """x over its length along the last axis."""
    e, x = site.emitter, site.view()
    x = x if x.layout.flat is None else site.values.plain(x)
    fused, other = site.fused()
    squares = e.call_node("sum", e.call_node("mul", x.node, x.node), axes=(x.axis(-1),), keepdim=True)
    length = e.call_node("clamp", e.call_node("sqrt", squares), min=L2_EPSILON, max=INFINITY)
    return site.as_made(x, e.call_node("div", x.node, length, activation=fused), other)


@tflite_op("BATCH_MATMUL")
def matrix_product(site: Site) -> Result:
    """Over the two last axes of the file; a constant second matrix of two axes is the weight of `linear`."""
    e, values = site.emitter, site.values
    flags = [bool(site.get("adjX", False)), bool(site.get("adjY", False))]
    if site.is_constant(1) and not site.is_constant(0) and site.array(1).squeeze().ndim == 2 and not flags[0]:
        return _by_weight(site, flags[1])
    sides: list[View] = []
    for index, flag in enumerate(flags):
        x = values.plain(site.view(index))
        if flag:
            order = list(range(len(shape_of(x.node))))
            order[-2:] = [order[-1], order[-2]]
            x = View(values.moved(x, "transpose", perm=tuple(order)), plain(len(order)), x.batched, x.grid)
        sides.append(x)
    if len({side.batched for side in sides}) > 1 or len({len(shape_of(s.node)) for s in sides}) > 1:
        e.refuse("multiplies matrices of another number of axes")
    node = e.call_node("matmul", sides[0].node, sides[1].node)
    return site.made(node, plain(len(shape_of(node))), sides[0].batched)


def _by_weight(site: Site, transposed: bool) -> Result:
    x = site.values.plain(site.view())

    def form(value: Array) -> Array:
        matrix = value.reshape(value.shape[-2:])
        return matrix if transposed else np.ascontiguousarray(matrix.T)

    node = site.emitter.call_node("linear", x.node, site.weight(1, form, 0), None)
    return site.made(node, plain(len(shape_of(node))), x.batched)
