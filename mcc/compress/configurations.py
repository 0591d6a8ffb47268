"""What a target and a network allow together: sparse cluster, integer nodes, configurations, and kernels."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import torch

from mcc.analysis.sparse_cluster import SparseCluster, find_sparse_cluster
from mcc.compress.build import quantise
from mcc.cost_api import Kernel, Precision, graph_kernels
from mcc.ir.feed import Feed, Several
from mcc.ir.graph import Graph, inputs
from mcc.ir.notes import shape_of
from mcc.quant.regions import integer_nodes
from mcc.runtime.facts import TargetFacts
from mcc.search.space import Configuration, configurations


def target_cluster(graph: Graph, facts: TargetFacts) -> SparseCluster:
    """The sparse cluster of a graph on a target; empty if the target has no sparse kernels."""
    if not facts.sparse_1x1:
        return SparseCluster((), (), facts.sparse_why)
    return find_sparse_cluster(graph)


def structure_kernels(
    deployed: Graph, configuration: Configuration, facts: TargetFacts, calibration: tuple[Feed, ...] = ()
) -> dict[str, Kernel]:
    """Kernels of a float graph in deployment form, under a configuration on a target.

    Args:
        calibration: As in `planned_integers`.
    """
    integer = (
        planned_integers(deployed, calibration) if configuration.precision != "float" else frozenset[str]()
    )
    cluster = target_cluster(deployed, facts).nodes if configuration.sparse else ()
    kernels = graph_kernels(deployed, integer, cluster)
    if configuration.precision == "int7":
        return {n: replace(k, precision="int7") if n in integer else k for n, k in kernels.items()}
    return kernels


def available_configurations(
    cluster: SparseCluster, integer: Collection[str], facts: TargetFacts, passes: str = ""
) -> tuple[Configuration, ...]:
    """Configurations that a target and a network allow together; `passes` as in `Configuration`."""
    precisions: tuple[Precision, ...] = ("float", "int8") if integer else ("float",)
    block = facts.sparse_block if facts.sparse_1x1 else None
    return configurations(cluster, sparse_block=block, precisions=precisions, passes=passes)


def planned_integers(deployed: Graph, calibration: tuple[Feed, ...] = ()) -> frozenset[str]:
    """Nodes that run as integer kernels after quantisation, determined by quantising a copy.

    Args:
        calibration: Calibration data that decides it; random data if empty.
    """
    if not calibration:
        generator = torch.Generator().manual_seed(0)
        shapes = map(shape_of, inputs(deployed))
        calibration = (Several(tuple(torch.randn((2, *s[1:]), generator=generator) for s in shapes)),)
    return frozenset(
        node.name for node in integer_nodes(quantise(deployed, Configuration("int8"), calibration))
    )
