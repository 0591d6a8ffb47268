"""Writing micro-networks in a target's format."""

from __future__ import annotations

from pathlib import Path

from mcc.errors import UnsupportedError
from mcc.ir.graph import Graph
from mcc.runtime.target import Target


def write_graph(graph: Graph, target: Target, stem: Path) -> Path:
    """Lower a graph into `stem` and a suffix, with integer inputs and outputs where the target takes them.

    Raises UnsupportedError for an operator that the format lacks, or a format that cannot be written.
    """
    path = stem.with_name(f"{stem.name}.{target.format}")
    if target.format == "tflite":
        from mcc.lower.tflite.writer import to_tflite

        path.write_bytes(to_tflite(graph, io="int8" if target.facts().int8_io else "float"))
    elif target.format == "onnx":
        from mcc.lower.onnx.writer import to_onnx

        path.write_bytes(to_onnx(graph, simplify=False))
    elif target.format == "pte":
        from mcc.lower.pte.writer import to_pte

        path.write_bytes(to_pte(graph, via="direct", io="int8"))
    else:
        raise UnsupportedError(f"micro-networks cannot be written as {target.format}", where=target.spec)
    return path
