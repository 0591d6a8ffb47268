"""Options with values that cannot be."""

from __future__ import annotations

from pathlib import Path

from tools.hostile.case import Case
from tools.hostile.inputs import data, network, onnx_file

JOB = "compress net.py:net --data data.py:data -o ../out/job"


def _sound(folder: Path) -> None:
    network(folder)
    data(folder)


def _with_onnx(folder: Path) -> None:
    _sound(folder)
    onnx_file(folder / "m.onnx")


def _job(name: str, words: str, says: str) -> Case:
    target = "" if "--target" in words else "--target litert-host "
    return Case(f"options/{name}", _sound, f"{JOB} {target}{words}", says)


CASES = (
    _job("epochs of nan", "--epochs nan", "epochs"),
    _job("epochs of infinity", "--epochs inf", "epochs"),
    _job("epochs below 0", "--epochs -1", "epochs"),
    _job("10,000 threads", "--threads 10000", "threads"),
    _job("no strategies", "--strategies ''", "strateg"),
    _job("a strategy that is not there", "--strategies luck", "luck"),
    _job("speed-up of nan", "--speedup nan", "speedup"),
    _job("speed-up of infinity", "--speedup inf", "speedup"),
    _job("drop of nan", "--max-drop nan", "max-drop"),
    _job("size of 0", "--size 0", "size"),
    _job("latency below 0", "--latency -5ms", "latency"),
    _job("latency of a time and cycles", "--latency 20Mcycles", "latency"),
    _job("a target that is not there", "--target abacus", "abacus"),
    _job("a cut that is not there", "--cut nose", "nose"),
    Case("options/a shape with a 0", _sound, "inspect net.py:net --input-shape 1,3,0,16", "input-shape"),
    Case("options/a seed of nan", _sound, "inspect net.py:net --seed nan", "seed"),
    Case("options/a tolerance of nan", _with_onnx, "verify net.py:net m.onnx --tolerance nan", "tolerance"),
    Case("options/a budget of nan", _sound, "calibrate --target litert-host --budget nan", "budget"),
)
