"""Lowering through `torch.export` and ExecuTorch's XNNPACK partitioner: any operator, in some seconds.

Operators outside XNNPACK's partitions run in ExecuTorch's portable kernels.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx

from mcc.errors import UnsupportedError
from mcc.ir.graph import first_line, inputs
from mcc.ir.notes import DTYPES, type_of
from mcc.lower.pte.exportable import exportable


@contextmanager
def quiet() -> Generator[None]:
    """Suppress warnings of torch and ExecuTorch about their own internals during export."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def export_pte(graph: fx.GraphModule, described: Mapping[str, Any]) -> bytes:
    """The bytes of a program created by ExecuTorch's own tools.

    Args:
        described: Values of the constant methods of the program, by name.

    Raises:
        UnsupportedError: torch or ExecuTorch rejects the graph.
    """
    with quiet(), torch.no_grad():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

        module = exportable(graph)
        examples = tuple(
            torch.zeros(type_of(node).shape, dtype=DTYPES[type_of(node).dtype]) for node in inputs(graph)
        )
        try:
            program = torch.export.export(module, examples)
            lowered = to_edge_transform_and_lower(
                program,
                partitioner=[XnnpackPartitioner()],
                constant_methods=dict(described) or None,
                compile_config=EdgeCompileConfig(_check_ir_validity=False),
            )
            return bytes(lowered.to_executorch().buffer)
        except Exception as error:  # both raise exceptions of their own, without a common base
            raise UnsupportedError(f"ExecuTorch does not take the graph: {first_line(error)}") from error
