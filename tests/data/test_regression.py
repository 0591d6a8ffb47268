"""CONTRIBUTING.md adds a task by one file, regression; here a network is compressed with it, as it stands."""

from __future__ import annotations

import io
import json
import re
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mcc.cli import main
from mcc.data import bind_task, from_arrays
from mcc.data.bound import task_of
from mcc.data.outputs import Output
from mcc.data.task import load_task
from mcc.errors import DataError, UsageError
from mcc.report.schema import load_report
from tests.compress import stand_ins
from tests.pages import files

PAGE = Path(__file__).parents[2] / "CONTRIBUTING.md"

SPOT = '''
"""A bright spot on noise: where is it?"""
import numpy as np
import torch
from torch import nn
from mcc.data import Preprocessing, from_arrays

SIDE = 16

def pictures(count, seed):
    """[N, 1, 16, 16] bytes, and the row and the column of each spot in pixels."""
    chance = np.random.default_rng(seed)
    places = chance.uniform(2, SIDE - 3, (count, 2))
    rows, columns = np.mgrid[:SIDE, :SIDE]
    far = (rows - places[:, 0, None, None]) ** 2 + (columns - places[:, 1, None, None]) ** 2
    light = 200 * np.exp(-far / 4) + chance.uniform(0, 40, (count, SIDE, SIDE))
    return light.round().clip(0, 255).astype(np.uint8)[:, None], places

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 32, 1), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, 32, 3, 2, 1, groups=32), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, 24, 1), nn.BatchNorm2d(24), nn.ReLU(),
        )
        self.head = nn.Linear(24 * 16, 2)

    def forward(self, x):
        return {"place": self.head(self.body(x).flatten(1))}

def network():
    return Net(), torch.zeros(1, 1, SIDE, SIDE), Preprocessing(mean=(0.2,), std=(0.3,))

def data(preprocessing, seed):
    train, test = pictures(400, 1), pictures(160, 2)
    return from_arrays(train, test, name="spots", preprocessing=preprocessing, seed=seed)

def data_that_says(preprocessing, seed):
    return from_arrays(
        pictures(400, 1), pictures(160, 2), name="spots", preprocessing=preprocessing, seed=seed,
        task="regression.py:TASK",
    )
'''


def write_files(folder: Path) -> None:
    """The task, the network with its data, and its weights after a short training."""
    (folder / "regression.py").write_text(files(PAGE)["regression.py"])
    (folder / "spot.py").write_text(SPOT)
    space: dict[str, Any] = {"__name__": "spot"}
    exec(compile(SPOT, "spot.py", "exec"), space)
    torch.manual_seed(0)
    pixels, places = space["pictures"](400, 1)
    x, wanted = (torch.from_numpy(pixels).float() / 255 - 0.2) / 0.3, torch.from_numpy(places).float()
    net = space["Net"]()
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    for step in range(120):
        batch = torch.arange(64) * 7 % 400 + step
        loss = ((net(x[batch % 400])["place"] - wanted[batch % 400]) ** 2).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    save_file(net.state_dict(), folder / "spot.safetensors")


COMMAND = (
    "compress spot.py:network --weights spot.safetensors --data spot.py:data --task regression.py:TASK "
    "--target litert-host --speedup 1.3x --max-drop 0.5 --epochs 2 -o out/spot"
)


@pytest.fixture(scope="module")
def compressed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder in which the command of the page was run, and what it printed."""
    folder = tmp_path_factory.mktemp("spot")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MCC_CACHE_DIR", str(folder / "table"))
        patch.chdir(folder)
        stand_ins.install(patch)
        write_files(folder)
        printed = io.StringIO()
        with redirect_stdout(printed):
            assert main.run(COMMAND.split()) == 0
    return folder, printed.getvalue()


def test_the_page_types_the_command_that_is_run_here() -> None:
    typed = re.sub(r"\s*\\\n\s*", " ", PAGE.read_text())
    assert f"mcc {COMMAND}\n" in typed


@pytest.mark.slow
def test_a_report_speaks_of_a_metric_of_which_less_is_better(compressed: tuple[Path, str]) -> None:
    folder, printed = compressed
    raw = json.loads((folder / "out/spot/report.json").read_text())
    report = load_report(folder / "out/spot/report.json")
    assert report.met == {"speedup": True, "max_drop": True}
    for held in (raw["baseline"], raw["compressed"], *raw["strategies"]):
        assert {"accuracy", "validation_accuracy"}.isdisjoint(held)
        figure = held["metric"]
        assert (figure["name"], figure["unit"], figure["higher_is_better"]) == (
            "mean absolute error",
            "px",
            False,
        )
        assert 0 < figure["low"] < figure["value"] < figure["high"]
    assert "accuracy_reference" not in raw
    found = {strategy.name: strategy for strategy in report.strategies}
    originals = [found[name].validation_metric for name in ("original", "original-trained")]
    assert raw["metric_reference"] == min(figure.value for figure in originals if figure)
    for strategy in report.strategies:
        assert strategy.lost_points is None
        assert strategy.validation_metric is not None
        lost = strategy.validation_metric.value - raw["metric_reference"]
        assert strategy.lost == pytest.approx(lost, abs=1e-9), strategy.name
        assert strategy.keeps_budgets["max_drop"] == (lost <= 0.5 + 1e-9)
    texts = [printed, (folder / "out/spot/report.html").read_text(), *report.verdicts]
    assert "Test pictures" not in texts[1]  # this task shows no answers
    page = re.sub(r"<style>.*?</style>", "", texts[1], flags=re.DOTALL)
    page = re.sub(r"95 % (interval|bound)|style=\"[^\"]*\"|width:\S+%", "", page)
    for text in (re.sub(r"95 % interval", "", printed), page):
        assert "accura" not in text.lower()
        assert "points" not in text.replace("breakpoints", "")
        assert "mean absolute error" in text
        assert "ower is better" in text
    assert " px" in printed
    plan = (folder / "out/spot/plan.json").read_text()
    assert "nats" not in plan
    assert re.search(r"\d of divergence", plan)


@pytest.mark.slow
def test_what_is_chosen_is_the_fastest_of_those_that_no_image_tells_from_the_best(
    compressed: tuple[Path, str],
) -> None:
    report = load_report(compressed[0] / "out/spot/report.json")
    keeping = [s for s in report.strategies if s.keeps_all]
    assert report.chosen in keeping
    best = min(keeping, key=lambda s: s.validation_metric.value if s.validation_metric else np.inf)
    assert report.chosen is not None
    assert report.chosen.behind == 0
    assert report.chosen.cost is not None
    assert best.cost is not None
    assert report.chosen.cost <= best.cost
    front = {s.name for s in report.strategies if s.on_pareto_front}
    assert best.name in front or any(
        s.cost is not None and s.cost <= best.cost and s.validation_metric == best.validation_metric
        for s in report.strategies
    )


@pytest.mark.slow
def test_evaluate_says_the_metric_with_its_unit_and_its_direction(
    compressed: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = compressed
    monkeypatch.chdir(folder)
    words = ["evaluate", "out/spot/model.tflite", "--data", "spot.py:data_that_says"]
    assert main.run([*words, "--json"]) == 0
    (held,) = json.loads(capsys.readouterr().out)
    report = load_report(folder / "out/spot/report.json")
    assert report.compressed.metric is not None
    assert held["value"] == held["mean absolute error"] == pytest.approx(report.compressed.metric.value)
    assert (held["unit"], held["higher_is_better"]) == ("px", False)
    assert main.run(words) == 0
    assert "mean absolute error, px (lower is better)" in capsys.readouterr().out


@pytest.mark.slow
def test_verify_asks_the_task_whether_an_int8_file_says_the_same(
    compressed: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = compressed[0] / "out/spot/state/int8-ptq"
    monkeypatch.chdir(compressed[0])
    words = ["verify", str(folder / "model.mcc"), str(folder / "model.tflite"), "--data", "spot.py:data"]
    assert main.run([*words, "--task", "regression.py:TASK"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"says the same +\d+\.\d+ %", said)
    assert "the same, by the task, as the integer simulator" in said


# -- which task counts, and what it takes --------------------------------------------------------------------


@pytest.fixture
def task(tmp_path: Path) -> str:
    (tmp_path / "regression.py").write_text(files(PAGE)["regression.py"])
    return f"{tmp_path / 'regression.py'}:TASK"


def spots(targets: Any, **more: Any) -> Any:
    images = np.random.default_rng(0).integers(0, 256, (len(targets), 1, 8, 8), np.uint8)
    others = np.random.default_rng(1).integers(0, 256, (len(targets), 1, 8, 8), np.uint8)
    return from_arrays((images, targets), (others, targets), **more)


PLACES = np.random.default_rng(2).normal(size=(20, 2))
LABELS = np.arange(20) % 2


def test_the_user_names_the_task_first_and_must_agree_with_the_data(task: str) -> None:
    assert task_of(spots(PLACES), task).name == "regression"
    assert task_of(spots(PLACES, task=task)).name == "regression"
    assert task_of(spots(PLACES, task=load_task(task)), task).name == "regression"
    classes = spots(LABELS, class_names=("a", "b"))
    assert task_of(classes, "classification").name == task_of(classes).name == "classification"
    with pytest.raises(
        UsageError, match=r"--task: is the task regression, and the data arrays is for the task"
    ):
        task_of(classes, task)
    with pytest.raises(
        UsageError, match="is the task classification, and the data arrays is for the task reg"
    ):
        task_of(spots(PLACES, task=task), "classification")
    with pytest.raises(UsageError, match="arrays: names no task, and no classes; name the task with --task"):
        task_of(spots(PLACES))


def test_targets_of_every_shape_reach_the_task(task: str) -> None:
    for targets, shape, dtype in (
        (PLACES, (2,), np.float32),
        (PLACES[:, 0], (), np.float32),
        (LABELS, (), np.int64),
        (np.zeros((20, 8, 8), np.uint8), (8, 8), np.int64),
    ):
        batch = next(spots(targets, task=task).batches("test", 4))
        assert (batch.targets.shape, batch.targets.dtype) == ((4, *shape), dtype)
    one = bind_task(spots(PLACES[:, 0]), [Output("aux", (1, 5)), Output("size", (1, 1))], task=task)
    assert one.output == 1
    with pytest.raises(DataError, match=r"no output .* the task regression \(0: y \[1, 3\]\)"):
        bind_task(spots(PLACES), [Output("y", (1, 3))], task=task)
    with pytest.raises(DataError, match="train targets hold values that are not finite"):
        spots(np.full((20, 2), np.nan))
    with pytest.raises(DataError, match="train targets are of the kind <U1, not numbers"):
        spots(np.array(["a"] * 20))


def test_predicting_the_median_is_chance(task: str) -> None:
    found, wanted = load_task(task), PLACES.astype(np.float32)
    constant = np.tile(np.median(wanted, axis=0), (20, 1))
    said = found.chance(found.measure([constant], wanted), wanted, (), wanted)
    assert said is not None
    assert "px, and always answering the median gives" in said
    assert found.chance(found.measure([wanted + 0.01], wanted), wanted, (), wanted) is None


def test_what_a_task_does_amiss_is_said_in_a_sentence(tmp_path: Path) -> None:
    spoilt = {
        "measure": (
            "np.abs(self._numbers(outputs) - targets.reshape(len(targets), -1)).mean(1)",
            "np.zeros(3)",
        ),
        "fails": ("np.abs(self._numbers(outputs) - targets.reshape(len(targets), -1)).mean(1)", "1 / 0"),
        "loss": (
            "torch.nn.functional.smooth_l1_loss(self._numbers(outputs), targets",
            "(outputs[0], targets",
        ),
        "name": ("outputs[self.output].reshape", 'outputs["boxes"].reshape'),
    }
    said = {
        "measure": r"task regression, measure: returns float64 \[3\] for 20 examples",
        "fails": r"task regression, measure: fails \(ZeroDivisionError: .*fails.py:\d+",
        "loss": r"task regression, loss: returns tuple and not one number",
        "name": r"measure: the network has no output called 'boxes'; there is 0: y \[1, 2\]",
    }
    outputs, values = [Output("y", (1, 2))], PLACES.astype(np.float32)
    for kind, (good, bad) in spoilt.items():
        assert good in files(PAGE)["regression.py"]
        file = tmp_path / f"{kind}.py"
        file.write_text(files(PAGE)["regression.py"].replace(good, bad))
        bound = bind_task(spots(PLACES), outputs, task=f"{file}:TASK")
        ask: Any = bound.loss if kind == "loss" else bound.measure
        given: Any = torch.from_numpy(values) if kind == "loss" else values
        with pytest.raises(DataError, match=said[kind]):
            ask([given], given)
