"""Metrics that are no accuracy: decisions mirrored, their words, outputs by name in the graph's axes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mcc.budget import Budget
from mcc.data import Metric, Task, from_arrays
from mcc.data.bound import BoundTask, bind_task
from mcc.data.interval import Interval, paired_proportions
from mcc.data.outputs import Output
from mcc.errors import ConstraintError, DataError, NotFiniteError
from mcc.ir.graph import Graph, GraphBuilder, outputs, run
from mcc.ir.notes import shape_of
from mcc.lower.formats import format_of, get_format
from mcc.report.choose import choose, mark, metric_reference, nearest
from mcc.report.doubt import Circumstances, chance_sentence
from mcc.report.figures import MetricFigure
from mcc.report.html import render_html
from mcc.report.judge import judge_file
from mcc.report.pairs import Pairs, memorised_words
from mcc.report.plot import describe, pareto_svg
from mcc.report.schema import Report, StrategyResult
from mcc.report.tables import strategy_rows
from mcc.report.verdict import verdicts, with_verdicts
from mcc.runtime.registry import get_target
from tests.report import examples

ERROR = Metric("mean error", "px", higher_is_better=False)
RIGHT_PIXELS = Metric("pixel accuracy", "fraction")
ORIGINALS = ("original", "original-trained")


@dataclass(frozen=True)
class Mirrored(Task):
    """Ten pixels of error where classification is wrong, none where it is right."""

    name: str = "mirrored"
    metric: Metric = ERROR

    def loss(self, outputs: Any, targets: Any) -> Any:
        return outputs[0].mean()

    def divergence(self, outputs: Any, reference: Any) -> Any:
        return (outputs[0] - reference[0]).square().mean()

    def measure(self, outputs: Any, targets: Any) -> Any:
        return np.zeros(len(targets))

    def chance(self, statistics: Any, targets: Any, class_names: Any, population: Any) -> None:
        return None

    def difference(self, first: Any, second: Any) -> Interval:
        found = paired_proportions(first / 10, second / 10)
        return Interval(10 * found.value, 10 * found.low, 10 * found.high)


TASK = BoundTask(Mirrored(), (Output("y", (1, 2)),))


def mirrored(strategy: StrategyResult) -> StrategyResult:
    """The same strategy with an error in place of its accuracy."""

    def figure(accuracy: float | None) -> MetricFigure | None:
        if accuracy is None:
            return None
        error = 10 * (1 - accuracy)
        return MetricFigure.of(ERROR, error, error - 0.1, error + 0.1)

    changes = {
        "metric": figure(strategy.accuracy), "validation_metric": figure(strategy.validation_accuracy),
        "accuracy": None, "validation_accuracy": None,
    }  # fmt: skip
    return StrategyResult(**{**strategy.model_dump(), **changes})


def pairs_of(tried: Any, images: int = examples.IMAGES) -> Pairs:
    scores = examples.pairs(tried, images).statistics
    return Pairs({name: 10 * (1 - found) for name, found in scores.items()}, TASK)


BUDGETS = [
    {}, {"max_drop": 1.0}, {"speedup": 2.0}, {"speedup": 1.5, "max_drop": 0.5}, {"size_bytes": 900_000},
    {"speedup": 9.0}, {"speedup": 9.0, "max_drop": 0.1}, {"max_drop": 0.0},
]  # fmt: skip


@pytest.mark.parametrize("asked", BUDGETS, ids=str)
def test_less_of_an_error_decides_as_more_of_an_accuracy_does(asked: dict[str, float]) -> None:
    """Ten pixels are a whole accuracy: a point is a tenth of a pixel."""
    plain, found = examples.strategies(), tuple(map(mirrored, examples.strategies()))
    pixels = {name: value / 10 if name == "max_drop" else value for name, value in asked.items()}
    decided: list[Any] = []
    for tried, budget, paired in (
        (plain, Budget(**asked), examples.pairs(plain)),
        (found, Budget(**pixels), pairs_of(plain)),
    ):
        reference = metric_reference(tried, ORIGINALS)
        given: dict[str, Any] = {"baseline": tried[0].result, "reference": reference}
        marked = mark(tried, budget, **given)
        try:
            chosen = choose(tried, budget, **given, difference=paired.difference).name
        except ConstraintError:
            chosen = f"nearest: {nearest(marked, budget, **given).name}"
        filled = paired.filled_in(marked, ORIGINALS, "joint")
        fronts = [s.on_pareto_front for s in marked]
        lost = [s.lost_points if s.lost is None else 10 * s.lost for s in filled]
        decided.append((chosen, fronts, [s.keeps_budgets for s in marked], pytest.approx(lost)))
    assert decided[0][:3] == decided[1][:3]
    assert [s.lost_points for s in pairs_of(plain).filled_in(found, ORIGINALS, "joint")] == [None] * len(
        plain
    )
    assert decided[1][3] == decided[0][3].expected


def mirrored_report(**changes: Any) -> Report:
    """The report of the examples, of a task whose error is to be low."""
    plain = examples.report()
    tried = tuple(map(mirrored, plain.strategies))
    budget = Budget(speedup=2.0, size_bytes=1_200_000, max_drop=0.1)
    reference = metric_reference(tried, ORIGINALS)
    tried = mark(tried, budget, baseline=tried[0].result, reference=reference)
    tried = pairs_of(plain.strategies).filled_in(tried, ORIGINALS, "joint")
    held = {name: getattr(plain, name) for name in Report.model_fields}
    chosen = next(s for s in tried if s.chosen)
    fields: dict[str, Any] = {
        "metric": ERROR.name, "strategies": tried, "baseline": tried[0].result, "compressed": chosen.result,
        "accuracy_reference": None, "metric_reference": reference, "budget": budget,
        "met": chosen.keeps_budgets,
    }  # fmt: skip
    return with_verdicts(Report(**{**held, **fields, **changes}))


def test_verdicts_of_an_error_say_which_way_it_went() -> None:
    report = mirrored_report()
    said = " ".join(verdicts(report))
    assert "and its test mean error is 0.02400 px higher." in said
    assert "The mean error on 10,000 test images is 0.7120 px (95 % interval 0.6120 px to 0.8120 px)" in said
    assert "on the validation images, 0.04200 px more against the best the original reaches" in said
    assert re.search(r"95 % interval -?[+]?[\d.]+ to \+[\d.]+ px\)\. Lower is better\.", said)
    assert "misses the budget for" in said
    better = report.compressed.model_copy(update={"metric": MetricFigure.of(ERROR, 0.5, 0.4, 0.6)})
    assert "and its test mean error is 0.1880 px lower." in verdicts(mirrored_report(compressed=better))[0]
    same = report.compressed.model_copy(update={"metric": report.baseline.metric})
    assert "and its test mean error is no higher." in verdicts(mirrored_report(compressed=same))[0]
    assert "is not better than chance" in verdicts(mirrored_report(at_chance=True))[0]


def test_page_plot_and_table_of_an_error_know_no_accuracy_and_no_percent() -> None:
    report = mirrored_report()
    page = re.sub(
        r"<style>.*?</style>|style=\"[^\"]*\"|top-1 accuracy", "", render_html(report), flags=re.DOTALL
    )
    page = re.sub(
        r"95 % (interval|bound)|\(\d+ %\)|\d+ % (zeros|smaller|above|below)|[\d.]+ % below", "", page
    )
    for word in ("accura", " points", "highest"):
        assert word not in page, page[page.index(word) - 80 :][:160]
    assert "the lowest among those that keep every budget" in page
    plot = pareto_svg(report)
    assert "validation mean error, px (lower is better)" in plot
    assert "Speed against mean error" in plot
    assert "%" not in describe(report)
    assert strategy_rows(report.strategies, report.baseline)[0][1] == "0.6880 px"
    missed = report.strategies[3].model_copy(update={"keeps_budgets": {"max_drop": False}})
    assert strategy_rows([missed], report.baseline)[0][8] == "not mean error added"


def test_an_original_that_remembers_is_suspected_by_its_error_too() -> None:
    few, many = np.repeat([0.0, 10.0], [290, 10]), np.repeat([0.0, 10.0], [200, 100])
    said = memorised_words(few, many, TASK)
    assert said.startswith(
        "The original has a mean error of 0.3333 px on the 300 validation images and 3.333 px"
    )
    assert memorised_words(many, few, TASK) == "", "worse is not suspicious"
    assert memorised_words(many, many, TASK) == ""
    known: Any = Circumstances(examples_stated(), (), Output("y", (1, 2)), classes=False)
    sentence = chance_sentence("The original", "its mean error is 5 px", known)
    assert sentence.startswith("The original is not better than chance: its mean error is 5 px. Likely: ")
    assert "classes" not in sentence


def examples_stated() -> Any:
    from mcc.data import Preprocessing
    from mcc.data.stated import Stated

    return Stated(Preprocessing(), "given")


# -- outputs by name, all of them, in the axes of the graph --------------------------------------------------

SIDE = 4


@dataclass(frozen=True)
class Maps(Task):
    """A map of scores per class, and one of depths: the share of pixels whose class is right."""

    name: str = "maps"
    metric: Metric = RIGHT_PIXELS

    def fits(self, output: Output, data: Any) -> bool:
        return output.shape[1:] == (len(data.class_names), SIDE, SIDE)

    def reads(self) -> tuple[int, ...]:
        return (0, 1)

    def loss(self, outputs: Any, targets: Any) -> Any:
        return torch.nn.functional.cross_entropy(outputs["scores"], targets) + outputs["depth"].mean()

    def divergence(self, outputs: Any, reference: Any) -> Any:
        return (outputs["scores"] - reference["scores"]).square().mean()

    def measure(self, outputs: Any, targets: Any) -> Any:
        assert outputs["depth"].shape[1:] == (1, SIDE, SIDE)
        assert np.array_equal(outputs["scores"], outputs[self.output])
        right = outputs["scores"].argmax(1) == targets
        return np.stack([right.sum((1, 2)), np.full(len(targets), SIDE * SIDE)], 1)

    def figure(self, statistics: Any) -> float:
        return float(statistics[:, 0].sum() / statistics[:, 1].sum())

    def chance(self, statistics: Any, targets: Any, class_names: Any, population: Any) -> None:
        return None


def maps() -> Graph:
    """As many classes as a map is wide and high, so that shapes do not tell the layouts apart."""
    return two_maps(torch.randn(1, 3, 1, 1))


def two_maps(depth_weight: torch.Tensor) -> Graph:
    torch.manual_seed(0)
    b = GraphBuilder()
    x = b.input("x", (1, 3, SIDE, SIDE))
    weight, none = b.constant("w", torch.randn(SIDE, 3, 1, 1)), b.constant("b", torch.zeros(SIDE))
    scores = b.conv2d(x, weight, none, name="scores")
    depth = b.conv2d(x, b.constant("v", depth_weight), b.constant("c", torch.zeros(1)), name="depth")
    return b.finish(scores, depth)


@pytest.mark.parametrize(
    "name", ["litert-host", "ort-host", pytest.param("executorch-host", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("known", [True, False], ids=["of a graph", "a file alone"])
def test_every_output_reaches_the_task_by_name_in_the_axes_of_the_graph(
    name: str, known: bool, tmp_path: Path
) -> None:
    target, graph = get_target(name), maps()
    state = target.available()
    assert state.ok, f"{state.reason}; {state.how_to_get}"  # the set-up of the tests installs them all
    file = get_format(target.format).write(graph, tmp_path / "maps")
    assert format_of(file) is get_format(target.format)
    chance = np.random.default_rng(0)
    parts = [
        (chance.integers(0, 256, (20, 3, SIDE, SIDE), np.uint8), np.zeros((20, SIDE, SIDE), np.uint8))
        for _ in range(2)
    ]
    data = from_arrays(parts[0], parts[1], class_names=tuple("abcd"), task=Maps())
    nodes = tuple(Output(n, shape_of(v)) for n, v in zip(("scores", "depth"), outputs(graph), strict=True))
    with target.session(file) as session:
        stored = [info.name for info in session.outputs]
    if not known and stored != ["scores", "depth"]:  # a .pte file names no outputs
        assert name == "executorch-host"
        with pytest.raises(DataError, match=r"no output called 'depth'; there is 0: output0 \[1, 4, 4, 4\]"):
            judge_file(target, file, data, "test")
        return
    judged = judge_file(target, file, data, "test", outputs=nodes if known else None)
    bound = bind_task(data, nodes)
    (batch,) = data.batches("test", 100, augment=False)
    wanted = bound.measure([v.numpy() for v in run(graph, torch.from_numpy(batch.inputs))], batch.targets)
    assert np.array_equal(judged.statistics, wanted)
    assert judged.score.value == bound.figure(wanted)
    assert 0 < judged.score.low < judged.score.value < judged.score.high < 1
    assert [output.shape for output in judged.outputs] == [(1, SIDE, SIDE, SIDE), (1, 1, SIDE, SIDE)]
    assert bound.output == 0


def test_an_output_that_is_read_beside_the_judged_one_must_be_finite(tmp_path: Path) -> None:
    graph = two_maps(torch.full((1, 3, 1, 1), 3e38))
    file = get_format("tflite").write(graph, tmp_path / "maps")
    images = np.random.default_rng(0).integers(100, 256, (20, 3, SIDE, SIDE), np.uint8)
    masks = np.zeros((20, SIDE, SIDE), np.uint8)
    data = from_arrays((images, masks), (255 - images, masks), class_names=tuple("abcd"), task=Maps())
    nodes = tuple(Output(n, shape_of(v)) for n, v in zip(("scores", "depth"), outputs(graph), strict=True))
    with pytest.raises(NotFiniteError, match="output 'depth' is infinite"):
        judge_file(get_target("litert-host"), file, data, "test", outputs=nodes)
