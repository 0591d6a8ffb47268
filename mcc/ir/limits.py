"""Limits on graphs from files and other frameworks, and requirements on their constants.

A few bytes of a file can request any amount of memory. A graph beyond these limits is no network for a phone:
it is refused with a message before it is run.
"""

from __future__ import annotations

import torch
from torch import fx

from mcc.errors import UnsupportedError
from mcc.ir import table
from mcc.ir.graph import Graph, calls, constants, is_constant, op_name, outputs
from mcc.ir.notes import type_of

# The deepest public classifiers have 1,500 operators, unrolled recurrent networks some thousand; a constant
# node of ONNX takes 1 ms to evaluate.
MAX_NODES = 8_000
# Memory of values live at the same time, for one sample. A U-Net of 64 channels on 1024 x 1024 pixels holds
# 0.5 GiB; proofs run two samples at once.
MAX_LIVE_BYTES = 640 << 20


class TooLargeError(UnsupportedError):
    """A model that exceeds the limits."""


def check_count(nodes: int, what: str = "nodes") -> None:
    """Raise TooLargeError for more nodes than mcc handles; called before any node is read."""
    if nodes > MAX_NODES:
        raise TooLargeError(
            f"has {nodes} {what}, more than the {MAX_NODES} that mcc handles",
            where="model",
            hint="simplify the model, or take a part of it: --cut",
        )


def check_graph(graph: Graph) -> Graph:
    """Check that a graph is within the limits and its constants are valid numbers, and return it.

    Raises:
        TooLargeError: Too many nodes, or live values that need more memory than mcc handles.
        UnsupportedError: NaN in a constant, or an infinity among weights; the constant is named.
    """
    check_count(len(graph.graph.nodes))
    _check_memory(graph)
    _check_finite(graph)
    return graph


def _check_memory(graph: Graph) -> None:
    last = {arg: node for node in graph.graph.nodes for arg in node.all_input_nodes}
    kept = set(outputs(graph))
    live = sum(type_of(node).size_bytes for node in graph.graph.nodes if node.op == "placeholder")
    for node in calls(graph):
        live += type_of(node).size_bytes
        if live > MAX_LIVE_BYTES:
            raise TooLargeError(
                f"needs {live >> 20} MiB for the values of one sample, more than the "
                f"{MAX_LIVE_BYTES >> 20} MiB that mcc handles",
                where=node.name,
                hint="give it a smaller --input-shape",
            )
        for arg in node.all_input_nodes:
            if last[arg] is node and arg not in kept and not is_constant(arg):
                live -= type_of(arg).size_bytes


def _check_finite(graph: Graph) -> None:
    weights = {
        str(arg.target)
        for node in calls(graph)
        for arg in node.args
        # Elsewhere an infinity may be intended: a mask added before a softmax, the neutral element of a
        # maximum.
        if table.row_of(node).parameters and isinstance(arg, fx.Node) and is_constant(arg)
    }
    trained = {name for name, _ in graph.named_parameters(recurse=False)}
    for name, value in constants(graph).items():
        if not value.is_floating_point() or bool(torch.isfinite(value).all()):
            continue
        nan = int(torch.isnan(value).sum())
        if nan == 0 and name not in weights and name not in trained:
            continue
        found = nan or int(torch.isinf(value).sum())
        reader = next(node for node in calls(graph) if _reads(node, name))
        raise UnsupportedError(
            f"holds {found} {'values that are no number (NaN)' if nan else 'infinite values'} "
            f"among its {value.numel()}, read by {op_name(reader)} {reader.name}",
            where=f"constant {name}",
            hint="train or export the model again",
        )


def _reads(node: fx.Node, name: str) -> bool:
    return any(isinstance(arg, fx.Node) and is_constant(arg) and arg.target == name for arg in node.args)
