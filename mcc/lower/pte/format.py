"""The format of ExecuTorch programs (.pte) for the XNNPACK delegate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mcc.lower.formats import Format, Storage

if TYPE_CHECKING:
    from mcc.ir.graph import Graph


def lower(graph: Graph, **options: Any) -> bytes:
    """See `to_pte`."""
    from mcc.lower.pte.writer import to_pte

    return to_pte(graph, **options)


def kernels(graph: Graph, integers: bool) -> bytes:
    """The bytes of a micro-network; inputs and outputs are always integers."""
    return lower(graph, via="direct", io="int8")


FORMATS = (
    Format(
        "pte",
        ".pte",
        "executorch-host",
        lower,
        kernels,
        Storage(alignment=16, weight_scale=4, bias_scale=4),  # without zero points
        options=("via",),
        routes=("auto", "direct", "export"),
    ),
)
