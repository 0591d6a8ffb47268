"""Evaluating ONNX nodes of constants, within bounds that are known before anything is computed.

A file of a few kB can double a constant thirty times. So the size of each result is asked of ONNX's shape
inference first, and a node whose result is not known to be small, or whose work is not, is not evaluated.
(The folding of onnxscript 0.7 asks for the size of a result once it has been computed.)
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import numpy as np
import onnx
from onnx import helper, numpy_helper

from mcc.frontend.allowance import Allowance

Array = np.ndarray[Any, Any]
Refuse = Callable[[str, str], NoReturn]

# The evaluator computes element-wise in numpy, ...
PER_ELEMENT_BYTES = 8
# ... products of matrices at some 1e9 multiplications a second, ...
MAX_PRODUCTS = 1 << 31
# ... and the rest in Python, a microsecond or more for each element.
MAX_SLOW_ELEMENTS = 1 << 17

# Shapes are decided by constants of few elements (the target of a reshape); others only by their type.
DECIDING_ELEMENTS = 4096

_PRODUCTS = frozenset({"MatMul", "Gemm", "Einsum", "MatMulInteger"})
_LINEAR = frozenset({
    "Abs", "Add", "And", "Cast", "CastLike", "Ceil", "Clip", "Compress", "Concat", "Constant",
    "ConstantOfShape", "Cos", "CumSum", "DequantizeLinear", "Div", "Dropout", "Equal", "Erf", "Exp",
    "Expand", "EyeLike", "Flatten", "Floor", "Gather", "GatherElements", "GatherND", "Greater",
    "GreaterOrEqual", "Identity", "IsInf", "IsNaN", "Less", "LessOrEqual", "Log", "Max", "Mean", "Min",
    "Mod", "Mul", "Neg", "NonZero", "Not", "OneHot", "Or", "Pad", "Pow", "QuantizeLinear", "Range",
    "Reciprocal", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceL1",
    "ReduceL2", "Relu", "Reshape", "Round", "ScatterElements", "ScatterND", "Shape", "Sigmoid", "Sign",
    "Sin", "Size", "Slice", "Softmax", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tanh", "Tile",
    "Transpose", "Trilu", "Unique", "Unsqueeze", "Where", "Xor",
})  # fmt: skip
# What these return depends on values, and is at most as many as they read, once for each axis.
_SELECTING = frozenset({"NonZero", "Compress", "Unique"})


class Folder:
    """Evaluates nodes and counts what has been made."""

    def __init__(self, opset: int, stored_bytes: int) -> None:
        self.opset = opset
        self.allowance = Allowance(stored_bytes)

    def evaluate(self, node: onnx.NodeProto, given: Mapping[str, Array], refuse: Refuse) -> list[Any]:
        """The results of a node on constants.

        Args:
            given: the constants that it reads, by name.
            refuse: raises an error with a reason and a hint.
        """
        if node.op_type.startswith(("Random", "Bernoulli", "Multinomial")):
            refuse("draws random numbers", "remove the noise")
        if any(entry.type in (entry.GRAPH, entry.GRAPHS) for entry in node.attribute):
            refuse("has several ways through a constant", "export the model with fixed options")
        made = self._result_elements(node, given)
        if made is None:
            refuse("makes a constant whose size is not known beforehand", "store the constant itself")
        self.allowance.take(
            made * _element_bytes(node), where=f"node {node.name or node.output[0]} ({node.op_type})"
        )
        if not _is_quick(node, given, made):
            refuse("takes too long to evaluate on constants of this size", "store the constant itself")
        return _evaluated(node, given, self.opset)

    def _result_elements(self, node: onnx.NodeProto, given: Mapping[str, Array]) -> int | None:
        """Elements of all results by shape inference; None where they are not known beforehand."""
        read = sum(array.size * max(1, array.ndim) for array in given.values())
        if node.op_type == "Constant":
            return sum(math.prod(entry.t.dims) for entry in node.attribute)
        if node.op_type in _SELECTING:
            return read * 4
        if node.op_type == "Range":
            return _steps(*(float(given[name]) for name in node.input))
        deciding = {key: array for key, array in given.items() if array.size <= DECIDING_ELEMENTS}
        graph = helper.make_graph(
            [node],
            "node",
            [
                helper.make_tensor_value_info(
                    key, helper.np_dtype_to_tensor_dtype(array.dtype), list(array.shape)
                )
                for key, array in given.items()
                if key not in deciding
            ],
            [helper.make_empty_tensor_value_info(name) for name in node.output if name],
            [numpy_helper.from_array(np.ascontiguousarray(value), key) for key, value in deciding.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
        total = 0
        for value in inferred.graph.output:
            kind = value.type.tensor_type
            if not kind.HasField("shape") or not all(dim.HasField("dim_value") for dim in kind.shape.dim):
                return None
            total += math.prod(dim.dim_value for dim in kind.shape.dim)
        return total


def _element_bytes(node: onnx.NodeProto) -> int:
    """Bytes that an element of the results takes while they are made."""
    if node.op_type != "ConstantOfShape":  # which fills an array of its own type
        return PER_ELEMENT_BYTES
    value = next((entry.t for entry in node.attribute if entry.name == "value"), None)
    kind = onnx.TensorProto.FLOAT if value is None else value.data_type
    return helper.tensor_dtype_to_np_dtype(kind).itemsize


def _steps(start: float, limit: float, delta: float) -> int | None:
    """Length of a range; shape inference knows that of integers only."""
    length = (limit - start) / delta if delta else math.inf
    return max(0, math.ceil(length)) if math.isfinite(length) else None


def _is_quick(node: onnx.NodeProto, given: Mapping[str, Array], made: int) -> bool:
    sizes = [given[name].size for name in node.input if name]  # one that is read twice counts twice
    if node.op_type in _LINEAR:
        return True
    if node.op_type in _PRODUCTS:
        work = math.prod(sizes) if node.op_type == "Einsum" else made * max(sizes, default=0)
        return work <= MAX_PRODUCTS
    return sum(sizes) + made <= MAX_SLOW_ELEMENTS


def _evaluated(node: onnx.NodeProto, given: Mapping[str, Array], opset: int) -> list[Any]:
    from onnx.reference import ReferenceEvaluator

    graph = helper.make_graph(
        [node],
        "node",
        [helper.make_empty_tensor_value_info(key) for key in given],
        [helper.make_empty_tensor_value_info(key) for key in node.output],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return list(ReferenceEvaluator(model).run(None, dict(given)))  # pyright: ignore
