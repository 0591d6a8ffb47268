"""Builds files from decisions: the structural passes, the deployment form, and the lowered model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mcc.analysis.pointwise import pointwise
from mcc.analysis.sparse_cluster import find_sparse_cluster
from mcc.cost_api import Precision
from mcc.data import DataModule
from mcc.errors import DataError, UsageError
from mcc.ir.feed import Feed
from mcc.ir.graph import Graph, calls, copy_graph
from mcc.ir.json_file import first_problem
from mcc.ir.notes import SparseNote, annotate
from mcc.lower.formats import get_format
from mcc.pass_api import PassContext
from mcc.pipeline import Pipeline, RunOptions, deployment_form
from mcc.runtime.target import Target
from mcc.search.problem import FLOAT, Problem
from mcc.search.sensitivity import Sensitivities, note_widths
from mcc.search.solver import Solution
from mcc.search.space import Configuration


class _StoredSparse(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    block: Literal[1, 2, 4]
    sparsity: Annotated[float, Field(ge=0.0, lt=1.0)]


class _Stored(BaseModel):
    """A structure as stored in JSON; `mcc.compress.plan_file` checks it against a network."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    precision: Precision
    sparse: _StoredSparse | None
    passes: str = ""
    widths: dict[str, Annotated[int, Field(ge=1)]]
    ranks: dict[str, Annotated[int, Field(ge=1)]]
    sparsities: dict[str, Annotated[float, Field(ge=0.0, lt=1.0)]] = {}
    floats: list[str] = []

    def structure(self) -> Structure:
        """Raises ValueError for a configuration that no runtime has."""
        if self.sparsities and self.sparse is None:
            raise ValueError("sparsities: layers have zeros only where sparse is given")
        sparse = None if self.sparse is None else SparseNote(self.sparse.block, self.sparse.sparsity)
        configuration = Configuration(self.precision, sparse, self.passes)
        return Structure(configuration, self.widths, self.ranks, self.sparsities, tuple(self.floats))


@dataclass(frozen=True)
class Structure:
    """The decisions about a network.

    Attributes:
        configuration: Precision of the network, and sparsity of its 1x1 convolutions.
        widths: Kept channels by group; groups left out keep all.
        ranks: Inner channels of low-rank pairs, by node.
        sparsities: Share of zeros in layers with more than the configuration's, by node.
        floats: Nodes that stay float in an integer configuration.
    """

    configuration: Configuration = field(default_factory=Configuration)
    widths: Mapping[str, int] = field(default_factory=lambda: {})
    ranks: Mapping[str, int] = field(default_factory=lambda: {})
    sparsities: Mapping[str, float] = field(default_factory=lambda: {})
    floats: tuple[str, ...] = ()

    @staticmethod
    def of(problem: Problem, solution: Solution) -> Structure:
        """Structure of a solution: its differences from the original, in the problem's configuration."""
        widths = {n: w for n, w in solution.widths.items() if w < problem.levels[n][0]}
        configuration, sparse = problem.configuration, problem.configuration.sparse
        floats = tuple(
            node
            for region, nodes in problem.regions.items()
            for node in (nodes if solution.forms[region] == FLOAT else ())
        )
        if problem.regions and all(form == FLOAT for form in solution.forms.values()):
            configuration, floats = Configuration(), ()
        thinner = {
            n: s for n, s in solution.sparsities.items() if sparse is not None and s != sparse.sparsity
        }
        return Structure(configuration, widths, solution.ranks, thinner, floats)

    @property
    def words(self) -> str:
        """Its configuration as text."""
        return f"{self.configuration}, in part" if self.floats else str(self.configuration)

    @property
    def is_original(self) -> bool:
        """Whether nothing is changed."""
        return self == Structure()

    @property
    def removes_nothing(self) -> bool:
        """Whether every weight is kept, apart from its precision."""
        return not (self.widths or self.ranks or self.sparsities or self.configuration.sparse)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        sparse = self.configuration.sparse
        return {
            "precision": self.configuration.precision,
            "sparse": None if sparse is None else {"block": sparse.block, "sparsity": sparse.sparsity},
            "passes": self.configuration.passes,
            "widths": dict(self.widths),
            "ranks": dict(self.ranks),
            "sparsities": dict(self.sparsities),
            "floats": list(self.floats),
        }

    @staticmethod
    def from_json(raw: object, where: str) -> Structure:
        """Parse the result of `as_json`. Raises DataError naming the file and the field for anything else."""
        try:
            return _Stored.model_validate(raw).structure()
        except ValidationError as error:
            reason = first_problem(error)
        except ValueError as error:  # an impossible configuration
            reason = str(error)
        raise DataError(
            f"holds no decisions of mcc: structure.{reason}",
            where=where,
            hint="use a plan.json that mcc wrote",
        )

    def key(self) -> str:
        """One line of text, equal for equal structures."""
        return json.dumps(self.as_json(), sort_keys=True)


def restructure(
    graph: Graph,
    structure: Structure,
    sensitivities: Sensitivities | None,
    calibration: tuple[Feed, ...],
    *,
    verify: bool,
    thin: bool = True,
) -> Graph:
    """Prune, sparsify and factorise a float network as decided; batch norms are kept for the fine-tuning.

    Args:
        graph: The network as captured; not changed.
        sensitivities: Order in which channels are removed; needed if widths are decided.
        calibration: Input batches for the low-rank factors.
        verify: Whether each pass is verified against its exact twin.
        thin: Whether to set weights to zero; otherwise only notes are set, and the fine-tuning sparsifies
            gradually.

    Raises:
        UsageError: The structure names a group or layer that the network does not have.
        VerificationError: A pass failed its verification.
    """
    private = copy_graph(graph)
    if structure.widths:
        assert sensitivities is not None
        unknown = set(structure.widths) - set(sensitivities.order)
        if unknown:
            raise UsageError(f"the plan names the channel group {min(unknown)}, which the network lacks")
        note_widths(private, sensitivities, dict(structure.widths))
    nodes = {node.name: node for node in calls(private)}
    missing = (set(structure.ranks) | set(structure.sparsities)) - set(nodes)
    if missing:
        raise UsageError(f"the plan names the layer {min(missing)}, which the network does not have")
    for name, rank in structure.ranks.items():
        annotate(nodes[name], rank=rank)
    if structure.configuration.sparse is not None:
        for name in sparse_layers(graph, structure.configuration.passes):
            if name not in structure.ranks:
                least = structure.configuration.sparse
                zeros = structure.sparsities.get(name, least.sparsity)
                annotate(nodes[name], sparse=SparseNote(least.block, zeros))
    for name in structure.floats:
        if name in nodes:  # nodes that folding or fusing replaces take the precision of their neighbours
            annotate(nodes[name], precision="float")
    steps = [
        name
        for name, wanted in (
            ("prune-channels", bool(structure.widths)),
            ("sparsify-1x1", structure.configuration.sparse is not None and thin),
            ("factorize-1x1", bool(structure.ranks)),
        )
        if wanted
    ]
    pipeline = Pipeline.parse(",".join([*steps, *filter(None, [structure.configuration.passes])]))
    return pipeline.run(private, PassContext(calibration), RunOptions(verify=verify)).graph


def sparse_layers(graph: Graph, passes: str = "") -> tuple[str, ...]:
    """The 1x1 convolutions to sparsify: those of the sparse cluster, or all plain ones if there is none.

    Args:
        passes: Passes that bring the network into the sparse path, see `Configuration`.
    """
    deployed = sparse_form(graph, passes)
    cluster = find_sparse_cluster(deployed)
    known = {node.name for node in calls(graph)}
    names = cluster.pointwise or tuple(node.name for node in pointwise(deployed))
    return tuple(name for name in names if name in known)


def sparse_form(graph: Graph, passes: str) -> Graph:
    """The deployment form of a network after the passes of a `Configuration`."""
    prepared = Pipeline.parse(passes).run(graph, PassContext(), RunOptions(verify=False)).graph
    return deployment_form(prepared)


def quantise(graph: Graph, configuration: Configuration, calibration: tuple[Feed, ...]) -> Graph:
    """Insert quantisers into a graph in deployment form, if the configuration has integer precision."""
    if configuration.precision == "float":
        return graph
    pipeline = Pipeline.parse(f"insert-qdq{{precision={configuration.precision}}}")
    return pipeline.run(graph, PassContext(calibration), RunOptions(verify=False)).graph


def write_file(graph: Graph, target: Target, path: Path, data: DataModule, judged: int = 0) -> Path:
    """Lower a graph in deployment form into the target's format, with labels and normalisation.

    Args:
        path: Output path without suffix.
        judged: Index of the output that the labels belong to.

        Raises:
        UsageError: The format cannot be written.
    """
    from mcc.lower.tflite.metadata import Normalisation

    given = data.preprocessing.per_channel()
    normalisation = Normalisation(given.byte_mean, given.byte_std, given.crop, given.channels)
    labels = data.class_names or None
    return get_format(target.format).write(
        graph, path, labels=labels, normalisation=normalisation, judged=judged
    )
