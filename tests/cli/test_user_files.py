"""Every argument that takes a file: what is no readable file of its kind is refused in one sentence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mcc.cli.main import run

MODEL_SUFFIXES = (".onnx", ".pt2", ".mcc", ".tflite", ".ort", ".pte")


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _large(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)


KINDS: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
    "device": _device,
    "empty": Path.touch,
    "large": _large,
    "absent": lambda path: None,
}

# `F` is the file, `net.py` and `data.py` are never reached.
JOB = "--data data.py:data --target litert-host -o out"
PLACES = {
    **{f"inspect{suffix}": f"inspect F{suffix}" for suffix in (*MODEL_SUFFIXES[:5],)},
    **{f"diff{suffix}": f"diff F{suffix} F{suffix}" for suffix in MODEL_SUFFIXES[:5]},
    **{f"lower{suffix}": f"lower F{suffix} --to tflite -o out.tflite" for suffix in MODEL_SUFFIXES[:3]},
    **{f"opt{suffix}": f"opt F{suffix} -O1" for suffix in MODEL_SUFFIXES[:3]},
    **{f"compress{suffix}": f"compress F{suffix} {JOB}" for suffix in MODEL_SUFFIXES[:3]},
    "bench.tflite": "bench F.tflite --target litert-host",
    "bench.onnx": "bench F.onnx --target ort-host",
    "bench.ort": "bench F.ort --target ort-host",
    "bench.pte": "bench F.pte --target executorch-host",
    "evaluate.tflite": "evaluate F.tflite --data digits",
    "evaluate.onnx": "evaluate F.onnx --data digits",
    "evaluate.pte": "evaluate F.pte --data digits",
    "verify.tflite": "verify net.py:net F.tflite",
    "verify model": "verify F.onnx data.py",
    "plan model": f"plan F.onnx {JOB}",
    "factory.py": "inspect F.py:net",
    "data.py": "compress net.py:net --data F.py:data --target litert-host -o out",
    "evaluate data.py": "evaluate net.py:net --data F.py:data --target litert-host",
    "lower data.py": "lower net.py:net --to tflite --data F.py:data -o out.tflite",
    "weights.pth": "inspect net.py:net --weights F.pth",
    "weights.safetensors": f"compress net.py:net --weights F.safetensors {JOB}",
    "plan.json": f"compress net.py:net --plan F.json {JOB}",
    "explain.json": "explain c F.json",
    "merge.json": "calibrate --target litert-host --merge F.json",
    "from.json": "calibrate --from F.json",
    "load.py": "opt net.py:net -O1 --load F.py",
    "preprocessing.json": "evaluate net.py:net --data digits --target litert-host --preprocessing F.json",
    "preprocessing.toml": "evaluate net.py:net --data digits --target litert-host --preprocessing F.toml",
}


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        (place, kind)
        for place in PLACES
        for kind in KINDS
        # An empty module is sound, and lacks the name that is asked for: tested with factories.
        if kind != "empty" or "F.py" not in PLACES[place]
    ],
)
def test_what_is_no_file_is_refused_by_name(
    place: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("net.py", "data.py"):
        (tmp_path / name).write_text("")
    words = PLACES[place].split()
    name = next(word for word in words if word.startswith("F.")).partition(":")[0]
    KINDS[kind](tmp_path / name)
    before = sorted(path.name for path in tmp_path.iterdir())

    assert run(words) == 2

    said = capsys.readouterr()
    assert len(said.err.strip().splitlines()) == 1, said.err
    assert said.err.startswith("mcc")
    assert name in said.err
    assert "internal" not in said.err
    assert said.out == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_an_unreadable_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(b"x")
    monkeypatch.setattr("os.access", lambda *_: False)  # root may read everything
    assert run(["inspect", str(path)]) == 2
    assert "Permission denied" in capsys.readouterr().err


def test_no_refusal_waits_for_torch(tmp_path: Path) -> None:
    """All commands in one process: the first that imports it is named."""
    for name in ("net.py", "data.py"):
        (tmp_path / name).write_text("")
    code = (
        "import json, shlex, sys; from mcc.cli.main import run\n"
        "for place, words in json.loads(sys.argv[1]).items():\n"
        "    assert run(shlex.split(words)) == 2, place\n"
        "    assert 'torch' not in sys.modules, place\n"
    )
    commands = json.dumps({place: words.replace("F", "absent", 1) for place, words in PLACES.items()})
    found = subprocess.run(
        [sys.executable, "-c", code, commands], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
