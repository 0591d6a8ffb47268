"""Writes the folder `app/`: the model file, and code that runs it on a web page, on Android and in Python."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from mcc.app.facts import AppFacts, Port
from mcc.data.detection import SHOWN_SCORE
from mcc.distribution import VERSION
from mcc.files import write_beside, write_text

TEMPLATES = Path(__file__).with_name("templates")
PYTHON, KOTLIN, PAGE, NOTES = "model.py", "Model.kt", "index.html", "README.md"
LITERT_JS = "2.5.3"  # the version that mcc measures with, see mcc/runtime/web/package.json
PACKAGES = {  # of Python, and of Gradle
    ".tflite": ("ai-edge-litert", "com.google.ai.edge.litert:litert:2.3.0"),
    ".onnx": ("onnxruntime", "com.microsoft.onnxruntime:onnxruntime-android:1.32.0"),
    ".pte": ("executorch", "org.pytorch:executorch-android:1.5.1"),
}
SUPPORTED = ("float32", "int32", "uint8")  # element types of LiteRT.js


def app_files(suffix: str) -> tuple[str, ...]:
    """Names of the files of the folder that are written for a model file with that suffix."""
    page = (PAGE,) if suffix == ".tflite" else ()
    return (f"model{suffix}", PYTHON, KOTLIN, *page, NOTES)


def write_app(folder: Path, model: Path, facts: AppFacts) -> None:
    """Write the folder; files of an earlier run that do not apply any more are removed.

    Args:
        model: Path of the model file, which is copied.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_beside(folder / facts.file, lambda p: shutil.copyfile(model, p))
    values = _values(facts)
    for name in app_files(facts.suffix)[1:]:
        if name == PAGE and not values["page"]:
            (folder / name).unlink(missing_ok=True)
        else:
            write_text(folder / name, rendered(name, values))


def has_page(facts: AppFacts) -> bool:
    """Whether a web page can run the file: LiteRT.js takes only some element types."""
    ports = (*facts.inputs, *facts.outputs)
    return facts.suffix == ".tflite" and facts.image is not None and all(p.dtype in SUPPORTED for p in ports)


def _values(facts: AppFacts) -> dict[str, Any]:
    image = facts.image
    preprocessing = facts.preprocessing if image is None else facts.preprocessing.for_channels(image[0])
    python, gradle = PACKAGES[facts.suffix]
    return {
        "facts": facts, "image": image, "page": has_page(facts), "version": VERSION,
        "mean": [float(f"{value:.12g}") for value in preprocessing.byte_mean],
        "std": [float(f"{value:.12g}") for value in preprocessing.byte_std],
        "bgr": preprocessing.channels == "bgr", "crop": preprocessing.crop, "litert_js": LITERT_JS,
        "shown_score": SHOWN_SCORE,
        "words": preprocessing.words, "python": python, "gradle": gradle,
        "input": facts.inputs[0], "output": facts.outputs[facts.judged],
        "stored": [_stored(port) for port in facts.outputs],
    }  # fmt: skip


def _stored(port: Port) -> dict[str, Any]:
    return {
        "name": port.name, "shape": list(port.shape), "channels_last": port.last,
        "scale": port.scale, "zero_point": port.zero_point, "integer": port.integer,
        "signed": port.dtype != "uint8",
    }  # fmt: skip


def rendered(name: str, values: dict[str, Any]) -> str:
    """One file of the folder."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=False, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters["json"] = _json
    environment.filters["py"] = repr
    environment.filters["kotlin"] = _kotlin
    return environment.get_template(f"{name}.j2").render(values)


def _json(value: Any) -> str:
    """A JSON literal that may stand in Python, and in a script of an HTML page."""
    return json.dumps(value, ensure_ascii=False).replace("</", "<\\/").replace("<!--", "<\\!--")


def _kotlin(text: str) -> str:
    """A string literal of Kotlin."""
    return json.dumps(text, ensure_ascii=False).replace("$", "\\$")
