"""Views of any .ort file for comparison with graphs, with canonical names."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from mcc.ir.diff import ConstantView, NodeView
from mcc.ir.notes import DTYPES
from mcc.ir.table import WEIGHTED
from mcc.lower.onnx.ort_reader import OrtModel, OrtNode, read_ort

OPERATORS = {
    "Conv": "conv2d", "FusedConv": "conv2d", "QLinearConv": "conv2d", "ConvTranspose": "conv_transpose2d",
    "ConvInteger": "conv2d", "MatMulInteger": "matmul", "QLinearMatMul": "matmul",
    "Gemm": "linear", "FusedGemm": "linear", "QGemm": "linear", "MatMul": "matmul", "FusedMatMul": "matmul",
    "ReduceMean": "mean", "GlobalAveragePool": "mean", "QLinearGlobalAveragePool": "mean",
    "Add": "add", "QLinearAdd": "add", "Sub": "sub", "Mul": "mul", "QLinearMul": "mul", "Div": "div",
    "MaxPool": "max_pool2d", "AveragePool": "avg_pool2d", "QLinearAveragePool": "avg_pool2d",
    "Concat": "concat", "QLinearConcat": "concat", "Slice": "slice", "Pad": "pad", "Reshape": "reshape",
    "Transpose": "transpose", "Softmax": "softmax", "QLinearSoftmax": "softmax", "Relu": "relu",
    "Sigmoid": "sigmoid", "QLinearSigmoid": "sigmoid", "Tanh": "tanh", "PRelu": "prelu",
    "LeakyRelu": "leaky_relu", "HardSwish": "hardswish", "HardSigmoid": "hardsigmoid", "Resize": "resize",
}  # fmt: skip
"""Canonical names of operators, if there are any; the others keep onnxruntime's."""

FLOAT_ROLES = ("x", "weight", "bias")
INTEGER_ROLES = {3: "weight", 8: "bias"}  # of QLinearConv and QGemm: the rest are scales and zero points
NAMES = {str(dtype).removeprefix("torch."): name for name, dtype in DTYPES.items()}


def view_ort(path: Path | str) -> list[NodeView]:
    """The inputs and operators of an .ort file as views.

    Raises:
        DataError: The file is not an .ort file, or damaged.
        TargetError: onnxruntime is not installed.
    """
    return views_of_model(read_ort(path))


def views_of_model(model: OrtModel) -> list[NodeView]:
    """The inputs and operators of a model as views."""
    inputs = [NodeView(name, "input", _type(model, name)) for name in model.inputs]
    return inputs + [_view(model, node) for node in model.nodes if node.outputs]


def _view(model: OrtModel, node: OrtNode) -> NodeView:
    op = OPERATORS.get(node.op, node.op.lower())
    integer = node.op.startswith("Q")
    constants: list[ConstantView] = []
    for place, name in enumerate(node.inputs):
        if name in model.constants and not (integer and op in WEIGHTED and place not in INTEGER_ROLES):
            constants.append(_constant(model, name, _role(op, place, integer)))
    operands = tuple(name for name in node.inputs if name and name not in model.constants)
    first = node.outputs[0]
    plain = {key: v for key, v in node.attributes.items() if isinstance(v, bool | int | float | str)}
    quantised = "integers" if integer else None
    return NodeView(node.name or first, op, _type(model, first), operands, plain, tuple(constants), quantised)


def _role(op: str, place: int, integer: bool) -> str:
    if op not in WEIGHTED:
        return f"constant {place}"
    if integer:
        return INTEGER_ROLES[place]
    return FLOAT_ROLES[place] if place < len(FLOAT_ROLES) else f"constant {place}"


def _type(model: OrtModel, name: str) -> str:
    if name not in model.types:
        return "not stored"
    shape, dtype = model.types[name]
    return f"{NAMES.get(dtype, dtype)}[{','.join(map(str, shape))}]"


def _constant(model: OrtModel, name: str, role: str) -> ConstantView:
    data = model.constants[name]
    digest = hashlib.blake2b(np.ascontiguousarray(data).tobytes(), digest_size=8).hexdigest()
    zeros = float((data == 0).mean()) if data.size else 0.0
    kind = None if data.dtype.kind == "f" else data.dtype.name
    return ConstantView(role, tuple(data.shape), zeros, digest, kind)
