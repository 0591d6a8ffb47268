"""Click types for times, sizes, ratios and shapes; see `mcc.quantities`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import click

from mcc.errors import UsageError
from mcc.quantities import (
    parse_duration,
    parse_epochs,
    parse_latency,
    parse_loss,
    parse_names,
    parse_ratio,
    parse_roofline,
    parse_shape,
    parse_sides,
    parse_size,
)


class FiniteRange(click.FloatRange):
    """A float range that refuses NaN, which comparisons let pass."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse a number, which must be finite and in the range."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


class Quantity(click.ParamType[Any]):
    """A click type from one of the parsers above; its errors become click's own."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self.parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse a text; parsed values are passed through."""
        if not isinstance(value, str):
            return value
        try:
            return self.parse(value)
        except UsageError as error:
            self.fail(str(error), param, ctx)


EPOCHS = Quantity("epochs", parse_epochs)
NAMES = Quantity("names", parse_names)
LATENCY = Quantity("latency", parse_latency)
RATIO = Quantity("ratio", parse_ratio)
SIZE = Quantity("size", parse_size)
DURATION = Quantity("duration", parse_duration)
LOSS = Quantity("loss", parse_loss)
ROOFLINE = Quantity("roofline", parse_roofline)
SHAPE = Quantity("shape", parse_shape)
SIDES = Quantity("image size", parse_sides)
