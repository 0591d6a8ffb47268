"""A few broken files of every kind, and that the fuzzer sees what it is there to see."""

from __future__ import annotations

import importlib
import pickle
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flatbuffers
import pytest
from ai_edge_litert import schema_py_generated as schema

from mcc.errors import DataError
from mcc.ir.graph import GraphBuilder
from mcc.lower.onnx.writer import to_onnx
from mcc.lower.tflite.reader import read_tflite
from tools.fuzz import worker
from tools.fuzz.__main__ import GOOD
from tools.fuzz.mutate import CANARY, broken
from tools.fuzz.seeds import KINDS, seeds

CASES = 12


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_broken_files_end_in_a_graph_or_a_sentence(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert worker._read_one(kind, seeds(kind)[0], tmp_path)[0] == "read"
    for number in range(CASES):
        said = worker._read_one(kind, broken(kind, seeds(kind), number), tmp_path)
        assert said[0] in GOOD, (number, said)
    assert not Path(CANARY).exists()


def changed(change: Callable[[Any], object]) -> bytes:
    """A quantised .tflite with one thing changed in its first subgraph."""
    model: Any = schema.ModelT.InitFromPackedBuf(bytearray(seeds("tflite")[2]), 0)
    change(model.subgraphs[0])
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def scales(graph: Any) -> None:
    weight = next(t for t in graph.tensors if t.quantization and len(t.quantization.scale) > 1)
    weight.quantization.quantizedDimension = 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda graph: graph.operators[0].inputs.__setitem__(0, 999), "operator 0 names tensors"),
        (lambda graph: graph.operators[0].outputs.__setitem__(0, -1), "operator 0 names tensors"),
        (lambda graph: graph.outputs.__setitem__(0, 999), "inputs and outputs"),
        (scales, "scales for"),
    ],
)
def test_tflite_files_that_contradict_themselves(change: Callable[[Any], object], reason: str) -> None:
    """Found by the fuzzer: indices beyond the tensors, and four scales along an axis of another length."""
    assert read_tflite(changed(lambda graph: None)).operators
    with pytest.raises(DataError, match=f"is damaged .*{reason}"):
        read_tflite(changed(change))


def test_the_fuzzer_notices_a_traceback_and_what_is_no_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = importlib.import_module("mcc.frontend.load")  # the package has a function of that name

    def crash(path: Path, shape: object) -> None:
        raise ZeroDivisionError("of course")

    monkeypatch.setitem(load._READERS, ".onnx", crash)
    b = GraphBuilder()
    model = to_onnx(b.finish(b.relu(b.input("x", (1, 4)))))
    assert worker._read_one("onnx", model, tmp_path)[0] == "TRACEBACK"


def test_an_unpickled_class_is_an_event_that_the_worker_watches() -> None:
    script = (
        "import sys, pickle; seen = []\n"
        f"sys.addaudithook(lambda event, args: seen.append(event) if event in {worker.FORBIDDEN} else None)\n"
        f"pickle.loads({pickle.dumps(deque())!r})\n"
        "print(seen)"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "pickle.find_class" in said.stdout
