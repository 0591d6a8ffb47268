"""Predicts the cost of each layer in each form: unchanged, integer, sparse, or as a low-rank pair.

Forms are compared one layer at a time, with the rest of the network unchanged. A sparse layer only saves this
time if its whole cluster runs sparse, and neighbours in another precision add conversions: a plan accounts
for both, this view does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from mcc.analysis.pointwise import pointwise
from mcc.analysis.sparse_cluster import find_sparse_cluster
from mcc.cost_api import CostModel, Estimate, Kernel, graph_kernels
from mcc.cost_sum import summed
from mcc.ir.graph import Graph
from mcc.ir.notes import SparseNote
from mcc.quant.placement import place
from mcc.quant.regions import integer_nodes
from mcc.runtime.target import Target
from mcc.search.tables import low_rank_pair

SPARSITY = 0.8  # of the sparse form: the middle of those in the search space
RANK_SHARE = 0.25  # of the smaller side: a 1x1 between equal widths then has half of its multiplications


@dataclass(frozen=True)
class LayerForms:
    """Predicted cost of one layer in each possible form on the target.

    Attributes:
        node: Name of the layer.
        forms: Costs by name of the form, the present one first: `float`, `int8`, `sparse 80 %`, `rank 24`.
    """

    node: str
    forms: Mapping[str, Estimate]


def layer_forms(graph: Graph, target: Target, model: CostModel) -> tuple[LayerForms, ...]:
    """Each layer with weights, in each possible form.

    Args:
        graph: Graph in deployment form; quantised layers have no other form.
    """
    held = {node.name for node in integer_nodes(graph)}
    kernels = graph_kernels(graph, held)
    integer = set[str]() if held else {node.name for node in place(graph, "int8").precision}
    thin = find_sparse_cluster(graph).pointwise if target.facts().sparse_1x1 and not held else ()
    plain = {node.name for node in pointwise(graph)}
    found: list[LayerForms] = []
    for name, kernel in kernels.items():
        if len(kernel.operands) < 2 or kernel.operands[1] is None or not kernel.operands[1].constant:
            continue
        forms = {kernel.precision if name in held else "float": model.kernel(kernel)}
        if name in integer:
            forms["int8"] = model.kernel(replace(kernel, precision="int8"))
        if name in thin:
            sparse = SparseNote(target.facts().sparse_block, SPARSITY)
            forms[f"sparse {SPARSITY:.0%}"] = model.kernel(replace(kernel, sparse=sparse, layout="nchw"))
        if name in plain and name not in held:
            rank = shown_rank(kernel)
            forms[f"rank {rank}"] = _pair(kernel, rank, model)
        found.append(LayerForms(name, forms))
    return tuple(found)


def shown_rank(kernel: Kernel) -> int:
    """The rank at which a 1x1 convolution is shown: a quarter of its smaller side, a multiple of 8."""
    weight = kernel.operands[1]
    assert weight is not None
    return max(8, round(RANK_SHARE * min(weight.shape[:2]) / 8) * 8)


def _pair(kernel: Kernel, rank: int, model: CostModel) -> Estimate:
    """A 1x1 convolution as a pair of two."""
    return summed((part, model.kernel(part)) for part in low_rank_pair(kernel, rank))
