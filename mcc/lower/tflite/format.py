"""The format TFLite, by mcc's own writer or by TensorFlow's converter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mcc.lower.formats import Format, Storage

if TYPE_CHECKING:
    from mcc.ir.graph import Graph


def lower(graph: Graph, *, via: str = "direct", **options: Any) -> bytes:
    """See `to_tflite`; `via` is `direct` or `tensorflow`."""
    if via == "tensorflow":
        from mcc.lower.tensorflow.converter import convert

        return convert(graph, **options)
    from mcc.lower.tflite.writer import to_tflite

    return to_tflite(graph, **options)


def kernels(graph: Graph, integers: bool) -> bytes:
    """The bytes of a micro-network."""
    from mcc.lower.tflite.writer import to_tflite

    return to_tflite(graph, io="int8" if integers else "float")


FORMATS = (
    Format(
        "tflite",
        ".tflite",
        "litert-host",
        lower,
        kernels,
        # A scale is a float32 and a zero point an int64; sparse weights as in `mcc.lower.tflite.sparse`.
        Storage(alignment=16, weight_scale=4 + 8, bias_scale=4 + 8, sparse=True),
        options=("fp16", "via"),
        routes=("direct", "tensorflow"),
    ),
)
