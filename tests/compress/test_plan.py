"""`mcc plan`: the front, the decision, and what it says of every layer; one plan for two targets."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mcc.cli import main
from mcc.compress import plan
from mcc.compress.build import Structure
from mcc.compress.explanation import Choice
from mcc.compress.live_cost_model import Costs
from mcc.cost_api import graph_kernels
from mcc.errors import UsageError
from mcc.runtime.registry import get_target
from tests.compress import stand_ins
from tests.lower.tflite.networks import resnet20


@pytest.mark.slow
def test_a_plan_without_measuring_times_nothing_and_states_its_interval(
    cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = stand_ins.install(monkeypatch)
    found = plan(stand_ins.MODEL, "digits", "litert-host", speedup=1.5, measure=False)
    assert target.timed == []
    assert found.structure is not None
    for point in found.front:
        said = point.to_dict()
        assert said["latency_us_low"] < said["latency_us"] < said["latency_us_high"]
        assert said["roofline_share"] == 0
    assert found.roofline_sentences() == []
    plan(stand_ins.MODEL, "digits", "litert-host", speedup=1.5)
    assert target.timed  # the target would have been seen to be timed


def test_without_measuring_an_empty_table_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MCC_CACHE_DIR", str(tmp_path))
    job: Any = SimpleNamespace(target=get_target("litert-host"), request=SimpleNamespace(threads=1))
    costs = Costs(job, measures=False)
    with pytest.raises(UsageError, match="no operator was measured"):
        costs.calibrate(resnet20(), ())
    assert not costs.ask(list(graph_kernels(resnet20()).values()))
    costs.store.close()


@pytest.mark.slow
def test_a_plan_holds_a_front_and_the_alternatives_of_every_layer(
    tmp_path: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_ins.install(monkeypatch)
    path = tmp_path / "plan.json"
    found = plan(stand_ins.MODEL, "digits", "litert-host", speedup=1.5, out=path)
    assert found.structure is not None
    assert len(found.front) > 3
    assert sum(point.chosen for point in found.front) <= 1
    for one, other in pairwise(found.front):
        assert one.cost <= other.cost
        assert one.loss >= other.loss
    raw = json.loads(path.read_text())
    assert Structure.from_json(raw["structure"], "plan.json") == found.structure
    assert {"stem", "wide", "deep", "head", "classifier"} <= set(raw["alternatives"])
    choices = {name: Choice.from_dict(entry, "plan.json") for name, entry in raw["alternatives"].items()}
    assert choices == found.choices
    taken = [one for one in choices["wide"].widths if one.taken]
    group = choices["wide"].group
    assert group is not None
    whole = choices["wide"].widths[0].what.split()[0]
    assert taken[0].what.split()[0] == str(found.structure.widths.get(group, int(whole)))
    assert main.run(["explain", "wide", str(path)]) == 0
    assert "wide, conv2d 1x1" in capsys.readouterr().out
