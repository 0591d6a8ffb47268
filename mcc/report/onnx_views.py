"""Views of ONNX files that compute with integers, which are shown and compared, but not compressed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from mcc.errors import DataError
from mcc.files import readable_file
from mcc.ir.diff import NodeView
from mcc.lower.onnx.ort_reader import DTYPES, OrtModel, OrtNode
from mcc.report.ort_views import views_of_model

_INTEGER = ("QLinear", "DynamicQuantize", "QGemm", "QAttention")
_INTEGERS = frozenset({"ConvInteger", "MatMulInteger"})


def view_integer_onnx(path: Path | str) -> list[NodeView] | None:
    """The inputs and operators of such a file; None for a file of real numbers, or in the QDQ format.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        model = onnx.load(str(readable_file(Path(path))))
    except DataError:
        raise
    except Exception as error:  # a damaged file may raise anything
        raise DataError(f"is no readable ONNX model: {type(error).__name__}", where=str(path)) from error
    if not any(_is_integer(node.op_type) for node in model.graph.node):
        return None
    return views_of_model(_as_stored(model, Path(path).stat().st_size))


def _is_integer(op: str) -> bool:
    return op.startswith(_INTEGER) or op in _INTEGERS


def _as_stored(model: onnx.ModelProto, size_bytes: int) -> OrtModel:
    """The model in the form in which onnxruntime's own files are read."""
    try:
        graph = onnx.shape_inference.infer_shapes(model).graph
    except Exception:  # operators of other domains have no rule; shapes are then those that are stored
        graph = model.graph
    constants = {tensor.name: np.asarray(numpy_helper.to_array(tensor)) for tensor in graph.initializer}
    values = [*graph.input, *graph.value_info, *graph.output]
    return OrtModel(
        tuple(value.name for value in graph.input if value.name not in constants),
        tuple(value.name for value in graph.output),
        {value.name: _type(value) for value in values if value.type.tensor_type.elem_type in DTYPES},
        constants,
        tuple(
            OrtNode(node.name, node.op_type, tuple(node.input), tuple(node.output), _attributes(node))
            for node in graph.node
        ),
        {entry.key: entry.value for entry in model.metadata_props},
        size_bytes,
    )


def _type(value: onnx.ValueInfoProto) -> tuple[tuple[int, ...], str]:
    kind = value.type.tensor_type
    return tuple(max(1, dim.dim_value) for dim in kind.shape.dim), DTYPES[kind.elem_type]


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    found = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    return {name: v.decode("utf-8", "replace") if isinstance(v, bytes) else v for name, v in found.items()}
