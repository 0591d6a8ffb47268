"""Whatever can be asked for is read: every option, keyword and budget reaches the job, of each target."""

from __future__ import annotations

import inspect
import itertools
import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest

from mcc.budget import Budget
from mcc.cli import main
from mcc.cli.compress import compress as command
from mcc.compress import multi_target
from mcc.compress.api import compress, compress_for
from mcc.compress.job import Place, silent
from mcc.compress.request import Request
from mcc.data import Preprocessing
from mcc.errors import UsageError
from mcc.ir.storage import save_graph
from mcc.ir.text import parse_graph
from mcc.report.choose import check_budget
from tests.report import examples

LIMITS: dict[str, Any] = {
    "latency_us": 5000.0, "model_cycles": 2e7, "speedup": 1.5, "size_bytes": 1000, "memory_bytes": 2000,
    "max_drop": 0.5,
}  # fmt: skip
STRUCTURE: dict[str, Any] = {"precision": "float", "sparse": None, "widths": {"a": 3}, "ranks": {}}
NOT_THE_ENGINES = {"as_json", "quiet", "verbose", "help"}
"""Options of the command that are about its output."""
REFUSED_FOR_SEVERAL = {"plan_file", "steps"}


@pytest.fixture(autouse=True)
def _own_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache_dir: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("net.py", "other.py", "w.safetensors"):
        Path(name).write_text("f = None\n")
    Path("plan.json").write_text(json.dumps({"structure": STRUCTURE}))
    Path("pictures.json").write_text(json.dumps({"mean": [0.5], "std": [0.5]}))
    graph = parse_graph("mcc 1\n%x = input() {} : f32[1,3,8,8]\n%y = relu(%x) {} : f32[1,3,8,8]\nreturn %y\n")
    save_graph(graph, Path("x.mcc"), {"preprocessing": Preprocessing(scale=1.0).to_json()})


def test_the_limits_of_these_tests_are_all_that_there_are() -> None:
    assert set(LIMITS) == set(Budget.model_fields)


# -- from the command line to the engine -------------------------------------------------------------------

WORDS: dict[str, list[str]] = {
    "model": ["other.py:f"], "data": ["--data", "cifar10:x"], "target": ["--target", "litert-web"],
    "latency": ["--latency", "5ms"], "speedup": ["--speedup", "1.5x"], "size": ["--size", "1kB"],
    "memory": ["--memory", "2kB"], "max_drop": ["--max-drop", "0.5"], "threads": ["--threads", "3"],
    "epochs": ["--epochs", "0.25"], "plan_file": ["--plan", "plan.json"], "steps": ["--steps", "2"],
    "strategies": ["--strategies", "joint"], "workers": ["--workers", "2"], "ray": ["--ray", "local"],
    "resume": ["--resume"], "output": ["-o", "elsewhere"], "force": ["--force"], "seed": ["--seed", "9"],
    "input_shape": ["--input-shape", "1,3,8,8"], "weights": ["--weights", "w.safetensors"],
    "cut": ["--cut", "head"], "allow_noise": ["--allow-noise"], "mean": ["--mean", "0.5"],
    "std": ["--std", "0.25"], "scale": ["--scale", "1"], "image_size": ["--image-size", "32"],
    "crop": ["--crop", "0.5"], "channels": ["--channels", "bgr"], "judge": ["--judge", "1"],
    "task": ["--task", "classification"],
    "preprocessing": ["--preprocessing", "pictures.json"], "ignore_labels": ["--ignore-labels"],
    "preprocessing_of": ["--preprocessing-of", "x.mcc"],
}  # fmt: skip
"""Words that change each option of `mcc compress`; an option that is missing here fails the tests below."""


def _options() -> list[str]:
    return sorted(str(p.name) for p in command.params if p.name not in NOT_THE_ENGINES)


def _line(option: str | None, target: str) -> list[str]:
    """A command line in which one option is given, and all others are as they are without it."""
    model = WORDS["model"] if option == "model" else ["net.py:f"]
    words = ["compress", *model]
    for name, plain in (("data", "digits"), ("target", target)):
        words += [f"--{name}", plain] if option != name else []
    if option == "target" and "," in target:
        return [*words, "-q", "--target", "ort-host,litert-host"]
    return [*words, "-q", *(WORDS[option] if option not in (None, "model") else [])]


def _seen(given: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in given.items() if k not in ("progress", "command")}


@pytest.mark.parametrize("option", _options())
def test_every_option_reaches_the_engine(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []

    def engine(**given: Any) -> Any:
        calls.append(_seen(given))
        return examples.report()

    monkeypatch.setattr("mcc.compress.compress", engine)
    for words in (_line(None, "litert-host"), _line(option, "litert-host")):
        assert main.run(words) == 0
    plain, changed = calls
    assert plain != changed, f"{option} is accepted and not read"
    in_words = {"latency", "size", "memory", "example"}  # parsed by the command line; an object
    assert set(plain) | {"command", "progress"} | in_words == set(inspect.signature(compress).parameters)


@pytest.mark.parametrize("option", _options())
def test_every_option_reaches_the_job_of_each_target(
    option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    targets = "litert-host,ort-host"
    jobs: list[list[Any]] = []

    def engine(request: Request, place: Place, **options: Any) -> Any:
        jobs[-1].append((request, replace(place, progress=silent, command=""), options))
        return examples.report()

    monkeypatch.setattr(multi_target, "compress_one", engine)
    monkeypatch.setattr(multi_target, "plan_multi_target", lambda *_, **__: _plan(monkeypatch, keeps=True))
    statuses: list[int] = []
    for words in (_line(None, targets), _line(option, targets)):
        jobs.append([])
        statuses.append(main.run(words))
        assert len(jobs[-1]) in (0, 2)
    if option in REFUSED_FOR_SEVERAL:
        assert statuses == [0, 2]
        assert capsys.readouterr().err.count("\n") == 1
        assert not jobs[1]
        return
    assert statuses == [0, 0]
    for plain, changed in zip(*jobs, strict=True):
        assert plain != changed, f"{option} is accepted and not read with several targets"


def _plan(monkeypatch: pytest.MonkeyPatch, *, keeps: bool) -> Any:
    raw = {
        "structure": STRUCTURE,
        "measured": {"litert-host": {"kept": {"speedup": keeps}}},
    }
    monkeypatch.setattr(multi_target, "shared_plan_content", lambda found: raw)
    return SimpleNamespace(keeps_all=keeps)


# -- from the Python API to the job ------------------------------------------------------------------------

VALUES: dict[str, Any] = {
    **LIMITS, "model": "other.py:f", "data": "cifar10:x", "target": "litert-web", "epochs": 0.25,
    "threads": 3, "weights": "w.safetensors", "input_shape": (1, 3, 8, 8), "cut": ("head",),
    "out": "elsewhere", "resume": True, "plan": Path("plan.json"), "seed": 9,
    "progress": lambda *_, **__: None, "command": "as typed", "workers": 2, "ray": "local", "steps": 2,
    "strategies": ("joint",), "force": True, "allow_noise": True, "judge": 1, "ignore_labels": True,
    "task": "classification",
    "preprocessing": Preprocessing(scale=1.0),
}  # fmt: skip
IN_WORDS: dict[str, dict[str, Any]] = {
    "latency": {"latency_us": 5000.0}, "size": {"size_bytes": 1500}, "memory": {"memory_bytes": 2_000_000}
}  # fmt: skip
VALUES |= {"latency": "5ms", "size": "1.5kB", "memory": "2MB"}
BASE: dict[str, Any] = {"model": "net.py:f", "data": "digits", "target": "litert-host"}


class Stopped(Exception):
    pass


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Request and place that `open_job` was given, for each call of `compress`."""
    found: list[Any] = []

    def open_job(request: Request, place: Place, **_: Any) -> Any:
        found.append((request, place))
        raise Stopped

    monkeypatch.setattr("mcc.compress.session.open_job", open_job)
    return found


@pytest.mark.parametrize("keyword", [n for n in inspect.signature(compress).parameters if n != "example"])
def test_every_keyword_reaches_the_job(keyword: str, opened: list[Any]) -> None:
    for given in (BASE, {**BASE, keyword: VALUES[keyword]}):
        with pytest.raises(Stopped):
            compress(**given)
    plain, changed = opened
    assert plain != changed, f"{keyword} is accepted and not read"
    if keyword in LIMITS:
        assert changed[0].budget == Budget(**{keyword: LIMITS[keyword]})
    if keyword in IN_WORDS:
        assert changed[0].budget == Budget(**IN_WORDS[keyword])


@pytest.mark.parametrize("name", LIMITS)
def test_every_budget_is_planned_for_and_reaches_each_target(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets = ["litert-arm64-sim", "litert-arm64-sim:xnnpack"] if name == "model_cycles" else [
        "litert-host", "ort-host"
    ]  # fmt: skip
    monkeypatch.setattr(multi_target, "get_target", lambda spec: _target(spec, cycles=name == "model_cycles"))
    asked, planned = Budget(**{name: LIMITS[name]}), list[Budget]()
    jobs: list[Budget] = []

    def engine(request: Request, place: Place, **_: Any) -> Any:
        jobs.append(request.budget)
        return examples.report()

    def plan(request: Request, place: Place, **_: Any) -> Any:
        planned.append(request.budget)
        return _plan(monkeypatch, keeps=True)

    monkeypatch.setattr(multi_target, "compress_one", engine)
    monkeypatch.setattr(multi_target, "plan_multi_target", plan)
    compress_for("net.py:f", "digits", targets, **{name: LIMITS[name]})
    assert planned == [asked]
    assert jobs == [asked, asked]


def _target(spec: str, *, cycles: bool) -> Any:
    key = "model_cycles" if cycles else "latency_us"
    return SimpleNamespace(spec=spec, unit=SimpleNamespace(key=key, exact=cycles, example="20Mcycles"))


def _subsets() -> Iterator[Sequence[str]]:
    for count in range(len(LIMITS) + 1):
        yield from itertools.combinations(LIMITS, count)


def test_exactly_the_budgets_asked_for_are_checked() -> None:
    (original, *_) = strategies = examples.strategies()
    for names in _subsets():
        budget = Budget(**{name: LIMITS[name] for name in names})
        for strategy in strategies:
            found = check_budget(strategy, budget, baseline=original.result, reference=0.93)
            assert set(found) == set(names)


# -- values that make no sense -----------------------------------------------------------------------------

NONSENSE: list[tuple[str, Any]] = [
    *[("epochs", value) for value in (float("nan"), float("inf"), -1, 1e300, "2")],
    *[("threads", value) for value in (0, -1, 10_000, 1.5, True)],
    *[("workers", value) for value in (0, -1, 1_000_000)],
    *[("seed", value) for value in (-1, 2**32, 10**30, 0.5)],
    *[("steps", value) for value in (0, -1, 7, 10**9)],
    *[("strategies", value) for value in ([""], ["luck"], "joint")],
    *[("latency_us", value) for value in (float("nan"), 0, -5.0, float("inf"))],
    *[("model_cycles", value) for value in (float("nan"), 0, -5.0, float("inf"))],
    *[("speedup", value) for value in (float("nan"), 0, -2.0, float("inf"))],
    *[("size_bytes", value) for value in (0, -1, 1.5, float("nan"))],
    *[("memory_bytes", value) for value in (0, -1, float("inf"))],
    *[("max_drop", value) for value in (float("nan"), -1, float("inf"))],
    ("ray", ""),
]


@pytest.mark.parametrize(("keyword", "value"), NONSENSE)
def test_nonsense_is_refused_before_anything_is_loaded(keyword: str, value: Any, opened: list[Any]) -> None:
    with pytest.raises(UsageError) as caught:
        compress(**BASE, **{keyword: value})
    assert caught.value.where
    assert opened == []
    if keyword in LIMITS:
        with pytest.raises(UsageError):
            Budget.asked_for(**{keyword: value})
    else:
        with pytest.raises(UsageError):
            compress_for("net.py:f", "digits", ["litert-host"], **{keyword: value})
    assert not Path("out").exists()


LINES = [
    *[f"--epochs {value}" for value in ("nan", "inf", "-inf", "-1", "1e300", "''", "many")],
    *[f"--threads {value}" for value in ("0", "-1", "10000", "1.5", "''")],
    *[f"--workers {value}" for value in ("0", "-1", "1000000", "''")],
    *[f"--seed {value}" for value in ("-1", "4294967296", "1e9", "''")],
    *[f"--steps {value}" for value in ("0", "-1", "7", "''")],
    *[f"--strategies {value}" for value in ("''", ",", "joint,", "luck")],
    *[f"--latency {value}" for value in ("nan", "nanms", "0", "0ms", "-5ms", "inf", "infms", "1e999ms", "8")],
    *[f"--speedup {value}" for value in ("nan", "0", "-2x", "infx", "''")],
    *[f"--size {value}" for value in ("0", "0MB", "-1MB", "nanMB", "1e400MB", "0.1B")],
    *[f"--memory {value}" for value in ("0", "infMB")],
    *[f"--max-drop {value}" for value in ("nan", "-1", "inf", "''")],
    *[f"--target {value}" for value in ("''", ",", "litert-host,", "litert-host,nowhere")],
    "--ray ''",
    "--ray local --workers 2",
    "--plan plan.json --steps 2",
    "--plan plan.json --strategies int8-ptq",
    "--target litert-host,ort-host --strategies int8-ptq",
    "--target litert-host,litert-arm64-sim --latency 8ms",
    "--target litert-host,litert-arm64-sim --latency 20Mcycles",
]


@pytest.mark.parametrize("line", LINES)
def test_nonsense_on_the_command_line_is_one_sentence(
    line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(*_: Any, **__: Any) -> Any:
        pytest.fail("something was loaded")

    monkeypatch.setattr("mcc.compress.job.load_job", loaded)

    words = ["compress", "net.py:f", "--data", "digits", "-q", "-o", "out"]
    words += [] if "--target" in line else ["--target", "litert-host"]
    assert main.run([*words, *shlex.split(line)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "internal error" not in said
    assert not Path("out").exists()


def test_the_options_of_the_command_are_the_ones_tried_here() -> None:
    assert isinstance(command, click.Command)
    assert set(_options()) == set(WORDS)
