"""`mcc plan`: the front, the decision, and what it says of every layer; one plan for two targets."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest

from mcc.cli import main
from mcc.compress import plan
from mcc.compress.alternatives import Choice
from mcc.compress.candidate import Structure
from tests.compress import stand_ins


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
