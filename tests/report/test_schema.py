"""The report survives the way to disk and back, and refuses what contradicts itself."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mcc.budget import Budget
from mcc.errors import DataError
from mcc.report.schema import Cost, Latency, Report, Result, load_report
from tests.report import examples


def test_round_trip_is_equal_and_stable(tmp_path: Path) -> None:
    report = examples.report()
    report.save(tmp_path / "report.json")
    again = load_report(tmp_path / "report.json")
    assert again == report
    assert again.to_json() == (tmp_path / "report.json").read_text(encoding="utf-8")
    assert os.listdir(tmp_path) == ["report.json"]


def test_the_keys_that_scripts_rely_on_are_there() -> None:
    held: dict[str, Any] = json.loads(examples.report().to_json())
    wanted = {
        "target", "baseline", "compressed", "speedup", "predicted_latency_us", "budget", "met", "strategies",
        "decisions", "stages", "seed", "versions",
    }  # fmt: skip
    assert wanted <= set(held)
    assert set(held["target"]) == {"name", "runtime", "version", "device", "threads"}
    figures = {
        "accuracy", "validation_accuracy", "latency_us", "size_bytes", "peak_memory_bytes", "macs", "params",
    }  # fmt: skip
    assert set(held["baseline"]) == set(held["compressed"]) == figures
    assert {"median", "p10", "p90", "runs"} <= set(held["compressed"]["latency_us"])
    assert held["met"] == {"speedup": True, "size_bytes": True, "max_drop": True}
    assert all(figures <= set(strategy) for strategy in held["strategies"])


def test_a_simulated_figure_is_never_called_latency() -> None:
    result = Result(model_cycles=20e6, instructions=31_000_000, size_bytes=1, macs=1, params=1)
    assert "latency_us" not in result.to_dict()
    assert result.cost == result.upper_cost == 20e6
    with pytest.raises(ValidationError, match="not both"):
        Result(model_cycles=1.0, latency_us=examples.latency(1.0), size_bytes=1, macs=1, params=1)


def test_upper_bound_is_that_of_the_interval() -> None:
    assert Latency(median=10, p10=9, p90=12, runs=5, ci95=(9.8, 10.4)).upper == 10.4
    assert Latency(median=10, p10=9, p90=12, runs=5).upper == 10


def test_budget_lists_what_was_asked() -> None:
    assert Budget().asked == ()
    assert Budget(max_drop=0.0, latency_us=8e3).asked == ("latency_us", "max_drop")
    with pytest.raises(ValidationError):
        Budget(latency_us=-1)


def test_cost_has_one_clock() -> None:
    assert Cost(model_cycles=0.0, source="fitted").value == 0
    with pytest.raises(ValidationError, match="one of the two"):
        Cost(source="measured")


@pytest.mark.parametrize(
    "changes",
    [
        {"met": {}},
        {"met": {"speedup": True, "size_bytes": True, "max_drop": True, "latency_us": True}},
        {"speedup": float("nan")},
        {"schema_version": 2},
        {"surprise": 1},
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        examples.report(**changes)


def test_two_chosen_strategies_are_refused() -> None:
    tried = examples.report().strategies
    twice = tuple(strategy.model_copy(update={"chosen": True}) for strategy in tried)
    with pytest.raises(ValidationError, match="more than one"):
        examples.report(strategies=twice)


def test_reports_are_immutable() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        examples.report().seed = 3  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"seed": "x"}'])
def test_a_broken_file_is_one_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(DataError, match="is no report of this version"):
        load_report(path)
    with pytest.raises(DataError, match="no such file"):
        load_report(tmp_path / "absent.json")


def test_a_folder_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "report.json").mkdir()
    with pytest.raises(DataError, match="cannot be written"):
        examples.report().save(tmp_path / "report.json")
    assert os.listdir(tmp_path) == ["report.json"]


def test_chosen_and_simulated() -> None:
    report: Report = examples.report()
    assert report.chosen is not None
    assert report.chosen.name == "joint"
    assert not report.simulated
