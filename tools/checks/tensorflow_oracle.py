"""Holds the direct TFLite writer against TensorFlow's converter, operator by operator.

    pip install "mcc[tensorflow]"          2 GB more in the environment, which is why no test does it
    python -m tools.checks.tensorflow_oracle [-o docs/results/tensorflow.md]

For each parity case of the TFLite writer with one input and one output: both files run in LiteRT on the same
input, against torch. The files of TensorFlow's converter, whose operators and versions are its own, also go
through the reader of mcc and its views.
Exit status 1 where any differs by more than 1e-4 of the output range, or cannot be read.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mcc.ir.graph import Graph, run
from mcc.lower.tensorflow.converter import convert
from mcc.lower.tflite.reader import read_tflite
from mcc.lower.tflite.writer import to_tflite
from mcc.report.tflite_views import view_tflite
from tests.lower.tflite.cases import CASES, COMPOSITES, Composite
from tests.lower.tflite.running import execute

TOLERANCE = 1e-4


def largest(graph: Graph, raw: bytes, values: list[torch.Tensor]) -> float:
    """The largest difference of a file to torch, as a share of the output range."""
    expected = [value.detach().numpy() for value in run(graph, *values)]
    got = execute(raw, [value.numpy() for value in values])
    return max(float(np.abs(a - b).max() / max(np.ptp(b), 1e-6)) for a, b in zip(got, expected, strict=True))


def check(case: Any) -> tuple[float, float, Counter[str]]:
    """Both differences for one case, and the operators that TensorFlow's file has."""
    graph = case.graph()
    torch.manual_seed(2)
    composite = isinstance(case, Composite)
    values = [torch.randn(1, *shape) for shape in case.inputs] if composite else [case.input()[:1]]
    raw = convert(graph)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "theirs.tflite"
        file.write_bytes(raw)
        assert view_tflite(file)
    counts = read_tflite(raw).op_counts()
    return largest(graph, to_tflite(graph), values), largest(graph, raw, values), counts


def main() -> int:
    """Check all cases; print and perhaps write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, help="where to write the result as Markdown")
    arguments = parser.parse_args()
    begin, kinds, failed = time.monotonic(), Counter[str](), list[str]()
    rows: dict[str, list[tuple[float, float]]] = {}
    single = [case for case in COMPOSITES if len(case.inputs) == 1 and case.id != "several outputs"]
    for case in (*CASES, *single):
        try:
            ours, theirs, found = check(case)
        except Exception as error:
            failed.append(f"{case.id}: {type(error).__name__}: {str(error)[:120]}")
            continue
        kinds += found
        rows.setdefault(case.op or "compositions", []).append((ours, theirs))
        if max(ours, theirs) > TOLERANCE:
            failed.append(f"{case.id}: ours {ours:.1e}, TensorFlow's {theirs:.1e}")
    text = report(rows, kinds, failed, time.monotonic() - begin)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n", "utf-8")
    return 1 if failed else 0


def report(
    rows: dict[str, list[tuple[float, float]]], kinds: Counter[str], failed: list[str], seconds: float
) -> str:
    """The result as Markdown."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("tensorflow", "ai-edge-litert"))
    lines = [
        "# The TFLite writer against TensorFlow's converter",
        "",
        f"By `python -m tools.checks.tensorflow_oracle -o docs/results/tensorflow.md` in {seconds:.0f} s,",
        f"with {versions}. Both files run in LiteRT; the figures are the largest",
        "difference to torch as a share of the output range.",
        "",
        "| operator | cases | ours | TensorFlow's |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, pairs in sorted(rows.items()):
        ours, theirs = (max(pair[i] for pair in pairs) for i in range(2))
        lines.append(f"| {name} | {len(pairs)} | {ours:.0e} | {theirs:.0e} |")
    lines += ["", f"Operators in TensorFlow's files: {', '.join(sorted(kinds))}."]
    lines += ["", *(f"* failed: {text}" for text in failed)] if failed else ["", "None failed."]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
