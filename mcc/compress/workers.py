"""Repairing several candidates at once: each is a piece of work that needs the job and its structure only."""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from pydantic import TypeAdapter

from mcc.compress.candidate import Structure, restructure
from mcc.compress.job import Job, load_job
from mcc.compress.request import Request
from mcc.compress.training import Trainer
from mcc.errors import MccError
from mcc.files import write_text
from mcc.ir.graph import Graph
from mcc.ir.storage import load_graph, save_graph
from mcc.search.crew import Crew, Piece, Result, decoded, encoded
from mcc.search.sensitivity import Sensitivities

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Repair:
    """A structure, the share of the job's images that its repair takes, and a label for progress."""

    structure: Structure
    share: float
    label: str

    @property
    def key(self) -> str:
        """What the result depends on, within a job."""
        return f"{self.structure.key()} {self.share}"


class Repaired:
    """Repaired graphs of a job on disk, by what they depend on.

    Args:
        folder: where they lie.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, key: str) -> Graph | None:
        """The graph; None where it was not made yet."""
        path = self._path(key)
        try:
            return load_graph(path) if path.exists() else None
        except MccError as error:
            log.warning("%s is damaged (%s): it is repaired again", path, error.message)
            return None

    def put(self, key: str, graph: Graph) -> None:
        """Keep a graph."""
        save_graph(graph, self._path(key))

    def _path(self, key: str) -> Path:
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.mcc"


def repair_all(job: Job, known: Sensitivities, repairs: Sequence[Repair], kept: Repaired, crew: Crew) -> None:
    """Repair what is not there yet, several at a time; each result is on disk as soon as it is made.

    Model, data and weights are read by the workers, from the paths of the request: on a cluster, from a file
    system that its machines share.
    """
    fresh = [one for one in {r.key: r for r in repairs}.values() if kept.get(one.key) is None]
    if not fresh:
        return
    with tempfile.TemporaryDirectory(prefix="mcc-repairs-") as place:
        folder = Path(place)
        write_text(folder / "request.json", _written(job.request))
        known.save(folder / "sensitivities.json")
        pieces: list[Piece] = [{"structure": r.structure.as_json(), "share": r.share} for r in fresh]
        job.progress("repair candidates", 0, len(fresh))
        results = crew.run(f"{__name__}:repair_there", folder, pieces)
        for done, (index, result) in enumerate(results, start=1):
            kept.put(fresh[index].key, _graph_of(result))
            job.progress("repair candidates", done, len(fresh), fresh[index].label)


def _written(request: Request) -> str:
    weights = None if request.weights is None else request.weights.absolute()
    task = None if request.task is None else _absolute(request.task)
    there = replace(
        request, model=_absolute(request.model), data=_absolute(request.data), weights=weights, task=task
    )
    return TypeAdapter(Request).dump_json(there).decode()


def _absolute(spec: str) -> str:
    """A MODEL or DATA whose path, if it names one, is absolute."""
    kind, colon, rest = spec.partition(":")
    if Path(kind).exists():
        return f"{Path(kind).absolute()}{colon}{rest}"
    return f"{kind}:{Path(rest).absolute()}" if rest and Path(rest).exists() else spec


def repair_there(folder: Path, piece: Piece) -> Result:
    """One repair in a worker; gives the files of the graph, in deployment form."""
    job, known = _job_in(folder)
    structure = Structure.from_json(piece["structure"], str(folder))
    trainer = Trainer(job)
    built = candidate_graph(job, structure, known, trainer, float(piece["share"]))
    with tempfile.TemporaryDirectory(prefix="mcc-repair-") as place:
        job.folder = Path(place)
        graph = trainer.train(built, structure, "repaired", float(piece["share"]))
        save_graph(graph, Path(place) / "graph.mcc")
        return {path.name: encoded(path) for path in Path(place).glob("graph.*")}


def candidate_graph(
    job: Job,
    structure: Structure,
    known: Sensitivities,
    trainer: Trainer,
    share: float = 1.0,
    start: Graph | None = None,
) -> Graph:
    """The network restructured, ready for its repair; every pass is proved.

    Args:
        start: what the structure is made from, where it is not the job's network.
    """
    graph = start or job.graph
    if structure == Structure(structure.regime) and structure.regime.sparse is None:
        return graph
    gradual = trainer.settings(structure, share).sparsity_ramp is not None
    return restructure(graph, structure, known, job.calibration()[:1], verify=True, thin=not gradual)


@cache
def _job_in(folder: Path) -> tuple[Job, Sensitivities]:
    request = TypeAdapter(Request).validate_json((folder / "request.json").read_text(encoding="utf-8"))
    return load_job(request, folder), Sensitivities.load(folder / "sensitivities.json")


def _graph_of(result: Result) -> Graph:
    with tempfile.TemporaryDirectory(prefix="mcc-repaired-") as place:
        for name, text in result.items():
            (Path(place) / name).write_bytes(decoded(text))
        return load_graph(Path(place) / "graph.mcc")
