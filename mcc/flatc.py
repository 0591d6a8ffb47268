"""Writing and reading ExecuTorch's flatbuffers, with the `flatc` and the schemas of its wheel."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from importlib import util
from pathlib import Path
from typing import Any

from mcc.distribution import how_to_install
from mcc.errors import TargetError

FLATC = "data/bin/flatc"
HOW_TO_GET = how_to_install("executorch")
_NOT_JSON = re.compile(r"(?<![\w\"])(-?)(inf|nan)(?![\w\"])")  # as flatc prints them


def wheel() -> Path:
    """The folder of the installed wheel, found without importing it. Raises TargetError without one."""
    found = util.find_spec("executorch")
    places = list(found.submodule_search_locations or ()) if found is not None else []
    if not places:
        raise TargetError("ExecuTorch is not installed", hint=HOW_TO_GET)
    return Path(places[0])


def compile_json(schema: str, content: dict[str, Any]) -> bytes:
    """The flatbuffer of a value of the schema's root type.

    Args:
        schema: File of the schema inside the wheel.

    Raises:
        TargetError: The wheel is missing, or `flatc` refuses the content.
    """
    with tempfile.TemporaryDirectory(prefix="mcc-flatc-") as folder:
        source = Path(folder) / "content.json"
        source.write_text(json.dumps(content), "utf-8")
        _run(["-b", "-o", folder, str(wheel() / schema), str(source)])
        written = [path for path in Path(folder).iterdir() if path != source]
        return written[0].read_bytes()


def read_json(schema: str, raw: bytes, *, size_prefixed: bool = False) -> dict[str, Any]:
    """The content of a flatbuffer. Raises TargetError as `compile_json` does.

    Args:
        size_prefixed: Whether the flatbuffer begins with its own length, as an ETDump does.
    """
    with tempfile.TemporaryDirectory(prefix="mcc-flatc-") as folder:
        source = Path(folder) / "content.bin"
        source.write_bytes(raw)
        options = ["--json", "--strict-json", "--defaults-json", "--raw-binary"]
        prefix = ["--size-prefixed"] if size_prefixed else []
        _run([*options, *prefix, "-o", folder, str(wheel() / schema), "--", str(source)])
        text = (Path(folder) / "content.json").read_text("utf-8", "replace")
    return json.loads(_NOT_JSON.sub('"\\1\\2"', text))


def _run(arguments: list[str]) -> None:
    done = subprocess.run([str(wheel() / FLATC), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = " ".join((done.stderr or done.stdout).split())[:300]
        raise TargetError(f"flatc of ExecuTorch's wheel failed: {reason}", hint=HOW_TO_GET)
