"""Twenty small architectures of the zoo come through the whole chain; the zoo's own limits and page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tools.public_models.catalogue import ALL, SMALL, TORCHVISION, Architecture, settled
from tools.public_models.chain import Chain
from tools.public_models.page import pruning_part, whole_way, write_page
from tools.zoo import run_one

Stages = dict[str, dict[str, Any]]

WHOLE: Stages = {
    **{name: {"state": "ok"} for name in ("captured", "deployed", "tflite", "onnx")},
    "groups": {"state": "ok", "groups": 5, "prunable": 4},
    "pruned": {"state": "ok", "share": 0.71},
    "sparse": {"state": "ok", "layers": 3},
    "int8": {"state": "ok", "signal_db": 40.2},
    "low-rank": {"state": "ok", "layers": 0},
    "twin": {"worst": 2e-15},
    "end": {"seconds": 12.3, "peak_bytes": 700_000_000},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_an_architecture_goes_the_whole_way(name: str, tmp_path: Path) -> None:
    stages: Stages = {}

    def report(stage: str, result: Mapping[str, Any]) -> None:
        stages.setdefault(stage, {}).update(result)

    Chain(ALL[name], tmp_path, report).run(only_pruning=False)
    assert whole_way(stages), {stage: found["why"] for stage, found in stages.items() if "why" in found}
    assert stages["twin"]["worst"] <= 1e-9
    assert 0.4 <= stages["pruned"]["share"] < 1.0
    assert stages["int8"]["quantisers"] > 0
    assert set(stages["tflite"]["variants"]) >= {"float", "int8"}


@pytest.mark.slow
def test_limits_stop_a_run_and_are_named() -> None:
    stages = run_one("mcc/unet", False, memory=50_000_000, cpu_s=100)
    assert stages["captured"] == {"state": "limit", "why": "needs more than 0.05 GB of memory"}
    stages = run_one("mcc/unet", False, memory=10**10, cpu_s=0.01)
    assert stages["captured"] == {"state": "limit", "why": "needs more than 0.01 s of processor time"}


def test_the_catalogue_holds_what_was_asked_for() -> None:
    assert len(ALL) >= 150
    assert len(TORCHVISION) == 76
    assert len(SMALL) == len(set(SMALL)) == 20
    assert set(SMALL) <= set(ALL)
    assert sum("shufflenet" in entry.name for entry in TORCHVISION) == 4


def test_a_fresh_network_is_moved_away_from_its_single_values() -> None:
    module = settled(Architecture("mcc/unet").build())
    for name, value in (*module.named_parameters(), *module.named_buffers()):
        if value.is_floating_point():
            assert value.std() > 0, name


def test_the_page_tells_what_went_well_and_why_the_rest_did_not(tmp_path: Path) -> None:
    refused: Stages = json.loads(json.dumps(WHOLE))
    refused["pruned"] = {"state": "refused", "why": "only 3% of the prunable parameters went (because)"}
    killed: Stages = {"captured": {"state": "limit", "why": "needs more than 2.5 GB of memory"}}
    crashed: Stages = {"captured": {"state": "begun"}}
    found = {"tv/well": WHOLE, "tv/refused": refused, "tv/killed": killed, "tv/crashed": crashed}
    write_page(tmp_path / "zoo.md", found, {"tv/well": WHOLE}, total=9)
    text = (tmp_path / "zoo.md").read_text()
    assert "**1 of 4 architectures complete all stages**; 5 of the 9 listed have not been run yet." in text
    row = "| tv/well | yes | 4 of 5 | 71 % | 3 | – | 40 dB | yes | yes | 2e-15 | 12 | 0.7 GB |"
    assert row in text
    assert "* tv/refused, pruned: only 3% of the prunable parameters went (because)\n" in text
    assert "* tv/killed, captured: needs more than 2.5 GB of memory\n" in text
    assert "* tv/crashed, captured: the process ended before the stage did" in text
    assert "**1 of 1 are pruned and equal their twin.**" in text
    assert [whole_way(stages) for stages in found.values()] == [True, False, False, False]


def test_pruning_is_taken_from_a_run_of_the_whole_chain(tmp_path: Path) -> None:
    timed: Stages = json.loads(json.dumps(WHOLE))
    for number, name in enumerate(("captured", "deployed", "pruned", "tflite")):
        timed[name]["seconds"] = 10.0**number
    write_page(tmp_path / "zoo.md", {}, {"tv/well": pruning_part(timed)}, total=9)
    assert "| tv/well | 4 of 5 | 71 % | 2e-15 | 111 |  |" in (tmp_path / "zoo.md").read_text()
