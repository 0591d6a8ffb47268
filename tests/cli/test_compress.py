"""`mcc compress` and `mcc plan`: what they hand to the engine, and what they make of its answer."""

import json
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mcc.budget import Budget
from mcc.cli import main
from mcc.errors import ConstraintError
from mcc.report.schema import Report
from tests.report import examples

BASE = ("net.py:factory", "--data", "digits", "--target", "litert-host")


class Engine:
    """Stands in for `mcc.compress`: keeps what it was given and answers as told."""

    def __init__(self) -> None:
        self.given: dict[str, Any] = {}
        self.answer: Any = examples.report()
        self.error: BaseException | None = None

    def run(self, **given: Any) -> Any:
        self.given = given
        given["progress"]("plan", 0, 1, "first")
        if self.error is not None:
            raise self.error
        return self.answer


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Engine:
    """The engine that commands find in place of the real one; the working folder holds what they name."""
    found = Engine()
    for name in ("compress", "plan"):
        monkeypatch.setattr(f"mcc.compress.{name}", found.run)
    monkeypatch.chdir(tmp_path)
    for name in ("net.py", "w"):
        (tmp_path / name).write_text("factory = None\n", encoding="utf-8")
    return found


def test_options_become_arguments_in_their_units(engine: Engine) -> None:
    options = shlex.split(
        "--latency 8ms --speedup 2x --size 1.5MB --memory 6MB --max-drop 1.0 --epochs 2.5 --resume -o o "
        "--seed 7 --threads 2 --weights w --input-shape 1,3,32,32"
    )
    assert main.run(["compress", *BASE, *options]) == 0
    wanted = {
        "model": "net.py:factory", "data": "digits", "target": "litert-host", "latency_us": 8000.0,
        "speedup": 2.0, "size_bytes": 1_500_000, "memory_bytes": 6_000_000, "max_drop": 1.0, "epochs": 2.5,
        "resume": True, "out": Path("o"), "seed": 7, "threads": 2, "weights": Path("w"),
        "input_shape": (1, 3, 32, 32), "plan": None,
    }  # fmt: skip
    assert {key: engine.given[key] for key in wanted} == wanted


def test_nothing_asked_is_nothing_given(engine: Engine) -> None:
    assert main.run(["compress", *BASE]) == 0
    for name in ("latency_us", "speedup", "size_bytes", "memory_bytes", "max_drop", "epochs", "weights"):
        assert engine.given[name] is None


def test_the_result_is_a_table_and_sentences(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    engine.answer = examples.report(verdicts=("2.07x faster.",))
    assert main.run(["compress", *BASE, "-o", "o"]) == 0
    captured = capsys.readouterr()
    assert "prune-then-quantise" in captured.out
    assert "2.07x faster." in captured.out
    assert "o/report.html" in captured.out
    assert "plan (first)" in captured.err


def test_the_result_as_json_is_the_report(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["compress", *BASE, "--json", "-q"]) == 0
    captured = capsys.readouterr()
    assert Report.model_validate_json(captured.out) == engine.answer
    assert captured.err == ""


def test_a_budget_not_met_is_status_1(engine: Engine) -> None:
    engine.answer = examples.report(budget=Budget(latency_us=1.0), met={"latency_us": False})
    assert main.run(["compress", *BASE]) == 1


def test_what_was_found_is_shown_when_nothing_keeps_the_budget(
    engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.error = error = ConstraintError(
        "no strategy keeps --latency 1us", hint="the nearest feasible: ..."
    )
    assert main.run(["compress", *BASE, "-o", "o", "-q", "--json"]) == 1  # before anything was found
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "constraint"
    error.report = examples.report(
        budget=Budget(latency_us=1.0), met={"latency_us": False}, warnings=("No result keeps every budget.",)
    )
    assert main.run(["compress", *BASE, "-o", "o", "-q"]) == 1
    captured = capsys.readouterr()
    assert captured.out.startswith("Warning: No result keeps every budget.")
    assert "original-trained" in captured.out
    assert captured.err == "mcc: error: no strategy keeps --latency 1us; the nearest feasible: ...\n"
    assert main.run(["compress", *BASE, "-o", "o", "-q", "--json"]) == 1
    captured = capsys.readouterr()
    assert Report.model_validate_json(captured.out) == error.report
    assert "the nearest feasible" in captured.err


def test_ctrl_c_says_how_to_go_on(
    engine: Engine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.error = KeyboardInterrupt()
    arguments = ["compress", *BASE, "-o", "my folder", "-q"]
    monkeypatch.setattr(sys, "argv", ["/usr/bin/mcc", *arguments])
    assert main.run(arguments) == 130
    said = capsys.readouterr().err
    command = "mcc compress net.py:factory --data digits --target litert-host -o 'my folder' -q --resume"
    assert said == f"mcc: stopped; {command} continues from here\n"


def test_a_plan_is_a_front(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    point = SimpleNamespace(
        latency_words="352 us", loss=0.0123, size_words="940 kB", chosen=True, bounds_words="330 to 370 us"
    )
    engine.answer = SimpleNamespace(
        front=[point], warnings=(), roofline_sentences=lambda: ("ROOF",), to_dict=lambda: {"front": []}
    )
    assert main.run(["plan", *BASE, "--speedup", "2x", "-o", "p.json", "-q"]) == 0
    assert engine.given["out"] == Path("p.json")
    assert "epochs" not in engine.given
    said = capsys.readouterr().out
    assert " 352 us  330 to 370 us      0.0123  940 kB  *" in said
    assert "ROOF" in said
    assert main.run(["plan", *BASE, "--json", "-q"]) == 0
    assert json.loads(capsys.readouterr().out) == {"front": []}
