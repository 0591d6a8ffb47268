"""Work items on processes and on Ray: the results of serial work; a lost worker costs its item only."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mcc.analysis.channel_groups import analyse_channels
from mcc.data.classification import TASK
from mcc.errors import MccError, UsageError
from mcc.search.probes import Probe, Subject, by_pool, measure_there, one_by_one, outputs_in
from mcc.search.sensitivity_run import Wanted, measure_sensitivities
from mcc.search.worker_pool import ProcessPool, RayPool, WorkerPool, WorkItem, make_pool, perform
from tests.search.test_probes import IMAGES, _loss, batches, images
from tests.search.test_problem import network


def answers(pool: WorkerPool, folder: Path, items: list[WorkItem]) -> list[Any]:
    """Results in the order of the items."""
    found = dict(pool.run("work_items:double", folder, items))
    return [found[index] for index in range(len(items))]


@pytest.fixture(autouse=True)
def workers_find_the_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


@pytest.fixture(scope="module")
def on_ray() -> Iterator[RayPool]:
    """A cluster on this machine; its workers find the items, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        pool = RayPool("local")
    yield pool
    pool.close()


@pytest.mark.slow
def test_a_lost_worker_costs_its_own_piece_only(tmp_path: Path) -> None:
    items: list[WorkItem] = [{"number": n} for n in range(6)]
    items[1]["dies"] = "once"
    pool = ProcessPool(2)
    assert answers(pool, tmp_path, items) == [{"twice": 2 * n} for n in range(6)]
    trace = [int(line) for line in (tmp_path / "trace").read_text().split()]
    assert sorted(trace) == [0, 1, 1, 2, 3, 4, 5]  # the lost one twice, all others once
    assert len(pool.started) == 3


@pytest.mark.slow
def test_what_always_kills_its_worker_and_what_fails_is_said(tmp_path: Path) -> None:
    with pytest.raises(MccError, match=r"\{\"number\": 1, .*: a worker ended 3 times at the same work item"):
        answers(ProcessPool(1), tmp_path, [{"number": 1, "dies": "always"}])
    with pytest.raises(MccError, match=r"^1: cannot be done$"):
        answers(ProcessPool(1), tmp_path, [{"number": 1, "fails": True}])


def left_behind() -> set[Path]:
    """Folders that Ray's workers laid out."""
    return set(Path(tempfile.gettempdir()).glob("mcc-workers-*"))


@pytest.mark.slow
def test_processes_and_ray_measure_what_serial_work_does(on_ray: RayPool) -> None:
    wanted = Wanted(low_rank=False, pairs=False)
    found = [
        measure_sensitivities(
            network("gated"), batches(), _loss, TASK.divergence, images=IMAGES, wanted=wanted, runner=runner
        )
        for runner in (one_by_one, by_pool(ProcessPool(2)))
    ]
    before = left_behind()
    third = measure_sensitivities(
        network("gated"),
        batches(),
        _loss,
        TASK.divergence,
        images=IMAGES,
        wanted=wanted,
        runner=by_pool(on_ray),
    )
    assert found[0] == found[1] == third
    assert left_behind() == before


@pytest.mark.slow
def test_a_worker_that_ray_loses_costs_its_own_piece_only(tmp_path: Path, on_ray: RayPool) -> None:
    """The process of one task is killed while others run; the results are those of serial work."""
    (tmp_path / "shared").mkdir()
    items: list[WorkItem] = [{"number": n, "trace": str(tmp_path)} for n in range(6)]
    items[1]["dies"] = "once"
    serial = [perform("tests.search.work_items:double", tmp_path, {"number": n})["result"] for n in range(6)]
    (tmp_path / "trace").unlink()
    assert answers(on_ray, tmp_path / "shared", items) == serial
    trace = [int(line) for line in (tmp_path / "trace").read_text().split()]
    assert sorted(trace) == [0, 1, 1, 2, 3, 4, 5]  # the lost one twice, all others once
    with pytest.raises(MccError, match=r"\{\"number\": 7, .*: a worker ended 3 times at the same work item"):
        answers(on_ray, tmp_path / "shared", [{"number": 7, "trace": str(tmp_path), "dies": "always"}])


def test_no_workers_is_no_crew_and_none_is_refused() -> None:
    assert make_pool(None, None) is None
    assert isinstance(make_pool(2, None), ProcessPool)
    with pytest.raises(UsageError, match="--workers: needs at least one worker"):
        make_pool(0, None)


def test_a_piece_is_a_probe(tmp_path: Path) -> None:
    graph = network("mobile")
    groups = analyse_channels(graph).prunable()
    subject = Subject(graph, images(), {g.name: tuple(range(g.width)) for g in groups}, TASK.divergence)
    subject.save(tmp_path)
    probe = Probe("width", (groups[0].name,), 4)
    there = measure_there(tmp_path, {"kind": "width", "names": [groups[0].name], "level": 4})
    assert subject.loss_of(probe, outputs_in(there)) == subject.measure(probe)
