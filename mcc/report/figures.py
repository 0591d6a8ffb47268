"""The task's metric of a file, as stored in a report."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

from mcc.metric import ACCURACY, Metric


class MetricFigure(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """The task's metric of one lowered file, run in the target's runtime.

    Attributes:
        name, unit, higher_is_better: See `mcc.metric.Metric`.
        value: Value in that unit.
        low, high: 95 % interval, as the task computes it.
    """

    name: str = Field(min_length=1)
    unit: str = ""
    higher_is_better: bool = True
    value: float
    low: float | None = None
    high: float | None = None

    @model_validator(mode="after")
    def _in_interval(self) -> Self:
        if self.low is not None and self.high is not None and not self.low <= self.value <= self.high:
            raise ValueError(f"the value {self.value:g} is outside its interval")
        return self

    @property
    def metric(self) -> Metric:
        """The metric of the value."""
        return Metric(self.name, self.unit, self.higher_is_better)

    @property
    def merit(self) -> float:
        """The value, negated if lower is better."""
        return self.metric.merit(self.value)

    @staticmethod
    def of(metric: Metric, value: float, low: float | None = None, high: float | None = None) -> MetricFigure:
        """A figure of that metric."""
        return MetricFigure(
            name=metric.name, unit=metric.unit, higher_is_better=metric.higher_is_better,
            value=value, low=low, high=high,
        )  # fmt: skip


def as_figure(share: float | None) -> MetricFigure | None:
    """The accuracy of a report without other metrics."""
    return None if share is None else MetricFigure.of(ACCURACY, share)


def metric_fields(split: Literal["metric", "validation_metric"], figure: MetricFigure) -> dict[str, Any]:
    """Fields of a result for a figure: an accuracy has its own field, too."""
    found: dict[str, Any] = {split: figure}
    if figure.metric == ACCURACY:
        found[split.replace("metric", "accuracy")] = figure.value
    return found
