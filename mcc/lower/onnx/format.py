"""The formats ONNX and .ort, onnxruntime's own format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mcc.lower.formats import Format, Storage

if TYPE_CHECKING:
    from mcc.ir.graph import Graph


def lower(graph: Graph, **options: Any) -> bytes:
    """See `to_onnx`."""
    from mcc.lower.onnx.writer import to_onnx

    return to_onnx(graph, **options)


def lower_ort(graph: Graph, *, processor: str = "arm", **options: Any) -> bytes:
    """See `to_onnx` and `to_ort`."""
    from mcc.lower.onnx.ort_format import to_ort

    return to_ort(lower(graph, **options), platform=processor)


def kernels(graph: Graph, integers: bool) -> bytes:
    """The bytes of a micro-network; inputs and outputs are always float."""
    return lower(graph, simplify=False)


# A zero point is one byte, that of a bias an int32; nothing is aligned.
_STORAGE = Storage(alignment=1, weight_scale=4 + 1, bias_scale=4 + 4, always_bias=False)

FORMATS = (
    Format("onnx", ".onnx", "ort-host", lower, kernels, _STORAGE, options=("opset",)),
    Format("ort", ".ort", "ort-host", lower_ort, kernels, _STORAGE, options=("opset", "processor")),
)
