"""What `report.json` holds, as frozen models that validate themselves.

Names carry their unit. A figure that was simulated and not measured has another name (`model_cycles`, never
`latency_us`). A field that does not apply is absent from the file.
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
"""Raised when a field changes its meaning; a reader refuses files of another number."""

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
    """Where the figures were taken.

    Attributes:
        name: as given on the command line, e.g. `litert-host`.
        runtime: name of the runtime, e.g. `ai-edge-litert`.
        version: of that runtime.
        device: processor or phone, in words.
        threads: threads that the runtime was allowed.
    """

    name: str
    runtime: str
    version: str
    device: str
    threads: Annotated[int, Field(ge=1)]


class Latency(Frozen):
    """Time of one inference in microseconds.

    Attributes:
        median, p10, p90: of all timed inferences, outliers kept.
        runs: timed inferences.
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
        """Upper 95 % bound of the median, which budgets are held against; the median without an interval."""
        return self.ci95[1] if self.ci95 else self.median


class Result(Frozen):
    """Figures of one lowered file, run in the target's runtime.

    Attributes:
        accuracy: of classification, the metric on the test split, 0 to 1; read once, after every choice was
            made.
        validation_accuracy: the same on the images for choices, which the network was not trained on.
        metric, validation_metric: of every task, the same two with name, unit, direction and interval.
        latency_us: measured time; absent on simulators.
        model_cycles, instructions: modelled cycles and counted instructions of one inference, on simulators.
        size_bytes: of the file.
        peak_memory_bytes: growth of the peak resident memory (in a browser, of the used WebAssembly memory)
            of a fresh runner, from before loading to after the tenth inference.
        macs: multiply-accumulates of one inference.
        params: non-zero weights.
        metrics: further figures of the task on the test split, by name.
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
        """The metric on the test split, whatever the task."""
        return self.metric or as_figure(self.accuracy)

    @property
    def validation(self) -> MetricFigure | None:
        """The metric on the images for choices, whatever the task."""
        return self.validation_metric or as_figure(self.validation_accuracy)

    @property
    def cost(self) -> float | None:
        """The speed figure to compare by: median microseconds, or model cycles on a simulator."""
        return self.latency_us.median if self.latency_us else self.model_cycles

    @property
    def upper_cost(self) -> float | None:
        """The speed figure that budgets are held against: the upper 95 % bound, or model cycles."""
        return self.latency_us.upper if self.latency_us else self.model_cycles


class StrategyResult(Result):
    """One strategy tried, with its figures.

    Attributes:
        name: e.g. `original`, `int8-ptq`, `joint`.
        speedup, speedup_ci95: baseline over this one, medians of interleaved runs, and its 95 % interval.
        predicted_latency_us, predicted_model_cycles: written down before the whole was first timed.
        on_pareto_front: no other strategy is both as fast and as accurate and better in one of the two.
        keeps_budgets: each constraint asked for, and whether this strategy keeps it.
        chosen: whether this is the one that was delivered.
        lost_points, lost_ci95: points by which the validation metric is worse than the better original's, and
            the 95 % interval of that on the same images, in pairs.
        behind_points, behind_ci95: the same, than the one that was delivered.
        lost, behind: in place of points, in the metric's unit where it is no fraction; so are the intervals.
        notes: sentences on what helped, what did not, and why.
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
        """Whether every constraint asked for is kept."""
        return all(self.keeps_budgets.values())

    @property
    def result(self) -> Result:
        """The figures alone, as in `baseline` and `compressed` of a report."""
        return Result(**{name: getattr(self, name) for name in Result.model_fields})


class Cost(Frozen):
    """A predicted cost and where the figure came from.

    Attributes:
        latency_us, model_cycles: one of the two.
        source: `measured` (this very operator was timed) or `fitted` (read off a model between timed ones).
        measured_on: the day or days on which the operators were timed, where they were.
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
    """What was decided about one layer.

    Attributes:
        node: its name in `before.mcc`.
        kind: operator and kernel in words, e.g. `conv2d 1x1`.
        channels_before, channels_after: output channels.
        implementation: how its weight is stored and run.
        sparsity: share of zeros in the weight.
        block: output channels that share one pattern of zeros.
        rank: inner channels of a low-rank pair.
        precision: of its weight and output.
        cost_before, cost_after: predicted, with their source.
        note: why, where there is something to say.
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
    """How pictures were prepared: (pixel * scale - mean) / std, and who says so.

    Attributes:
        mean, std, scale, size, crop, channels: see `mcc.data.Preprocessing`.
        source: in words; begins with `assumed` where nothing states it.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: Positive
    size: tuple[int, int] | None = None
    crop: Positive = 1.0
    channels: str = "rgb"
    source: str


class Report(Frozen):
    """The whole of `report.json`.

    Attributes:
        model, data: what was compressed, on what data (without paths, so that a report can be shared).
        metric: name of the task's metric, e.g. `top-1 accuracy`.
        target, baseline, compressed: where, the model as it came, and what was delivered.
        speedup, speedup_ci95: ratio of medians of interleaved runs, and its 95 % interval.
        predicted_latency_us, predicted_model_cycles: of the delivered model, before it was first timed.
        budget, met: as asked, and whether each constraint is kept.
        accuracy_reference: validation accuracy from which loss is counted: the better of the original and
            the original given the same extra training.
        metric_reference: the same of every task, in the metric's unit.
        validation_images, test_images: sizes of the splits.
        chosen_on: where the validation images come from, in words.
        strategies: everything tried.
        decisions: one for each layer of the delivered model.
        stages: seconds spent in each.
        warnings: what makes the figures doubtful, in plain words; shown before everything else.
        at_chance: whether the original is no better than guessing, so that nothing lost means nothing.
        preprocessing: of the pictures.
        output: name of the output that is judged, where there are several.
        verdicts: what was gained, what it cost, what did not help and why, in plain words.
        command: the command line that repeats the run.
        versions: of what took part, by name.
        checks: what was verified about the delivered file, by name, in words.
        timed_at: when the strategies were last timed together, ISO 8601 in UTC.
        remembered: what planning took from earlier runs, by name, and the days on which it was measured.
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
        """Whether speed is a model's figure and not a measured time."""
        return self.baseline.latency_us is None

    @property
    def kind(self) -> Metric:
        """Name, unit and direction of the metric that the results hold."""
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
        """Write `report.json` so that it is whole or absent. Raises DataError when it cannot be written."""
        write_text(Path(path), self.to_json())


def load_report(path: Path | str) -> Report:
    """Read a `report.json`. Raises DataError naming the file and the first field that does not fit."""
    return read_model(
        Path(path), Report, what="report of this version of mcc",
        hint="run mcc compress again, or read it with the version that wrote it",
    )  # fmt: skip
