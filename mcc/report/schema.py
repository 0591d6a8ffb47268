"""The schema of `report.json`, as frozen models that validate themselves.

Names contain their unit. Simulated figures have other names than measured ones (`model_cycles`, never
`latency_us`). Fields that do not apply are absent from the file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from mcc.budget import Budget
from mcc.files import write_text
from mcc.ir.json_file import read_model
from mcc.metric import ACCURACY, Metric
from mcc.report.figures import MetricFigure, as_figure

SCHEMA = 1
"""Incremented when a field changes its meaning; readers refuse files of another version."""

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=0, lt=1 << 63)]


def _ordered(interval: tuple[float, float]) -> tuple[float, float]:
    if interval[0] > interval[1]:
        raise ValueError(f"the lower bound {interval[0]:g} exceeds the upper one {interval[1]:g}")
    return interval


Interval = Annotated[tuple[float, float], AfterValidator(_ordered)]
Source = Literal["measured", "fitted"]
Implementation = Literal["dense", "sparse", "low-rank"]
Precision = Literal["float", "int8", "int7"]

MEASURED = "latency_us"
SIMULATED = "model_cycles"


class Frozen(BaseModel):
    """Base of all parts of a report: immutable, no unknown fields, finite numbers only."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; fields that do not apply are left out."""
        return self.model_dump(mode="json", exclude_none=True)


class TargetInfo(Frozen):
    """The target of the figures.

    Attributes:
        name: Name as on the command line, e.g. `litert-host`.
        runtime: Name of the runtime, e.g. `ai-edge-litert`.
        version: Version of that runtime.
        device: Description of the processor or phone.
        threads: Number of threads of the runtime.
    """

    name: str
    runtime: str
    version: str
    device: str
    threads: Annotated[int, Field(ge=1)]


class Latency(Frozen):
    """Time of one inference in microseconds.

    Attributes:
        median, p10, p90: Percentiles of all timed inferences, including outliers.
        runs: Number of timed inferences.
        ci95: 95 % interval of the median.
    """

    median: Positive
    p10: Positive
    p90: Positive
    runs: Annotated[int, Field(ge=1)]
    ci95: Interval | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.p10 <= self.median <= self.p90:
            raise ValueError("p10, median and p90 must not fall")
        return self

    @property
    def upper(self) -> float:
        """Upper 95 % bound of the median, which is compared with budgets; without an interval, the median."""
        return self.ci95[1] if self.ci95 else self.median


class Result(Frozen):
    """Figures of one lowered file, run in the target's runtime.

    Attributes:
        accuracy: For classification, the metric on the test split, 0 to 1; computed once, after every choice
            was made.
        validation_accuracy: The same on the validation images, which the network was not trained on.
        metric, validation_metric: For every task, the same two with name, unit, direction and interval.
        latency_us: Measured time; absent on simulators.
        model_cycles, instructions: Modelled cycles and counted instructions of one inference, on simulators.
        size_bytes: Size of the file.
        peak_memory_bytes: Growth of the peak resident memory (in a browser, of the used WebAssembly memory)
            of a fresh runner, from before loading to after the tenth inference.
        macs: Multiply-accumulates of one inference.
        params: Number of non-zero weights.
        metrics: Further figures of the task on the test split, by name.
    """

    accuracy: Share | None = None
    validation_accuracy: Share | None = None
    metric: MetricFigure | None = None
    validation_metric: MetricFigure | None = None
    latency_us: Latency | None = None
    model_cycles: Positive | None = None
    instructions: Count | None = None
    size_bytes: Count
    peak_memory_bytes: Count | None = None
    macs: Count
    params: Count
    metrics: dict[str, float] | None = None

    @model_validator(mode="after")
    def _one_clock(self) -> Self:
        if self.latency_us is not None and self.model_cycles is not None:
            raise ValueError("a result is measured (latency_us) or simulated (model_cycles), not both")
        return self

    @model_validator(mode="after")
    def _one_metric(self) -> Self:
        for share, figure in (
            (self.accuracy, self.metric),
            (self.validation_accuracy, self.validation_metric),
        ):
            if share is not None and figure is not None and share != figure.value:
                raise ValueError(f"the accuracy {share:g} is not the {figure.name} {figure.value:g}")
        return self

    @property
    def test(self) -> MetricFigure | None:
        """The metric on the test split, for any task."""
        return self.metric or as_figure(self.accuracy)

    @property
    def validation(self) -> MetricFigure | None:
        """The metric on the validation images, for any task."""
        return self.validation_metric or as_figure(self.validation_accuracy)

    @property
    def cost(self) -> float | None:
        """The speed figure for comparisons: median microseconds, or model cycles on a simulator."""
        return self.latency_us.median if self.latency_us else self.model_cycles

    @property
    def upper_cost(self) -> float | None:
        """The speed figure that is compared with budgets: the upper 95 % bound, or model cycles."""
        return self.latency_us.upper if self.latency_us else self.model_cycles


class StrategyResult(Result):
    """One strategy with its figures.

    Attributes:
        name: Name of the strategy, e.g. `original`, `int8-ptq`, `joint`.
        speedup, speedup_ci95: Baseline over this one, medians of interleaved runs, and its 95 % interval.
        predicted_latency_us, predicted_model_cycles: Prediction from before the first measurement.
        on_pareto_front: Whether no other strategy dominates it in speed and metric.
        keeps_budgets: Whether it keeps each requested constraint, by constraint.
        chosen: Whether it was delivered.
        lost_points, lost_ci95: Loss of the validation metric against the better original, in points, and its
            95 % interval from a paired comparison on the same images.
        behind_points, behind_ci95: The same against the delivered strategy.
        lost, behind: Instead of points, in the metric's unit if it is not a fraction; so are the intervals.
        notes: Sentences on effects and their reasons.
    """

    name: str
    speedup: Positive | None = None
    speedup_ci95: Interval | None = None
    predicted_latency_us: Positive | None = None
    predicted_model_cycles: Positive | None = None
    on_pareto_front: bool = False
    keeps_budgets: dict[str, bool] = {}
    chosen: bool = False
    lost_points: float | None = None
    lost: float | None = None
    lost_ci95: Interval | None = None
    behind_points: float | None = None
    behind: float | None = None
    behind_ci95: Interval | None = None
    notes: tuple[str, ...] = ()

    @property
    def keeps_all(self) -> bool:
        """Whether every requested constraint is kept."""
        return all(self.keeps_budgets.values())

    @property
    def result(self) -> Result:
        """The figures alone, as in `baseline` and `compressed` of a report."""
        return Result(**{name: getattr(self, name) for name in Result.model_fields})


class Cost(Frozen):
    """A predicted cost and its source.

    Attributes:
        latency_us, model_cycles: One of the two.
        source: `measured` (this very operator was timed) or `fitted` (interpolated by a model).
        measured_on: Day or days on which the operators were timed, if they were.
    """

    latency_us: Annotated[float, Field(ge=0.0)] | None = None
    model_cycles: Annotated[float, Field(ge=0.0)] | None = None
    source: Source
    measured_on: str | None = None

    @model_validator(mode="after")
    def _one_clock(self) -> Self:
        if (self.latency_us is None) == (self.model_cycles is None):
            raise ValueError("a cost is latency_us or model_cycles, one of the two")
        return self

    @property
    def value(self) -> float:
        """Microseconds or model cycles."""
        value = self.latency_us if self.latency_us is not None else self.model_cycles
        assert value is not None
        return value


class Decision(Frozen):
    """The decision about one layer.

    Attributes:
        node: Name of the node in `before.mcc`.
        kind: Description of operator and kernel, e.g. `conv2d 1x1`.
        channels_before, channels_after: Number of output channels.
        implementation: Storage and execution of its weight.
        sparsity: Share of zeros in the weight.
        block: Number of output channels that share one pattern of zeros.
        rank: Inner channels of a low-rank pair.
        precision: Precision of its weight and output.
        cost_before, cost_after: Predicted costs, with their source.
        note: Reason or remark, if any.
    """

    node: str
    kind: str
    channels_before: Count
    channels_after: Count
    implementation: Implementation = "dense"
    sparsity: Share = 0.0
    block: Annotated[int, Field(ge=1)] | None = None
    rank: Annotated[int, Field(ge=1)] | None = None
    precision: Precision = "float"
    cost_before: Cost | None = None
    cost_after: Cost | None = None
    note: str | None = None


class PreprocessingInfo(Frozen):
    """Preprocessing of the images: (pixel * scale - mean) / std, and its source.

    Attributes:
        mean, std, scale, size, crop, channels: See `mcc.data.Preprocessing`.
        source: Description of the source; begins with `assumed` if nothing states it.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: Positive
    size: tuple[int, int] | None = None
    crop: Positive = 1.0
    channels: str = "rgb"
    source: str


class Report(Frozen):
    """The content of `report.json`.

    Attributes:
        model, data: Names of the model and data (without paths, so that a report can be shared).
        metric: Name of the task's metric, e.g. `top-1 accuracy`.
        target, baseline, compressed: The target, the original, and the delivered model.
        speedup, speedup_ci95: Ratio of medians of interleaved runs, and its 95 % interval.
        predicted_latency_us, predicted_model_cycles: Prediction of the delivered model, before it was first
            timed.
        budget, met: The given budget, and whether each constraint is kept.
        accuracy_reference: Validation accuracy from which loss is counted: the better of the original and
            the original given the same extra training.
        metric_reference: The same for every task, in the metric's unit.
        validation_images, test_images: Sizes of the splits.
        chosen_on: Source of the validation images.
        strategies: All strategies.
        decisions: One for each layer of the delivered model.
        stages: Seconds spent, by stage.
        warnings: Reasons why the figures are doubtful; shown first.
        at_chance: Whether the original is no better than chance, so that a loss of zero has no significance.
        preprocessing: Preprocessing of the images.
        output: Name of the judged output, if there are several.
        verdicts: Sentences on gains, costs, and strategies that did not help, with reasons.
        command: Command line that repeats the run.
        versions: Versions of packages and runtimes, by name.
        checks: Results of the checks of the delivered file as text, by name.
        timed_at: Time of the last common measurement of the strategies, ISO 8601 in UTC.
        remembered: Figures that planning reused from earlier runs, by name, with the days of measurement.
    """

    schema_version: int = SCHEMA
    model: str
    data: str
    metric: str = "top-1 accuracy"
    target: TargetInfo
    baseline: Result
    compressed: Result
    speedup: Positive
    speedup_ci95: Interval | None = None
    predicted_latency_us: Positive | None = None
    predicted_model_cycles: Positive | None = None
    budget: Budget = Budget()
    met: dict[str, bool] = {}
    accuracy_reference: Share | None = None
    metric_reference: float | None = None
    validation_images: Count = 0
    test_images: Count = 0
    chosen_on: str = ""
    strategies: tuple[StrategyResult, ...]
    decisions: tuple[Decision, ...] = ()
    stages: dict[str, Annotated[float, Field(ge=0.0)]] = {}
    seed: int
    versions: dict[str, str] = {}
    warnings: tuple[str, ...] = ()
    at_chance: bool = False
    preprocessing: PreprocessingInfo | None = None
    output: str | None = None
    verdicts: tuple[str, ...] = ()
    command: str = ""
    checks: dict[str, str] = {}
    timed_at: str = ""
    remembered: dict[str, str] = {}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.schema_version != SCHEMA:
            raise ValueError(f"schema {self.schema_version} is not {SCHEMA}, the one this version reads")
        if sum(strategy.chosen for strategy in self.strategies) > 1:
            raise ValueError("more than one strategy is marked as chosen")
        if set(self.met) != set(self.budget.asked):
            raise ValueError("met must hold exactly the constraints of the budget")
        return self

    @property
    def simulated(self) -> bool:
        """Whether the speed figures are modelled and not measured."""
        return self.baseline.latency_us is None

    @property
    def kind(self) -> Metric:
        """Name, unit and direction of the results' metric."""
        found = (figure for s in self.strategies for figure in (s.validation, s.test) if figure is not None)
        first = next(found, None)
        return ACCURACY if first is None else first.metric

    @property
    def reference(self) -> float | None:
        """Validation metric from which loss is counted."""
        return self.accuracy_reference if self.metric_reference is None else self.metric_reference

    @property
    def chosen(self) -> StrategyResult | None:
        """The strategy that was delivered."""
        return next((strategy for strategy in self.strategies if strategy.chosen), None)

    def to_json(self) -> str:
        """The text of `report.json`; parsing it gives an equal report."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"

    def save(self, path: Path | str) -> None:
        """Write `report.json` atomically. Raises DataError if it cannot be written."""
        write_text(Path(path), self.to_json())


def load_report(path: Path | str) -> Report:
    """Read a `report.json`. Raises DataError naming the file and the first field that does not fit."""
    return read_model(
        Path(path), Report, what="report of this version of mcc",
        hint="run mcc compress again, or read it with the version that wrote it",
    )  # fmt: skip
