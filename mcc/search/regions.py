"""Regions of a network whose precision is decided independently.

A region is a part of the graph between two values through which all data flows: if precision changes there,
exactly one value has to be converted.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from torch import fx

from mcc.ir import table
from mcc.ir.dataflow import dataflow
from mcc.ir.graph import Graph, calls, inputs, is_constant, output_node, outputs

MOST_REGIONS = 8
"""Each region costs a measurement and a variable; with 8, one of MobileNetV2's holds two blocks."""


@dataclass(frozen=True)
class Region:
    """A part of a graph between two values.

    Attributes:
        name: Names of its first and last layer with weights; no channel group has such a name.
        nodes: Names of its nodes, in order.
        entry: The value that everything in it is computed from.
        exit: Its last value, the next region's entry.
    """

    name: str
    nodes: tuple[str, ...]
    entry: str
    exit: str


def precision_regions(graph: Graph, integer: Collection[str], most: int = MOST_REGIONS) -> tuple[Region, ...]:
    """The regions of a graph in deployment form, in order; together they hold every operator.

    Stretches between single values are joined until each region has about the same number of layers with
    weights. A graph with several inputs, or without integer layers, has none.

    Args:
        integer: Nodes that can run on integers.
        most: Maximum number of regions.
    """
    stretches = _stretches(graph)
    weighted = {n.name for n in calls(graph) if table.row_of(n).scales == "weighted" and n.name in integer}
    if not stretches or not weighted:
        return ()
    share = max(1.0, len(weighted) / most)
    found: list[list[fx.Node]] = [[]]
    begun = 0
    for stretch in stretches:
        inside = sum(node.name in weighted for node in stretch)
        if begun >= share * len(found) and inside:
            found.append([])
        found[-1] += stretch
        begun += inside
    return tuple(
        _region(nodes, weighted, before) for before, nodes in zip((None, *found), found, strict=False)
    )


def _region(nodes: list[fx.Node], weighted: Collection[str], before: list[fx.Node] | None) -> Region:
    names = tuple(node.name for node in nodes)
    layers = [name for name in names if name in weighted]
    entry = before[-1] if before else _first_value(nodes[0])
    return Region(f"{layers[0]}..{layers[-1]}", names, entry.name, names[-1])


def _first_value(node: fx.Node) -> fx.Node:
    return next(value for value in node.all_input_nodes if not is_constant(value))


def _stretches(graph: Graph) -> list[list[fx.Node]]:
    """The operators of a graph with one input, cut after every value through which all data flows.

    Those are the dominators of the output, in the sense of control flow graphs.
    """
    import networkx

    if len(inputs(graph)) != 1:
        return []
    before = networkx.immediate_dominators(dataflow(graph.graph.nodes), inputs(graph)[0])
    value, cuts = output_node(graph), set[fx.Node]()
    while (value := before.get(value)) is not None and value not in cuts:
        cuts.add(value)
    cuts.difference_update(outputs(graph))
    found: list[list[fx.Node]] = [[]]
    for node in calls(graph):
        if not all(is_constant(value) for value in node.all_input_nodes):
            found[-1].append(node)
            if node in cuts:
                found.append([])
    return [stretch for stretch in found if stretch]
