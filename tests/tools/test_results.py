"""What the result scripts make of figures: intervals, tables and verdicts."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from mcc.data import load_data
from mcc.errors import UsageError
from tests.data.samples import write_binary
from tools.results.budgets import cases
from tools.results.cells import (
    Cell,
    Figures,
    Inputs,
    epochs_for,
    folder_of,
    form_of,
    is_finished,
    measured,
    paired_interval,
    repeated,
    structure,
)
from tools.results.cifar10 import ROWS
from tools.results.data import cifar10, named
from tools.results.joint import COMPARED, Comparison, strategies_for
from tools.results.joint import table as joint_table
from tools.results.swap import table as swap_table


def right(share: float, images: int = 400, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).random(images) < share).astype(np.float64)


@pytest.mark.parametrize(
    ("sessions", "speedup", "used"),
    [
        ([2.0, 2.02], 2.01, 2),
        ([4.1, 1.5, 1.52], 1.51, 3),  # the first was disturbed
        ([1.5, 4.1, 1.52], 1.51, 3),
        ([1.0, 2.0, 3.0, 4.0, 5.0], 3.0, 5),
    ],
)
def test_a_disturbed_speed_up_is_measured_again(sessions: list[float], speedup: float, used: int) -> None:
    left = iter(sessions)
    assert repeated(lambda: next(left)) == pytest.approx(speedup)
    assert len(list(left)) == len(sessions) - used


def cell(speedup: float, validation: np.ndarray, test: np.ndarray | None = None) -> Cell:
    return Cell(speedup, {"validation": validation, "test": validation if test is None else test})


def test_the_interval_of_a_difference_is_that_of_pairs() -> None:
    other = right(0.8)
    one = other.copy()
    one[np.flatnonzero(other == 0)[:12]] = 1.0  # right wherever the other is, and on twelve more
    gain, low, high = paired_interval([one], [other])
    assert gain == pytest.approx(3.0)
    assert 0 < low < gain < high
    assert high - low < 4.0  # unpaired, two accuracies of 400 images would differ by 5.5 either way
    assert paired_interval([other], [other]) == (0.0, 0.0, 0.0)
    assert paired_interval([one], [other]) == paired_interval([one], [other])


def test_the_swap_table_says_whose_plan_is_best_where() -> None:
    good, fair = right(0.9), right(0.8)
    cells = {
        ("a", "a"): cell(2.1, good), ("b", "a"): cell(1.4, good), ("a", "b"): cell(2.2, good),
        ("b", "b"): cell(2.0, fair),
    }  # fmt: skip
    text = "\n".join(swap_table("net", 2.0, ("a", "b"), {"a": {"w": 1}, "b": {"w": 2}}, cells))
    assert f"| a | **2.10x, {100 * good.mean():.2f} %** | **2.20x" in text
    assert f"| b | 1.40x, {100 * good.mean():.2f} % | **2.00x" in text
    assert "- a: its own plan is the best of 1 that keep the budget." in text
    behind = 100 * (good.mean() - fair.mean())
    assert f"- b: the plan for a is {behind:.2f} points more accurate here" in text
    assert "2 of the 2 plans differ from one another." in text


def test_the_joint_table_holds_the_gain_and_what_missed() -> None:
    other = right(0.8)
    better = np.maximum(other, right(0.3, seed=1))
    won = Comparison("net", "t", 2.0, 0, cell(2.1, better), cell(2.0, other), "channel-pruning")
    lost = Comparison("net", "t", 3.0, 0, None, cell(3.1, other), "uniform-width")
    text = "\n".join(joint_table([won, lost]))
    gain, low, high = paired_interval([better], [other])
    assert (
        f"| channel-pruning | {100 * other.mean():.2f} % | 2.00x | {gain:+.2f} ({low:+.2f} to {high:+.2f}) |"
        in text
    )
    assert "| misses it | – | uniform-width |" in text
    assert f"net, mean over 1 comparisons: {gain:+.2f} points" in text
    assert "Worse beyond its interval in 0 of them." in text


def test_a_job_is_finished_for_the_strategies_that_it_has_run(tmp_path: Path) -> None:
    given = Inputs("net", "digits", "", "1", tmp_path)
    assert not is_finished(given, "t:a", 2.0, 0, ["joint"])
    folder = tmp_path / "jobs/net-t-a-2x-seed0"
    folder.mkdir(parents=True)
    (folder / "finished.json").write_text(json.dumps({"status": 0, "strategies": ["joint", "low-rank"]}))
    assert is_finished(given, "t:a", 2.0, 0, ["joint"])
    assert not is_finished(given, "t:a", 2.0, 0, ["joint", "int8-ptq"])
    assert not is_finished(given, "t:a", 2.0, 1, ["joint"])


def test_formats_steps_and_budgets_are_those_asked_for() -> None:
    assert [form_of(t) for t in ("ort-host", "litert-arm64-sim:a76", "executorch-host")] == [
        "onnx", "tflite", "pte",
    ]  # fmt: skip
    assert round(float(epochs_for(45_000)) * 45_000) == 390 * 128
    assert len(cases()) == len(set(cases())) == 90  # ten for each of three networks and targets


def test_choices_and_report_rest_on_test_images_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_binary(tmp_path, each=20, test=80)
    monkeypatch.delenv("MCC_CIFAR10", raising=False)
    with pytest.raises(UsageError, match="MCC_CIFAR10: is not set; set it to the folder"):
        cifar10()
    monkeypatch.setenv("MCC_CIFAR10", "elsewhere")  # so that what `named` sets is undone
    spec = named(str(tmp_path))
    data = load_data(str(Path(__file__).parents[2] / spec), input_shape=(1, 3, 32, 32), seed=3)
    assert (len(data.train), len(data.validation), len(data.test)) == (100, 30, 50)
    assert np.bincount(data.validation.targets).tolist() == [3] * 10
    assert np.bincount(data.test.targets).tolist() == [5] * 10
    both = [part.inputs(np.arange(len(part))) for part in (data.validation, data.test)]
    assert len({image.tobytes() for part in both for image in part}) == 80
    assert data.warnings == ()
    again = load_data(str(Path(__file__).parents[2] / spec), input_shape=(1, 3, 32, 32), seed=4)
    assert np.array_equal(again.validation.inputs(np.arange(30)), both[0])
    for row in ROWS:
        assert row.command("W", "out", "1")[row.command("W", "out", "1").index("--data") + 1] == spec


def test_of_a_tightened_joint_plan_the_last_counts(tmp_path: Path) -> None:
    for age, name in enumerate(("joint-at-97.5", "joint", "joint-at-97.5-0-1-tried")):
        (tmp_path / "state" / name).mkdir(parents=True)
        if not name.endswith("tried"):
            made = tmp_path / "state" / name / "outcome.json"
            made.write_text(json.dumps({"structure": {"named": name}}))
            os.utime(made, (1000 - age, 1000 - age))
    assert structure(tmp_path, "joint") == {"named": "joint-at-97.5"}


def test_figures_are_read_of_jobs_that_kept_nothing_too(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    said = [
        {"name": "original", "speedup": 1.0, "validation_accuracy": 0.9},
        {"name": "joint", "speedup": 1.7, "validation_accuracy": 0.8},
    ]
    (tmp_path / "state/strategies.json").write_text(json.dumps(said))
    assert measured(tmp_path) == {"original": Figures(1.0, 0.9), "joint": Figures(1.7, 0.8)}
    (tmp_path / "report.json").write_text(json.dumps({"strategies": said[:1]}))
    assert measured(tmp_path) == {"original": Figures(1.0, 0.9)}


def test_seeds_beyond_the_first_try_what_could_be_the_best_other(tmp_path: Path) -> None:
    given = Inputs("net", "digits", "", "1", tmp_path)
    with pytest.raises(SystemExit, match="seed 0 comes before"):
        strategies_for(given, "ort-host", 2.0, 1)
    job = folder_of(given, "ort-host", 2.0, 0)
    job.mkdir(parents=True)
    (job / "finished.json").write_text(json.dumps({"status": 0, "strategies": list(COMPARED)}))
    figures = {"joint": (2.0, 0.9), "channel-pruning": (2.1, 0.885), "prune-then-quantize": (1.9, 0.893),
               "uniform-width": (2.2, 0.88), "low-rank": (1.3, 0.91)}  # fmt: skip
    entries = [
        {"name": name, "speedup": fast, "validation_accuracy": share}
        for name, (fast, share) in figures.items()
    ]
    (job / "report.json").write_text(json.dumps({"strategies": entries}))
    assert strategies_for(given, "ort-host", 2.0, 0) == COMPARED
    assert strategies_for(given, "ort-host", 2.0, 1) == ("joint", "channel-pruning", "prune-then-quantize")
