"""Figures in words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcc.budget import Budget
from mcc.report import formatting


@pytest.mark.parametrize(
    ("microseconds", "said"),
    [(0.5, "0.500 us"), (352.4, "352 us"), (8020, "8.02 ms"), (1.2e6, "1.20 s"), (0, "0 us")],
)
def test_time_words(microseconds: float, said: str) -> None:
    assert formatting.time_words(microseconds) == said


@pytest.mark.parametrize(
    ("count", "said"), [(812, "812 B"), (96_400, "96.4 kB"), (1_500_000, "1.50 MB"), (2.1e9, "2.10 GB")]
)
def test_bytes_words(count: float, said: str) -> None:
    assert formatting.bytes_words(count) == said


def test_long_names_keep_both_ends() -> None:
    assert formatting.name_words("features.0.conv") == "features.0.conv"
    name = "model/batch_norm/FusedBatchNorm;model/conv2d/Conv2D;model/conv2d/BiasAdd"
    assert formatting.name_words(name, 20) == "model/batc…d/BiasAdd"
    assert len(formatting.name_words(name)) == 60


def test_other_words() -> None:
    assert formatting.count_words(999) == "999"
    assert formatting.count_words(26e6) == "26.0 M"
    assert formatting.cycles_words(20e6) == "20.0 Mcycles"
    assert formatting.percent_words(0.93125) == "93.12 %"
    assert formatting.percent_words(None) == "–"
    assert formatting.points_words(1) == "1.00 point"
    assert formatting.latency_words(None) == "–"
    assert formatting.latency_words(None, 2e6) == "2.00 Mcycles"


def test_budget_words_are_what_one_types() -> None:
    budget = Budget(latency_us=8000, speedup=2, size_bytes=1_500_000, memory_bytes=6_000_000, max_drop=1)
    typed = "--latency 8ms --speedup 2x --size 1.5MB --memory 6MB --max-drop 1"
    assert formatting.budget_words(budget) == typed
    assert formatting.budget_words(Budget(model_cycles=20e6)) == "--latency 20Mcycles"


@given(st.floats(0.5, 1e9))
def test_feasible_words_parse_back_to_something_feasible(value: float) -> None:
    from mcc.quantities import parse_latency, parse_ratio, parse_size

    said = formatting.feasible_words("latency_us", value).split(" ", 1)[1]
    assert (parse_latency(said).latency_us or 0) >= value * (1 - 1e-8)
    assert (parse_latency(said).latency_us or 0) <= value * 1.011
    ratio = parse_ratio(formatting.feasible_words("speedup", value).split(" ", 1)[1])
    assert value * 0.989 <= ratio <= value * (1 + 1e-8)
    size = int(value) + 1
    assert parse_size(formatting.feasible_words("size_bytes", size).split(" ", 1)[1]) >= size * (1 - 1e-8)
