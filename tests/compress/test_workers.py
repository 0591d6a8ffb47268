"""Repairs by workers: the same model whoever makes it, and nothing repaired twice."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

import mcc
from mcc.compress.candidate import Structure
from mcc.compress.job import Request, load_job
from mcc.compress.training import Trainer
from mcc.compress.workers import Repair, Repaired, candidate_graph, repair_all
from mcc.ir.graph import constants
from mcc.report.schema import Budget
from mcc.search.crew import ProcessCrew
from mcc.search.sensitivity import Sensitivities
from tests.compress import stand_ins


@pytest.mark.slow
def test_one_worker_and_two_come_to_the_same_model(
    tmp_path: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_ins.install(monkeypatch)
    found: list[dict[str, str]] = []
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        mcc.compress(
            stand_ins.MODEL, "digits", "litert-host", out=folder, speedup=1.5, epochs=0.05, workers=workers
        )
        assert list((folder / "state/repaired").glob("*.mcc"))
        names = ("plan.json", "after.mcc", "after.safetensors", "model.tflite")
        found.append({name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names})
    assert found[0] == found[1]


class Counting(ProcessCrew):
    """A crew that works here, and counts."""

    def __init__(self) -> None:
        super().__init__(1)
        self.done = 0

    def run(self, function: str, folder: Path, pieces: Any) -> Any:
        from mcc.compress.workers import repair_there

        for index, piece in enumerate(pieces):
            self.done += 1
            yield index, json.loads(json.dumps(repair_there(folder, piece)))


def test_a_repair_in_a_worker_is_the_repair_here_and_is_kept(tmp_path: Path) -> None:
    request = Request(stand_ins.MODEL, "digits", "litert-host", Budget(), 0.02)
    job = load_job(request, tmp_path / "job")
    group = "stem"
    known = Sensitivities({group: tuple(range(16))}, {group: (1.0,) * 16}, {group: 0.1}, {})
    structure = Structure(widths={group: 8})
    kept, crew = Repaired(tmp_path / "kept"), Counting()
    wanted = [Repair(structure, 1.0, "one"), Repair(structure, 1.0, "the same by another name")]
    for _ in range(2):
        repair_all(job, known, wanted, kept, crew)
        assert crew.done == 1
    there = kept.get(wanted[0].key)
    assert there is not None
    here = Trainer(job).train(candidate_graph(job, structure, known, Trainer(job)), structure, "here")
    for name, value in constants(here).items():
        assert value.detach().tolist() == dict(constants(there))[name].detach().tolist()
