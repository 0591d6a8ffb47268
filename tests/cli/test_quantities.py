"""What people type for quantities, and what they are told when it makes no sense."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcc.cli import quantities
from mcc.errors import UsageError
from mcc.quantities import (
    LatencyLimit,
    parse_duration,
    parse_latency,
    parse_loss,
    parse_ratio,
    parse_shape,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "microseconds"),
    [
        ("8ms", 8000),
        ("800us", 800),
        ("800 µs", 800),
        ("0.5s", 5e5),
        (".5ms", 500),
        ("1e3us", 1000),
        ("8MS", 8000),
    ],
)
def test_times(text: str, microseconds: float) -> None:
    assert parse_latency(text) == LatencyLimit(latency_us=pytest.approx(microseconds))


def test_cycles_are_no_times() -> None:
    assert parse_latency("20Mcycles") == LatencyLimit(model_cycles=20e6)
    assert parse_latency("500kcycles") == LatencyLimit(model_cycles=500e3)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("1.5MB", 1_500_000),
        ("6MiB", 6 * 2**20),
        ("120kB", 120_000),
        ("120KB", 120_000),
        ("7B", 7),
        ("1 GB", 10**9),
    ],
)
def test_sizes(text: str, count: int) -> None:
    assert parse_size(text) == count


def test_ratios_durations_points_and_shapes() -> None:
    assert parse_ratio("2x") == parse_ratio("2") == parse_ratio("2.0 ×") == 2.0
    assert parse_duration("5min") == 300
    assert parse_duration("90s") == 90
    assert parse_loss("0") == 0
    assert parse_loss("1.0") == 1.0
    assert parse_shape("1,3,224,224") == parse_shape("1x3x224x224") == (1, 3, 224, 224)


@pytest.mark.parametrize(
    ("parse", "text", "told"),
    [
        (parse_latency, "8", "has no unit"),
        (parse_latency, "8MB", "unknown unit 'mb'"),
        (parse_latency, "fast", "is not a latency"),
        (parse_latency, "-8ms", "above zero"),
        (parse_latency, "0ms", "above zero"),
        (parse_latency, "1e999ms", "above zero"),
        (parse_latency, "", "is not a latency"),
        (parse_size, "1500000", "has no unit"),
        (parse_size, "1.5ms", "unknown unit"),
        (parse_size, "0.1B", "less than one byte"),
        (parse_ratio, "2y", "unknown unit"),
        (parse_ratio, "nan", "is not a speed-up"),
        (parse_loss, "nan", "between 0 and 100"),
        (parse_loss, "-1", "between 0 and 100"),
        (parse_loss, "much", "is no number"),
        (parse_duration, "5", "has no unit"),
        (parse_shape, "1,3,0,224", "is no shape"),
        (parse_shape, "1,,3", "is no shape"),
        (parse_shape, "a", "is no shape"),
    ],
)
def test_nonsense_is_refused_with_an_example(parse: Callable[[str], Any], text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told) as caught:
        parse(text)
    assert "write" in str(caught.value)
    assert caught.value.exit_status == 2


@given(st.text(max_size=12))
def test_any_text_is_read_or_refused(text: str) -> None:
    for parse in (parse_latency, parse_size, parse_ratio, parse_duration, parse_loss, parse_shape):
        try:
            parse(text)
        except UsageError:
            continue


def test_click_types_pass_parsed_values_through() -> None:
    assert quantities.SIZE.convert(7, None, None) == 7
