"""A strategy is one file: the one of CONTRIBUTING.md takes part in a job."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import mcc
from mcc.compress import strategies as module
from mcc.compress.strategies import known_strategies, strategies
from mcc.errors import UsageError
from tests.compress import stand_ins
from tests.pages import files

PAGE = Path(__file__).parents[2] / "CONTRIBUTING.md"
TITLE = "mcc/compress/strategies/half_width.py"


@pytest.fixture
def newcomer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of strategies with the page's among them."""
    folder = tmp_path / "strategies"
    folder.mkdir()
    for file in module.FOLDER.glob("*.py"):
        (folder / file.name).write_text(file.read_text())
    (folder / "half_width.py").write_text(files(PAGE)[TITLE], encoding="utf-8")
    monkeypatch.setattr(module, "FOLDER", folder)
    monkeypatch.setattr(module, "__path__", [*module.__path__, str(folder)])
    strategies.cache_clear()
    yield folder
    strategies.cache_clear()


def test_the_order_is_that_of_reports_and_the_first_is_the_original() -> None:
    names = list(strategies())
    assert names[0] == "original"
    assert names[-1] == "joint"
    assert known_strategies(names) == tuple(names)
    assert len({strategy.order for strategy in strategies().values()}) == len(names)


@pytest.mark.slow
def test_a_strategy_is_one_file(newcomer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_ins.install(monkeypatch)
    report = mcc.compress(
        stand_ins.MODEL, "digits", "litert-host", out=tmp_path / "out", strategies=["half-width"],
        speedup="1.1x", epochs=0,
    )  # fmt: skip
    assert [one.name for one in report.strategies] == ["original", "half-width"]
    narrow = report.strategies[1]
    assert narrow.size_bytes < report.baseline.size_bytes
    assert all(d.channels_after * 2 >= d.channels_before for d in report.decisions)
    assert any(d.channels_after * 2 == d.channels_before for d in report.decisions)


def test_a_strategy_of_another_name_than_its_file_is_refused(newcomer: Path) -> None:
    (newcomer / "half_width.py").rename(newcomer / "other_width.py")
    with pytest.raises(ValueError, match="a strategy of that file is named other-width, not half-width"):
        strategies()


def test_a_name_that_there_is_not_is_refused() -> None:
    with pytest.raises(UsageError, match="half-width"):
        known_strategies(["half-width"])
