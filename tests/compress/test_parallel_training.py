"""Fine-tuning by workers: the same model as without them, and nothing is fine-tuned twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import mcc
from mcc.budget import Budget
from mcc.compress import session
from mcc.compress.build import Structure
from mcc.compress.job import Job, load_job
from mcc.compress.job_trainer import Trainer
from mcc.compress.parallel_training import FineTuned, FineTuning, candidate_graph, fine_tune_all
from mcc.compress.request import Request
from mcc.ir.graph import constants
from mcc.search.sensitivity import Sensitivities
from mcc.search.worker_pool import ProcessPool, opened, perform
from tests.compress import stand_ins


class Counting(ProcessPool):
    """A worker pool that works here, and counts."""

    def __init__(self) -> None:
        super().__init__(1)
        self.done = self.probes = 0

    def run(self, function: str, folder: Path, pieces: Any) -> Any:
        for index, piece in enumerate(pieces):
            self.done += function.endswith(":fine_tune_there")
            self.probes += function.endswith(":measure_there")
            yield index, opened(json.loads(json.dumps(perform(function, folder, piece))))


@pytest.mark.slow
def test_a_job_gives_its_fine_tuning_to_the_pool(
    tmp_path: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_ins.install(monkeypatch)
    pool = Counting()
    monkeypatch.setattr(session, "make_pool", lambda workers, ray: pool)
    report = mcc.compress(
        stand_ins.MODEL, "digits", "litert-host", out=tmp_path / "out", speedup=1.5, epochs=0.02, workers=2
    )
    assert report.met == {"speedup": True}
    assert pool.probes > 0
    # Each distinct structure once, whatever strategies it belongs to.
    assert pool.done == len(list((tmp_path / "out/state/fine-tuned").glob("*.mcc"))) > 2


@pytest.mark.slow
def test_processes_repair_what_is_repaired_here(tmp_path: Path) -> None:
    job, known = small_job(tmp_path)
    fine_tunings = [FineTuning(Structure(widths={"stem": width}), 1.0, "narrow") for width in (8, 12)]
    folders = [FineTuned(tmp_path / name) for name in ("processes", "here")]
    for kept, pool in zip(folders, (ProcessPool(2), Counting()), strict=True):
        fine_tune_all(job, known, fine_tunings, kept, pool)
    for fine_tune in fine_tunings:
        one, other = (kept.get(fine_tune.key) for kept in folders)
        assert one is not None
        assert other is not None
        assert {n: v.tolist() for n, v in constants(one).items()} == {
            n: v.tolist() for n, v in constants(other).items()
        }


def small_job(folder: Path) -> tuple[Job, Sensitivities]:
    """A job with next to no training, and sensitivities of one group."""
    request = Request(stand_ins.MODEL, "digits", "litert-host", Budget(), 0.02)
    known = Sensitivities({"stem": tuple(range(16))}, {"stem": (1.0,) * 16}, {"stem": 0.1}, {})
    return load_job(request, folder / "job"), known


def test_a_repair_in_a_worker_is_the_repair_here_and_is_kept(tmp_path: Path) -> None:
    job, known = small_job(tmp_path)
    structure = Structure(widths={"stem": 8})
    kept, pool = FineTuned(tmp_path / "kept"), Counting()
    wanted = [FineTuning(structure, 1.0, "one"), FineTuning(structure, 1.0, "the same by another name")]
    for _ in range(2):
        fine_tune_all(job, known, wanted, kept, pool)
        assert pool.done == 1
    there = kept.get(wanted[0].key)
    assert there is not None
    here = Trainer(job).train(candidate_graph(job, structure, known, Trainer(job)), structure, "here")
    for name, value in constants(here).items():
        assert value.detach().tolist() == dict(constants(there))[name].detach().tolist()
