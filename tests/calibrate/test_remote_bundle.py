"""A kit from packing to the table: the script that a phone's owner runs, against the stand-in phone."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from mcc.calibrate.kernel_selection import Choices
from mcc.calibrate.remote_bundle import pack, read_results_into, shape_only
from mcc.calibrate.store import Store
from mcc.cli import main
from mcc.errors import DataError, GraphError, UsageError
from mcc.ir.text import parse_graph
from mcc.runtime import get_target
from tests.runtime.stand_in import AdbServer
from tests.runtime.stand_in.fixtures import adb_port, one_phone

__all__ = ["adb_port", "one_phone"]

MODEL = """mcc 1
const @w : f32[8,3,3,3] = seed(1)
const @b : f32[8] = seed(2)
const @v : f32[4,8] = seed(3)
const @c : f32[4] = seed(4)
%x = input() {} : f32[1,3,16,16]
%y = conv2d(%x, @w, @b) {CONV} : f32[1,8,8,8]
%m = mean(%y) {axes=(2, 3), keepdim=False} : f32[1,8]
%z = linear(%m, @v, @c) {activation='none'} : f32[1,4]
return %z
""".replace("CONV", "stride=(2, 2), padding=(1, 1, 1, 1), dilation=(1, 1), groups=1, activation='relu'")
FEW = Choices(ratios=(1.0,), mixed=0, precisions=("float",), sparsities=())


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A calibration of one network: the emulated phone takes a second for each run."""
    from mcc.calibrate import kernel_selection

    monkeypatch.setattr(kernel_selection, "choices_for", lambda target, seed=0: FEW)


@pytest.mark.slow
def test_the_whole_loop(one_phone: AdbServer, few: None, tmp_path: Path) -> None:
    kit = pack(get_target("litert-android"), parse_graph(MODEL), tmp_path / "kit")
    assert kit.models == len(list((tmp_path / "kit/phone/models").iterdir())) > 0
    assert kit.failed == ()
    script = tmp_path / "kit/phone/kit.sh"
    script.write_text(
        script.read_text().replace("rounds=${1:-12}", "rounds=2").replace("for_ms=40", "for_ms=1")
    )
    done = subprocess.run(
        ["sh", str(tmp_path / "kit/run.sh"), one_phone.serial], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "round 2 of 2 is done" in done.stdout
    assert list(one_phone.phone.temporary.iterdir()) == []  # everything was removed again
    results = tmp_path / "kit/results.json"
    assert "127.0.0.1" not in results.read_text()  # no serial
    report, fingerprint = read_results_into(results, tmp_path / "table.sqlite")
    assert report.measured > 0
    assert report.failed == ()
    assert fingerprint.startswith("litert-android|emulated Stand-in Loopback 1")
    with Store(tmp_path / "table.sqlite") as store:
        rows = store.rows(fingerprint)
        assert {row.kernel.op for row in rows} >= {"conv2d", "linear"}
        assert all(row.latency_us > 0 for row in rows)
        assert {whole.quantity for whole in store.wholes(fingerprint)} >= {"overhead", "correction"}


def test_no_weight_of_the_model_leaves(tmp_path: Path) -> None:
    text = shape_only(parse_graph(MODEL))
    assert "seed" not in text
    assert "const @w : f32[8,3,3,3] = full(0.037" in text
    assert shape_only(parse_graph(text)) == text


def test_what_cannot_be_packed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a kit is for a phone, not for litert-host"):
        pack(get_target("litert-host"), None, tmp_path / "kit")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").touch()
    with pytest.raises(UsageError, match="full: is there already"):
        pack(get_target("litert-android"), None, tmp_path / "full")


def results(**changes: object) -> str:
    kit = {"format": 1, "target": "litert-android", "version": "0.1", "threads": 1, "seed": 0, "networks": []}
    content = {"format": 1, "kit": [json.dumps(kit)], "facts": [], "before": [], "after": [], "runs": []}
    return json.dumps({**content, **changes})


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("no json", "is no results of a kit: .*; give the results"),
        ("[1]", "holds no results of a kit"),
        ("{}", "holds no results of a kit"),
        (results(format=2), "is of another format than 1"),
        (results(runs=None), "is of another format than 1"),
        (results(kit=["{}"]), "holds no results of a kit"),
        (results(), "was measured with ai-edge-litert 0.1, and here is"),
    ],
)
def test_a_file_that_is_no_result(text: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(DataError, match=f"r.json: {complaint}"):
        read_results_into(tmp_path / "r.json", tmp_path / "table.sqlite")
    assert not (tmp_path / "table.sqlite").exists()


RUN = {"file": "0.tflite", "kind": "timed", "round": 1, "reports": [{"ns": [1e6, 2e6]}]}
KIT = {"format": 1, "target": "litert-android", "version": "0.1", "threads": 1, "seed": 0, "networks": []}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"runs": [RUN, {**RUN, "reports": [{"ns": [1e6, -5]}]}]}, "run 2: ns: must be nanoseconds above 0"),
        ({"runs": [{**RUN, "reports": [{"ns": [0]}]}]}, "run 1: ns: must be nanoseconds above 0"),
        ({"runs": [{**RUN, "reports": [{"ns": ["1"]}]}]}, "run 1: ns: must be nanoseconds above 0"),
        ({"runs": [{**RUN, "reports": [{"ns": [1e30]}]}]}, "run 1: ns: must be nanoseconds above 0"),
        ({"runs": [{**RUN, "reports": [{"ns": 3}]}]}, "run 1: ns: must be a list"),
        ({"runs": [{**RUN, "reports": []}]}, "run 1: ns: holds no times"),
        ({"runs": [{**RUN, "reports": 3}]}, "run 1: reports: must be a list"),
        ({"runs": [{**RUN, "round": "x"}]}, "run 1: round: must be a count"),
        ({"runs": [{**RUN, "kind": "guessed"}]}, "run 1: must name a file and a kind"),
        ({"runs": [{**RUN, "error": 3}]}, "run 1: error: must be lines"),
        ({"runs": [3]}, "run 1: must be an object"),
        ({"facts": [1]}, "facts: must be lines of text"),
        ({"kit": [json.dumps({**KIT, "threads": 0})]}, "holds no results of a kit: kit.threads .* not '0'"),
        ({"kit": [json.dumps({**KIT, "seed": 1.5})]}, "holds no results of a kit: kit.seed .* not '1.5'"),
        ({"kit": [json.dumps({**KIT, "networks": [3]})]}, "holds no results of a kit: kit.networks"),
        ({"kit": [json.dumps({**KIT, "target": ["x"]})]}, "holds no results of a kit: kit.target"),
    ],
)
def test_an_edited_result_is_named(changes: dict[str, object], complaint: str, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(results(**changes))
    with pytest.raises(DataError, match=f"r.json: {complaint}"):
        read_results_into(tmp_path / "r.json", tmp_path / "table.sqlite")
    assert not (tmp_path / "table.sqlite").exists()


def test_an_edited_network_of_a_kit_is_named(tmp_path: Path) -> None:
    version = get_target("litert-android").runtime_version()
    kit = {**KIT, "version": version, "networks": ["mcc 1\nreturn %x"]}
    (tmp_path / "r.json").write_text(results(kit=[json.dumps(kit)]))
    with pytest.raises(GraphError, match=r"r\.json: network 1:2: '%x' is not defined"):
        read_results_into(tmp_path / "r.json", tmp_path / "table.sqlite")


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["calibrate", "--from", str(tmp_path / "none.json")]) == 2
    assert "none.json: no such file" in capsys.readouterr().err
    assert main.run(["bench", "--kit", str(tmp_path / "kit"), "--target", "litert-host"]) == 2
    assert "a kit is for a phone" in capsys.readouterr().err
    assert main.run(["bench", "--target", "litert-host"]) == 2
    assert main.run(["calibrate"]) == 2
