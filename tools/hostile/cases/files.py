"""Files that would be overwritten, pipes, locks, and folders of other jobs."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

from tools.hostile.case import WORKS, Case
from tools.hostile.inputs import data, network, onnx_file

JOB = "compress net.py:net --data data.py:data --target litert-host --epochs 0 -o out"
LOCK = "out/state/in-use.lock"


def _sound(folder: Path) -> None:
    network(folder)
    data(folder)


def _beside(write: Callable[[Path], object]) -> Callable[[Path], None]:
    """A sound job, and something more in its folder."""

    def make(folder: Path) -> None:
        _sound(folder)
        write(folder)

    return make


def _thesis(folder: Path) -> None:
    (folder / "out").mkdir()
    for name in ("report.html", "model.tflite", "thesis.txt"):
        (folder / "out" / name).write_text("three years of work")


def _state(name: str, text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        path = folder / "out/state" / name
        path.parent.mkdir(parents=True)
        path.write_text(text)

    return _beside(write)


def _lock(folder: Path) -> None:
    (folder / LOCK).parent.mkdir(parents=True)
    (folder / LOCK).touch()


def _linked_lock(folder: Path) -> None:
    (folder / LOCK).parent.mkdir(parents=True)
    (folder / "precious").write_text("three years of work")
    (folder / LOCK).symlink_to(folder / "precious")


def _held(folder: Path) -> Callable[[], None]:
    handle = os.open(folder / LOCK, os.O_RDWR)
    fcntl.flock(handle, fcntl.LOCK_EX)
    return lambda: os.close(handle)


def _pipe(name: str) -> Callable[[Path], None]:
    return lambda folder: os.mkfifo(folder / name)


def _bytes(name: str, raw: bytes) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / name).write_bytes(raw)

    return make


def _onnx(folder: Path) -> None:
    onnx_file(folder / "m.onnx")


def _half(folder: Path) -> None:
    onnx_file(folder / "whole.onnx")
    (folder / "m.onnx").write_bytes((folder / "whole.onnx").read_bytes()[:400])


CASES = (
    Case("overwrite/lower without -o beside the model", _onnx, "lower m.onnx --to onnx", r"m\.onnx"),
    Case("overwrite/lower -o the model", _onnx, "lower m.onnx --to onnx -o m.onnx", r"m\.onnx"),
    Case(
        "overwrite/lower -o the model by another path",
        _onnx,
        "lower m.onnx --to onnx -o ./../in/m.onnx",
        r"m\.onnx",
    ),
    Case("overwrite/compress into a folder of one's own", _beside(_thesis), JOB, r"\bout\b"),
    Case("overwrite/an output that is a pipe", _beside(_pipe("out")), JOB, r"\bout\b"),
    Case(
        "overwrite/a result through a missing folder",
        _onnx,
        "lower m.onnx --to tflite -o m.onnx/a.tflite",
        r"m\.onnx",
    ),
    Case("locks/held by another process", _beside(_lock), JOB, "in use", hold=_held),
    Case("locks/a link to something precious", _beside(_linked_lock), JOB, "lock|link"),
    Case("state/job.json of nothing", _state("job.json", "{"), JOB, r"job\.json"),
    Case("state/job.json that is no object", _state("job.json", "[]"), JOB, r"job\.json"),
    Case("files/a pipe as ONNX", _pipe("m.onnx"), "inspect m.onnx", r"m\.onnx.*pipe"),
    Case("files/a pipe as .pt2", _pipe("m.pt2"), "inspect m.pt2", r"m\.pt2.*pipe"),
    Case("files/a pipe as .tflite", _pipe("m.tflite"), "inspect m.tflite", r"m\.tflite.*pipe"),
    Case("files/a pipe as graph", _pipe("m.mcc"), "inspect m.mcc", r"m\.mcc.*pipe"),
    Case(
        "files/a folder as ONNX",
        lambda folder: (folder / "m.onnx").mkdir(),
        "inspect m.onnx",
        "folder|directory",
    ),
    Case("files/nothing as ONNX", _bytes("m.onnx", b""), "inspect m.onnx", r"m\.onnx"),
    Case("files/half of an ONNX file", _half, "inspect m.onnx", r"m\.onnx"),
    Case("files/text as .tflite", _bytes("m.tflite", b"hello" * 99), "inspect m.tflite", r"m\.tflite"),
    Case("files/text as .pt2", _bytes("m.pt2", b"hello" * 99), "inspect m.pt2", r"m\.pt2"),
    Case("files/a device", _sound, "verify net.py:net /dev/zero --target litert-host", "/dev/zero"),
    Case("files/a sound one", _onnx, "lower m.onnx --to tflite -o ../out/m.tflite", r"m\.tflite", WORKS),
)
