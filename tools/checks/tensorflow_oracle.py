"""Compare the direct TFLite writer with TensorFlow's converter, operator by operator.

    .venv/bin/pip install -e ".[tensorflow]"    2 GB more in the environment, therefore not part of the tests
    python -m tools.checks.tensorflow_oracle [-o docs/results/tensorflow.md]

For each parity case of the TFLite writer with one input and one output: both files run in LiteRT on the same
input, compared with torch; then both int8 files, compared with each other. The files of TensorFlow's
converter, with their own operators and versions, are also read by the reader of mcc and its views. Exit
status 1 if a float file differs by more than 1e-4 of the output range, if int8 files of the same operators
are more than one step apart, or if a file cannot be read.
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

from mcc.ir.graph import Graph, constant, operand, outputs, run
from mcc.lower.tensorflow.converter import convert
from mcc.lower.tflite.reader import TfliteModel, read_tflite
from mcc.lower.tflite.writer import to_tflite
from mcc.report.tflite_views import view_tflite
from tests.lower.tflite.cases import CASES, COMPOSITES, Composite
from tests.lower.tflite.quantising import quantised
from tests.lower.tflite.running import execute

TOLERANCE = 1e-4
HALF_STEP = 0.5  # outputs are multiples of a step: a smaller distance is equality
MOVING = frozenset({"DEQUANTIZE", "QUANTIZE", "TRANSPOSE", "RESHAPE"})  # at the borders: no rounding


def largest(graph: Graph, raw: bytes, values: list[torch.Tensor]) -> float:
    """The largest difference of a file to torch, as a share of the output range."""
    expected = [value.detach().numpy() for value in run(graph, *values)]
    got = execute(raw, [value.numpy() for value in values])
    return max(float(np.abs(a - b).max() / max(np.ptp(b), 1e-6)) for a, b in zip(got, expected, strict=True))


def check(case: Any) -> tuple[float, float, Counter[str]]:
    """Both differences for one case, and the operators of TensorFlow's file."""
    graph, values = case.graph(), values_of(case)
    raw = convert(graph)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "theirs.tflite"
        file.write_bytes(raw)
        assert view_tflite(file)
    counts = read_tflite(raw).op_counts()
    return largest(graph, to_tflite(graph), values), largest(graph, raw, values), counts


def check_int8(case: Any) -> tuple[float, float, bool]:
    """Share of equal outputs of both int8 files, their largest distance in steps, and whether both compute in
    integers by the same operators: TensorFlow's compositions of several operators round several times."""
    graph, values = case.graph(), values_of(case)
    fake = quantised(graph, *values)
    files = to_tflite(fake), convert(fake, quantised=True)
    ours, theirs = (execute(raw, [value.numpy() for value in values])[0] for raw in files)
    step = float(constant(fake, operand(outputs(fake)[0], 1)))
    off = np.abs(theirs - ours) / step
    written, converted = (_computing(read_tflite(raw)) for raw in files)
    alike = written == converted and all(dtype == "int8" for _, dtype in written)
    return float((off < HALF_STEP).mean()), float(off.max()), alike


def _computing(model: TfliteModel) -> Counter[tuple[str, str]]:
    """Number of occurrences of each computing operator, with its output dtype."""
    return Counter(
        (op.code, model.tensors[op.outputs[0]].dtype) for op in model.operators if op.code not in MOVING
    )


def values_of(case: Any) -> list[torch.Tensor]:
    """Inputs of a case, one each."""
    torch.manual_seed(2)
    composite = isinstance(case, Composite)
    return [torch.randn(1, *shape) for shape in case.inputs] if composite else [case.input()[:1]]


def main() -> int:
    """Check all cases; print and optionally write the table."""
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
    integers: dict[str, list[tuple[float, float, bool]]] = {}
    for case in CASES:
        try:
            found_int8 = check_int8(case)
        except Exception as error:
            failed.append(f"{case.id} in int8: {type(error).__name__}: {str(error)[:120]}")
            continue
        integers.setdefault(case.op, []).append(found_int8)
        if found_int8[2] and found_int8[1] > 1 + HALF_STEP:
            failed.append(f"{case.id} in int8: {found_int8[1]:.1f} steps apart")
    text = "\n".join((report(rows, kinds, time.monotonic() - begin), *in_int8(integers), *ending(failed)))
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n", "utf-8")
    return 1 if failed else 0


def in_int8(rows: dict[str, list[tuple[float, float, bool]]]) -> list[str]:
    """The result for int8 files as Markdown."""
    lines = [
        "",
        "## int8",
        "",
        "The same grids through fake quantisation in TensorFlow, whose converter computes the scales again,",
        "in float32. Outputs of both files in LiteRT, in steps of the output's grid; `alike`: cases which",
        "both write with the same operators, in integers throughout. Only these must lie within a step: what",
        "TensorFlow spells as several operators is rounded after each of them, or computed in float. Figures",
        "are the worst of the cases that are alike, of all where none is.",
        "",
        "| operator | cases | alike | equal outputs | largest distance |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, found in sorted(rows.items()):
        shown = [one for one in found if one[2]] or found
        equal, most = min(one[0] for one in shown), max(one[1] for one in shown)
        count = sum(one[2] for one in found)
        lines.append(f"| {name} | {len(found)} | {count} | {equal:.2%} | {most:.0f} |")
    return lines


def ending(failed: list[str]) -> list[str]:
    """The failures, as Markdown."""
    return ["", *(f"* failed: {text}" for text in failed)] if failed else ["", "None failed."]


def report(rows: dict[str, list[tuple[float, float]]], kinds: Counter[str], seconds: float) -> str:
    """The result for float files as Markdown."""
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
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
