"""A session leaves its folder to others whatever happens, and one plan for several targets has one loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from filelock import FileLock

import mcc
from mcc.budget import Budget
from mcc.compress import plan_loop
from mcc.compress.build import Structure
from mcc.compress.plan_loop import plan_for_all
from mcc.ir.notes import SparseNote
from mcc.search.space import Configuration
from tests.compress import stand_ins

SPARSE = Configuration("float", SparseNote(1, 0.7))


class Broken(Exception):
    pass


def _break(*_: Any, **__: Any) -> Any:
    raise Broken


@pytest.mark.parametrize(
    ("run", "place"),
    [
        (lambda out: mcc.compress(stand_ins.MODEL, "digits", "litert-host", out=out, epochs=0), ""),
        (
            lambda out: mcc.compress_for(stand_ins.MODEL, "digits", ["litert-host"], out=out, epochs=0),
            "shared/litert-host",
        ),
    ],
    ids=["one target", "several"],
)
@pytest.mark.parametrize(
    "where",
    ["mcc.compress.session.write_file", "mcc.compress.session.Session.planner"],
    ids=["while it is made", "while it works"],
)
def test_the_folder_is_free_after_a_failure(
    run: Callable[[Path], Any], place: str, where: str, tmp_path: Path, cache_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    stand_ins.install(monkeypatch)
    monkeypatch.setattr(where, _break)
    with pytest.raises(Broken) as caught:
        run(tmp_path / "out")
    lock = FileLock(tmp_path / "out" / place / "state" / "in-use.lock")
    lock.acquire(timeout=0)  # raises Timeout where it is held still
    lock.release()
    assert (
        caught.tb is not None
    )  # what failed is still referred to, so that nothing but a release freed the lock


@dataclass(frozen=True)
class Plans:
    """A planner of one target, whose measured figures are made up."""

    name: str
    excess: float
    setting: Any = field(default_factory=lambda: _Setting(4))
    budget: Budget = field(default_factory=lambda: Budget(speedup=2.0))
    cost_limit: float = 50.0
    baseline_cost: float = 100.0

    def tables(
        self, space: Any, configuration: Configuration, label: str, *, regions: bool
    ) -> Callable[[], Any]:
        return lambda: SimpleNamespace(configuration=configuration, layers=(), multiple=self.setting.multiple)

    def plan_whole(self, configuration: Configuration, label: str) -> Any:
        return self.trial(Structure(configuration), keeps_all=False)

    def measure(self, structure: Structure, predicted: float, raw: float, label: str) -> Any:
        return self.trial(structure, keeps_all=self.excess <= 1)

    def predict(self, structure: Structure) -> float:
        return 100.0

    def ask(self, kernels: Any) -> bool:
        return False

    def trial(self, structure: Structure, *, keeps_all: bool) -> Any:
        return Tried(structure, self.excess, keeps_all)


@dataclass(frozen=True)
class _Setting:
    multiple: int


@dataclass(frozen=True)
class Tried:
    structure: Structure
    excess: float
    keeps_all: bool
    loss: float = 0.0
    gap: float = 0.0
    solution: Any = None
    factor: float = 1.0
    predicted_cost: float = 100.0
    size_bytes: int = 10
    memory_bytes: int = 0
    kept: Any = None
    speed: Any = field(default_factory=lambda: SimpleNamespace(latency_us=49.0))


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the solver was asked for; it answers with zeros in every layer of the first target's problem."""
    asked: list[Any] = []

    def solve(problem: Any, limits: Any, **_: Any) -> Any:
        asked.append((problem, limits))
        return SimpleNamespace(cost=100.0, loss=0.1, gap=0.0, size_bytes=10.0, options={})

    monkeypatch.setattr(plan_loop, "solve", solve)
    monkeypatch.setattr(plan_loop, "joined", lambda problems: problems[0])
    monkeypatch.setattr(Structure, "of", staticmethod(lambda problem, _: Structure(problem.configuration)))
    return asked


def test_zeros_are_planned_by_the_target_that_has_kernels_for_them_whatever_the_order(
    limits: list[Any],
) -> None:
    planners: Any = {"dense": Plans("dense", 0.9), "sparse": Plans("sparse", 0.95)}
    offered = {"dense": [Configuration()], "sparse": [Configuration(), SPARSE]}
    found = plan_for_all(planners, offered, SPARSE, "shared")
    assert found.structure.configuration == SPARSE
    assert found.keeps_all
    assert {problem.configuration for problem, _ in limits} == {SPARSE}


def test_the_worst_target_decides_and_all_limits_are_held(limits: list[Any]) -> None:
    planners: Any = {"good": Plans("good", 0.9), "bad": Plans("bad", 1.2)}
    offered = dict.fromkeys(planners, (Configuration(),))
    found = plan_for_all(planners, offered, Configuration(), "shared")
    assert not found.keeps_all
    assert found.excess == 1.2
    for _, wanted in limits:
        assert wanted.cost is not None
        assert len(wanted.more_costs) == 1


def test_widths_are_multiples_that_all_targets_like(limits: list[Any]) -> None:
    planners: Any = {"four": Plans("four", 0.9), "eight": Plans("eight", 0.9, _Setting(8))}
    plan_for_all(planners, dict.fromkeys(planners, (Configuration(),)), Configuration(), "shared")
    assert {problem.multiple for problem, _ in limits} == {8}
