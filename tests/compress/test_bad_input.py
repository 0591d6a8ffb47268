"""What cannot be compressed ends in one sentence, with the right exit status and nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from mcc.cli import main
from mcc.compress.folder import names_left
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
    "image": ("tiny", _broken_image, ("pets/train/dog/1.png", "cannot be read", "mend or remove")),
    "model": ("nothing", list, ("nothing", "networks.py")),
    "classes": ("seven_classes", list, ("digits", "10 classes", "[1, 7]", "use the data")),
    "control flow": ("branching", list, ("depends on the values", "networks.py:", "branch")),
    "inputs": ("two_inputs", list, ("supplies one input", "takes 2", "x, y")),
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


@pytest.mark.slow
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
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, "out/state/in-use.lock"], stdout=subprocess.PIPE, stdin=subprocess.PIPE
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        status, said = _run(capsys, *TINY)
        holder.communicate()
    assert status == 2
    assert "out: is in use by another mcc" in said
    if Path("/proc/locks").exists():
        assert f"process {holder.pid} (" in said
        assert "running since 2" in said
    assert "another -o" in said
    assert json.loads(Path("out/state/job.json").read_text()) == {"digest": "of the one that runs"}


HOLD = """
import sys
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


class Stopped(BaseException):
    """Ends a job where a test has seen enough of it."""


def _stop(*_: Any, **__: Any) -> None:
    raise Stopped


def test_a_new_job_clears_the_results_of_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("out/state/old").mkdir(parents=True)
    parts = ("out/.model.tflite.999999999.part", "out/state/old/.x.999999999.part")
    mine = (
        f"out/.model.tflite.{os.getpid()}.part",
        "out/.notes.999999999.part",
        "out/model.py",
        "out/notes.txt",
    )
    old = ("out/report.json", "out/model.tflite", "out/model.onnx", "out/plan.json", "out/state/old/x")
    for name in (*old, *parts, *mine):
        Path(name).write_text("old")
    files = [Path(name).name for name in old]
    Path("out/state/job.json").write_text(json.dumps({"digest": "of another job", "files": files}))
    monkeypatch.setattr("mcc.compress.session.Session.__init__", _stop)
    with pytest.raises(Stopped):
        main.run(["compress", *TINY, "-o", "out", "-q"])
    assert not any(Path(name).exists() for name in (*old, *parts))
    assert all(Path(name).exists() for name in mine)


# -- what is the user's --------------------------------------------------------------------------------------

NAMES = sorted(names_left("tflite"))


def _contents(folder: Path) -> dict[str, str]:
    """Every file and link below a folder, with what it holds or leads to."""
    return {
        str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def _users_file(name: str) -> None:
    path = Path("out", name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")


def _users_link(name: str) -> None:
    Path("elsewhere").write_text("mine")
    Path("out").mkdir()
    Path("out", name).symlink_to("../elsewhere")


@pytest.mark.parametrize("name", [*NAMES, "state/notes.txt", "state/joint/outcome.json"])
@pytest.mark.parametrize("put", [_users_file, _users_link])
def test_files_that_mcc_did_not_make_stay(
    name: str, put: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    if put is _users_link and "/" in name:
        name = "report.json"
    put(name)
    before = _contents(Path())
    for more in ([], ["--resume"]):
        status, said = _run(capsys, *TINY, *more)
        assert status == 2
        assert "holds files that no job of mcc left there" in said
        assert name.split("/")[0] in said
        assert "--force" in said
        assert _contents(Path()) == before


def test_a_file_put_beside_the_results_of_another_format_stays(capsys: pytest.CaptureFixture[str]) -> None:
    """The folder is mcc's, and the file is not: an earlier job there was for onnxruntime."""
    Path("out/state").mkdir(parents=True)
    Path("out/state/job.json").write_text(json.dumps({"digest": "d", "files": ["model.onnx", "report.json"]}))
    Path("out/model.tflite").write_text("mine")
    status, said = _run(capsys, *TINY)
    assert status == 2
    assert "left there: model.tflite" in said
    assert Path("out/model.tflite").read_text() == "mine"


def test_a_state_folder_that_leads_elsewhere_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("precious").mkdir()
    Path("precious/job.json").write_text('{"digest": "looks like mcc"}')
    Path("precious/thesis.txt").write_text("mine")
    Path("out").mkdir()
    Path("out/state").symlink_to("../precious", target_is_directory=True)
    for more in ([], ["--force"]):
        status, said = _run(capsys, *TINY, *more)
        assert status == 2
        assert "out/state: is a symbolic link" in said
    assert set(_contents(Path("precious"))) == {"job.json", "thesis.txt"}


def test_what_links_in_the_state_lead_to_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("precious/deep").mkdir(parents=True)
    Path("precious/deep/thesis.txt").write_text("mine")
    Path("out/state").mkdir(parents=True)
    Path("out/state/job.json").write_text('{"digest": "of another job", "files": []}')
    Path("out/state/joint").symlink_to("../../precious", target_is_directory=True)
    monkeypatch.setattr("mcc.compress.session.Session.__init__", _stop)
    with pytest.raises(Stopped):
        main.run(["compress", *TINY, "-o", "out", "-q"])
    assert not Path("out/state/joint").exists()
    assert _contents(Path("precious")) == {"deep/thesis.txt": "mine"}


def test_the_users_word_is_enough_and_still_nothing_in_state_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("report.json", "state/notes.txt", "state/deep/outcome.json", "else.txt"):
        _users_file(name)
    monkeypatch.setattr("mcc.compress.session.Session.__init__", _stop)
    with pytest.raises(Stopped):
        main.run(["compress", *TINY, "-o", "out", "-q", "--force"])
    assert Path("out/state.1/notes.txt").read_text() == "mine"
    assert Path("out/state.1/deep/outcome.json").read_text() == "mine"
    assert Path("out/else.txt").read_text() == "mine"
    assert "report.json" in json.loads(Path("out/state/job.json").read_text())["files"]


@pytest.mark.parametrize("name", ["after.safetensors", "before.safetensors"])
def test_an_input_in_the_folder_is_never_an_output(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("out/state").mkdir(parents=True)
    Path("out/state/job.json").write_text('{"digest": "of another job"}')
    save_file(networks.tiny()[0].state_dict(), "mine.safetensors")
    os.link("mine.safetensors", f"out/{name}")  # the same file under another name
    for more in ([], ["--force"], ["--resume"]):
        status, said = _run(capsys, *TINY, "--weights", "mine.safetensors", *more)
        assert status == 2
        assert f"out/{name}: would be overwritten, and is read (mine.safetensors)" in said
    assert Path(f"out/{name}").samefile("mine.safetensors")


def test_a_plan_in_the_folder_is_never_written_over(capsys: pytest.CaptureFixture[str]) -> None:
    Path("out").mkdir()
    structure = {"precision": "float", "sparse": None, "widths": {}, "ranks": {}}
    Path("out/plan.json").write_text(json.dumps({"structure": structure}))
    status, said = _run(capsys, *TINY, "--plan", "out/plan.json", "--force")
    assert status == 2
    assert "out/plan.json: would be overwritten, and is read" in said


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_a_lock_that_is_no_plain_file_is_refused(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("precious").write_text("mine")
    lock = Path("out/state/in-use.lock")
    lock.parent.mkdir(parents=True)
    if kind == "link":
        lock.symlink_to("../../precious")
    elif kind == "pipe":
        os.mkfifo(lock)
    else:
        lock.mkdir()
    status, said = _run(capsys, *TINY)
    assert status == 2
    assert "in-use.lock: is" in said
    assert Path("precious").read_text() == "mine"


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
