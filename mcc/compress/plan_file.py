"""Reads plan.json, written by mcc or edited by the user, and checks it against the network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from mcc.analysis.channel_groups import analyse_channels
from mcc.analysis.pointwise import pointwise
from mcc.compress.build import Structure, sparse_layers
from mcc.compress.job import Job
from mcc.compress.sparse_preparation import OPENING
from mcc.errors import DataError
from mcc.ir.graph import Graph, calls, operand
from mcc.ir.json_file import read_json
from mcc.ir.notes import shape_of
from mcc.pipeline import deployment_form

HINT = "use a plan.json that mcc wrote"
LISTED = 6  # names in a sentence


@dataclass(frozen=True)
class Plan:
    """A structure from a file.

    Attributes:
        structure: The structure to follow.
        model: Name of its model, as the file says; empty if it does not.
        where: Path of the file.
    """

    structure: Structure
    model: str
    where: str

    def check(self, job: Job) -> None:
        """Check that the job's network can be changed so. Raises DataError naming the file and the field."""
        check_structure(job.graph, self.structure, self.where)
        if self.model and self.model != job.name:
            job.warn(f"The plan {self.where} was made for {self.model}, and is followed for {job.name}.")


def read_plan(path: Path) -> Plan:
    """Read a plan.json. Raises DataError naming the file and the first field that does not fit."""
    raw = read_json(path, what="plan", hint=HINT)
    if not isinstance(raw, dict) or "structure" not in raw:
        raise DataError("is no plan: it must hold a structure", where=str(path), hint=HINT)
    content = cast(Mapping[str, object], raw)
    structure, model = content["structure"], content.get("model", "")
    if not isinstance(model, str):
        raise DataError("is no plan: model: must be a name", where=str(path), hint=HINT)
    return Plan(Structure.from_json(structure, str(path)), model, str(path))


def check_structure(graph: Graph, structure: Structure, where: str) -> None:
    """Check that a network has every name in a structure, and allows the decisions.

    Args:
        graph: The network as captured.
        where: Path of the structure's file.

    Raises:
        DataError: Names the file, the field, and the allowed values.
    """

    def refuse(field: str, reason: str) -> DataError:
        return DataError(f"structure.{field}: {reason}", where=where, hint=HINT + " for this model")

    _check_passes(structure, refuse)
    _check_widths(graph, structure, refuse)
    layers = {node.name: min(shape_of(operand(node, 1))[:2]) for node in pointwise(graph)}
    for name, rank in structure.ranks.items():
        _known(graph, "ranks", name, layers, "is no plain 1x1 convolution", refuse)
        if rank > layers[name]:
            raise refuse(f"ranks.{name}", f"must lie in 1..{layers[name]}, not {rank}")
    thinned = sparse_layers(graph, structure.configuration.passes) if structure.configuration.sparse else ()
    for name in structure.sparsities:
        _known(graph, "sparsities", name, thinned, "is no layer whose weight can be stored sparse", refuse)
    if structure.floats:
        known = {node.name for form in (graph, deployment_form(graph)) for node in calls(form)}
        for name in structure.floats:
            if name not in known:
                raise refuse("floats", f"names {name[:60]!r}, which the model does not have")


Refuse = Callable[[str, str], DataError]


def _check_passes(structure: Structure, refuse: Refuse) -> None:
    for name in filter(None, structure.configuration.passes.split(",")):
        if name not in OPENING:
            raise refuse("passes", f"must be some of {', '.join(OPENING)}, not {name[:60]!r}")


def _check_widths(graph: Graph, structure: Structure, refuse: Refuse) -> None:
    if not structure.widths:
        return
    analysis = analyse_channels(graph)
    groups = {group.name: group for group in analysis.groups}
    choices = [group.name for group in analysis.prunable()]
    for name, width in structure.widths.items():
        _known(graph, "widths", name, groups, "has no channels to choose", refuse, choices)
        group = groups[name]
        if group.frozen is not None:
            raise refuse(f"widths.{name}", f"its channels cannot be chosen: {group.frozen}")
        if width > group.width:
            raise refuse(f"widths.{name}", f"must lie in 1..{group.width}, not {width}")


def _known(
    graph: Graph, field: str, name: str, known: Mapping[str, object] | tuple[str, ...], otherwise: str,
    refuse: Refuse, choices: list[str] | None = None,
) -> None:  # fmt: skip
    """Refuse a name that the model does not have, or for which this decision is impossible."""
    if name in known:
        return
    there = any(node.name == name for node in graph.graph.nodes)
    names = list(known) if choices is None else choices
    listed = ", ".join(names[:LISTED]) + (", ..." if len(names) > LISTED else "")
    reason = otherwise if there else "the model has no such layer"
    raise refuse(f"{field}.{name[:60]}", f"{reason}; allowed are {listed or 'none'}")
