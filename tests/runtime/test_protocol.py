"""Finding targets, what they say of themselves, and what they refuse."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import mcc.runtime
from mcc.errors import TargetError, UsageError
from mcc.runtime import Availability, get_target, target_names, targets
from tests.runtime import models

NEWCOMER = """
from mcc.runtime.litert_host import LiteRtHost

class Mine(LiteRtHost):
    name = "{name}"

TARGET = {target}
"""


def test_the_three_targets_are_found_by_scanning() -> None:
    assert {"litert-host", "ort-host", "litert-web"} <= set(target_names())
    for name, target in targets().items():
        assert target.spec == target.name == name
        assert target.format in {"tflite", "onnx", "pte"}
        assert target.facts().sparse_why


def test_unknown_target_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"unknown target 'litert-hots'.*litert-host.*ort-host"):
        get_target("litert-hots")


@pytest.mark.parametrize("spec", ["ort-host:slow", "litert-web:x", "ort-host:"])
def test_unknown_option_is_refused(spec: str) -> None:
    with pytest.raises(UsageError):
        get_target(spec)


def test_an_option_makes_another_target_with_another_fingerprint() -> None:
    precise, fast = get_target("ort-host"), get_target("ort-host:fast")
    assert fast.spec == "ort-host:fast"
    assert precise.fingerprint().key() != fast.fingerprint().key()


@pytest.mark.parametrize(
    ("flags", "precise"), [({"avx2"}, True), ({"avx2", "avx512_vnni"}, False), ({"avx_vnni"}, False)]
)
def test_onnxruntime_is_precise_where_its_fast_kernels_would_saturate(
    flags: set[str], precise: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mcc.runtime import ort_host

    monkeypatch.setattr(ort_host, "processor_flags", lambda: frozenset(flags))
    monkeypatch.setattr(ort_host.platform, "machine", lambda: "x86_64")
    assert ort_host.TARGET.is_precise() == precise
    assert ort_host.OrtHost("precise").is_precise()
    assert not ort_host.OrtHost("fast").is_precise()


def add_file(folder: Path, file: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / file).write_text(text)
    monkeypatch.setattr(mcc.runtime, "__path__", [*mcc.runtime.__path__, str(folder)])


def test_a_newcomer_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_file(tmp_path, "my_phone.py", NEWCOMER.format(name="my-phone", target="Mine()"), monkeypatch)
    assert get_target("my-phone:reference").spec == "my-phone:reference"


@pytest.mark.parametrize(
    ("file", "target", "complaint"),
    [("other_name.py", "Mine()", "file of its own name"), ("not_one.py", "3", "not a mcc.runtime.Target")],
)
def test_a_malformed_newcomer_is_named(
    file: str, target: str, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_file(tmp_path, file, NEWCOMER.format(name="strange-phone", target=target), monkeypatch)
    with pytest.raises(TargetError, match=complaint) as caught:
        targets()
    assert caught.value.where is not None
    assert file in caught.value.where


def test_fingerprint_is_stable_and_tells_threads_apart() -> None:
    target = get_target("litert-host")
    assert target.fingerprint() == target.fingerprint()
    one, two = target.fingerprint(1), target.fingerprint(2)
    assert one.key() != two.key()
    assert replace(two, threads=1) == one
    assert one.as_json()["version"] == target.runtime_version()


@pytest.mark.parametrize("name", ["litert-host", "ort-host", "litert-web"])
def test_a_missing_runtime_is_named_with_the_way_to_get_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = get_target(name)
    monkeypatch.setattr(
        type(target), "available", lambda self: Availability(False, "no runtime", "install it")
    )
    file = tmp_path / f"x{target.suffixes[0]}"
    file.write_bytes(b"x")
    with pytest.raises(TargetError, match=f"{name} cannot be used: no runtime; install it"):
        target.session(file)


@pytest.mark.parametrize(
    ("name", "package"), [("litert-host", "ai_edge_litert"), ("ort-host", "onnxruntime")]
)
def test_availability_follows_the_installed_packages(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib import util

    assert get_target(name).available().ok
    monkeypatch.setattr(util, "find_spec", lambda wanted: None if wanted == package else object())
    state = get_target(name).available()
    assert not state.ok
    assert "pip install" in state.how_to_get


def test_web_without_engine_or_without_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mcc.runtime import litert_web
    from mcc.runtime.litert_web import LiteRtWeb

    monkeypatch.setattr(litert_web, "WEB", tmp_path)
    monkeypatch.setattr(litert_web, "find_node", lambda: "/usr/bin/node")
    assert "npm ci" in LiteRtWeb().available().how_to_get
    monkeypatch.setattr(litert_web, "find_node", lambda: None)
    assert "Node.js" in LiteRtWeb("node").available().reason
    monkeypatch.setattr(litert_web, "find_browser", lambda: None)
    assert LiteRtWeb("chromium").available().reason == "Chromium is not installed"
    assert "apt-get install chromium" in LiteRtWeb("chromium").available().how_to_get
    assert "nor is Chromium" in LiteRtWeb().available().reason
    with pytest.raises(TargetError, match="Chromium is not installed"):
        LiteRtWeb("chromium").runtime_version()


def test_web_prefers_the_browser_and_its_fingerprint_says_which_engine_ran(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mcc.runtime import litert_web
    from mcc.runtime.litert_web import LiteRtWeb

    assert "chromium-" in LiteRtWeb().fingerprint().version
    assert "node-" in LiteRtWeb("node").fingerprint().version
    monkeypatch.setattr(litert_web, "find_browser", lambda: None)
    assert "node-" in LiteRtWeb().fingerprint().version


def test_wrong_files_and_threads_are_refused(tmp_path: Path) -> None:
    target = get_target("litert-host")
    with pytest.raises(UsageError, match="no such file"):
        target.session(tmp_path / "none.tflite")
    with pytest.raises(UsageError, match=r"runs \.tflite files"):
        target.session(models.chain_onnx([models.conv()], tmp_path / "a.onnx"))
    file = models.write_tflite(models.conv(), tmp_path / "a.tflite")
    with pytest.raises(UsageError, match="0 threads"):
        target.time([file], threads=0)
    web = get_target("litert-web")
    with pytest.raises(UsageError, match="cannot use 2 threads"):
        web.checked(file, 2)
