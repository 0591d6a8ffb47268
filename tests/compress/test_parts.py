"""The parts of the main job by themselves: structures, remembered measurements, budgets of plans."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from mcc.budget import Budget
from mcc.compress import report_builder
from mcc.compress.bench import Bench
from mcc.compress.build import Structure, quantise, restructure
from mcc.compress.driver import missed_share
from mcc.compress.measurement_store import MeasuredFiles
from mcc.compress.outcome import Outcome, reach
from mcc.compress.planning import Planner
from mcc.compress.speed import Speed
from mcc.compress.workspace import Work
from mcc.data import load_data, load_task
from mcc.errors import DataError, UsageError, VerificationError
from mcc.frontend import load
from mcc.ir.graph import inputs
from mcc.ir.notes import SparseNote, shape_of
from mcc.lower.tflite.writer import write_tflite
from mcc.pipeline import deployment_form
from mcc.runtime import get_target
from mcc.runtime.samples import LatencySamples
from mcc.search.sensitivity import Sensitivities
from mcc.search.space import Configuration
from tests.compress.stand_ins import MODEL, StandIn
from tests.report import examples

SPARSE = Structure(Configuration("float", SparseNote(2, 0.8)), {"stem": 8}, {"wide": 4})
STRUCTURES = [
    Structure(),
    Structure(Configuration("int8")),
    SPARSE,
    Structure(Configuration("int8"), {"b": 3, "a": 2}),
]
SPEED = Speed(100.0, 98.0, 102.0, 95.0, 120.0, 500, 200.0, 0.1)


# -- structures ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_structure_reads_back_as_it_was_written(structure: Structure) -> None:
    raw = json.loads(json.dumps(structure.as_json()))
    assert Structure.from_json(raw, "plan.json") == structure
    assert Structure.from_json(raw, "plan.json").key() == structure.key()


def test_equal_structures_have_equal_keys_and_others_do_not() -> None:
    turned = Structure(Configuration("int8"), {"a": 2, "b": 3})
    assert turned.key() == STRUCTURES[-1].key()
    assert len({structure.key() for structure in STRUCTURES}) == len(STRUCTURES)
    assert replace(SPARSE, widths={"stem": 9}).key() != SPARSE.key()
    assert Structure().is_original
    assert not any(structure.is_original for structure in STRUCTURES[1:])


@pytest.mark.parametrize(
    "change",
    [
        {"widths": None}, {"widths": {"stem": "many"}}, {"precision": None, "sparse": {"block": 2}},
        {"precision": "int8", "sparse": {"block": 2, "sparsity": 0.8}}, {"ranks": [1]},
    ],
)  # fmt: skip
def test_what_is_no_structure_is_refused_with_its_file(change: dict[str, Any]) -> None:
    raw = {**Structure().as_json(), **change}
    with pytest.raises(
        DataError, match=r"^my/plan\.json: holds no decisions of mcc: structure\..*; use a plan\.json"
    ):
        Structure.from_json(raw, "my/plan.json")


def test_a_structure_of_another_network_is_refused_by_name() -> None:
    graph = load(MODEL).graph
    known = Sensitivities({"stem": (0, 1)}, {"stem": (1.0, 2.0)}, {"stem": 0.1}, {})
    with pytest.raises(UsageError, match="channel group elsewhere, which the network lacks"):
        restructure(graph, Structure(widths={"elsewhere": 4}), known, (), verify=False)
    with pytest.raises(UsageError, match="layer nowhere, which the network does not have"):
        restructure(graph, Structure(ranks={"nowhere": 4}), known, (), verify=False)


# -- remembered measurements -----------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """A baseline and two candidates, of which the second is a copy of the first."""
    found = [tmp_path / f"{name}.tflite" for name in ("baseline", "one", "copy")]
    for path, size in zip(found, (400, 100, 100), strict=True):
        path.write_bytes(b"x" * size)
    return found


def _bench(files: list[Path], folder: str, fingerprint: str = "a") -> tuple[Bench, StandIn]:
    target = StandIn()
    store = files[0].with_name(folder) / "measurements.json"
    shared = MeasuredFiles(fingerprint, files[0].with_name("latencies.sqlite"))
    return Bench(target, 1, files[0], store, shared), target


def test_a_file_is_measured_once_whatever_its_name(files: list[Path]) -> None:
    bench, target = _bench(files, "run")
    first = bench.speed(files[1])
    assert first == bench.speed(files[2])
    assert first.speedup == pytest.approx(4.0)
    assert len(target.timed) == 1
    assert bench.trial_memory(files[1]) == bench.trial_memory(files[2]) == 1000
    assert len(target.weighed) == 1
    files[1].write_bytes(b"y" * 100)  # other bytes are another file
    bench.speed(files[1])
    assert len(target.timed) == 2


def test_another_baseline_is_another_measurement(files: list[Path]) -> None:
    bench, target = _bench(files, "run")
    bench.speed(files[1])
    bench.baseline.write_bytes(b"x" * 800)
    assert bench.speed(files[1]).speedup == pytest.approx(8.0)
    assert len(target.timed) == 2


def sure(_: Speed) -> bool:
    return False


def test_trials_are_remembered_with_their_date_by_the_run_and_by_others(files: list[Path]) -> None:
    bench, _ = _bench(files, "run")
    speed, memory = bench.speed(files[1]), bench.trial_memory(files[1])
    assert bench.remembered == {}
    for folder, earlier in (("run", set()), ("another run", {"latency of trials", "memory"})):
        again, target = _bench(files, folder)
        assert again.speed(files[1]) == speed
        assert again.trial_memory(files[1]) == memory
        assert target.timed == target.weighed == []
        assert set(again.remembered) == earlier
        assert set(again.remembered.values()) <= {speed.date[:10]}


def test_final_figures_are_taken_by_each_run_and_kept_until_its_report_stands(files: list[Path]) -> None:
    bench, _ = _bench(files, "run")
    bench.speed(files[1])
    final, memory = bench.final_speeds(files[1:], budget_s=1.0, doubtful=sure), bench.final_memory(files[1])
    resumed, target = _bench(files, "run")
    assert resumed.final_speeds(files[1:], budget_s=1.0, doubtful=sure) == final
    assert resumed.final_memory(files[1]) == memory
    assert target.timed == target.weighed == []
    resumed.final.forget()
    for folder in ("run", "another run"):
        again, target = _bench(files, folder)
        target.slower, target.heavier = 2.0, 3.0
        (one, _) = again.final_speeds(files[1:], budget_s=1.0, doubtful=sure)
        assert one.latency_us == 2 * final[0].latency_us
        assert again.final_memory(files[1]) == 3 * memory
        assert (len(target.timed), len(target.weighed)) == (1, 1)


def test_an_edited_row_of_the_table_reaches_no_final_figure(files: list[Path]) -> None:
    bench, _ = _bench(files, "run")
    bench.speed(files[1])
    bench.trial_memory(files[1])
    final = bench.final_speeds(files[1:2], budget_s=1.0, doubtful=sure)
    table = files[0].with_name("latencies.sqlite")
    with closing(sqlite3.connect(table)) as connection, connection:
        (count,) = connection.execute("SELECT COUNT(*) FROM files").fetchone()
        assert count == 2  # trials only
        connection.execute("UPDATE files SET value = '7' WHERE key LIKE 'peak%'")
        faster = json.dumps({**asdict(SPEED), "latency_us": 98.5})
        connection.execute("UPDATE files SET value = ? WHERE key LIKE 'speed%'", (faster,))
    again, _ = _bench(files, "another run")
    assert again.speed(files[1]).latency_us == 98.5  # for planning, with its date
    assert again.final_speeds(files[1:2], budget_s=1.0, doubtful=sure)[0].latency_us == final[0].latency_us
    assert again.final_memory(files[1]) == 1000


@pytest.mark.parametrize(
    "value", ["no JSON", "[]", "{}", "null", '{"latency_us": 1}', json.dumps({**asdict(SPEED), "low_us": -1})]
)
def test_a_damaged_row_is_measured_again(
    value: str, files: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    bench, _ = _bench(files, "run")
    speed = bench.speed(files[1])
    with closing(sqlite3.connect(files[0].with_name("latencies.sqlite"))) as connection, connection:
        connection.execute("UPDATE files SET value = ?", (value,))
    again, target = _bench(files, "another run")
    assert again.speed(files[1]).latency_us == speed.latency_us
    assert len(target.timed) == 1
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_copy_of_the_baseline_is_the_baseline(files: list[Path]) -> None:
    bench, target = _bench(files, "run")
    copy = files[0].with_name("original.tflite")
    copy.write_bytes(files[0].read_bytes())
    one, other = bench.final_speeds([copy, files[1]], budget_s=1.0, doubtful=sure)
    assert (one.speedup, other.speedup) == (1.0, pytest.approx(4.0))
    assert one.latency_us == one.baseline_us
    assert [len(together) for together in target.timed] == [2]


def test_files_of_the_same_bytes_are_measured_as_one(files: list[Path]) -> None:
    bench, target = _bench(files, "run")
    other = files[0].with_name("other.tflite")
    other.write_bytes(b"z" * 200)
    one, two, three = bench.final_speeds([files[1], other, files[2]], budget_s=1.0, doubtful=sure)
    assert one == three != two
    assert [len(together) for together in target.timed] == [3]  # with the baseline


def test_measurements_of_another_machine_are_never_taken(files: list[Path]) -> None:
    _bench(files, "run")[0].speed(files[1])
    other, target = _bench(files, "another run", fingerprint="b")
    other.speed(files[1])
    assert len(target.timed) == 1


def test_a_disturbed_measurement_is_made_anew_and_the_least_disturbed_counts(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, target = _bench(files, "run")
    undisturbed = target.time([files[0]])[0]
    medians = [4.0, 2.0, 3.0]  # of the baseline, in units of what it is undisturbed
    served: list[float] = []

    def disturbed(paths: Sequence[Path], **_: Any) -> list[LatencySamples]:
        served.append(medians[len(served)])
        return [
            replace(undisturbed, median_us=served[-1] * undisturbed.median_us),
            *[undisturbed] * (len(paths) - 1),
        ]

    monkeypatch.setattr(target, "time", disturbed)
    assert bench.speed(files[1]).speedup == 2.0
    assert served == medians


def test_the_original_is_timed_until_nothing_disturbs_it_and_once_for_all_runs(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, target = _bench(files, "run")
    undisturbed = target.time([files[0]])[0]
    medians = [1.1, 1.05, 1.0]  # its fastest tenth stays what it is undisturbed
    served: list[float] = []

    def disturbed(paths: Sequence[Path], **_: Any) -> list[LatencySamples]:
        assert list(paths) == [files[0]]
        served.append(medians[len(served)])
        return [replace(undisturbed, median_us=served[-1] * undisturbed.median_us)]

    monkeypatch.setattr(target, "time", disturbed)
    speed = bench.original()
    assert served == medians
    assert speed.latency_us == speed.baseline_us == undisturbed.median_us
    assert bench.speed(files[0]) == speed
    other, unused = _bench(files, "another run")
    assert other.original() == speed
    assert unused.timed == []


def test_an_undisturbed_measurement_is_made_once(files: list[Path]) -> None:
    bench, target = _bench(files, "run")
    bench.speed(files[1])
    assert len(target.timed) == 1


def test_what_each_image_scored_is_kept_and_taken_again_where_it_was_damaged(
    files: list[Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    data = load_data("digits")
    taken: list[Path] = []

    def scored(_target: object, path: Path, _data: object, split: str, **_: Any) -> Any:
        assert split == "validation"
        taken.append(path)
        return SimpleNamespace(statistics=np.arange(len(data.validation)) % 2.0)

    monkeypatch.setattr("mcc.compress.bench.judge_file", scored)
    share = pytest.approx(143 / 287)
    bench, _ = _bench(files, "run")
    assert bench.metric(files[1], data, "validation") == share
    assert bench.metric(files[2], data, "validation") == share, "the same bytes"
    again, _ = _bench(files, "run")
    assert again.statistics(files[1], data, "validation").tolist() == [i % 2 for i in range(287)]
    assert taken == [files[1]]
    (kept,) = (bench.store.parent / "statistics").iterdir()
    for damage in (b"", b"no array", kept.read_bytes()[:200]):
        kept.write_bytes(damage)
        assert again.metric(files[1], data, "validation") == share
    assert len(taken) == 4
    assert "is damaged: what it held is taken again" in caplog.text


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"speed a b": 3}', '{"speed a b": {"value": 1}}'])
@pytest.mark.parametrize("name", ["measurements.json", "final.json"])
def test_damaged_measurements_are_named_and_made_again(
    name: str, text: str, files: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    files[0].with_name(name).write_text(text)
    bench = Bench(StandIn(), 1, files[0], files[0].with_name("measurements.json"))
    assert bench.speed(files[1]).speedup == pytest.approx(4.0)
    assert len(bench.final_speeds(files, budget_s=1.0, doubtful=sure)) == 3
    assert [name in record.getMessage() for record in caplog.records] == [True]


# -- budgets ---------------------------------------------------------------------------------------------


def _planner(**budget: Any) -> Planner:
    nothing: Any = None
    return Planner(
        nothing, nothing, nothing, Budget(**budget), nothing, (), Path(), baseline_cost=200.0, ask=nothing
    )


@pytest.mark.parametrize(
    ("budget", "kept"),
    [
        ({}, {}),
        ({"latency_us": 102.0}, {"latency_us": True}),
        ({"latency_us": 101.9}, {"latency_us": False}),  # the upper bound counts, not the median
        ({"speedup": 1.96}, {"speedup": True}),
        ({"speedup": 1.97}, {"speedup": False}),  # 200 / 102
        ({"size_bytes": 1000}, {"size_bytes": True}),
        ({"size_bytes": 999}, {"size_bytes": False}),
        ({"memory_bytes": 4999, "size_bytes": 2000}, {"memory_bytes": False, "size_bytes": True}),
    ],
)
def test_a_budget_is_kept_by_bounds_and_bytes(budget: dict[str, Any], kept: dict[str, bool]) -> None:
    planner = _planner(**budget)
    assert planner.budget.kept(planner.figures(SPEED, 1000, 5000)) == kept


def test_a_latency_is_judged_at_the_pace_of_the_baseline() -> None:
    slow = replace(SPEED, latency_us=150.0, low_us=147.0, high_us=153.0, baseline_us=300.0)
    planner = _planner(latency_us=103.0)
    assert planner.budget.kept(planner.figures(slow, 0, 0)) == {"latency_us": True}


def test_the_tighter_of_two_budgets_on_time_is_planned_for() -> None:
    assert _planner().cost_limit is None
    assert _planner(latency_us=90.0, speedup=2.0).cost_limit == 90.0
    assert _planner(latency_us=110.0, speedup=2.0).cost_limit == 100.0


def test_pruning_before_quantising_has_the_budgets_that_quantising_leaves() -> None:
    budget = Budget(latency_us=100.0, speedup=3.0, size_bytes=1000, memory_bytes=7, max_drop=1.0)
    eased = budget.scaled(time=1.5, size=1 / 0.25)
    assert eased == Budget(latency_us=150.0, speedup=2.0, size_bytes=4000, memory_bytes=7, max_drop=1.0)
    assert Budget(max_drop=1.0).scaled(time=1.5, size=4.0) == Budget(max_drop=1.0)


@pytest.mark.parametrize(
    ("structure", "kept", "words"),
    [
        (Structure(), True, "The original keeps the budgets"),
        (Structure(), False, "nothing to change, and the original misses the budget of speed-up"),
        (Structure(Configuration("int8")), False, "speed-up is out of its reach"),
        (Structure(Configuration("int8")), True, ""),
    ],
)
def test_what_is_not_repaired_says_why(structure: Structure, kept: bool, words: str) -> None:
    trial: Any = SimpleNamespace(structure=structure, kept={"speedup": kept, "size_bytes": True})
    assert words in " ".join(reach(trial))
    assert bool(words) == bool(reach(trial))


def test_a_goal_that_nobody_gave_is_not_called_a_budget() -> None:
    missed: dict[str, Any] = {"kept": {"speedup": False}}
    for structure, said in (
        (Structure(), "It finds nothing to change."),
        (
            Structure(Configuration("int8")),
            "The speed-up aimed at, as no budget was given, is out of its reach, so it was not fine-tuned.",
        ),
    ):
        trial: Any = SimpleNamespace(structure=structure, **missed)
        assert reach(trial, given=False) == (said,)


def test_without_a_budget_on_cost_a_ladder_of_speeds_is_planned_for() -> None:
    def goals(budget: Budget) -> list[Budget]:
        holder: Any = SimpleNamespace(job=SimpleNamespace(cost_budget=budget))
        return Work.goals.func(holder)

    asked = Budget(size_bytes=5, max_drop=1.0)
    assert goals(asked) == [asked]
    assert goals(Budget(max_drop=1.0)) == [Budget(speedup=speed) for speed in (1.5, 2.0, 3.0)]


@pytest.mark.parametrize(
    ("budget", "latency", "ratio", "share"),
    [
        ({"latency_us": 102.0}, 99.0, None, None),  # kept
        ({"latency_us": 100.0}, 104.0, None, 0.98 * 100 / 106.08),  # missed narrowly: by the upper bound
        ({"latency_us": 100.0}, 140.0, None, None),  # out of reach
        ({"speedup": 2.0}, 100.0, (1.9, 2.1), 0.98 * 0.95),
        ({"speedup": 2.0}, 100.0, (2.0, 2.1), None),
        ({"speedup": 2.0, "latency_us": 95.0}, 100.0, (1.9, 2.1), 0.98 * 95 / 102),  # the worse of the two
        ({"size_bytes": 1}, 100.0, None, None),
    ],
)
def test_a_narrow_miss_tightens_the_plan_and_others_do_not(
    budget: dict[str, Any], latency: float, ratio: tuple[float, float] | None, share: float | None
) -> None:
    joint = examples.strategy("joint", accuracy=0.9, us=latency, speedup_ci95=ratio)
    holder: Any = SimpleNamespace(job=SimpleNamespace(request=SimpleNamespace(budget=Budget(**budget))))
    found = missed_share(holder, joint)
    assert found == (None if share is None else pytest.approx(share))


@pytest.mark.parametrize(("flipped", "delivered"), [(1, True), (2, False)])
def test_one_image_of_another_class_is_held_against_more_images(
    flipped: int, delivered: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One in 64 is more than 0.5 %, one in the 287 validation digits is not; two are."""
    counts: list[int] = []

    def simulated(_graph: Any, values: list[torch.Tensor], flavour: str) -> list[torch.Tensor]:
        counts.append(len(values[0]))
        return [torch.eye(10)[torch.arange(len(values[0])) % 10]]

    def ran(_target: Any, _file: Any, values: list[Any], _shapes: Any, *, threads: int) -> list[Any]:
        (found,) = simulated(None, [torch.from_numpy(value) for value in values], "xnnpack")
        counts.pop()
        found[:flipped] = found[:flipped].roll(1, dims=1)
        return [found.numpy()]

    monkeypatch.setattr(report_builder, "simulate", simulated)
    monkeypatch.setattr(report_builder, "run_file", ran)
    float_graph = deployment_form(load(MODEL).graph)
    shape = shape_of(inputs(float_graph)[0])
    images = next(iter(load_data("digits", input_shape=shape).batches("calibration", 64))).inputs
    graph = quantise(float_graph, Configuration("int8"), (torch.from_numpy(images),))
    outcome = Outcome("joint", Structure(), graph, write_tflite(graph, tmp_path / "model.tflite"))
    target = get_target("litert-host")
    request, task = SimpleNamespace(threads=1), load_task()
    job: Any = SimpleNamespace(data=load_data("digits"), target=target, request=request, task=task)
    if delivered:
        assert "287 images" in report_builder.check_file(job, outcome)["integer simulator"]
    else:
        with pytest.raises(VerificationError, match="287 images"):
            report_builder.check_file(job, outcome)
    assert counts == [64, 287]
