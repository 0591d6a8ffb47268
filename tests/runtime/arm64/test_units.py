"""Budgets in the unit of the target: model cycles on a simulator, time elsewhere."""

from pathlib import Path

import pytest

from mcc.budget import Budget, check_units
from mcc.cli import main
from mcc.errors import UsageError
from mcc.runtime import get_target
from mcc.runtime.litert_arm64_sim import LiteRtArm64Sim

TARGET = LiteRtArm64Sim()


def test_a_budget_in_another_unit_is_refused() -> None:
    with pytest.raises(UsageError, match=r"litert-arm64-sim has model cycles and no time; .*20Mcycles"):
        check_units(Budget(latency_us=8000.0), [TARGET])
    with pytest.raises(UsageError, match=r"litert-host has time and no model cycles; .*8ms"):
        check_units(Budget(model_cycles=8e6), [get_target("litert-host")])
    for budget in (Budget(model_cycles=8e6), Budget(speedup=2.0), Budget()):
        check_units(budget, [TARGET])


@pytest.mark.parametrize("budget", [Budget(model_cycles=8e6), Budget(latency_us=8000.0)])
def test_targets_without_a_common_unit_are_refused(budget: Budget) -> None:
    targets = [get_target("litert-host"), TARGET]
    with pytest.raises(UsageError, match=r"no common unit: one has a time.*--speedup"):
        check_units(budget, targets)
    check_units(Budget(speedup=2.0), targets)


def test_a_time_and_cycles_at_once_are_refused() -> None:
    for target in (TARGET, get_target("litert-host")):
        with pytest.raises(UsageError, match=r"no (time|model cycles)"):
            check_units(Budget(latency_us=8000.0, model_cycles=8e6), [target])


def test_mcc_compress_refuses_milliseconds(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["mcc.examples.digits:network", "--data", "digits", "--target", "litert-arm64-sim"]
    assert main.run(["compress", *words, "--latency", "8ms", "-o", str(tmp_path / "out")]) == 2
    assert "litert-arm64-sim has model cycles and no time" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
