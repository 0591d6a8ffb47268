"""Second moments of the inputs of 1x1 convolutions.

With C = E[x x^T] of the inputs x of a layer W on calibration data, the mean squared change of its outputs by
another weight V is the trace of (W - V) C (W - V)^T: reconstructing a layer on data needs C only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from torch import Tensor, fx

from mcc.ir.feed import Feed, tensors_of
from mcc.ir.graph import Graph, copy_graph, operand
from mcc.ir.interpreter import observe


def input_moments(graph: Graph, nodes: Sequence[fx.Node], batches: Sequence[Feed]) -> dict[str, Tensor]:
    """Second moments [I, I] of the input pixels of 1x1 convolutions, by node name, in float64.

    Args:
        batches: Batches of the graph's inputs.
    """
    sources = {operand(node, 0).name: node.name for node in nodes}
    found: dict[str, Tensor] = {}
    counts: Counter[str] = Counter()

    def see(node: fx.Node, value: Tensor) -> None:
        pixels = value.double().transpose(0, 1).reshape(value.shape[1], -1)
        products = pixels @ pixels.T
        found[node.name] = found[node.name] + products if node.name in found else products
        counts[node.name] += pixels.shape[1]

    for batch in batches:
        observe(copy_graph(graph), tensors_of(batch), see, set(sources))
    reads = {node.name: operand(node, 0).name for node in nodes}
    return {name: found[source] / counts[source] for name, source in reads.items() if source in found}
