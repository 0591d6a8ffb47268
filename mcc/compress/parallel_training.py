"""Fine-tunes several candidates in parallel: each work item depends only on the job and its structure."""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from pydantic import TypeAdapter

from mcc.compress.build import Structure, restructure
from mcc.compress.job import Job, load_job
from mcc.compress.job_trainer import Trainer
from mcc.compress.request import Request
from mcc.errors import MccError
from mcc.files import write_text
from mcc.ir.graph import Graph
from mcc.ir.storage import load_graph, save_graph
from mcc.search.sensitivity import Sensitivities
from mcc.search.worker_pool import Result, WorkerPool, WorkItem, decoded, encoded

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FineTuning:
    """A structure, the share of the job's images for its fine-tuning, and a label for progress."""

    structure: Structure
    share: float
    label: str

    @property
    def key(self) -> str:
        """Key of everything that the result depends on, within a job."""
        return f"{self.structure.key()} {self.share}"


class FineTuned:
    """Fine-tuned graphs of a job on disk, by key.

    Args:
        folder: Folder of the files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, key: str) -> Graph | None:
        """The graph; None if it is not stored."""
        path = self._path(key)
        try:
            return load_graph(path) if path.exists() else None
        except MccError as error:
            log.warning("%s is damaged (%s): it is fine-tuned again", path, error.message)
            return None

    def put(self, key: str, graph: Graph) -> None:
        """Store a graph."""
        save_graph(graph, self._path(key))

    def _path(self, key: str) -> Path:
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.mcc"


def fine_tune_all(
    job: Job, known: Sensitivities, fine_tunings: Sequence[FineTuning], kept: FineTuned, pool: WorkerPool
) -> None:
    """Fine-tune the candidates that are not stored yet, several at a time; each result is stored at once.

    The workers read model, data and weights from the paths of the request: on a cluster, from a file system
        that
    its machines share.
    """
    fresh = [one for one in {r.key: r for r in fine_tunings}.values() if kept.get(one.key) is None]
    if not fresh:
        return
    with tempfile.TemporaryDirectory(prefix="mcc-fine-tuning-") as place:
        folder = Path(place)
        write_text(folder / "request.json", _written(job.request))
        known.save(folder / "sensitivities.json")
        items: list[WorkItem] = [{"structure": r.structure.as_json(), "share": r.share} for r in fresh]
        job.progress("fine-tune candidates", 0, len(fresh))
        results = pool.run(f"{__name__}:fine_tune_there", folder, items)
        for done, (index, result) in enumerate(results, start=1):
            kept.put(fresh[index].key, _graph_of(result))
            job.progress("fine-tune candidates", done, len(fresh), fresh[index].label)


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


def fine_tune_there(folder: Path, item: WorkItem) -> Result:
    """Run one fine-tuning in a worker; returns the files of the graph in deployment form."""
    job, known = _job_in(folder)
    structure = Structure.from_json(item["structure"], str(folder))
    trainer = Trainer(job)
    built = candidate_graph(job, structure, known, trainer, float(item["share"]))
    with tempfile.TemporaryDirectory(prefix="mcc-candidate-") as place:
        job.folder = Path(place)
        graph = trainer.train(built, structure, "fine-tuned", float(item["share"]))
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
    """The network restructured, ready for fine-tuning; every pass is verified.

    Args:
        start: The network to restructure, if not the job's.
    """
    graph = start or job.graph
    if structure == Structure(structure.configuration) and structure.configuration.sparse is None:
        return graph
    gradual = trainer.settings(structure, share).sparsity_ramp is not None
    return restructure(graph, structure, known, job.calibration()[:1], verify=True, thin=not gradual)


@cache
def _job_in(folder: Path) -> tuple[Job, Sensitivities]:
    request = TypeAdapter(Request).validate_json((folder / "request.json").read_text(encoding="utf-8"))
    return load_job(request, folder), Sensitivities.load(folder / "sensitivities.json")


def _graph_of(result: Result) -> Graph:
    with tempfile.TemporaryDirectory(prefix="mcc-fine-tuned-") as place:
        for name, text in result.items():
            (Path(place) / name).write_bytes(decoded(text))
        return load_graph(Path(place) / "graph.mcc")
