"""ONNX rules: comparisons and choices, see `mcc.frontend.masks`."""

from __future__ import annotations

import numpy as np

from mcc.frontend import aten_compare as compare
from mcc.frontend import aten_products as products
from mcc.frontend import aten_reduce as reduce
from mcc.frontend import masks
from mcc.frontend.onnx_table import Result, Site, onnx_op
from mcc.frontend.values import Const

_COMPARISONS = {
    "Greater": "gt", "GreaterOrEqual": "ge", "Less": "lt", "LessOrEqual": "le", "Equal": "eq",
}  # fmt: skip


@onnx_op(*_COMPARISONS)
def comparison(site: Site) -> Result:
    """1 where it holds, else 0."""
    return masks.compare(site.emitter, _COMPARISONS[site.op], site.value(0), site.value(1))


@onnx_op("And", "Or", "Xor")
def connective(site: Site) -> Result:
    """Of two masks."""
    rule = {"And": masks.both, "Or": masks.either, "Xor": compare.logical_xor}[site.op]
    return rule(site.emitter, site.value(0), site.value(1))


@onnx_op("Not")
def negation(site: Site) -> Result:
    """Of a mask."""
    return masks.negated(site.emitter, site.value())


@onnx_op("Sign")
def sign(site: Site) -> Result:
    """-1, 0 or 1."""
    return site.emitter.call("sign", site.value())


@onnx_op("Where")
def where(site: Site) -> Result:
    """One of two values, by a mask."""
    return masks.where(site.emitter, site.value(0), site.value(1), site.value(2))


@onnx_op("Shrink")
def shrink(site: Site) -> Result:
    """x - bias above lambd, x + bias below -lambd, else 0."""
    e, x = site.emitter, site.value()
    bias, limit = float(site.get("bias", 0.0)), float(site.get("lambd", 0.5))
    if bias == limit:
        return compare.softshrink(e, x, limit)
    kept = compare.hardshrink(e, x, limit)
    if not bias:
        return kept
    outside = masks.compare(e, "gt", e.call("abs", x), limit)
    return e.broadcast("sub", kept, e.broadcast("mul", e.broadcast("mul", e.call("sign", x), outside), bias))


@onnx_op("ThresholdedRelu")
def thresholded_relu(site: Site) -> Result:
    """x above alpha, else 0."""
    return compare.threshold(site.emitter, site.value(), float(site.get("alpha", 1.0)), 0.0)


@onnx_op("Einsum")
def einsum(site: Site) -> Result:
    """Sums of products over named axes."""
    return products.einsum(site.emitter, site.get("equation"), site.rest())


@onnx_op("CumSum")
def cumsum(site: Site) -> Result:
    """Running sums along an axis."""
    axis = site.optional(1)
    if not isinstance(axis, Const) or site.get("exclusive", 0) or site.get("reverse", 0):
        site.emitter.refuse("CumSum with these options is not supported", "use plain running sums")
    return products.cumsum(site.emitter, site.value(), int(axis.tensor))


@onnx_op("LpNormalization")
def lp_normalization(site: Site) -> Result:
    """x over its norm along an axis; 0 where that is 0, as onnxruntime has it."""
    e, x, order = site.emitter, site.value(), site.get("p", 2)
    norm = reduce.vector_norm(e, x, [e.axis(x, site.get("axis", -1))], True, order)
    least = float(np.finfo(np.float32).tiny)
    return e.broadcast("div", x, e.call("clamp", norm, min=least, max=float("inf")))


@onnx_op("Mean")
def mean(site: Site) -> Result:
    """The mean of all inputs."""
    e, given = site.emitter, site.rest()
    total = given[0]
    for other in given[1:]:
        total = e.broadcast("add", total, other)
    return total if len(given) == 1 else e.broadcast("mul", total, 1.0 / len(given))
