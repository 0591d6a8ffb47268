"""Views of any .tflite file for comparison with graphs: canonical names, channels second."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from mcc.ir.diff import ConstantView, NodeView
from mcc.ir.notes import DTYPES
from mcc.lower.tflite.quantisation import Quantisation
from mcc.lower.tflite.reader import TfliteModel, TfliteOperator, read_tflite

OPERATORS = {
    "CONV_2D": "conv2d", "DEPTHWISE_CONV_2D": "conv2d", "TRANSPOSE_CONV": "conv_transpose2d",
    "FULLY_CONNECTED": "linear", "BATCH_MATMUL": "matmul", "MEAN": "mean", "ADD": "add", "SUB": "sub",
    "MUL": "mul", "DIV": "div", "MAX_POOL_2D": "max_pool2d", "AVERAGE_POOL_2D": "avg_pool2d",
    "CONCATENATION": "concat", "STRIDED_SLICE": "slice", "SLICE": "slice", "PAD": "pad", "PADV2": "pad",
    "RESHAPE": "reshape", "TRANSPOSE": "transpose", "SOFTMAX": "softmax", "RELU": "relu", "RELU6": "relu6",
    "HARD_SWISH": "hardswish", "LOGISTIC": "sigmoid", "TANH": "tanh", "PRELU": "prelu",
    "LEAKY_RELU": "leaky_relu",     "RESIZE_BILINEAR": "resize",
    "RESIZE_NEAREST_NEIGHBOR": "resize",
}  # fmt: skip
"""Canonical names of TFLite's operators, if there are any; the others keep TFLite's."""

ROLES = ("x", "weight", "bias")
IN_ORDER = frozenset({"conv2d", "linear"})
"""Operators whose operands are in the order of `ROLES`; TRANSPOSE_CONV begins with its output shape."""
NAMES = {str(dtype).removeprefix("torch."): name for name, dtype in DTYPES.items()}


def view_tflite(path: Path | str) -> list[NodeView]:
    """The inputs and operators of a .tflite file as views; images with channels second.

    Raises:
        DataError: The file is not a TFLite file, or damaged.
    """
    model = read_tflite(path)
    inputs = [NodeView(model.tensors[i].name, "input", _type(model, i)) for i in model.inputs]
    skipped = _looked_through(model)
    operators = [o for o in model.operators if o.outputs and o.index not in skipped.values()]
    return inputs + [_view(model, operator, skipped) for operator in operators]


def _looked_through(model: TfliteModel) -> dict[int, int]:
    """Results of DENSIFY or DEQUANTIZE of a constant: their operator is storage, not computation."""
    return {
        operator.outputs[0]: operator.index
        for operator in model.operators
        if operator.code in ("DENSIFY", "DEQUANTIZE") and model.tensors[operator.inputs[0]].is_constant
    }


def _view(model: TfliteModel, operator: TfliteOperator, skipped: dict[int, int]) -> NodeView:
    name = OPERATORS.get(operator.code, operator.code.lower())
    operands: list[str] = []
    constants: list[ConstantView] = []
    for position, index in enumerate(operator.inputs):
        if index < 0:
            continue
        if model.tensors[index].is_constant or index in skipped:
            if _no_bias(model, index, position, name):
                continue
            role = ROLES[position] if name in IN_ORDER and position < len(ROLES) else f"constant {position}"
            constants.append(_constant(model, index, role, operator.code))
        else:
            operands.append(model.tensors[index].name)
    first = operator.outputs[0]
    out = model.tensors[first]
    return NodeView(
        out.name or f"tensor_{first}",
        name,
        _type(model, first),
        tuple(operands),
        {
            key: value
            for key, value in operator.options.items()
            if isinstance(value, bool | int | float | str)
        },
        tuple(constants),
        _quantised(out.quantisation, out.dtype),
    )


def _type(model: TfliteModel, index: int) -> str:
    tensor = model.tensors[index]
    shape = tensor.shape
    if len(shape) == 4 and not tensor.is_constant:
        shape = (shape[0], shape[3], shape[1], shape[2])
    # The type of a quantised value in a graph is real; its storage is stated separately.
    dtype = "float32" if tensor.quantisation is not None else tensor.dtype
    return f"{NAMES.get(dtype, dtype)}[{','.join(map(str, shape))}]"


def _no_bias(model: TfliteModel, index: int, position: int, name: str) -> bool:
    """Whether an operand is a zero bias, which the format requires and a graph omits."""
    data: Any = model.constant(index)
    return name in IN_ORDER and position == 2 and data is not None and not data.any()


def _constant(model: TfliteModel, index: int, role: str, code: str) -> ConstantView:
    tensor = model.tensors[index]
    data: Any = model.constant(index)
    if data is None:
        return ConstantView(role, tensor.shape, 0.0, "", tensor.dtype)
    if tensor.dtype == "int32" and role == "bias":  # a graph stores it as float, with other numbers
        return ConstantView(role, tuple(data.shape), float((data == 0).mean()), "")
    if tensor.quantisation is not None:
        data = _real(data, tensor.quantisation)
    if data.ndim == 4 and role == "weight":
        # O H W I, or 1 H W O of a depthwise one, to the axes O I H W of the graph.
        data = data.transpose(3, 0, 1, 2) if code == "DEPTHWISE_CONV_2D" else data.transpose(0, 3, 1, 2)
    digest = hashlib.blake2b(np.ascontiguousarray(data).tobytes(), digest_size=8).hexdigest()
    zeros = float((data == 0).mean()) if data.size else 0.0
    return ConstantView(role, tuple(data.shape), zeros, digest, _quantised(tensor.quantisation, tensor.dtype))


def _real(data: Any, quantisation: Quantisation) -> Any:
    """The real values of a quantised constant, in float32 as in the runtime and the graph."""
    shape = [-1 if axis == quantisation.axis else 1 for axis in range(data.ndim)]
    per_axis = quantisation.scales.size > 1
    scales = quantisation.scales.reshape(shape) if per_axis else quantisation.scale
    zeros = quantisation.zero_points.reshape(shape) if per_axis else quantisation.zero_point
    return (data.astype(np.float32) - np.float32(zeros)) * np.float32(scales)


def _quantised(quantisation: Quantisation | None, dtype: str) -> str | None:
    if quantisation is None:
        return None
    scales = quantisation.scales
    if scales.size == 1:
        return f"{dtype} scale {float(quantisation.scale):.6g} zero {quantisation.zero_point}"
    return f"{dtype} {scales.size} scales {float(scales.min()):.4g} to {float(scales.max()):.4g}"
