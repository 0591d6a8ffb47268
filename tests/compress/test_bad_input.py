"""What cannot be compressed ends in one sentence, with the right exit status and nothing half-written."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image
from safetensors.torch import save_file

from mcc.cli import main
from mcc.runtime.litert_host import LiteRtHost
from mcc.runtime.target import Availability
from tests.compress import networks, stand_ins

NETWORKS = networks.__file__


@pytest.fixture(autouse=True)
def _own_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache_dir: Path) -> None:
    monkeypatch.chdir(tmp_path)


def _run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Exit status and what was said on stderr; every word of it must be one line."""
    status = main.run(["compress", *words, "-o", "out", "-q"])
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("mcc")
    assert "internal error" not in said
    return status, said


def _left() -> list[str]:
    """Files in the output folder but for its state."""
    return sorted(path.name for path in Path("out").glob("*") if path.is_file())


def _unfit_weights() -> list[str]:
    state = networks.tiny()[0].state_dict()
    save_file({**state, "wide.weight": torch.zeros(7, 16, 1, 1)}, "unfit.safetensors")
    return ["--weights", "unfit.safetensors"]


def _broken_image() -> list[str]:
    for part in ("train", "test"):
        for kind in ("cat", "dog"):
            folder = Path("pets", part, kind)
            folder.mkdir(parents=True)
            for index in range(3):
                pixels = np.random.default_rng(index).integers(0, 256, (32, 32, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    whole = Path("pets/train/dog/1.png")
    whole.write_bytes(whole.read_bytes()[:200])
    return ["--data", "imagefolder:pets"]


def _plan(text: str) -> Callable[[], list[str]]:
    def write() -> list[str]:
        Path("plan.json").write_text(text)
        return ["--plan", "plan.json"]

    return write


def _output_is_a_file() -> list[str]:
    Path("out").write_text("mine")
    return []


CASES: dict[str, tuple[str, Callable[[], list[str]], tuple[str, ...]]] = {
    "target": ("tiny", lambda: ["--target", "nowhere"], ("'nowhere'", "known targets:", "litert-host")),
    "option": ("tiny", lambda: ["--target", "litert-host:fast"], ("no option 'fast'", "its options:")),
    "data": ("tiny", lambda: ["--data", "numbers"], ("'numbers'", "imagefolder:DIR")),
    "folder": ("tiny", lambda: ["--data", "imagefolder:gone"], ("gone", "no such folder", "train/")),
    "image": ("tiny", _broken_image, ("pets/train/dog/1.png", "cannot be read", "repair or remove")),
    "model": ("nothing", list, ("nothing", "networks.py")),
    "classes": ("seven_classes", list, ("digits", "10 classes", "[1, 7]", "use the data")),
    "control flow": ("branching", list, ("depends on the values", "networks.py:", "branch")),
    "inputs": ("two_inputs", list, ("several inputs", "networks.py:two_inputs", "one")),
    "weights": ("tiny", _unfit_weights, ("unfit.safetensors", "wide.weight", "(7, 16, 1, 1)")),
    "no plan": ("tiny", _plan("[]"), ("plan.json: is no plan", "that mcc wrote")),
    "no JSON": ("tiny", _plan("{"), ("plan.json: is no plan", "that mcc wrote")),
    "no structure": ("tiny", _plan("{}"), ("plan.json: is no plan", "that mcc wrote")),
    "no decisions": ("tiny", _plan('{"structure": null}'), ("plan.json: holds no decisions",)),
    "output": ("tiny", _output_is_a_file, ("out", "file")),
    "strategies": ("tiny", lambda: ["--strategies", "joint,luck"], ("no strategy 'luck'", "int8-ptq")),
    "threads": ("tiny", lambda: ["--threads", "0"], ("--threads", "0")),
}


@pytest.mark.parametrize("case", CASES)
def test_wrong_use_is_one_sentence_and_leaves_nothing(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    factory, prepare, phrases = CASES[case]
    more = prepare()
    words = ["--data", "digits", "--target", "litert-host", *more]
    status, said = _run(capsys, f"{NETWORKS}:{factory}", *words)
    assert status == 2
    for phrase in phrases:
        assert phrase in said
    assert not Path("out").is_dir()
    if case == "output":
        assert Path("out").read_text() == "mine"


def test_a_missing_runtime_says_how_to_get_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = Availability(False, "ai_edge_litert is not installed", "pip install ai-edge-litert")
    monkeypatch.setattr(LiteRtHost, "available", lambda self: gone)
    status, said = _run(capsys, f"{NETWORKS}:tiny", "--data", "digits", "--target", "litert-host")
    assert status == 2
    assert "litert-host cannot be used: ai_edge_litert is not installed; pip install ai-edge-litert" in said
    assert not Path("out").exists()


TINY = (f"{NETWORKS}:tiny", "--data", "digits", "--target", "litert-host", "--epochs", "0")


def test_the_state_of_another_job_is_refused_and_kept(capsys: pytest.CaptureFixture[str]) -> None:
    Path("out/state").mkdir(parents=True)
    Path("out/state/job.json").write_text('{"digest": "of another job"}')
    Path("out/report.json").write_text("of another job")
    status, said = _run(capsys, *TINY, "--resume")
    assert status == 2
    assert "out: holds the state of another job" in said
    assert "leave out --resume" in said
    assert Path("out/report.json").read_text() == "of another job"
    assert json.loads(Path("out/state/job.json").read_text()) == {"digest": "of another job"}


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_folder_that_says_nothing_about_its_job_is_refused(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("out/state").mkdir(parents=True)
    Path("out/state/job.json").write_text(text)
    status, said = _run(capsys, *TINY)
    assert status == 2
    assert "out/state/job.json: does not say which job" in said


def test_a_folder_in_which_another_process_works_is_left_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("out/state").mkdir(parents=True)
    Path("out/state/job.json").write_text('{"digest": "of the one that runs"}')
    with FileLock("out/state/in-use.lock"):
        status, said = _run(capsys, *TINY)
    assert status == 2
    assert "out: is in use by another mcc" in said
    assert "another -o" in said
    assert json.loads(Path("out/state/job.json").read_text()) == {"digest": "of the one that runs"}


class Stopped(BaseException):
    """Ends a job where a test has seen enough of it."""


def _stop(*_: Any, **__: Any) -> None:
    raise Stopped


def test_a_new_job_clears_the_results_of_the_last_but_not_what_it_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path("out/state/old").mkdir(parents=True)
    Path("out/state/job.json").write_text('{"digest": "of another job"}')
    parts = ("out/.model.tflite.999999999.part", "out/state/old/.x.999999999.part")
    mine = f"out/.model.tflite.{os.getpid()}.part"
    old = ("out/report.json", "out/model.tflite", "out/model.onnx", "out/plan.json", "out/state/old/x")
    for name in (*old, *parts, mine, "out/notes.txt"):
        Path(name).write_text("old")
    save_file(networks.tiny()[0].state_dict(), "out/after.safetensors")  # the user's weights lie here
    monkeypatch.setattr("mcc.compress.driver.Run.__init__", _stop)
    with pytest.raises(Stopped):
        main.run(["compress", *TINY, "-o", "out", "-q", "--weights", "out/after.safetensors"])
    assert not any(Path(name).exists() for name in (*old, *parts))
    assert all(Path(name).exists() for name in (mine, "out/notes.txt", "out/after.safetensors"))


def _full(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """No file of that name finds space."""
    replace = os.replace

    def full(source: Any, destination: Any) -> None:
        if Path(destination).name == name:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, destination)

    monkeypatch.setattr(os, "replace", full)


@pytest.mark.parametrize("name", ["job.json", "baseline.tflite", "before.safetensors", "before.mcc"])
def test_a_full_disk_is_named_at_once(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_ins.install(monkeypatch)
    _full(monkeypatch, name)
    status, said = _run(capsys, *TINY)
    assert status == 2
    assert f"{name}: cannot be written: No space left on device" in said
    assert "choose another" in said
    assert not list(Path("out").rglob("*.part"))
    assert name not in _left()


def test_a_table_that_cannot_be_written_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, cache_dir: Path
) -> None:
    stand_ins.install(monkeypatch)
    cache_dir.write_text("a file where the folder should be")
    status, said = _run(capsys, *TINY)
    assert status == 2
    assert "latencies.sqlite: the table of measurements cannot be used" in said
    assert "MCC_CACHE_DIR" in said
