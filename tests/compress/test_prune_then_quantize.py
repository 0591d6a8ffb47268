"""Pruning, then quantising: pruned again where quantising gained less than was trusted."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mcc.budget import Budget
from mcc.compress.build import Structure
from mcc.compress.strategies import prune_then_quantize as strategy
from mcc.compress.strategies.prune_then_quantize import CARE, TRIES, prune_then_quantise
from mcc.search.space import Configuration

INT8 = Configuration("int8")
WHOLE_GAIN = 2.0  # of quantising the original


@dataclass(frozen=True)
class Plans:
    """A planner that prunes to just what is asked, on a target where quantising then gains `gain`.

    Attributes:
        fastest: speed-up that pruning alone can reach.
        leap: from this speed-up by pruning on, quantising gains as much as it did of the original.
        asked: every speed-up that pruning was asked for.
    """

    budget: Budget
    bench: Any
    gain: float
    fastest: float = 100.0
    leap: float = 100.0
    asked: list[float] = field(default_factory=list)

    def plan_whole(self, configuration: Configuration, label: str) -> Any:
        return self.trial(Structure(configuration), WHOLE_GAIN, 50)

    def plan(self, space: Any, configuration: Configuration, label: str) -> Any:
        assert self.budget.speedup is not None
        assert space.widths
        assert not space.low_rank
        self.asked.append(self.budget.speedup)
        reached = min(self.fastest, self.budget.speedup)
        return self.trial(Structure(configuration, {"group": len(self.asked)}), reached, 80)

    def predict(self, structure: Structure) -> float:
        return 1.0

    def measure(self, structure: Structure, predicted_us: float, raw_us: float, label: str) -> Any:
        gain = WHOLE_GAIN if self.asked[-1] >= self.leap else self.gain
        return self.trial(structure, min(self.fastest, self.asked[-1]) * gain, 60)

    @property
    def latency_us(self) -> float:
        return 1.0 / (self.budget.speedup or 1.0)

    def trial(self, structure: Structure, speedup: float, size_bytes: int) -> Any:
        asked = self.budget.speedup or 1.0
        return SimpleNamespace(
            structure=structure, size_bytes=size_bytes, factor=1.0, keeps_all=speedup >= asked - 1e-9,
            excess=asked / speedup,
            speed=SimpleNamespace(speedup=speedup, latency_us=1 / speedup, high_us=1 / speedup),
        )  # fmt: skip


@pytest.fixture(autouse=True)
def planned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each planner plans for itself, without a search."""
    monkeypatch.setattr(strategy, "plan_for", lambda planner, *asked: planner.plan(*asked))


def plans(tmp_path: Path, **given: Any) -> Any:
    baseline = tmp_path / "baseline"
    baseline.write_bytes(bytes(100))
    return Plans(Budget(speedup=4.0), SimpleNamespace(baseline=baseline), **given)


def test_once_is_enough_where_quantising_brings_what_it_brought_to_the_original(tmp_path: Path) -> None:
    planner = plans(tmp_path, gain=WHOLE_GAIN)
    trial, said = prune_then_quantise(planner, [Configuration(), INT8], "sequence")
    assert planner.asked == [2.0]
    assert trial.keeps_all
    assert trial.structure == Structure(INT8, {"group": 1})
    assert said == ()


def test_it_prunes_more_where_quantising_gained_less(tmp_path: Path) -> None:
    planner = plans(tmp_path, gain=1.6)
    trial, said = prune_then_quantise(planner, [Configuration(), INT8], "sequence")
    assert planner.asked == [2.0, pytest.approx(2.5 / CARE)]
    assert trial.keeps_all
    assert trial.structure == Structure(INT8, {"group": 2})
    assert said == ("Pruned 2 times, assuming that quantisation gains 2.00x, then 1.55x.",)


def test_it_gives_up_where_pruning_cannot_bring_the_rest(tmp_path: Path) -> None:
    planner = plans(tmp_path, gain=1.6, fastest=2.2)
    trial, _ = prune_then_quantise(planner, [Configuration(), INT8], "sequence")
    assert len(planner.asked) == 2 < TRIES
    assert not trial.keeps_all


def test_what_came_out_faster_than_asked_is_pruned_a_little_less(tmp_path: Path) -> None:
    planner = plans(tmp_path, gain=1.6, leap=2.2)
    trial, _ = prune_then_quantise(planner, [Configuration(), INT8], "sequence")
    # Trusting 2x misses; 1.55x is 5.2x fast; and between them, 1.76x is 4.5x fast.
    assert planner.asked == [2.0, pytest.approx(2.5 / CARE), pytest.approx(2.270, abs=0.001)]
    assert trial.structure == Structure(INT8, {"group": 3})
    assert trial.keeps_all
