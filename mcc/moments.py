"""Second moments of what 1x1 convolutions read, and weights fitted to them.

With C = E[x x^T] of the inputs x of a layer W on calibration data, the mean squared change of its outputs by
another weight V is the trace of (W - V) C (W - V)^T: whatever reconstructs a layer on data needs C only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor, fx

from mcc.interpret import observe
from mcc.ir.graph import Graph, copy_graph, inputs, operand

RIDGE = 1e-4  # of the mean energy of an input channel, added to all: channels that hardly vary stay in bounds
ROWS_AT_A_TIME = 64  # systems solved together: 64 of 320 unknowns take 52 MB


def input_moments(graph: Graph, nodes: Sequence[fx.Node], batches: Sequence[Tensor]) -> dict[str, Tensor]:
    """Second moments [I, I] of the input pixels of 1x1 convolutions, by node name, in float64.

    Args:
        batches: of the graph's one input; a graph with several has no data here, and the result is empty.
    """
    sources = {operand(node, 0).name: node.name for node in nodes}
    found: dict[str, Tensor] = {}
    counts: Counter[str] = Counter()

    def see(node: fx.Node, value: Tensor) -> None:
        pixels = value.double().transpose(0, 1).reshape(value.shape[1], -1)
        products = pixels @ pixels.T
        found[node.name] = found[node.name] + products if node.name in found else products
        counts[node.name] += pixels.shape[1]

    for batch in batches if len(inputs(graph)) == 1 else ():
        observe(copy_graph(graph), (batch,), see, set(sources))
    reads = {node.name: operand(node, 0).name for node in nodes}
    return {name: found[source] / counts[source] for name, source in reads.items() if source in found}


def refit(weight: Tensor, mask: Tensor, moment: Tensor) -> Tensor:
    """The weight with zeros where the mask says so whose outputs are nearest to those of the whole weight.

    Row w of the weight becomes the v that is least in (w - v) C (w - v)^T among those with its zeros: on the
    kept places K, v_K = w C[:, K] C[K, K]^-1 (the optimal update of Hassibi and Stork 1993, "Second order
    derivatives for network pruning", for a layer by itself).

    Args:
        weight: [O, I, 1, 1].
        mask: same shape, true where a weight stays.
        moment: [I, I] of the inputs.

    Returns:
        Same shape and dtype; exactly zero where the mask is false.
    """
    dense, kept = weight[:, :, 0, 0].double(), mask[:, :, 0, 0]
    ridge = RIDGE * float(moment.diagonal().mean()) + 1e-30
    whole = moment + ridge * torch.eye(len(moment), dtype=torch.float64)
    target = dense @ whole
    fitted = torch.zeros_like(dense)
    counts = kept.sum(1)
    for count in sorted({int(n) for n in counts.tolist()} - {0}):
        rows = (counts == count).nonzero()[:, 0]
        for some in rows.split(ROWS_AT_A_TIME):
            places = kept[some].nonzero()[:, 1].reshape(len(some), count)
            systems = whole[places[:, :, None], places[:, None, :]]
            solved = torch.linalg.solve(systems, target[some].gather(1, places)[:, :, None])[:, :, 0]
            fitted[some] = fitted[some].scatter(1, places, solved)
    return fitted[:, :, None, None].to(weight.dtype)
