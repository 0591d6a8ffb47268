"""Emit functions: pooling, reductions, softmax and data movement."""

from __future__ import annotations

from torch import fx

from mcc.ir.graph import operand
from mcc.lower.onnx.emit_elementwise import mean_over, reduction
from mcc.lower.onnx.emit_products import onnx_pads
from mcc.lower.onnx.lowering import Lowering, attributes, emits

_PAD_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}


@emits("max_pool2d")
def max_pool2d(low: Lowering, node: fx.Node) -> str:
    """MaxPool."""
    at = attributes(node)
    return low.add(
        node, "MaxPool", low.operands(node), kernel_shape=list(at["kernel"]), strides=list(at["stride"]),
        pads=onnx_pads(at["padding"]), dilations=list(at["dilation"]),
    )  # fmt: skip


@emits("avg_pool2d")
def avg_pool2d(low: Lowering, node: fx.Node) -> str:
    """AveragePool."""
    at = attributes(node)
    return low.add(
        node, "AveragePool", low.operands(node), kernel_shape=list(at["kernel"]),
        strides=list(at["stride"]), pads=onnx_pads(at["padding"]),
        count_include_pad=int(at["count_include_pad"]),
    )  # fmt: skip


@emits("mean")
def mean(low: Lowering, node: fx.Node) -> str:
    """GlobalAveragePool over the spatial axes, which onnxruntime supports on integers; else ReduceMean."""
    at, source = attributes(node), operand(node, 0)
    rank = len(low.shape(source))
    axes = sorted(axis % rank for axis in at["axes"])
    if rank != 4 or axes != [2, 3]:
        return mean_over(low, node, low.value(source), axes, "", bool(at["keepdim"]))
    if at["keepdim"]:
        return low.add(node, "GlobalAveragePool", low.operands(node))
    pooled = low.add(node, "GlobalAveragePool", low.operands(node), "pooled")
    entry = low.integer.get(node)
    if entry is not None:
        pooled = low.quantized(pooled, entry.output, f"{node.name}/pooled_real")
    return low.add(node, "Reshape", [pooled, low.model.integers(low.shape(node))])


@emits("sum")
def sum_(low: Lowering, node: fx.Node) -> str:
    """ReduceSum."""
    at = attributes(node)
    x, axes = low.value(operand(node, 0)), list(at["axes"])
    return reduction(low, node, "ReduceSum", x, axes, "", bool(at["keepdim"]), axes_input=True)


@emits("amax")
def amax(low: Lowering, node: fx.Node) -> str:
    """ReduceMax."""
    at = attributes(node)
    x, axes = low.value(operand(node, 0)), list(at["axes"])
    modern = low.model.opset >= 18
    return reduction(low, node, "ReduceMax", x, axes, "", bool(at["keepdim"]), axes_input=modern)


@emits("softmax")
def softmax(low: Lowering, node: fx.Node) -> str:
    """Softmax."""
    return low.add(node, "Softmax", low.operands(node), axis=int(attributes(node)["axis"]))


@emits("concat")
def concat(low: Lowering, node: fx.Node) -> str:
    """Concat."""
    return low.add(node, "Concat", low.operands(node), axis=int(attributes(node)["axis"]))


@emits("slice")
def slice_(low: Lowering, node: fx.Node) -> str:
    """Slice along one axis."""
    at = attributes(node)
    ranges = [low.model.integers([int(at[key])], key) for key in ("start", "stop", "axis", "step")]
    return low.add(node, "Slice", [low.value(operand(node, 0)), *ranges])


@emits("pad")
def pad(low: Lowering, node: fx.Node) -> str:
    """Pad."""
    at = attributes(node)
    amounts = low.model.integers([p[0] for p in at["padding"]] + [p[1] for p in at["padding"]], "pads")
    inputs = [low.value(operand(node, 0)), amounts]
    if at["mode"] == "constant":
        inputs.append(low.model.number(float(at["value"]), "fill"))
    return low.add(node, "Pad", inputs, mode=_PAD_MODES[at["mode"]])


@emits("resize")
def resize(low: Lowering, node: fx.Node) -> str:
    """Resize in torch's coordinates: `nearest` rounds down from the corner, bilinear uses pixel centres."""
    at = attributes(node)
    inputs = [low.value(operand(node, 0)), "", "", low.model.integers(low.shape(node), "size")]
    if at["mode"] == "nearest":
        return low.add(
            node, "Resize", inputs, mode="nearest", nearest_mode="floor",
            coordinate_transformation_mode="asymmetric",
        )  # fmt: skip
    corners = "align_corners" if at["align_corners"] else "half_pixel"
    return low.add(node, "Resize", inputs, mode="linear", coordinate_transformation_mode=corners)


@emits("reshape")
def reshape(low: Lowering, node: fx.Node) -> str:
    """Reshape."""
    return low.add(node, "Reshape", [low.value(operand(node, 0)), low.model.integers(low.shape(node))])


@emits("transpose")
def transpose(low: Lowering, node: fx.Node) -> str:
    """Transpose."""
    return low.add(node, "Transpose", low.operands(node), perm=list(attributes(node)["perm"]))


@emits("pixel_shuffle")
def pixel_shuffle(low: Lowering, node: fx.Node) -> str:
    """DepthToSpace in torch's channel order, mode CRD (column, row, depth)."""
    factor = int(attributes(node)["factor"])
    return low.add(node, "DepthToSpace", low.operands(node), mode="CRD", blocksize=factor)
